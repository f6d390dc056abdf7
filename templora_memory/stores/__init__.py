"""Stores: where text and revisions are kept."""

from templora_memory.stores._directory import DirectoryStore
from templora_memory.stores._fence import fence
from templora_memory.stores._object import ObjectStore

__all__ = ["DirectoryStore", "ObjectStore", "fence"]
