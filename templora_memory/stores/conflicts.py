"""What a writer is told that another one was faster than."""

from __future__ import annotations

from templora_memory.domain.manifest import Manifest
from templora_memory.errors import Conflict


def exists(memory_id: str) -> Conflict:
    """Return the error for a memory that is there already."""
    return Conflict(f"Memory {memory_id!r} exists already: forget it first, or use another id.")


def changed(manifest: Manifest, detail: str = "") -> Conflict:
    """Return the error for a memory that is not as it was read any more."""
    return Conflict(
        f"Memory {manifest.id!r} was changed by another writer{detail}: read it again and retry."
    )


def check_epoch(stored: Manifest, planned: Manifest, epoch: int) -> None:
    """Refuse a change that was planned from another memory or epoch than the stored one's.

    Raises:
        Conflict.
    """
    if not stored.same_memory(planned):
        raise Conflict(
            f"Memory {planned.id!r} was forgotten and made again by another writer: "
            "read it again and retry."
        )
    if stored.epoch != epoch:
        raise changed(planned, f" (epoch {stored.epoch}, expected {epoch})")
