"""A reply under way: a thread that generates it, and a queue that brings it to the event loop.

The thread runs to the end whether or not anybody still reads, so a slow client delays nobody, and
what follows a reply (journal, background absorb) happens in one place. Cancelling a reply stops
the model at its next token.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import NamedTuple, TypeAlias

from templora_memory.domain.results import Reply, TokenLogprob
from templora_memory.server.errors import ApiError
from templora_memory.service.streams import ReplyStream


class ReplyPiece(NamedTuple):
    """A piece of text, and the log-probabilities of its tokens if they were asked for."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


StreamOpener: TypeAlias = Callable[[Callable[[], bool]], ReplyStream]
"""Starts a reply; what it is given returns True once the reply is cancelled."""
ReplyEvent: TypeAlias = ReplyPiece | Reply | BaseException | None
"""A piece of text, the finished reply, an error, or None: generation has started."""
PING_SECONDS = 15.0


class ReplyTask:
    """One reply that a thread of `executor` generates; create it on the event loop's thread.

    Args:
        open_stream: starts the stream; may block (an absorb comes first) and raise. It is told
            when the reply is cancelled, and is to end then.
        executor: pool that lends the thread.
        timeout: seconds for the whole reply.
        on_done: called on the event loop's thread once the generating thread is free again.
    """

    def __init__(
        self,
        open_stream: StreamOpener,
        executor: Executor,
        *,
        timeout: float,
        on_done: Callable[[], None],
    ) -> None:
        self._open_stream = open_stream
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + timeout
        self._timeout = timeout
        self._events: asyncio.Queue[ReplyEvent] = asyncio.Queue()
        # guards _stream and _cancel_error, which both threads use
        self._lock = threading.Lock()
        self._stream: ReplyStream | None = None
        self._cancel_error: ApiError | None = None
        self._on_done = on_done
        self.reply: Reply | None = None
        executor.submit(self._generate)

    # --- on the generating thread --------------------------------------------------------------

    def _generate(self) -> None:
        try:
            stream = self._open_stream(lambda: self._cancel_error is not None)
            with self._lock:
                self._stream = stream
                cancelled = self._cancel_error is not None
            if cancelled:
                stream.close()
            with stream:
                self._post(None)
                told = 0
                for piece in stream:
                    logprobs = stream.logprobs
                    self._post(ReplyPiece(piece, tuple(logprobs[told:])))
                    told = len(logprobs)
                self._post(stream.reply)
        except BaseException as error:  # noqa: BLE001  # raised again where the reply is read
            self._post(error)
        finally:
            with suppress(RuntimeError):  # the loop is closed: nobody counts slots any more
                self._loop.call_soon_threadsafe(self._on_done)

    def _post(self, event: ReplyEvent) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    # --- on the event loop ---------------------------------------------------------------------

    async def wait_started(self) -> None:
        """Wait until generation starts; errors that can still become a status come from here.

        Raises:
            ApiError: 504, or the error that the reply was cancelled with.
            TemploraError: as `Memory.stream`.
        """
        await self._next_event(self._timeout)

    async def pieces(self) -> AsyncIterator[ReplyPiece | None]:
        """Yield text as it comes, and None after `PING_SECONDS` without any; then set `reply`.

        Raises:
            ApiError: 504, or the error that the reply was cancelled with.
            TemploraError: whatever went wrong while generating.
        """
        while True:
            try:
                event = await self._next_event(PING_SECONDS)
            except TimeoutError:
                yield None
                continue
            if isinstance(event, Reply):
                self.reply = event
                return
            if event:
                yield event

    async def _next_event(self, patience: float) -> ReplyPiece | Reply | None:
        remaining = self._deadline - self._loop.time()
        try:
            event = await asyncio.wait_for(self._events.get(), max(0.0, min(remaining, patience)))
        except TimeoutError:
            if remaining > patience:
                raise
            self.cancel(_timed_out(self._timeout))
            raise _timed_out(self._timeout) from None
        if isinstance(event, Reply) and event.finish_reason == "cancelled":
            raise self._cancel_error or ApiError(
                409, "The memory was forgotten while it answered.", code="cancelled"
            )
        if isinstance(event, BaseException):
            raise event
        return event

    def cancel(self, error: ApiError) -> None:
        """Stop the model and raise `error` to the reader. After the end it does nothing."""
        with self._lock:
            self._cancel_error = self._cancel_error or error
            stream = self._stream
        if stream is not None:
            stream.close()


def _timed_out(seconds: float) -> ApiError:
    return ApiError(
        504, f"The reply was not ready after {seconds:g} seconds: ask for less.", code="timeout"
    )
