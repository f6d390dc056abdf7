"""A fair lock across threads and event loops."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_PATIENCE = 5.0  # seconds
_TICK = 0.002


class Turns:
    """A fair lock that belongs to no event loop.

    LlamaIndex runs synchronous calls in loops of their own, also inside a running one, which stands
    still meanwhile. If the one whose turn it is lives in that loop, waiting for it would never
    end: so whoever has waited for five seconds goes on without.
    """

    def __init__(self) -> None:
        self._line: deque[object] = deque()
        self._lock = threading.Lock()

    @asynccontextmanager
    async def mine(self) -> AsyncIterator[None]:
        """Wait for one's turn, and have it until the end of the block."""
        me, waited = object(), 0.0
        with self._lock:
            self._line.append(me)
        try:
            while self._line[0] is not me and waited < _PATIENCE:
                await asyncio.sleep(_TICK)
                waited += _TICK
            yield
        finally:
            with self._lock:
                self._line.remove(me)
