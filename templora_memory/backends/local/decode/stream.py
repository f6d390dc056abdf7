"""The caller's end of an answer: text as it comes, from the model thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias

from templora_memory.domain.results import TokenLogprob
from templora_memory.errors import Cancelled
from templora_memory.ports import Completion

_POLL_SECONDS = 0.1


ChannelItem: TypeAlias = str | TokenLogprob | Completion | BaseException
"""A piece of text, a token that it is made of, or the end."""


class Channel:
    """A queue between the model thread, which writes, and one caller, who reads or goes away."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[ChannelItem] = queue.SimpleQueue()
        self.closed = threading.Event()


class LocalStream:
    """A generation under way; see `TokenStream`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._end: Completion | BaseException | None = None
        self.logprobs: list[TokenLogprob] = []

    def __iter__(self) -> Iterator[str]:
        while True:
            with self._lock:  # held for one piece only, never while the caller has it
                item = self._next()
            if item is None:
                return
            yield item

    def finish(self, cancelled: Callable[[], bool]) -> Completion:
        """Return the completion, unless it is cancelled before.

        Raises:
            Cancelled: it was; nothing more is generated.
        """
        while self._end is None:
            if cancelled():
                self.close()
                raise Cancelled("The absorb was cancelled; the old revision stays.")
            with self._lock, suppress(queue.Empty):
                self._next(timeout=_POLL_SECONDS)
        return self.completion

    def _next(self, timeout: float | None = None) -> str | None:
        while self._end is None:
            item = self._channel.queue.get(timeout=timeout)
            if isinstance(item, str):
                return item
            if isinstance(item, TokenLogprob):
                self.logprobs.append(item)
            elif isinstance(item, Completion):
                self._end = replace(item, logprobs=tuple(self.logprobs))
            else:
                self._end = item
        if isinstance(self._end, BaseException):
            raise self._end
        return None

    @property
    def completion(self) -> Completion:
        """The whole answer; waits for its end, and raises what ended it."""
        for _ in self:
            pass
        if not isinstance(self._end, Completion):
            raise TypeError("a stream ended without a completion")
        return self._end

    def close(self) -> None:
        """Stop generating; safe from any thread, and twice."""
        self._channel.closed.set()

    def __del__(self) -> None:
        self._channel.closed.set()  # a caller who went away wants no more tokens
