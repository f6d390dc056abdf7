"""The newest revision of a memory: for scoring with a backend directly, and its answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

from templora_memory.domain.messages import MessageLike
from templora_memory.domain.results import Reply
from templora_memory.ports import Adapter
from templora_memory.service.answering import HEAD, ReplyOptions
from templora_memory.service.memory import Memory
from templora_memory.service.parametric_memory import ParametricMemory


def newest(memory: Memory) -> Adapter | None:
    """Its newest adapter; None where it has learned nothing yet."""
    head = memory.head()
    if head is None:
        return None
    return Adapter(folder=memory.adapter(), version=f"{memory.id}/{head.name}")


def newest_reply(
    service: ParametricMemory,
    memory_id: str | None,
    history: Iterable[MessageLike],
    **options: Unpack[ReplyOptions],
) -> Reply:
    """Return the answer of a memory's newest revision; None: of the base model alone."""
    if memory_id is None:
        return service.without_memory.reply(history, **options)
    options["revision"] = HEAD
    return service[memory_id].reply(history, **options)
