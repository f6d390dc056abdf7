"""How many do something at once, how many may wait for it, and who is sent away."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from templora_memory.server.errors import ApiError


class Gate:
    """A door with so many places, and a queue of limited length before it.

    Used on the event loop's thread only. Whoever finds the queue full, waits longer than
    `seconds`, or has `per_key` places and waits already, gets 429.
    """

    def __init__(self, *, running: int, waiting: int, per_key: int, seconds: float) -> None:
        self._free = running
        self._most_waiting = waiting
        self._per_key = per_key
        self._seconds = seconds
        self._queue: deque[asyncio.Future[None]] = deque()
        self._held: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def held(self) -> int:
        """Places taken and waited for."""
        return self._held.total()

    async def enter(self, key: str) -> Place:
        """Take a place, waiting for one if need be.

        Raises:
            ApiError: 429.
        """
        if self._held[key] >= self._per_key:
            raise _busy(f"This key has {self._per_key} requests under way, the most it may have")
        self._held[key] += 1
        try:
            if self._free and not self._queue:
                self._free -= 1
            else:
                await self._wait()
        except BaseException:
            self._drop(key)
            raise
        return Place(self, key)

    async def _wait(self) -> None:
        if len(self._queue) >= self._most_waiting:
            raise _busy(f"The server is busy, and {len(self._queue)} requests wait already")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await asyncio.wait_for(asyncio.shield(turn), self._seconds)
        except BaseException as error:
            if turn.done():  # the place was given just now: hand it on
                self._give()
            else:
                self._queue.remove(turn)
            if isinstance(error, TimeoutError):
                raise _busy(f"No place became free within {self._seconds:g} seconds") from error
            raise

    def _give(self) -> None:
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self._free += 1

    def _drop(self, key: str) -> None:
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]

    def leave(self, key: str) -> None:
        """Called by a place."""
        self._drop(key)
        self._give()

    @asynccontextmanager
    async def place(self, key: str) -> AsyncIterator[None]:
        """Hold a place for a ``with`` block."""
        held = await self.enter(key)
        try:
            yield
        finally:
            held.leave()


class Place:
    """A place at a gate; leave it once, leaving again does nothing."""

    def __init__(self, gate: Gate, key: str) -> None:
        self._gate: Gate | None = gate
        self._key = key

    def leave(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.leave(self._key)


def _busy(why: str) -> ApiError:
    return ApiError(429, f"{why}: try again later.", code="rate_limit_exceeded", retry_after=1)
