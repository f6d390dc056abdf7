"""transformers on this machine, with PEFT's files and an adapter of its own for every row."""

from templora_memory.backends.local.backend import LocalBackend

__all__ = ["LocalBackend"]
