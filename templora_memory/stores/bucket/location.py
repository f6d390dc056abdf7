"""The places of memories in a bucket: the key of each, and how it is cleared.

::

    <place>/key.json     only with a key: the memory's own, written first and removed first

A place has a random name and is never used again, so its key never changes. Knows nothing of
manifests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from templora_memory.stores.bucket.s3 import Bucket
from templora_memory.stores.encryption import (
    BARE,
    KEY,
    Key,
    Seal,
    encrypted,
    key_missing,
    not_encrypted,
)
from templora_memory.stores.lru import CHECKED, Recent


class Place(NamedTuple):
    """A folder in a bucket, and how bytes lie in it."""

    path: str
    seal: Seal


class Places:
    """The places in one bucket.

    Args:
        bucket: where they are.
        key: opens the keys in them; None: they have none.
    """

    def __init__(self, bucket: Bucket, key: Key | None) -> None:
        self._bucket = bucket
        self._key = key
        self._seals: Recent[str, Seal] = Recent(CHECKED)

    def make(self, path: str) -> Place:
        """A new place. With a key, nothing may be written there before this returns."""
        if self._key is None:
            return Place(path, BARE)
        seal, content = self._key.make_seal()
        self._bucket.put(f"{path}/{KEY}", content, replacing=None)
        return Place(path, self._seals.put(path, seal))

    def find(self, path: str, *, sealed: bool) -> Place:
        """A place whose manifest is sealed or not.

        Raises:
            InvalidSetting: it is not as this store's key would have it.
            StoreDamaged: its key is missing, or is not what was written.
        """
        where = f"{self._bucket.url}/{path}"
        if self._key is None:
            if sealed:
                raise encrypted(where)
            return Place(path, BARE)
        if not sealed:
            raise not_encrypted(where)
        seal = self._seals.get(path)
        if seal is None:
            found = self._bucket.get(f"{path}/{KEY}")
            if found is None:
                raise key_missing(where)
            seal = self._seals.put(path, self._key.open_seal(found.body, where))
        return Place(path, seal)

    def clear(self, path: str) -> dict[str, int]:
        """Remove everything at a place, also what is written there meanwhile; key and size."""
        self._seals.drop(lambda known: known == path)
        removed: dict[str, int] = {}
        # one that was removed by hand may still be a version in the bucket
        hidden = [] if self._key is None else [f"{path}/{KEY}"]
        while True:
            left = {entry.key: entry.size for entry in self._bucket.list(f"{path}/")}
            if not (hidden or left):
                return removed
            self.remove([*hidden, *left])
            removed.update(left)
            hidden = []

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects, those that open the others first and with all their versions."""
        every = dict.fromkeys(keys)
        openers = [key for key in every if key.endswith(f"/{KEY}")]
        for key in openers:
            self._bucket.erase(key)
        self._bucket.remove(key for key in every if key not in openers)
