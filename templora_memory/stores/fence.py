"""Declaring a writer dead."""

from __future__ import annotations

from dataclasses import replace

from templora_memory.errors import Conflict, UnknownMemory
from templora_memory.ports import Store

_TRIES = 8


def fence(store: Store, memory_id: str) -> int:
    """Take a memory over: whatever another writer has read or staged, it can no longer commit.

    Raises the epoch by one and changes nothing else, so every commit that was planned before fails
    with `Conflict`, however late it comes. Text that the other writer journals is still kept: text
    never conflicts. Returns the new epoch.

    Raises:
        UnknownMemory: there is no such memory.
        Conflict: others change it all the time.
    """
    for attempt in range(_TRIES):
        manifest = store.manifest(memory_id)
        if manifest is None:
            raise UnknownMemory(f"There is no memory {memory_id!r} to take over.")
        try:
            store.replace(replace(manifest, epoch=manifest.epoch + 1), epoch=manifest.epoch)
        except Conflict:
            if attempt == _TRIES - 1:
                raise
            continue
        return manifest.epoch + 1
    raise AssertionError  # the last try returns or raises
