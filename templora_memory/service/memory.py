"""`Memory`: the verbs of one memory. `WithoutMemory`: the base model alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, Unpack, overload

from templora_memory.domain.ids import MemoryId
from templora_memory.domain.manifest import Manifest, Revision
from templora_memory.domain.messages import Message, MessageLike, as_messages
from templora_memory.domain.results import (
    AbsorbReport,
    Covered,
    ForgetReceipt,
    Passage,
    Probe,
    RemovalReceipt,
    Reply,
    Status,
    TextPage,
    Transcript,
)
from templora_memory.domain.settings import ResolvedPolicy, positive, whole
from templora_memory.errors import UnknownMemory
from templora_memory.ports import Backend, ScoreRequest, Store
from templora_memory.service.answering import Answerer, ReplyOptions
from templora_memory.service.catalog import Catalog
from templora_memory.service.jobs import Job, JobQueue, wait_or_cancel
from templora_memory.service.learning import Absorber
from templora_memory.service.lifecycle import Lifecycle
from templora_memory.service.long_text import GenerateOptions, LongTextWriter, writing_task
from templora_memory.service.recording import AbsorbInput, Recorder
from templora_memory.service.search import Searcher
from templora_memory.service.streams import ReplyStream, TextStream
from templora_memory.service.texts import TextEditor

R = TypeVar("R")

if TYPE_CHECKING:  # it imports this module
    from templora_memory.service.parametric_memory import ParametricMemory

_HALF = -0.6931471805599453  # ln 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a loaded service consists of, and all its memories work with."""

    backend: Backend
    store: Store
    policy: ResolvedPolicy
    jobs: JobQueue
    catalog: Catalog
    lifecycle: Lifecycle
    searcher: Searcher
    absorber: Absorber
    recorder: Recorder
    answerer: Answerer
    texts: TextEditor


