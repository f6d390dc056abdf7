"""A mapping that keeps the values used last, safe for threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """A mapping of limited size; the value that was used longest ago leaves first.

    The newest value always stays, however large it is.

    Args:
        max_size: sum of the sizes of all values.
        size_of: size of a value, which must not change; without it each counts as 1.
        on_evict: called with each value that leaves, also with one that is replaced.
    """

    def __init__(
        self,
        max_size: int,
        *,
        size_of: Callable[[V], int] = lambda _: 1,
        on_evict: Callable[[V], None] = lambda _: None,
    ) -> None:
        self._max_size = max_size
        self._size_of = size_of
        self._on_evict = on_evict
        self._values: OrderedDict[K, V] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[K]:
        """Yield the keys there are now, the one used longest ago first."""
        with self._lock:
            return iter(tuple(self._values))

    def values(self) -> tuple[V, ...]:
        """Return the values in the order of their keys; using none of them."""
        with self._lock:
            return tuple(self._values.values())

    def get(self, key: K) -> V | None:
        """Return a value, which is the one used last from now on; None if it is not there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: K, value: V) -> V:
        """Keep a value in place of an older one of its key, and return it."""
        with self._lock:
            replaced = [self._remove(key)] if key in self._values else []
            evicted = [old for old in replaced if old is not value]
            self._values[key] = value
            self._size += self._size_of(value)
            while self._size > self._max_size and len(self._values) > 1:
                evicted.append(self._remove(next(iter(self._values))))
        self._evict(evicted)
        return value

    def drop(self, matches: Callable[[K], bool]) -> None:
        """Remove the values of all keys that match."""
        with self._lock:
            evicted = [self._remove(key) for key in list(self._values) if matches(key)]
        self._evict(evicted)

    def clear(self) -> None:
        """Remove all values."""
        self.drop(lambda _: True)

    def _remove(self, key: K) -> V:
        value = self._values.pop(key)
        self._size -= self._size_of(value)
        return value

    def _evict(self, values: list[V]) -> None:
        for value in values:  # outside the lock: it may take long, or use this cache
            self._on_evict(value)
