"""Stores: where text and revisions are kept."""

from templora_memory.stores._directory import DirectoryStore

__all__ = ["DirectoryStore"]