class Memory:
    """One memory, by its id. Made by `ParametricMemory`: ``service.open(id)``, ``service[id]``.

    A handle is cheap, holds nothing, and outlives the memory: after a `forget`, what reads raises
    `UnknownMemory`, and what writes begins a new memory. All methods may be called from any thread.

    Args:
        service: whose memory.
        name: the memory's id.
        jobs: the absorbs of the service.
        loaded: returns the parts of the service, which it loads if need be.
    """

    __slots__ = ("_jobs", "_loaded", "_name", "_service")

    def __init__(
        self,
        service: ParametricMemory,
        name: MemoryId,
        jobs: JobQueue,
        loaded: Callable[[], Parts],
    ) -> None:
        self._service = service
        self._name = name
        self._jobs = jobs
        self._loaded = loaded

    def __repr__(self) -> str:
        return f"Memory({self.id!r})"

    def __reduce__(self) -> tuple[Callable[..., Memory], tuple[ParametricMemory, str]]:
        return getitem, (
            self._service,
            self.id,
        )  # a copy has the same service

    @property
    def id(self) -> str:
        """The memory's id."""
        return str(self._name)

    @property
    def service(self) -> ParametricMemory:
        """The service that the memory belongs to."""
        return self._service

    def _manifest(self) -> Manifest:
        return self._loaded().catalog.get(self.id)

    def _learn(self, work: Callable[[Job[R]], R], *, wait: bool) -> R | Job[R]:
        """Start the work of a job on this memory, and wait for its result, or return the job."""
        job = self._loaded().jobs.start(self._manifest().id, work)
        return wait_or_cancel(job) if wait else job

    # --- answering -----------------------------------------------------------------------------

    def reply(self, history: Iterable[MessageLike], **options: Unpack[ReplyOptions]) -> Reply:
        """Answer a conversation; options and errors as for `stream`."""
        with self.stream(history, **options) as stream:
            return stream.reply

    def stream(
        self, history: Iterable[MessageLike], **options: Unpack[ReplyOptions]
    ) -> ReplyStream:
        """Answer a whole conversation, piece by piece; the memory is made if it does not exist.

        What the memory has absorbed of this history stays out of the prompt, the rest goes in. If
        that does not fit the window, the oldest turns are absorbed first; otherwise absorbing
        happens in the background after the reply. The newest exchange is never absorbed.

        Args:
            history: the whole conversation, oldest first. It ends with the user or tool message to
                answer, with an assistant's message to continue (`continue_final_message`), or with
                a system message that says what to write next: this is shown for the one answer,
                and like it neither journalled nor learned. Sending a history again trains nothing;
                edited or shortened it falls back to an older revision. The oldest messages of what
                the memory holds may be left out; they stay in journal and weights
                (`Reply.omitted_messages`).
            options: context, strength, sampling, max_tokens, revision, recall_tokens,
                continue_final_message, create, cancelled; see `ReplyOptions`.

        Raises:
            PromptTooLong: system message, context and newest exchange do not fit; nothing was done.
            InvalidText, InvalidSetting, BaseMismatch, UnknownRevision.
            NotAdmitted: the text was refused; nothing of it was journalled.
            UnknownMemory: it does not exist and `create` is False.
            LearningFailed, StoreError: while absorbing first; the text is in the journal.
            Cancelled: `cancelled` returned True before the answer began.
        """
        return self._loaded().answerer.stream(self.id, history, **options)

    # --- learning ------------------------------------------------------------------------------

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
        """Learn a text, documents or messages into the memory, which is made if it does not exist.

        The text is journalled first. Documents that the memory knows and messages that it has
        learned are not trained on again. System and tool messages are never trained on.

        Args:
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
            InvalidText, NotAdmitted: nothing was changed.
            UnknownMemory: it does not exist and `create` is False.
            LearningFailed, StoreError, BaseMismatch, Cancelled: the old revision stays, the text
                is in the journal.
        """
        parts = self._loaded()
        memory_id, work = parts.recorder.record(
            self._name, text, after=after, exact=exact, create=create
        )
        job = parts.jobs.start(memory_id, work)
        return wait_or_cancel(job) if wait else job

    @overload
    def rebuild(self, *, wait: Literal[True] = ...) -> AbsorbReport: ...

    @overload
    def rebuild(self, *, wait: Literal[False]) -> Job: ...

    def rebuild(self, *, wait: bool = True) -> AbsorbReport | Job:
        """Learn the memory again from its journal, on the base model at hand.

        The way out after a change of base model, settings, or damaged files. The old revisions
        stay until the new ones are complete; afterwards only the new ones remain.

        Raises:
            UnknownMemory.
            LearningFailed, StoreError, Cancelled: the old revisions stay.
        """
        return self._learn(self._loaded().absorber.rebuild, wait=wait)

    def resume(self) -> Job:
        """Learn the documents in the journal that no revision has learned yet.

        The way on after a killed, cancelled or failed absorb of documents. Conversations need
        none: the next reply or absorb brings them again. What is known already costs nothing.

        Raises:
            UnknownMemory.
        """
        parts, manifest = self._loaded(), self._manifest()
        digests = parts.store.journal(manifest.id).to_learn
        return parts.jobs.start(manifest.id, partial(parts.absorber.documents, digests))

    def wait(self) -> None:
        """Wait until background absorbs into the memory are done; failures are in `status`."""
        self._jobs.wait_for(self.id)  # also of a service that is closed, or not loaded yet

    # --- looking -------------------------------------------------------------------------------

    def status(self) -> Status:
        """Return the memory at a glance: what it was told, what of it is learned, what runs.

        Raises:
            UnknownMemory.
        """
        return self._loaded().catalog.status(self.id)

    def revisions(self) -> tuple[Revision, ...]:
        """Return the revisions on disk, oldest first.

        Raises:
            UnknownMemory.
        """
        return self._manifest().revisions

    def head(self) -> Revision | None:
        """Return the newest revision; None if nothing is learned yet.

        Raises:
            UnknownMemory.
        """
        return self._manifest().newest

    def transcript(self) -> Transcript:
        """Return every text of the memory in force: its documents and its newest conversation.

        Raises:
            UnknownMemory.
        """
        return self._loaded().catalog.transcript(self.id)

    def covered(self, messages: Iterable[MessageLike]) -> Covered:
        """Return how much of a history already lives in weights.

        `messages` of the result counts positions of the list given here; what follows them (and
        system messages) still belongs into the prompt. A history may leave out the beginning of a
        conversation that the memory holds, as for `reply`.

        Raises:
            UnknownMemory, InvalidText.
        """
        return self._loaded().catalog.covered(self.id, messages)

    def adapter(self) -> Path:
        """Return the folder of the newest revision, for ``PeftModel.from_pretrained``.

        Raises:
            UnknownMemory: no such memory, or it has learned nothing yet.
        """
        manifest = self._manifest()
        if manifest.newest is None:
            raise UnknownMemory(f"Memory {manifest.id!r} has learned nothing yet.")
        return self._loaded().store.folder(manifest.id, manifest.newest)

    def search(self, query: str, *, limit: int = 8) -> tuple[Passage, ...]:
        """Return passages of the memory's texts that fit a query, best first.

        Its documents, those of the memory it began from, and its newest conversation, learned or
        not: by the words of the query (BM25 of their stems) and by the speaker and time that it
        asks for, as for the passages of a prompt.

        Raises:
            UnknownMemory, InvalidSetting.
        """
        whole("limit", limit)
        parts, manifest = self._loaded(), self._manifest()
        journal, head = parts.store.journal(manifest.id), manifest.newest
        learned = head.documents if head else ()
        found = parts.searcher.recall(
            manifest,
            query,
            documents=tuple(dict.fromkeys((*learned, *journal.documents))),
            dialogue=journal.tip,
        )
        return found.passages[:limit]

    def probe(
        self, question: str | Iterable[MessageLike], answer: str, *, strength: float = 1.0
    ) -> Probe:
        """Measure how likely an answer is, with the newest revision and with the base model alone.

        Args:
            question: a user's question, or a conversation that ends in one.
            answer: the answer to score.
            strength: factor on the memory.

        Raises:
            UnknownMemory, InvalidText, PromptTooLong.
        """
        parts, manifest = self._loaded(), self._manifest()
        positive("strength", strength, zero=True)
        asked = (Message("user", question),) if isinstance(question, str) else as_messages(question)
        adapter = parts.absorber.adapter(manifest, manifest.newest)
        request = ScoreRequest(context=asked, target=answer, adapter=adapter, strength=strength)
        # one call each: rows of one batch may differ from a single row in the last bit
        (without,) = parts.backend.score([replace(request, adapter=None)])
        (learned,) = parts.backend.score([request]) if adapter else (without,)
        return Probe(
            with_memory=sum(learned),
            without_memory=sum(without),
            tokens=len(without),
            recalled=sum(value > _HALF for value in learned) / len(learned),
            revision=manifest.head,
        )

    # --- text of unlimited length --------------------------------------------------------------

    def generate(self, prompt: str = "", **options: Unpack[GenerateOptions]) -> TextStream:
        """Write text far beyond the window, learning every chunk (arXiv 2401.11504, section 3).

        The model sees the newest window; each finished chunk is absorbed before the next begins. A
        prompt of a chunk or more is learned first, a shorter one together with the first chunk. The
        memory is made if it does not exist.

        Args:
            prompt: text to go on from.
            options: max_tokens, strength, sampling, reuse; see `GenerateOptions`.

        Raises:
            InvalidSetting, BaseMismatch here; LearningFailed, StoreError while iterating: what was
                written by then is in the journal.
        """
        parts = self._loaded()
        task = writing_task(prompt, parts.policy, **options)
        manifest = parts.catalog.ensure(self._name)
        manifest.check_base(parts.backend.identity)

        def learn(digests: tuple[str, ...]) -> None:
            if digests:
                work = partial(parts.absorber.documents, digests)
                wait_or_cancel(parts.jobs.start(manifest.id, work))

        writer = LongTextWriter(
            parts.backend,
            parts.store,
            manifest,
            learn=learn,
            admit=partial(parts.catalog.check_admitted, self._name),
            adapter=lambda now: parts.absorber.adapter(now, now.newest),
        )
        return TextStream(writer.steps(task), writer.reply)

    # --- texts one by one ----------------------------------------------------------------------

    def texts(
        self,
        query: str | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
        superseded: bool = False,
    ) -> TextPage:
        """Return what the memory was told, text by text, in the order it was told.

        Its messages and documents in force. What a memory began with stands in the one that it
        began from.

        Args:
            query: only texts that share words with it, best first, as far as `search` finds them:
                of the newest conversation and the documents, at most those of 32 passages.
            limit: most texts to return; None: all.
            offset: how many to leave out at the beginning.
            superseded: list texts that are no longer in force, too.

        Raises:
            UnknownMemory, InvalidSetting.
        """
        return self._loaded().texts.page(
            self.id, query, limit=limit, offset=offset, superseded=superseded
        )

    def resolve_texts(self, ids: Iterable[str]) -> tuple[str, ...]:
        """Return the whole ids of texts that are named by the first 8 letters or more, each once.

        Raises:
            UnknownMemory, UnknownText, InvalidSetting.
        """
        return self._loaded().texts.resolve(self.id, ids)

    @overload
    def remove(
        self,
        ids: Iterable[str],
        *,
        ask: Iterable[tuple[str, str]] = ...,
        wait: Literal[True] = ...,
    ) -> RemovalReceipt: ...

    @overload
    def remove(
        self,
        ids: Iterable[str],
        *,
        ask: Iterable[tuple[str, str]] = ...,
        wait: Literal[False],
    ) -> Job[RemovalReceipt]: ...

    def remove(
        self,
        ids: Iterable[str],
        *,
        ask: Iterable[tuple[str, str]] = (),
        wait: bool = True,
    ) -> RemovalReceipt | Job[RemovalReceipt]:
        """Take texts out of the memory, and learn the rest again from before the first of them.

        Revisions that had learned any of them, or what followed it in its conversation, are gone
        afterwards, and so is every byte of the texts under the store's root. What the newest
        revision had learned otherwise is learned again, from the newest one that is left. All of
        it happens at once when it is learned: until then, and if learning fails, is cancelled or
        killed, the memory is as it was. Replies under way are stopped just before.

        Whoever sends a history in which a removed text still stands tells it to the memory again.

        Args:
            ids: of the texts (`StoredText.id`), or their first 8 letters or more; also sources of
                passages (`Passage.source`).
            ask: questions, each with the answer to measure for the receipt.
            wait: wait for the receipt, or return a `Job` at once.

        Raises:
            UnknownMemory, UnknownText, InvalidSetting, InvalidText: nothing was changed.
            LearningFailed, StoreError, BaseMismatch, Cancelled: the memory is as it was.
        """
        return self._learn(self._loaded().texts.removal(self.id, ids, ask), wait=wait)

    @overload
    def correct(
        self,
        text_id: str,
        text: str,
        *,
        ask: Iterable[tuple[str, str]] = ...,
        wait: Literal[True] = ...,
    ) -> RemovalReceipt: ...

    @overload
    def correct(
        self,
        text_id: str,
        text: str,
        *,
        ask: Iterable[tuple[str, str]] = ...,
        wait: Literal[False],
    ) -> Job[RemovalReceipt]: ...

    def correct(
        self,
        text_id: str,
        text: str,
        *,
        ask: Iterable[tuple[str, str]] = (),
        wait: bool = True,
    ) -> RemovalReceipt | Job[RemovalReceipt]:
        """Put another text in the place of one, and learn again from before it.

        The new text has the id, the place, the speaker and the time of the old one, of which
        nothing is left. Everything else as for `remove`.

        Args:
            text_id: of the text, or its first 8 letters or more.
            text: what it should have said.
            ask: questions, each with the answer to measure for the receipt.
            wait: wait for the receipt, or return a `Job` at once.

        Raises:
            UnknownMemory, UnknownText, InvalidText, NotAdmitted: nothing was changed.
            LearningFailed, StoreError, BaseMismatch, Cancelled: the memory is as it was.
        """
        return self._learn(self._loaded().texts.correction(self.id, text_id, text, ask), wait=wait)

    def pin(self, ids: Iterable[str]) -> None:
        """Keep texts in replay and recall.

        A pinned text that is learned is among the earlier text of every absorb that replays any
        (`Learning.replay`). It stands in the prompt of every answer before the passages that are
        found, as far as `recall_tokens` go.

        Raises:
            UnknownMemory, UnknownText, InvalidSetting.
        """
        self._loaded().texts.pin(self.id, ids, pinned=True)

    def unpin(self, ids: Iterable[str]) -> None:
        """Take the pins off texts.

        Raises:
            UnknownMemory, UnknownText, InvalidSetting.
        """
        self._loaded().texts.pin(self.id, ids, pinned=False)

    # --- copying, going back, removing ---------------------------------------------------------

    def fork(self, target: str, *, revision: str | None = None) -> Memory:
        """Copy the memory under another id: its text, and its revisions up to `revision`.

        Raises:
            Conflict: the target exists.
            UnknownMemory, UnknownRevision, InvalidId.
        """
        return self._service[self._loaded().lifecycle.fork(self.id, target, revision)]

    def rollback(self, revision: str) -> Revision:
        """Make an older revision the newest again; newer ones are deleted.

        Documents that only newer revisions had learned are not learned again by a rebuild; their
        text stays in the journal until the memory is forgotten. Absorbs under way are cancelled.

        Raises:
            UnknownMemory, UnknownRevision.
        """
        return self._loaded().lifecycle.rollback(self.id, revision)

    def rewind(self, messages: int) -> None:
        """Make the first `messages` messages of the newest conversation the newest one.

        For an exchange that is taken back. The rest stays in the journal and is no part of the
        conversation any more; what was learned of it is not used by answers that go on from here.

        Raises:
            UnknownMemory.
            InvalidSetting, InvalidText: no such number, or the conversation is shorter.
        """
        whole("messages", messages, zero=True)
        parts, manifest = self._loaded(), self._manifest()
        journal = parts.store.journal(manifest.id)
        kept = journal.messages(journal.beginning(journal.tip, messages))
        parts.store.record(manifest.id, kept)

    def export(self, target: str | os.PathLike[str]) -> Path:
        """Write the memory (text, revisions, manifest) to one file; returns its path.

        The memory remembers where it was written to: a forget cannot reach that copy, but says so.

        Raises:
            UnknownMemory, StoreError.
        """
        path = Path(target)
        self._loaded().lifecycle.export(self.id, path)
        return path

    def forget(self) -> ForgetReceipt:
        """Delete the memory with everything made from it; the receipt lists every file.

        It also names copies that are left: memories that were forked or began from this one,
        exported files that are still where they were written, and adapters that a server which
        answers may still hold.

        ``"ada"`` takes all ``"ada@..."`` along, also where ``"ada"`` itself does not exist. Absorbs
        and replies of these memories that are under way are stopped. All memories of one user:
        `ParametricMemory.forget`.

        Raises:
            UnknownMemory: there is nothing to forget.
            StoreWriteFailed: a file could not be removed; call again.
        """
        return self._loaded().lifecycle.forget(self._name)


class WithoutMemory:
    """The base model alone: the answer that nothing was learned for, to compare with.

    Made by `ParametricMemory.without_memory`. Nothing is journalled, learned or kept.

    Args:
        loaded: returns the parts of the service, which it loads if need be.
    """

    __slots__ = ("_loaded",)

    def __init__(self, loaded: Callable[[], Parts]) -> None:
        self._loaded = loaded

    def __repr__(self) -> str:
        return "WithoutMemory()"

    def reply(self, history: Iterable[MessageLike], **options: Unpack[ReplyOptions]) -> Reply:
        """Answer a conversation; options and errors as for `stream`."""
        with self.stream(history, **options) as stream:
            return stream.reply

    def stream(
        self, history: Iterable[MessageLike], **options: Unpack[ReplyOptions]
    ) -> ReplyStream:
        """Answer a whole conversation, all of which goes into the prompt, piece by piece.

        Args:
            history: the whole conversation, oldest first, ending as for `Memory.stream`.
            options: as for `Memory.stream`, so that one call serves both; a `revision` is refused,
                and what only concerns a memory changes nothing.

        Raises:
            PromptTooLong: it does not fit the window.
            InvalidText, InvalidSetting.
        """
        return self._loaded().answerer.stream(None, history, **options)
