"""Work of absorbs that waits for its turn, the oldest absorb first."""

from __future__ import annotations

from bisect import insort
from typing import Generic, Protocol, TypeVar


class OfAbsorb(Protocol):
    """Work with the number of the absorb that it is part of; 0: of none."""

    absorb: int


T = TypeVar("T", bound=OfAbsorb)


class Line(Generic[T]):
    """What waits, by the number of its absorb; those of one absorb as they came."""

    def __init__(self) -> None:
        self._waiting: list[T] = []

    def add(self, work: T) -> None:
        insort(self._waiting, work, key=lambda one: one.absorb)

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    @property
    def oldest(self) -> int:
        """The lowest number of an absorb that waits."""
        return self._waiting[0].absorb
