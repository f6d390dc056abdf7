"""The visitors who are here: browsers by token, tabs by session.

Who stayed away too long is discarded.

Gradio tells when a tab closes, but late behind a proxy and never on a crash, so there is a limit
for idle visitors too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from .state import Visitor

_log = logging.getLogger(__name__)


class VisitExpired(LookupError):
    """This browser's visit is over; reloading the page begins a new one."""

    def __init__(self) -> None:
        super().__init__("This visit is over and its characters are gone: reload the page.")


class Visitors:
    """All visitors of one server. Safe to use from any thread.

    Args:
        grace: seconds after the last tab closed until a visitor is discarded.
        idle: seconds without any action after which a visitor with open tabs is discarded.
        discard: gives back everything of a visitor; called outside of all locks.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        *,
        grace: float,
        idle: float,
        discard: Callable[[Visitor], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grace = grace
        self._idle = idle
        self._discard = discard
        self._clock = clock
        self._lock = threading.Lock()
        self._visitors: dict[str, Visitor] = {}

    def add(self, visitor: Visitor) -> None:
        """Add a visitor known from before a restart, with no tab open."""
        with self._lock:
            visitor.seen = self._clock()
            visitor.closed_at = visitor.seen
            self._visitors[visitor.token] = visitor

    def enter(self, token: str | None, session: str) -> Visitor:
        """Note that a tab opened, and return its visitor; a new one if the token is unknown."""
        with self._lock:
            visitor = self._visitors.get(token or "")
            if visitor is None:
                visitor = Visitor()
                self._visitors[visitor.token] = visitor
            visitor.tabs.add(session)
            visitor.closed_at = None
            visitor.seen = self._clock()
            return visitor

    def leave(self, session: str) -> None:
        """Note that a tab closed."""
        with self._lock:
            for visitor in self._visitors.values():
                if session in visitor.tabs:
                    visitor.tabs.discard(session)
                    if not visitor.tabs:
                        visitor.closed_at = self._clock()

    def get(self, token: str | None) -> Visitor:
        """Return the visitor with this token, who thereby shows that they are here.

        Raises:
            Expired: there is none.
        """
        with self._lock:
            visitor = self._visitors.get(token or "")
            if visitor is None:
                raise VisitExpired
            visitor.seen = self._clock()
            return visitor

    def peek(self, token: str | None) -> Visitor | None:
        """Return the visitor with this token, if there is one, without taking it for an action."""
        with self._lock:
            return self._visitors.get(token or "")

    def all(self) -> tuple[Visitor, ...]:
        """Return every visitor who is not discarded."""
        with self._lock:
            return tuple(self._visitors.values())

    def _due(self, visitor: Visitor, now: float) -> bool:
        if visitor.closed_at is not None:
            return now - visitor.closed_at >= self._grace
        return now - visitor.seen >= self._idle

    def sweep(self) -> None:
        """Discard who is due. A discard that fails is logged and tried again by the next sweep."""
        now = self._clock()
        with self._lock:
            due = [visitor for visitor in self._visitors.values() if self._due(visitor, now)]
            for visitor in due:
                del self._visitors[visitor.token]
        for visitor in due:
            try:
                self._discard(visitor)
            except Exception:  # noqa: BLE001  # logged and tried again
                _log.exception("Discarding a visitor failed; trying again")
                self.add(visitor)
