"""Texts one by one: listing what a memory was told, removing and correcting it, pins.

Nothing can be cut out of weights. So every revision that has learned a removed text is dropped, and
the rest is learned again from the newest one before it; text and revisions change at once, when all
of it is learned (`Store.amend`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from templora_memory.domain.amendment import Amendment, amend, with_text
from templora_memory.domain.ids import parse_id
from templora_memory.domain.journal import Journal
from templora_memory.domain.manifest import Manifest, Revision
from templora_memory.domain.messages import Document, Message
from templora_memory.domain.results import (
    RecallChange,
    RemovalReceipt,
    RemovedFile,
    StoredText,
    TextPage,
    TextState,
)
from templora_memory.domain.settings import whole
from templora_memory.errors import (
    Cancelled,
    Conflict,
    InvalidSetting,
    InvalidText,
    PromptTooLong,
    StoreError,
    UnknownText,
)
from templora_memory.ports import Adapter, Backend, ScoreRequest, Store, retry_on_conflict
from templora_memory.service.catalog import MAX_TRIES, Catalog
from templora_memory.service.jobs import Job
from templora_memory.service.learning import Absorber, ReportBuilder, staged
from templora_memory.service.lifecycle import Lifecycle
from templora_memory.service.search import Searcher
from templora_memory.service.streams import OpenStreams

MEASURED_TOKENS = 128
"""Tokens of a removed text that its receipt measures; the beginning stands for the whole."""
MIN_ID = 8
"""Letters of an id that name a text, if no other one's begins with them."""
Edits: TypeAlias = Mapping[str, str | None]
"""New texts by digest; None: the text is removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What becomes of a memory when some of its texts are removed or corrected.

    `fresh` has the revisions that stay, `start` is the one to go on from, and `documents` and
    `target` are what the newest revision had learned and is left.
    """

    fresh: Manifest
    amendment: Amendment
    journal: Journal
    start: Revision | None
    documents: tuple[str, ...]
    target: str


class _ChangedError(Exception):
    """The memory is not as it was planned with: learning again must begin anew."""


