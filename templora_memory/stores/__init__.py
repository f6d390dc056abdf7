"""Stores: where text and revisions are kept."""

from templora_memory.stores.bucket.store import ObjectStore
from templora_memory.stores.directory.store import DirectoryStore
from templora_memory.stores.encryption import Key
from templora_memory.stores.fence import fence

__all__ = ["DirectoryStore", "Key", "ObjectStore", "fence"]
