"""Stores: where text and revisions are kept. Each name loads its module when it is asked for."""

from typing import TYPE_CHECKING

from templora_memory._lazy import lazy_names

if TYPE_CHECKING:
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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "KEY_FILE_VARIABLE": "encryption_key",
        "KEY_VARIABLE": "encryption_key",
        "DirectoryStore": "directory.store",
        "Key": "encryption_key",
        "ObjectStore": "bucket.store",
        "clear_partials": "archive",
    },
)
