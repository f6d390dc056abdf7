"""Locations of memories in a bucket: the cipher of each, and how it is cleared.

::

    <place>/key.json     only with a key: the memory's own, written first and removed first

A location has a random name and is never used again, so its key never changes. Knows nothing of
manifests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from templora_memory.domain.lru import LruCache
from templora_memory.stores.bucket.s3 import Bucket
from templora_memory.stores.encryption import PLAINTEXT, Cipher
from templora_memory.stores.encryption_key import (
    KEY_FILE,
    Key,
    encrypted,
    key_missing,
    not_encrypted,
)

_MAX_CIPHERS = 4096


class Location(NamedTuple):
    """A folder in a bucket, and the cipher of what lies in it."""

    path: str
    cipher: Cipher


class Locations:
    """The locations of memories in one bucket.

    Args:
        bucket: where they are.
        key: decrypts the keys in them; None: they have none.
    """

    def __init__(self, bucket: Bucket, key: Key | None) -> None:
        self._bucket = bucket
        self._key = key
        self._ciphers: LruCache[str, Cipher] = LruCache(_MAX_CIPHERS)

    def make(self, path: str) -> Location:
        """Make a new location. With a key, nothing may be written there before this returns."""
        if self._key is None:
            return Location(path, PLAINTEXT)
        cipher, content = self._key.make_cipher()
        self._bucket.put(f"{path}/{KEY_FILE}", content, replacing=None)
        return Location(path, self._ciphers.put(path, cipher))

    def find(self, path: str, *, is_encrypted: bool) -> Location:
        """Return the location of a manifest that is encrypted or not.

        Raises:
            InvalidSetting: it is not as this store's key would have it.
            StoreDamaged: its key is missing, or is not what was written.
        """
        url = f"{self._bucket.url}/{path}"
        if self._key is None:
            if is_encrypted:
                raise encrypted(url)
            return Location(path, PLAINTEXT)
        if not is_encrypted:
            raise not_encrypted(url)
        cipher = self._ciphers.get(path)
        if cipher is None:
            key_object = self._bucket.get(f"{path}/{KEY_FILE}")
            if key_object is None:
                raise key_missing(url)
            cipher = self._ciphers.put(path, self._key.open_cipher(key_object.body, url))
        return Location(path, cipher)

    def clear(self, path: str) -> dict[str, int]:
        """Remove everything at a location, and return the sizes of the objects by key.

        Objects that another writer adds meanwhile are removed too: it lists until none is left.
        """
        self._ciphers.drop(lambda cached: cached == path)
        removed: dict[str, int] = {}
        # a key that was removed by hand is not listed and may still be a version in the bucket
        hidden = [] if self._key is None else [f"{path}/{KEY_FILE}"]
        while True:
            sizes = {entry.key: entry.size for entry in self._bucket.list(f"{path}/")}
            if not (hidden or sizes):
                return removed
            self.remove([*hidden, *sizes])
            removed.update(sizes)
            hidden = []

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects, the keys of memories first and with all their versions.

        Interrupted after them, what is left cannot be read by anybody.
        """
        unique = dict.fromkeys(keys)
        key_files = [key for key in unique if key.endswith(f"/{KEY_FILE}")]
        for key in key_files:
            self._bucket.erase(key)
        self._bucket.remove(key for key in unique if key not in key_files)
