"""Stores: where text and revisions are kept."""

from templora_memory.stores.archive import clear_partials
from templora_memory.stores.bucket.store import ObjectStore
from templora_memory.stores.directory.store import DirectoryStore
from templora_memory.stores.encryption_key import KEY_FILE_VARIABLE, KEY_VARIABLE, Key

__all__ = [
    "KEY_FILE_VARIABLE",
    "KEY_VARIABLE",
    "DirectoryStore",
    "Key",
    "ObjectStore",
    "clear_partials",
]
