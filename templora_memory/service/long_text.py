"""Write text of unlimited length: generate a chunk, learn it, go on (arXiv 2401.11504, 3)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Required, TypedDict

from templora_memory.domain.manifest import Manifest
from templora_memory.domain.messages import Document, passages
from templora_memory.domain.results import FinishReason, Reply
from templora_memory.domain.settings import ResolvedPolicy, Sampling, positive, whole
from templora_memory.errors import Cancelled, UnknownMemory
from templora_memory.ports import Adapter, Backend, Completion, Store, TextSession

_ENDLESS = Sampling(repetition_penalty=1.12, ignore_end=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class WritingTask:
    """A text to write: `chunk` tokens at a time, until there are `max_tokens`."""

    prompt: str
    max_tokens: int
    window: int
    chunk: int
    strength: float
    sampling: Sampling
    reuse: bool


class GenerateOptions(TypedDict, total=False):
    """The keyword arguments of `generate`; all but `max_tokens` may be left out.

    Args:
        max_tokens: tokens to write.
        strength: factor on the memory. Default 1.
        sampling: how to choose tokens; None, the default: as released, greedy with a repetition
            penalty of 1.12 and the end token forbidden. A stop text ends the text.
        reuse: keep keys and values of earlier chunks until the window is full (the paper's cache
            reuse), the default; otherwise compute the window again after each update.
    """

    max_tokens: Required[int]
    strength: float
    sampling: Sampling | None
    reuse: bool


def writing_task(
    prompt: str,
    policy: ResolvedPolicy,
    *,
    max_tokens: int,
    strength: float = 1.0,
    sampling: Sampling | None = None,
    reuse: bool = True,
) -> WritingTask:
    """Return the task of a `generate`, with the arguments of `GenerateOptions`.

    Raises:
        InvalidSetting.
    """
    whole("max_tokens", max_tokens)
    positive("strength", strength, zero=True)
    return WritingTask(
        prompt=prompt,
        max_tokens=max_tokens,
        window=policy.window,
        chunk=policy.chunk,
        strength=strength,
        sampling=sampling or _ENDLESS,
        reuse=reuse,
    )


class LongTextWriter:
    """One text under way. What it has written is in the journal, whatever stops it."""

    def __init__(
        self,
        backend: Backend,
        store: Store,
        manifest: Manifest,
        *,
        learn: Callable[[tuple[str, ...]], None],
        admit: Callable[[Sequence[Document]], None],
        adapter: Callable[[Manifest], Adapter | None],
    ) -> None:
        self._backend = backend
        self._store = store
        self._manifest = manifest
        self._learn = learn
        self._admit = admit
        self._adapter = adapter
        self._shown = 0
        self._written = 0
        self._after = manifest.first
        self._blank = ""

    def steps(self, task: WritingTask) -> Generator[str, None, FinishReason]:
        """Pieces of text; each finished chunk is learned before the next begins."""
        pieces = self._backend.split(task.prompt, task.chunk) if task.prompt else ()
        for piece in pieces[:-1]:
            self._learn(self._keep(piece))
        unlearned = "".join(pieces[-1:])
        session = self._backend.open_text(task.prompt, window=task.window)
        try:
            while True:
                completion = yield from self._chunk(session, task, unlearned)
                unlearned = ""
                if self._written >= task.max_tokens or completion.finish_reason != "length":
                    return completion.finish_reason
        finally:
            session.close()

    def _chunk(
        self, session: TextSession, task: WritingTask, unlearned: str
    ) -> Generator[str, None, Completion]:
        stream = session.generate(
            adapter=self._adapter(self._current()),
            strength=task.strength,
            sampling=task.sampling,
            max_tokens=min(task.chunk, task.max_tokens - self._written),
            reuse=task.reuse,
        )
        pieces: list[str] = []
        try:
            for piece in stream:
                pieces.append(piece)
                yield piece
            completion = stream.completion
        except BaseException:  # stopped in the middle of a chunk: its text is kept
            with suppress(UnknownMemory, Cancelled):
                self._keep(unlearned + "".join(pieces))
            raise
        finally:
            stream.close()
        self._shown = self._shown or completion.prompt_tokens
        self._written += completion.completion_tokens
        self._learn(self._keep(unlearned + completion.text))
        return completion

    def _keep(self, text: str) -> tuple[str, ...]:
        """Journal a text as what directly follows the one before; returns digests."""
        text, self._blank = self._blank + text, ""
        if not text.strip():
            self._blank = text  # a document needs words: this joins the next one
            return ()
        pieces = passages(Document(text, continues=True))  # a stream, also where it begins
        self._admit(pieces)
        digests = self._store.record_documents(self._current().id, pieces, after=self._after)
        self._after = digests[-1]
        return digests

    def _current(self) -> Manifest:
        now = self._store.manifest(self._manifest.id)
        if now is None or not now.same_memory(self._manifest):
            raise Cancelled(f"Memory {self._manifest.id!r} was forgotten meanwhile.")
        return now

    def reply(self, text: str, reason: FinishReason) -> Reply:
        """Return the whole and its counts."""
        head = self._current().newest
        return Reply(
            text=text,
            finish_reason=reason,
            prompt_tokens=self._shown,
            completion_tokens=self._written,
            absorbed_tokens=head.tokens if head else 0,
            revision=head.name if head else None,
        )
