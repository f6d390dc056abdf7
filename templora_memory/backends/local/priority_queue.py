"""Whose turn it is among absorbs: what somebody waits for first, then the oldest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


@dataclass(frozen=True, slots=True, eq=False)
class Absorb:
    """What work is done for. `number` counts absorbs; `urgent` may begin to be true at any time."""

    number: int
    urgent: Callable[[], bool]

    @property
    def rank(self) -> tuple[bool, int]:
        """The lowest goes first."""
        return not self.urgent(), self.number


def never() -> bool:
    return False


NO_ABSORB = Absorb(0, never)
"""Of work that is part of none."""


class OfAbsorb(Protocol):
    """Work that is done for an absorb."""

    absorb: Absorb


T = TypeVar("T", bound=OfAbsorb)


class Line(Generic[T]):
    """Work that waits for its turn; that of one absorb as it came."""

    def __init__(self) -> None:
        self._waiting: list[T] = []

    def add(self, work: T) -> None:
        self._waiting.append(work)

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    @property
    def ordered(self) -> list[T]:
        """What waits, by whose turn it is now."""
        return sorted(self._waiting, key=lambda one: one.absorb.rank)

    @property
    def first(self) -> Absorb:
        """Whose turn it is."""
        return min((one.absorb for one in self._waiting), key=lambda absorb: absorb.rank)
