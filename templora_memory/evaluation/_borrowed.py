"""Memories of a measurement's own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from templora_memory.service.parametric_memory import ParametricMemory


@contextmanager
def borrowed(service: ParametricMemory, purpose: str, count: int) -> Iterator[list[str]]:
    """So many unused ids; their memories are forgotten afterwards, also after an error."""
    run = f"{purpose}-{secrets.token_hex(4)}"
    names = [f"{run}-{number}" for number in range(count)]
    try:
        yield names
    finally:
        for name in set(names) & set(service.list()):
            service[name].forget()
