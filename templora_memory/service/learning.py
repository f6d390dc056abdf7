"""Learning: from journalled text to committed revisions.

One unit of text at a time is trained and committed, so that a crash or a cancel in the middle of
a book keeps what was done. If another writer commits in between, the unit is planned again from
the new manifest; a unit that is covered by then is not trained twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from templora_memory.domain.journal import Journal
from templora_memory.domain.manifest import Manifest, Origin, Revision
from templora_memory.domain.messages import (
    LEARNED_ROLES,
    PASSAGE_CHARACTERS,
    Document,
    Item,
    Message,
    characters,
)
from templora_memory.domain.results import (
    AbsorbProgress,
    AbsorbReport,
    ChunkStats,
    JobPhase,
    LearnStats,
)
from templora_memory.domain.settings import ResolvedPolicy
from templora_memory.domain.turns import turn_starts
from templora_memory.errors import (
    Cancelled,
    Conflict,
    StoreError,
    StoreWriteFailed,
    Unhealthy,
    UnknownMemory,
)
from templora_memory.ports import (
    Adapter,
    Backend,
    LearningControl,
    LearnRequest,
    ScoreRequest,
    Store,
)
from templora_memory.service.admission import Check
from templora_memory.service.jobs import Job
from templora_memory.service.replay import ReplaySample, sample_earlier

REPORT = "report.json"
_TRIES = 8
_CONTEXT_MESSAGES = 32
_CHARACTERS = 4  # of a token, roughly


@dataclass(frozen=True, slots=True, kw_only=True)
class _TrainingUnit:
    """The text that one training call learns, and what the revision after it will have absorbed."""

    items: tuple[Item, ...]
    before: tuple[Item, ...]
    parent: Revision | None
    dialogue: str
    messages: int
    documents: tuple[str, ...]
    left: int  # characters of this absorb that come after this unit

    @property
    def stands_alone(self) -> bool:
        first = self.items[0]
        return isinstance(first, Document) and not first.continues


def _reported_kl(start: Adapter | None) -> float:
    """Return the KL of a revision on neutral text by its own report; 0 where it is not known."""
    if start is None:
        return 0.0
    try:
        report = json.loads((start.folder / REPORT).read_text(encoding="utf-8"))
        return float(report["kl"] or 0.0)
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0  # the limit then holds for all of it


class ReportBuilder:
    """Adds up chunks over units, and turns a unit's progress into the whole absorb's."""

    def __init__(self, job: Job[Any]) -> None:
        self._job = job
        self._started = time.monotonic()
        self.chunks: list[ChunkStats] = []
        self.kl: float | None = None

    def progress(self, unit: _TrainingUnit) -> Callable[[AbsorbProgress], None]:
        done, size = len(self.chunks), sum(characters(item) for item in unit.items)

        def report(now: AbsorbProgress) -> None:
            later = round(unit.left / size * now.chunks) if size else 0
            self._job.report(replace(now, chunk=done + now.chunk, chunks=done + now.chunks + later))

        return report

    def add(self, stats: LearnStats) -> None:
        """Note a unit that was learned."""
        self.chunks += stats.chunks
        self.kl = stats.kl

    def report(self, revision: Revision | None) -> AbsorbReport:
        tokens = sum(chunk.tokens for chunk in self.chunks)
        return AbsorbReport(
            revision=revision.name if revision else None,
            tokens=tokens,
            chunks=len(self.chunks),
            perplexity_before=_perplexity([(c.nll_before, c.tokens) for c in self.chunks]),
            perplexity_after=_perplexity(_after(self.chunks)),
            recalled=_recalled(self.chunks),
            kl=self.kl,
            seconds=time.monotonic() - self._started,
            bytes=revision.bytes if revision else 0,
        )


class Absorber:
    """Plans and trains; every method runs on a job's thread and returns the job's report."""

    def __init__(
        self, backend: Backend, store: Store, policy: ResolvedPolicy, checks: Sequence[Check] = ()
    ) -> None:
        self._backend = backend
        self._store = store
        self._policy = policy
        self._checks = tuple(checks)

    def adapter(self, manifest: Manifest, revision: Revision | None) -> Adapter | None:
        """Return a revision as an adapter, with a version that only this content has."""
        if revision is None:
            return None
        manifest.check_base(self._backend.identity)
        folder = self._store.folder(manifest.id, revision)
        return Adapter(folder=folder, version=self.version(manifest, revision))

    @staticmethod
    def version(manifest: Manifest, revision: Revision) -> str:
        """Return the version of a revision as an adapter."""
        content = "".join(file.sha256 for file in revision.files)
        return f"{manifest.id}/{hashlib.sha256((revision.name + content).encode()).hexdigest()}"

    @property
    def keep_revisions(self) -> int:
        """Newest revisions that a commit keeps."""
        return self._policy.keep_revisions

    def documents(self, digests: Sequence[str], job: Job) -> AbsorbReport:
        """Learn journalled documents on top of the head; those it knows cost nothing."""

        def plan(manifest: Manifest, journal: Journal) -> _TrainingUnit | None:
            parent = manifest.newest
            # one that is missing was removed, or has another digest since another one was
            wanted = digests if all(map(journal.holds, digests)) else journal.to_learn
            return _documents_unit(journal, parent, _without(wanted, _docs(parent)))

        return self._run(plan, job)

    def dialogue(self, target: str, job: Job, *, resent: bool = False) -> AbsorbReport:
        """Learn a journalled conversation up to the message with digest `target`.

        Starts from the revision that covers most of it. Documents that the head has learned and
        that revision has not (after an edit) are learned first. With `resent`, a conversation that
        the head has learned already costs nothing, also when it has learned more since.
        """

        def plan(manifest: Manifest, journal: Journal) -> _TrainingUnit | None:
            if not journal.knows(target):
                raise Cancelled(
                    f"Texts were removed from the conversation of {job.memory_id!r} before it was "
                    "learned: what is left of it is in the journal. Reply or absorb again."
                )
            head = manifest.newest
            if resent and head and journal.nearest(head.dialogue, {target}) == target:
                return None
            near = journal.nearest(target, {r.dialogue for r in manifest.revisions})
            same = [r for r in manifest.revisions if r.dialogue == near]
            parent = max(same, key=lambda r: len(r.documents)) if same else None
            if missing := missing_documents(manifest.newest, parent):
                return _documents_unit(journal, parent, missing)
            return _dialogue_unit(manifest, journal, parent, target)

        return self._run(plan, job)

    def _run(
        self, plan: Callable[[Manifest, Journal], _TrainingUnit | None], job: Job
    ) -> AbsorbReport:
        builder, tries = ReportBuilder(job), 0
        while True:
            manifest, journal = self.manifest(job), self._store.journal(job.memory_id)
            unit = plan(manifest, journal)
            if unit is None:
                return builder.report(manifest.newest)
            manifest.check_base(self._backend.identity)
            try:
                with self._store.stage(job.memory_id) as folder:
                    start = self.adapter(manifest, unit.parent)
                    stats = self._train(
                        unit, start, folder, journal=journal, builder=builder, job=job
                    )
                    self._commit(manifest, self._revision(manifest, unit, stats.chunks), folder)
            except Conflict:
                tries += 1
                if tries == _TRIES:
                    raise
            except (OSError, StoreError) as error:
                now = self.manifest(job)  # forgotten: its folders went away under the training
                if not now.same_memory(manifest):
                    raise Cancelled(f"Memory {job.memory_id!r} was forgotten meanwhile.") from error
                if isinstance(error, StoreError):
                    raise
                raise StoreWriteFailed(
                    f"Could not write a new revision of {job.memory_id!r}: {error}; free some "
                    "space and check that the store's folder may be written. Nothing was lost."
                ) from error
            else:
                builder.add(stats)

    def rebuild(self, job: Job) -> AbsorbReport:
        """Learn everything in the journal again, on the base model at hand.

        The old revisions stay until all of it is learned. Afterwards there are two: one with the
        documents alone, one with the newest conversation as far as it had been learned. A memory
        that started from another one starts from that one's newest revision again.
        """
        old, journal = self.manifest(job), self._store.journal(job.memory_id)
        fresh, builder = old.rebuilt(self._backend.identity), ReportBuilder(job)
        target = old.newest.dialogue if old.newest else old.first
        with self.again(
            fresh, journal, None, journal.to_learn, target, builder=builder, job=job
        ) as done:
            for revision, folder in done.items():
                fresh = self._commit(fresh, revision, folder)
        if not done:
            fresh = replace(fresh, epoch=fresh.epoch + 1)
            self._store.replace(fresh, epoch=old.epoch)
        return builder.report(fresh.newest)

    @contextmanager
    def again(
        self,
        fresh: Manifest,
        journal: Journal,
        start: Revision | None,
        documents: Sequence[str],
        target: str,
        *,
        builder: ReportBuilder,
        job: Job[Any],
    ) -> Iterator[dict[Revision, Path]]:
        """Learn documents and a conversation again, and give the revisions that are to stay.

        These are the last one, and the last one of documents alone, each with its folder. Nothing
        is committed; afterwards the folders are gone, unless they were.

        Args:
            fresh: the manifest that they are for.
            journal: where the text is.
            start: a revision of the memory to go on from; None: nothing, or the newest revision of
                the memory that this one started from.
            documents: digests of what is to be learned.
            target: end of the conversation that is to be learned.
            builder: adds up what is learned.
            job: under which it happens.
        """
        done: list[tuple[Revision, Path]] = []
        try:
            with ExitStack() as stack:

                def stage() -> Path:
                    return stack.enter_context(self._store.stage(fresh.id))

                if start is None and fresh.origin is not None:
                    done.append(self._origin(fresh, fresh.origin, stage()))
                while True:
                    parent = done[-1][0] if done else start
                    missing = _without(documents, _docs(parent))
                    unit = _documents_unit(journal, parent, missing) or _dialogue_unit(
                        fresh, journal, parent, target
                    )
                    if unit is None:
                        break
                    adapter = staged(done[-1][1]) if done else self.adapter(fresh, start)
                    folder = stage()
                    stats = self._train(
                        unit, adapter, folder, journal=journal, builder=builder, job=job
                    )
                    builder.add(stats)
                    done.append((self._revision(fresh, unit, stats.chunks), folder))
                documents_only = [step for step in done if step[0].messages == 0]
                yield dict((*documents_only[-1:], *done[-1:]))
        finally:
            for _, folder in done:
                self._backend.release(_temporary(folder))

    def _origin(self, fresh: Manifest, origin: Origin, folder: Path) -> tuple[Revision, Path]:
        """Copy the newest revision of the memory that this one started from."""
        source = self._store.manifest(origin.id)
        if source is None or source.newest is None:
            raise UnknownMemory(
                f"Memory {fresh.id!r} started from {origin.id!r}, which has no revision any more: "
                "it cannot be rebuilt. Absorb its text into a new memory instead."
            )
        source.check_base(self._backend.identity)
        for path in self._store.folder(source.id, source.newest).iterdir():
            shutil.copyfile(path, folder / path.name)
        return fresh.root_again(source.newest), folder

    def manifest(self, job: Job[Any]) -> Manifest:
        """Return the newest manifest of a job's memory.

        Raises:
            Cancelled: it was forgotten meanwhile.
        """
        manifest = self._store.manifest(job.memory_id)
        if manifest is None:
            raise Cancelled(f"Memory {job.memory_id!r} was forgotten meanwhile.")
        return manifest

    def _train(
        self,
        unit: _TrainingUnit,
        start: Adapter | None,
        folder: Path,
        *,
        journal: Journal,
        builder: ReportBuilder,
        job: Job[Any],
    ) -> LearnStats:
        learning = self._policy.learning
        position = f"{learning.seed}/{job.memory_id}/{unit.messages}/{len(unit.documents)}"
        seed = int(hashlib.sha256(position.encode()).hexdigest()[:8], 16)
        request = LearnRequest(
            items=unit.items,
            before=unit.before,
            start=start,
            chunk=self._policy.chunk,
            recipe=self._policy.recipe,
            settings=replace(learning, seed=seed),
            min_steps=learning.document_steps if unit.stands_alone else 0,
            replay=self._replayed(unit, journal, seed),
        )
        job.enter(JobPhase(name="tokenising"))
        stats = self._backend.learn(
            request,
            into=folder,
            control=LearningControl(
                progress=builder.progress(unit),
                phase=job.enter,
                cancelled=job.cancelled,
                urgent=job.urgent,
            ),
        )
        max_kl, before = self._policy.health_kl, _reported_kl(start)
        if max_kl is not None and stats.kl is not None and stats.kl - before > max_kl:
            raise Unhealthy(
                f"Learning this would change text that has nothing to do with it by {stats.kl:.3g} "
                f"nats per token, {stats.kl - before:.3g} more than before (health_kl is "
                f"{max_kl:g}): the old revision stays. Look for garbage in the text, lower "
                "learning.learning_rate, or raise health_kl."
            )
        self._check(folder)
        report = {**asdict(stats), "policy": self._policy.as_dict()}
        (folder / REPORT).write_text(json.dumps(report, indent=1), encoding="utf-8")
        job.enter(JobPhase(name="committing"))
        return stats

    def _check(self, folder: Path) -> None:
        """Ask what was just learned what it must not have learned; it is not committed yet."""
        if not self._checks:
            return
        adapter = staged(folder)
        try:
            for number, check in enumerate(self._checks):
                question = (Message("user", check.question),)
                request = ScoreRequest(context=question, target=check.answer, adapter=adapter)
                (base,) = self._backend.score([replace(request, adapter=None)])
                (learned,) = self._backend.score([request])
                gain = (sum(learned) - sum(base)) / len(base)
                if (-gain if check.keep else gain) > check.nats:
                    name = str(number) if check.name is None else repr(check.name)
                    raise Unhealthy(
                        f"Learning this would make the answer of check {name} {abs(gain):.3g} nats "
                        f"per token {'less' if check.keep else 'more'} likely than it is without a "
                        f"memory (at most {check.nats:g} is allowed): the old revision stays, the "
                        "text is in the journal. Look at the text; rollback to the newest revision "
                        "withdraws documents that were not learned."
                    )
        finally:
            self._backend.release(_temporary(folder))

    def _replayed(
        self, unit: _TrainingUnit, journal: Journal, seed: int
    ) -> tuple[tuple[Item, ...], ...]:
        """Earlier text to learn again beside a unit, for each of its chunks as much as wanted."""
        wanted = self._policy.learning.replay
        if not wanted or unit.parent is None:
            return ()
        size = _CHARACTERS * self._policy.chunk
        chunks = math.ceil(sum(map(characters, unit.items)) / size)
        shift = Random(seed).random()  # noqa: S311  # rounds up as often as the fraction says
        count = math.floor(wanted * max(1, chunks) + shift)
        if not count:
            return ()  # without reading the journal
        sample = ReplaySample(count=count, size=size, seed=seed)
        return sample_earlier(journal, unit.parent, sample)

    def _revision(
        self, manifest: Manifest, unit: _TrainingUnit, chunks: Sequence[ChunkStats]
    ) -> Revision:
        return Revision(
            name=manifest.name_after(unit.parent, unit.items),
            parent=unit.parent.name if unit.parent else None,
            dialogue=unit.dialogue,
            messages=unit.messages,
            documents=unit.documents,
            tokens=(unit.parent.tokens if unit.parent else 0) + sum(c.tokens for c in chunks),
            created=time.time(),
            files=(),
        )

    def _commit(self, manifest: Manifest, revision: Revision, folder: Path) -> Manifest:
        try:
            return self._store.commit(manifest, revision, folder, keep=self._policy.keep_revisions)
        except UnknownMemory as error:
            raise Cancelled(f"Memory {manifest.id!r} was forgotten meanwhile.") from error


def _docs(revision: Revision | None) -> tuple[str, ...]:
    return revision.documents if revision else ()


def missing_documents(head: Revision | None, other: Revision | None) -> Sequence[str]:
    """Return the documents that one revision has learned and another one has not."""
    return _without(_docs(head), _docs(other))


def _without(digests: Sequence[str], known: tuple[str, ...]) -> Sequence[str]:
    """Return digests that are not known, in order; both may be many, and often are the same."""
    if digests == known:
        return ()
    there = known if len(digests) == 1 else set(known)
    return [digest for digest in digests if digest not in there]


def _documents_unit(
    journal: Journal, parent: Revision | None, digests: Sequence[str]
) -> _TrainingUnit | None:
    """Return the first of these documents, as many as make a unit."""
    if not digests:
        return None
    items: list[Item] = []
    size = 0
    for digest in digests:
        document = journal.document(digest)
        size += len(document.text)
        if items and size > PASSAGE_CHARACTERS:
            break
        items.append(document)
    taken = tuple(digests[: len(items)])
    before: tuple[Document, ...] = ()
    if isinstance(items[0], Document) and items[0].continues:
        earlier = journal.document_before(digests[0])
        before = () if earlier is None else (journal.document(earlier),)
    return _TrainingUnit(
        items=tuple(items),
        before=before,
        parent=parent,
        dialogue=parent.dialogue if parent else journal.first,
        messages=parent.messages if parent else 0,
        documents=_docs(parent) + taken,
        left=sum(map(journal.characters, digests[len(items) :])),
    )


def _dialogue_unit(
    manifest: Manifest, journal: Journal, parent: Revision | None, target: str
) -> _TrainingUnit | None:
    """Return the next whole turns of the conversation up to `target`, as many as make a unit."""
    known = parent.dialogue if parent else manifest.first
    items = journal.messages(target, after=known)
    if not items:
        return None
    cut = _cut(items)
    return _TrainingUnit(
        items=items[:cut],
        before=journal.messages(known, limit=_CONTEXT_MESSAGES),
        parent=parent,
        dialogue=manifest.digest_after(known, items[:cut]),
        messages=(parent.messages if parent else 0) + cut,
        documents=_docs(parent),
        left=sum(characters(item) for item in items[cut:]),
    )


def _cut(items: Sequence[Message]) -> int:
    """Return how many messages make a unit: whole turns, about the size of a passage."""
    size = 0
    starts = turn_starts(items)
    for begin, end in zip(starts, (*starts[1:], len(items)), strict=True):
        size += sum(characters(item) for item in items[begin:end])
        if size >= PASSAGE_CHARACTERS and teaches(items[:end]) and teaches(items[end:]):
            return end
    return len(items)


def teaches(messages: Sequence[Message]) -> bool:
    """Return whether there is anything to train on."""
    return any(m.role in LEARNED_ROLES and m.content.strip() for m in messages)


def staged(folder: Path) -> Adapter:
    """Return a revision that is not committed yet as an adapter."""
    return Adapter(folder=folder, version=_temporary(folder))


def _temporary(folder: Path) -> str:
    return f"{folder.name}/"


def _after(chunks: Sequence[ChunkStats]) -> list[tuple[float, int]]:
    """Loss and tokens of chunks after their updates; empty if none was measured.

    One that was not measured counts with its own loss before, less the mean gain of the others.
    """
    gains = [(c.nll_before - c.nll_after, c.tokens) for c in chunks if c.nll_after is not None]
    if not gains:
        return []
    gain = sum(value * count for value, count in gains) / sum(count for _, count in gains)
    return [(c.nll_before - gain if c.nll_after is None else c.nll_after, c.tokens) for c in chunks]


def _recalled(chunks: Sequence[ChunkStats]) -> float | None:
    """Share of the tokens of measured chunks that are now repeated verbatim."""
    measured = [(c.recalled, c.tokens) for c in chunks if c.recalled is not None]
    if not measured:
        return None
    return sum(recalled for recalled, _ in measured) / sum(tokens for _, tokens in measured)


def _perplexity(losses: Sequence[tuple[float, int]]) -> float | None:
    tokens = sum(count for _, count in losses)
    if not tokens:
        return None
    return math.exp(min(700.0, sum(loss * count for loss, count in losses) / tokens))
