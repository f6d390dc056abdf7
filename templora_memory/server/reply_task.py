"""A reply under way: a thread that computes it, and pieces that reach the event loop.

The thread runs to the end whether or not anybody still reads, so a slow client holds up nobody,
and what follows a reply (journal, background absorb) happens in one place. Giving an answer up
stops the model at its next token.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeAlias

from templora_memory.domain.results import Reply
from templora_memory.server.errors import ApiError
from templora_memory.service.streams import ReplyStream

Event: TypeAlias = str | Reply | BaseException | None
PING_SECONDS = 15.0


class Answer:
    """One reply; made on the event loop's thread.

    Args:
        begin: starts the stream; may block (absorbing first) and raise.
        executor: whose thread computes it.
        seconds: time for the whole.
        ended: called on the loop's thread once the computing thread is free again.
    """

    def __init__(
        self,
        begin: Callable[[], ReplyStream],
        executor: Executor,
        *,
        seconds: float,
        ended: Callable[[], None],
    ) -> None:
        self._begin = begin
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + seconds
        self._seconds = seconds
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._lock = threading.Lock()
        self._stream: ReplyStream | None = None
        self._given_up: ApiError | None = None
        self._ended = ended
        self.reply: Reply | None = None
        executor.submit(self._run)

    # --- on the computing thread ---------------------------------------------------------------

    def _run(self) -> None:
        try:
            stream = self._begin()
            with self._lock:
                self._stream = stream
                given_up = self._given_up is not None
            if given_up:
                stream.close()
            with stream:
                self._post(None)  # it has begun
                for piece in stream:
                    self._post(piece)
                self._post(stream.reply)
        except BaseException as error:  # noqa: BLE001  # raised again where the reply is read
            self._post(error)
        finally:
            with suppress(RuntimeError):  # the loop is closed: nobody counts places any more
                self._loop.call_soon_threadsafe(self._ended)

    def _post(self, event: Event) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    # --- on the event loop ---------------------------------------------------------------------

    async def begun(self) -> None:
        """Wait until the model has taken it up; errors that have a status come from here.

        Raises:
            ApiError: 504, or why it was given up.
            TemploraError: as `ParametricMemory.stream`.
        """
        await self._next(self._seconds)

    async def pieces(self) -> AsyncIterator[str | None]:
        """Text as it comes; None where there was none for a while. `reply` is set at the end.

        Raises:
            ApiError: 504, or why it was given up.
            TemploraError: whatever went wrong while generating.
        """
        while True:
            try:
                event = await self._next(PING_SECONDS)
            except TimeoutError:
                yield None
                continue
            if isinstance(event, Reply):
                self.reply = event
                return
            if event:
                yield event

    async def _next(self, patience: float) -> str | Reply | None:
        left = self._deadline - self._loop.time()
        try:
            event = await asyncio.wait_for(self._events.get(), max(0.0, min(left, patience)))
        except TimeoutError:
            if left > patience:
                raise
            self.give_up(_late(self._seconds))
            raise _late(self._seconds) from None
        if isinstance(event, Reply) and event.finish_reason == "cancelled":
            raise self._given_up or ApiError(
                409, "The memory was forgotten while it answered.", code="cancelled"
            )
        if isinstance(event, BaseException):
            raise event
        return event

    def give_up(self, why: ApiError) -> None:
        """Stop the model; whoever still reads gets `why`. After the end it does nothing."""
        with self._lock:
            self._given_up = self._given_up or why
            stream = self._stream
        if stream is not None:
            stream.close()


def _late(seconds: float) -> ApiError:
    return ApiError(
        504, f"The reply was not ready after {seconds:g} seconds: ask for less.", code="timeout"
    )
