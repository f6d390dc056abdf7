"""The newest revision of a memory, for scoring with a backend directly."""

from __future__ import annotations

from templora_memory.ports import Adapter
from templora_memory.service.parametric_memory import Memory


def newest(memory: Memory) -> Adapter | None:
    """Its newest adapter; None where it has learned nothing yet."""
    head = memory.head()
    if head is None:
        return None
    return Adapter(folder=memory.adapter(), version=f"{memory.id}/{head.name}")
