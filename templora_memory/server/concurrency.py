"""Limits on how many requests run and wait at once, shared by key; the rest get 429."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from templora_memory.server.errors import ApiError


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """A request that waits: its place in the order of arrival, and the slot that it will get."""

    number: int
    turn: asyncio.Future[None]


class RequestLimiter:
    """A limited number of slots, and a queue of limited length before them.

    Belongs to the event loop's thread. Keys share: a free slot goes to the key that holds fewest,
    and within a key to the request that came first; one key never holds them all, if
    `max_running_per_key` is less. Where the queue is full, the newest request of
    the key with the most of them makes room for a key that has fewer.

    A request is refused with 429 if the queue is full, if it waits longer than `queue_seconds`, or
    if its key has `max_per_key` requests in flight already.

    Args:
        max_running: slots, which are the requests that run at once.
        max_waiting: requests that may wait for a slot.
        max_per_key: requests of one key that may run or wait at once.
        queue_seconds: longest wait for a slot.
        max_running_per_key: slots that one key may hold; None: all of them.
    """

    def __init__(
        self,
        *,
        max_running: int,
        max_waiting: int,
        max_per_key: int,
        queue_seconds: float,
        max_running_per_key: int | None = None,
    ) -> None:
        self._max_running_per_key = max_running_per_key or max_running
        self._free_slots = max_running
        self._max_waiting = max_waiting
        self._max_per_key = max_per_key
        self._queue_seconds = queue_seconds
        self._arrivals = itertools.count()
        self._queues: dict[str, deque[_Waiter]] = {}  # of keys that wait; none is empty
        self._in_flight: Counter[str] = Counter()  # per key, as is the next
        self._running: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a slot."""
        return sum(map(len, self._queues.values()))

    @property
    def in_flight(self) -> int:
        """Number of requests that hold a slot or wait for one."""
        return self._in_flight.total()

    async def acquire(self, key: str) -> Slot:
        """Take a slot, and wait for one if none is free.

        Raises:
            ApiError: 429.
        """
        if self._in_flight[key] >= self._max_per_key:
            raise _busy(
                f"This key has {self._max_per_key} requests under way, the most it may have"
            )
        self._in_flight[key] += 1
        try:
            # where a slot is free, those that wait may not have it: nobody is passed over
            if self._free_slots and key not in self._queues and self._may_run(key):
                self._take_slot(key)
            else:
                await self._wait_for_slot(key)
        except BaseException:
            self._uncount(key)
            raise
        return Slot(self, key)

    def release(self, key: str) -> None:
        """Give a slot back; called by the slot itself."""
        self._uncount(key)
        self._give_back(key)

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

    async def _wait_for_slot(self, key: str) -> None:
        if self.waiting >= self._max_waiting:
            self._make_room(key)
        waiter = _Waiter(next(self._arrivals), asyncio.get_running_loop().create_future())
        self._queues.setdefault(key, deque()).append(waiter)
        try:
            # shielded: a cancelled wait must not cancel the future that a release may have set
            await asyncio.wait_for(asyncio.shield(waiter.turn), self._queue_seconds)
        except BaseException as error:
            if not waiter.turn.done():
                self._leave_queue(key, waiter)
            elif waiter.turn.exception() is None:  # the slot came just as the wait ended
                self._give_back(key)
            if isinstance(error, TimeoutError):
                raise _busy(f"No place became free within {self._queue_seconds:g} seconds") from (
                    error
                )
            raise

    def _make_room(self, key: str) -> None:
        """Refuse the newest request of the key that has most in the queue, if `key` has fewer.

        Raises:
            ApiError: 429, it has not.
        """
        most = max(self._queues, key=lambda other: len(self._queues[other]), default=key)
        full = _busy(f"The server is busy, and {self.waiting} requests wait already")
        if len(self._queues.get(most, ())) <= len(self._queues.get(key, ())) + 1:
            raise full
        waiter = self._queues[most][-1]
        self._leave_queue(most, waiter)
        waiter.turn.set_exception(full)

    def _leave_queue(self, key: str, waiter: _Waiter) -> None:
        queue = self._queues[key]
        queue.remove(waiter)
        if not queue:
            del self._queues[key]

    def _may_run(self, key: str) -> bool:
        return self._running[key] < self._max_running_per_key

    def _take_slot(self, key: str) -> None:
        self._free_slots -= 1
        self._running[key] += 1

    def _give_back(self, key: str) -> None:
        """Free a slot of a key, and give it to the next request of the queue that may have it."""
        self._free_slots += 1
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]  # keys that are idle take no memory
        ready = [other for other in self._queues if self._may_run(other)]
        if not ready:
            return
        chosen = min(ready, key=lambda other: (self._running[other], self._queues[other][0].number))
        waiter = self._queues[chosen][0]
        self._leave_queue(chosen, waiter)
        self._take_slot(chosen)
        waiter.turn.set_result(None)

    def _uncount(self, key: str) -> None:
        self._in_flight[key] -= 1
        if not self._in_flight[key]:
            del self._in_flight[key]


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
