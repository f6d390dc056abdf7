"""Limits on how many requests run at once and how many may wait; the rest get 429."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from templora_memory.server.errors import ApiError


class RequestLimiter:
    """A limited number of slots, and a queue of limited length before them.

    Belongs to the event loop's thread. A request is refused with 429 if the queue is full, if it
    waits longer than `queue_seconds`, or if its key has `max_per_key` requests in flight already.

    Args:
        max_running: slots, which are the requests that run at once.
        max_waiting: requests that may wait for a slot.
        max_per_key: requests of one key that may run or wait at once.
        queue_seconds: longest wait for a slot.
    """

    def __init__(
        self, *, max_running: int, max_waiting: int, max_per_key: int, queue_seconds: float
    ) -> None:
        self._free_slots = max_running
        self._max_waiting = max_waiting
        self._max_per_key = max_per_key
        self._queue_seconds = queue_seconds
        self._queue: deque[asyncio.Future[None]] = deque()
        self._in_flight: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a slot."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Number of requests that hold a slot or wait for one."""
        return self._in_flight.total()

    async def acquire(self, key: str) -> Slot:
        """Take a slot, and wait for one if none is free. Requests get slots in their order.

        Raises:
            ApiError: 429.
        """
        if self._in_flight[key] >= self._max_per_key:
            raise _busy(
                f"This key has {self._max_per_key} requests under way, the most it may have"
            )
        self._in_flight[key] += 1
        try:
            if self._free_slots and not self._queue:
                self._free_slots -= 1
            else:
                await self._wait_for_slot()
        except BaseException:
            self._uncount(key)
            raise
        return Slot(self, key)

    def release(self, key: str) -> None:
        """Give a slot back; called by the slot itself."""
        self._uncount(key)
        self._hand_on()

    @asynccontextmanager
    async def slot(self, key: str) -> AsyncIterator[None]:
        """Hold a slot for a ``with`` block.

        Raises:
            ApiError: 429.
        """
        slot = await self.acquire(key)
        try:
            yield
        finally:
            slot.release()

    async def _wait_for_slot(self) -> None:
        if len(self._queue) >= self._max_waiting:
            raise _busy(f"The server is busy, and {len(self._queue)} requests wait already")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            # shielded: a cancelled wait must not cancel the future that a release may have set
            await asyncio.wait_for(asyncio.shield(turn), self._queue_seconds)
        except BaseException as error:
            if turn.done():  # the slot arrived just as the wait ended: the next one gets it
                self._hand_on()
            else:
                self._queue.remove(turn)
            if isinstance(error, TimeoutError):
                raise _busy(f"No place became free within {self._queue_seconds:g} seconds") from (
                    error
                )
            raise

    def _hand_on(self) -> None:
        """Give a free slot to the first request of the queue, or keep it for the next one."""
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self._free_slots += 1

    def _uncount(self, key: str) -> None:
        self._in_flight[key] -= 1
        if not self._in_flight[key]:
            del self._in_flight[key]  # keys that are idle take no memory


class Slot:
    """Permission for one request to run."""

    def __init__(self, limiter: RequestLimiter, key: str) -> None:
        self._limiter: RequestLimiter | None = limiter
        self._key = key

    def release(self) -> None:
        """Give the slot back; a second call does nothing."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter.release(self._key)


def _busy(reason: str) -> ApiError:
    return ApiError(429, f"{reason}: try again later.", code="rate_limit_exceeded", retry_after=1)
