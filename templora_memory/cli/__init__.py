"""The command line: `templora`. Importing it loads neither torch nor a model."""

from templora_memory.cli._main import main

__all__ = ["main"]
