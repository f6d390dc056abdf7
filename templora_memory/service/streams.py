"""The streams that `stream` and `generate` return: iterate for text, then ask for the `reply`.

No lock is held while text is handed out, so a slow consumer delays nobody.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from types import TracebackType
from typing import NoReturn, Self
from weakref import WeakKeyDictionary

from templora_memory.domain.results import FinishReason, Reply, TokenLogprob
from templora_memory.ports import Completion, TokenStream


class _Stream(ABC):
    """The part both streams share: leaving a ``with`` block closes, and there are no copies."""

    @abstractmethod
    def close(self) -> None:
        """Stop."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("A stream belongs to this process: it cannot be pickled or copied.")


class ReplyStream(_Stream):
    """An answer under way.

    Iterate for pieces of text; `reply` waits for the rest and returns the whole. Closing early
    (also by leaving a ``with`` block) stops the model; `reply` then has the text so far and the
    finish reason "cancelled".
    """

    def __init__(
        self,
        tokens: TokenStream,
        *,
        make: Callable[[Completion], Reply],
        finished: Callable[[Reply], None],
    ) -> None:
        self._tokens = tokens
        self._make = make
        self._finished = finished
        self._lock = threading.Lock()
        self._reply: Reply | None = None

    def __repr__(self) -> str:
        return f"ReplyStream({'done' if self._reply else 'under way'})"

    def __iter__(self) -> Iterator[str]:
        yield from self._tokens
        self._settle()

    @property
    def reply(self) -> Reply:
        """The whole answer; waits for it.

        Raises:
            TemploraError: whatever went wrong while generating.
        """
        return self._settle()

    @property
    def logprobs(self) -> Sequence[TokenLogprob]:
        """Those of the tokens given out so far, where `Sampling.logprobs` asks for them."""
        return self._tokens.logprobs

    def _settle(self) -> Reply:
        completion = self._tokens.completion
        with self._lock:
            first = self._reply is None
            if self._reply is None:
                self._reply = self._make(completion)
            reply = self._reply
        if first:
            self._finished(reply)
        return reply

    def close(self) -> None:
        """Stop generating; safe to call twice, from any thread."""
        self._tokens.close()


class OpenStreams:
    """The replies under way and whose they are, so that forgetting a memory stops its own.

    A stream that nobody holds any more leaves by itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owners: WeakKeyDictionary[ReplyStream, str] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, stream: ReplyStream, memory_id: str) -> ReplyStream:
        """Note a stream of a memory, and return it."""
        with self._lock:
            self._owners[stream] = memory_id
        return stream

    def close(self, memory_id: str) -> None:
        """Close all streams of a memory."""
        with self._lock:
            streams = [stream for stream, owner in self._owners.items() if owner == memory_id]
        for stream in streams:
            stream.close()


class TextStream(_Stream):
    """Text of unlimited length under way; every finished chunk is learned before the next begins.

    Iterate for pieces of text; `reply` runs to the end and returns the whole. Closing stops after
    the current piece; what was written by then is in the journal, and learned as far as whole
    chunks go.
    """

    def __init__(
        self,
        steps: Generator[str, None, FinishReason],
        make: Callable[[str, FinishReason], Reply],
    ) -> None:
        self._steps = steps
        self._make = make
        self._reason: FinishReason | None = None
        self._text: list[str] = []

    def __repr__(self) -> str:
        return f"TextStream({self._reason or 'under way'})"

    def __iter__(self) -> Iterator[str]:
        while self._reason is None:
            try:
                piece = next(self._steps)
            except StopIteration as stop:
                self._reason = stop.value or "cancelled"
            else:
                self._text.append(piece)
                yield piece

    @property
    def reply(self) -> Reply:
        """The whole text and its counts; generates the rest first, unless it was closed."""
        for _ in self:
            pass
        return self._make("".join(self._text), self._reason or "cancelled")

    def close(self) -> None:
        """Stop; safe to call twice, from the thread that iterates."""
        self._steps.close()