class TextEditor:
    """Lists the texts of memories, and takes them out.

    Args:
        backend: measures what was removed, and drops what it caches of it.
        store: keeps the texts.
        catalog: looks memories up.
        absorber: learns again.
        lifecycle: knows the copies of a memory.
        searcher: finds texts by words, and drops its index.
        streams: replies under way, stopped when texts of their memory go.
    """

    def __init__(
        self,
        backend: Backend,
        store: Store,
        *,
        catalog: Catalog,
        absorber: Absorber,
        lifecycle: Lifecycle,
        searcher: Searcher,
        streams: OpenStreams,
    ) -> None:
        self._backend = backend
        self._store = store
        self._catalog = catalog
        self._absorber = absorber
        self._lifecycle = lifecycle
        self._searcher = searcher
        self._streams = streams

    # --- listing -------------------------------------------------------------------------------

    def page(
        self, memory_id: str, query: str | None, *, limit: int | None, offset: int, superseded: bool
    ) -> TextPage:
        """Return some of the texts of a memory; see `Memory.texts`."""
        whole("limit", limit, none=True)
        whole("offset", offset, zero=True)
        if query is not None and superseded:
            raise InvalidSetting("superseded texts are not searched: leave one of the two out.")
        # a journal that is replaced while it is read is read again
        return retry_on_conflict(
            lambda: self._page(memory_id, query, limit=limit, offset=offset, superseded=superseded)
        )

    def _page(
        self, memory_id: str, query: str | None, *, limit: int | None, offset: int, superseded: bool
    ) -> TextPage:
        manifest = self._catalog.get(memory_id)
        journal = self._store.journal(manifest.id)
        if query is None:
            digests = journal.texts()
            if not superseded:
                in_force, _ = _in_force(manifest, journal)
                digests = tuple(digest for digest in digests if digest in in_force)
        else:
            digests = self._found(manifest, journal, query)
        end = None if limit is None else offset + limit
        state = _states(manifest, journal)
        return TextPage(
            texts=tuple(_stored(journal, digest, state(digest)) for digest in digests[offset:end]),
            offset=offset,
            total=len(digests),
        )

    def _found(self, manifest: Manifest, journal: Journal, query: str) -> tuple[str, ...]:
        """Return the digests of texts that share words with a query, best first.

        A conversation is searched by whole turns; of a turn those messages count that have one of
        the words.
        """
        from templora_memory.domain.stems import query_terms  # noqa: PLC0415  # rules of languages

        hits = self._searcher.search(
            manifest, query, documents=journal.documents, dialogue=journal.tip
        )
        path = journal.path(journal.tip)
        places = {digest: place for place, digest in enumerate(path)}
        ends = self._searcher.turn_ends(manifest, path)
        terms = set(query_terms(query, self._searcher.languages(manifest)))
        found: dict[str, None] = {}
        for hit in hits:
            if hit.source not in places:
                if journal.keeps(hit.source):  # else of the memory that this one began from
                    found[hit.source] = None
                continue
            place = places[hit.source]
            begin = max((places[end] + 1 for end in ends if places[end] < place), default=0)
            turn = path[begin : place + 1]
            said = [digest for digest in turn if terms & self._terms(manifest, journal, digest)]
            found |= dict.fromkeys(said or turn)
        return tuple(found)

    def _terms(self, manifest: Manifest, journal: Journal, digest: str) -> set[str]:
        from templora_memory.domain.stems import index_terms  # noqa: PLC0415  # rules of languages

        item = journal.entry(digest).item
        text = f"{item.name or ''} {item.content}" if isinstance(item, Message) else item.text
        languages = self._searcher.languages(manifest)
        return {term for language in languages for term in index_terms(text, language)}

    # --- naming --------------------------------------------------------------------------------

    def resolve(self, memory_id: str, ids: Iterable[str]) -> tuple[str, ...]:
        """Return the whole ids of texts that are named by them or their beginnings, each once.

        Raises:
            UnknownText: names the first that there is not, or that is ambiguous.
            InvalidSetting: a single text in place of several, or none.
        """
        if isinstance(ids, str):
            raise InvalidSetting(f"Give a list of ids: [{ids!r}].")
        manifest = self._catalog.get(memory_id)
        journal = self._store.journal(manifest.id)
        names = tuple(dict.fromkeys(_resolve(journal, manifest.id, name) for name in ids))
        if not names:
            raise InvalidSetting("There is nothing to do: the list of ids is empty.")
        return names

    # --- pins ----------------------------------------------------------------------------------

    def pin(self, memory_id: str, ids: Iterable[str], *, pinned: bool) -> None:
        """Pin texts, or take their pins off; see `Memory.pin`."""
        names = self.resolve(memory_id, ids)
        manifest = self._catalog.get(memory_id)
        journal = self._store.journal(manifest.id)
        digests = (journal.digest_of(name) for name in names)
        found = [digest for digest in digests if digest is not None]
        self._store.pin(manifest.id, found, pinned=pinned)

    # --- removing ------------------------------------------------------------------------------

    def removal(
        self, memory_id: str, ids: Iterable[str], ask: Iterable[tuple[str, str]]
    ) -> Callable[[Job[RemovalReceipt]], RemovalReceipt]:
        """Return the work of a job that removes texts; see `Memory.remove`."""
        return self._work(dict.fromkeys(self.resolve(memory_id, ids)), ask)

    def correction(
        self, memory_id: str, text_id: str, text: str, ask: Iterable[tuple[str, str]]
    ) -> Callable[[Job[RemovalReceipt]], RemovalReceipt]:
        """Return the work of a job that corrects a text; see `Memory.correct`."""
        (name,) = self.resolve(memory_id, [text_id])
        journal = self._store.journal(self._catalog.get(memory_id).id)
        digest = journal.digest_of(name)
        if digest is not None:
            item = journal.entry(digest).item
            if not (isinstance(text, str) and text.strip()):
                raise InvalidText("The corrected text is empty: remove the text instead.")
            self._catalog.check_admitted(parse_id(memory_id), [with_text(item, text)])
        return self._work({name: text}, ask)

    def _work(
        self, wanted: Mapping[str, str | None], ask: Iterable[tuple[str, str]]
    ) -> Callable[[Job[RemovalReceipt]], RemovalReceipt]:
        questions = _questions(ask)
        return lambda job: self._edit(job, wanted, questions)

    def _edit(
        self,
        job: Job[RemovalReceipt],
        wanted: Mapping[str, str | None],
        questions: Sequence[tuple[str, str]],
    ) -> RemovalReceipt:
        """Remove or correct texts by their ids; what is gone by now counts as done."""
        tries = 0
        while True:
            manifest = self._absorber.manifest(job)
            try:
                return self._attempt(job, manifest, wanted, questions)
            except Conflict:  # another process has changed the memory: planned again
                tries += 1
                if tries == MAX_TRIES:
                    raise
            except (OSError, StoreError) as error:
                if not self._absorber.manifest(job).same_memory(manifest):
                    raise Cancelled(f"Memory {job.memory_id!r} was forgotten meanwhile.") from error
                raise

    def _attempt(
        self,
        job: Job[RemovalReceipt],
        manifest: Manifest,
        wanted: Mapping[str, str | None],
        questions: Sequence[tuple[str, str]],
    ) -> RemovalReceipt:
        journal, builder = self._store.journal(manifest.id), ReportBuilder(job)
        edits = _edits(manifest, journal, wanted)
        if not edits:
            return _receipt(manifest, builder)
        plan = _plan(manifest, journal, edits)
        gone = [revision for revision in manifest.revisions if revision not in plan.fresh.revisions]
        ids = {digest: journal.entry(digest).id for digest in edits}
        named = [digest for digest in edits if ids[digest] in wanted]
        with self._learned_again(plan, manifest, builder, job) as learned:
            changes = self._changes(manifest, journal, plan, learned, (named, questions))
            fresh = plan.fresh
            for revision in learned:
                fresh = fresh.with_revision(revision, self._absorber.keep_revisions)
            if not learned:
                fresh = replace(fresh, head=plan.start.name if plan.start else None)
            if job.cancelled():
                raise Cancelled("The removal was cancelled: nothing was changed.")
            self._streams.close(manifest.id)
            fresh, files = self._amend(manifest, fresh, edits, learned)
        self._searcher.drop(manifest.id)
        versions = [self._absorber.version(manifest, revision) for revision in gone]
        remote = [name for version in versions for name in self._backend.release(version)]
        forks, exports = self._lifecycle.copies(manifest.id)
        return replace(
            _receipt(fresh, builder),
            ids=tuple(ids[digest] for digest in named),
            files=files,
            revisions=tuple(revision.name for revision in gone),
            start=plan.start.name if plan.start else None,
            changes=changes,
            forks=forks,
            exports=exports,
            remote=tuple(remote),
        )

    @contextmanager
    def _learned_again(
        self,
        plan: _Plan,
        manifest: Manifest,
        builder: ReportBuilder,
        job: Job[RemovalReceipt],
    ) -> Iterator[dict[Revision, Path]]:
        """Learn what the newest revision had learned and is left, if there is no such revision."""
        if plan.start == manifest.newest:
            yield {}
            return
        manifest.check_base(self._backend.identity)
        with self._absorber.again(
            plan.fresh,
            plan.journal,
            plan.start,
            plan.documents,
            plan.target,
            builder=builder,
            job=job,
        ) as learned:
            yield learned

    def _amend(
        self,
        manifest: Manifest,
        fresh: Manifest,
        edits: Edits,
        learned: Mapping[Revision, Path],
    ) -> tuple[Manifest, tuple[RemovedFile, ...]]:
        """Store what was learned again, also if others have only taken the memory over meanwhile.

        Raises:
            Conflict: they have changed it.
        """
        folders = {revision.name: folder for revision, folder in learned.items()}

        def attempt() -> tuple[Manifest, tuple[RemovedFile, ...]]:
            now = self._store.manifest(manifest.id)
            if now is None or replace(now, epoch=manifest.epoch) != manifest:
                raise _ChangedError(f"Memory {manifest.id!r} was changed by another writer.")
            changed = replace(fresh, epoch=now.epoch + 1)
            return self._store.amend(changed, epoch=now.epoch, edits=edits, staged=folders)

        try:
            return retry_on_conflict(attempt, tries=MAX_TRIES)
        except _ChangedError as error:
            raise Conflict(str(error)) from error

    # --- measuring -----------------------------------------------------------------------------

    def _changes(
        self,
        manifest: Manifest,
        journal: Journal,
        plan: _Plan,
        learned: Mapping[Revision, Path],
        asked: tuple[Iterable[str], Iterable[tuple[str, str]]],
    ) -> tuple[RecallChange, ...]:
        """Measure removed texts, and answers, with the memory as it was, as it is, and without.

        Not where the memory is of another base model and only waiting text goes.
        """
        if not manifest.base.same_model(self._backend.identity):
            return ()
        digests, questions = asked
        before = self._absorber.adapter(manifest, manifest.newest)
        last = [staged(folder) for folder in learned.values()][-1:]
        now = last[0] if last else self._absorber.adapter(manifest, plan.start)
        requests: list[tuple[str | None, ScoreRequest | None]] = [
            (journal.entry(digest).id, self._asked(journal, digest)) for digest in digests
        ]
        requests += [
            (None, ScoreRequest(context=(Message("user", q),), target=a, adapter=None))
            for q, a in questions
        ]
        changes = [
            self._change(text_id, request, before, now)
            for text_id, request in requests
            if request is not None
        ]
        return tuple(change for change in changes if change is not None)

    def _asked(self, journal: Journal, digest: str) -> ScoreRequest | None:
        """Return how a text of a memory is measured: as the answer that it was, or as plain text.

        None where there is nothing to measure.
        """
        entry = journal.entry(digest)
        item, text = entry.item, entry.text
        beginning = self._backend.split(text, MEASURED_TOKENS)[:1]
        if not text.strip() or not beginning or not beginning[0].strip():
            return None
        context: tuple[Message, ...] | str = ""
        if isinstance(item, Message) and item.role == "assistant":
            context = tuple(m for m in journal.messages(digest, limit=2)[:-1] if m.role == "user")
        return ScoreRequest(context=context or "", target=beginning[0], adapter=None)

    def _change(
        self,
        text_id: str | None,
        request: ScoreRequest,
        before: Adapter | None,
        now: Adapter | None,
    ) -> RecallChange | None:
        try:
            # one call each: rows of one batch may differ from a single row in the last bit
            base, old, new = (
                self._backend.score([replace(request, adapter=adapter)])[0]
                for adapter in (None, before, now)
            )
        except PromptTooLong:
            if text_id is None:
                raise
            return None
        if not base:  # a single token without a context has no prediction
            return None
        return RecallChange(
            id=text_id, before=sum(old), after=sum(new), base=sum(base), tokens=len(base)
        )


