"""Stores: where text and revisions are kept."""

from templora_memory.stores._directory import DirectoryStore
from templora_memory.stores._fence import fence
from templora_memory.stores._object import ObjectStore
from templora_memory.stores._seals import Key

__all__ = ["DirectoryStore", "Key", "ObjectStore", "fence"]