def _questions(ask: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return questions with their answers.

    Raises:
        InvalidText: something else was given.
    """
    pairs = tuple(ask)
    for pair in pairs:
        if (
            not isinstance(pair, tuple | list)
            or len(pair) != 2  # noqa: PLR2004  # a question and an answer
            or not all(isinstance(part, str) and part.strip() for part in pair)
        ):
            raise InvalidText("ask is a list of pairs, each a question and the answer to measure.")
    return tuple((question, answer) for question, answer in pairs)


def _resolve(journal: Journal, memory_id: str, name: str) -> str:
    if isinstance(name, str) and journal.holds(name):  # the source of a passage
        return journal.entry(name).id
    ids = journal.ids_like(name) if isinstance(name, str) and len(name) >= MIN_ID else ()
    if len(ids) == 1:
        return ids[0]
    if ids:
        raise UnknownText(f"{len(ids)} texts of {memory_id!r} have ids that begin with {name!r}.")
    raise UnknownText(
        f"Memory {memory_id!r} has no text {name!r} (any more): list its texts. What it began with "
        "stands in the memory that it began from."
    )


def _states(manifest: Manifest, journal: Journal) -> Callable[[str], TextState]:
    """Return a function that tells the state of a text by its digest."""
    in_force, learned = _in_force(manifest, journal)

    def state(digest: str) -> TextState:
        if digest in learned:
            return "learned"
        if digest not in in_force:
            return "superseded"
        return "recall" if journal.is_recall_only(digest) else "waiting"

    return state


def _stored(journal: Journal, digest: str, state: TextState) -> StoredText:
    entry = journal.entry(digest)
    item, pinned = entry.item, journal.is_pinned(digest)
    if isinstance(item, Document):
        return StoredText(
            id=entry.id,
            text=item.text,
            kind="document",
            speaker=item.author,
            role=None,
            title=item.title,
            continues=item.continues,
            time=entry.time,
            state=state,
            pinned=pinned,
        )
    return StoredText(
        id=entry.id,
        text=item.content,
        kind="message",
        speaker=item.name or item.role,
        role=item.role,
        title=None,
        continues=False,
        time=entry.time,
        state=state,
        pinned=pinned,
    )


def _in_force(manifest: Manifest, journal: Journal) -> tuple[set[str], set[str]]:
    """Return the digests of texts in force, and those among them that are learned.

    In force is what will be learned or recalled, and what the newest revision has learned.
    """
    head = manifest.newest
    learned = {digest for digest in head.documents if journal.holds(digest)} if head else set()
    if head and journal.knows(head.dialogue):
        learned.update(journal.path(head.dialogue))
    return {*journal.documents, *journal.path(journal.tip), *learned}, learned


def _edits(
    manifest: Manifest, journal: Journal, wanted: Mapping[str, str | None]
) -> dict[str, str | None]:
    """Return edits by digest: of the texts named, and of what says the same and is superseded.

    Nobody sees any more what an edit of the conversation left behind; it goes with the text.
    """
    in_force, _ = _in_force(manifest, journal)
    edits: dict[str, str | None] = {}
    for name, text in wanted.items():
        digest = journal.digest_of(name)
        if digest is None:
            continue  # it was removed while this waited
        item = journal.entry(digest).item
        if text is not None and with_text(item, text) == item:
            continue
        if isinstance(item, Message):
            same = journal.same_message(digest)
        else:
            same = tuple(d for d in journal.withdrawn if journal.document(d).text == item.text)
        edits |= {other: text for other in same if other not in in_force}
        edits[digest] = text
    return edits


def _receipt(manifest: Manifest, builder: ReportBuilder) -> RemovalReceipt:
    """Return the receipt of an edit that changed nothing."""
    return RemovalReceipt(
        ids=(),
        files=(),
        revisions=(),
        start=manifest.head,
        relearned=builder.report(manifest.newest),
        changes=(),
    )


def _plan(manifest: Manifest, journal: Journal, edits: Edits) -> _Plan:
    """Return what becomes of a memory, and what of it must be learned again."""
    amendment = amend(journal, edits)
    left = amendment.journal(manifest.first)
    kept = tuple(revision for revision in manifest.revisions if amendment.leaves(revision))
    head = manifest.newest
    target = amendment.dialogue(head.dialogue) if head else manifest.first
    documents = amendment.documents(head.documents if head else ())
    start = head if head in kept else _newest_before(kept, left.path(target), documents)
    fresh = replace(manifest, revisions=kept, head=None, edits=manifest.edits + 1)
    return _Plan(
        fresh=fresh,
        amendment=amendment,
        journal=left,
        start=start,
        documents=documents,
        target=target,
    )


def _newest_before(
    kept: Sequence[Revision], path: Sequence[str], documents: Sequence[str]
) -> Revision | None:
    """Return the revision that has learned most of a conversation and documents, and no others."""
    beginnings, known = set(path), set(documents)
    fitting = [
        (revision.messages, len(revision.documents), index)
        for index, revision in enumerate(kept)
        if (not revision.messages or revision.dialogue in beginnings)
        and known.issuperset(revision.documents)
    ]
    return kept[max(fitting)[2]] if fitting else None
