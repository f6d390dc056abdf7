"""Whether the files of a revision are still those that were committed."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from templora_memory.domain.manifest import Revision
from templora_memory.errors import StoreDamaged, UnknownRevision
from templora_memory.fs.files import digest_file

Stamps: TypeAlias = tuple[tuple[int, int, int], ...]
"""What changes when a file changes, for each file of a revision."""


def stamps(folder: Path, revision: Revision) -> Stamps:
    """Raises FileNotFoundError if a file is missing."""
    states = [(folder / record.path).stat() for record in revision.files]
    return tuple((state.st_ino, state.st_size, state.st_mtime_ns) for state in states)


def spoiled_file(folder: Path, revision: Revision) -> str | None:
    """The first file whose size or checksum is not the one on record; None: all are whole."""
    for record in revision.files:
        path = folder / record.path
        if path.stat().st_size != record.bytes or digest_file(path) != record.sha256:
            return record.path
    return None


def retired(memory_id: str, revision: Revision) -> UnknownRevision:
    return UnknownRevision(
        f"Revision {revision.name[:12]} of memory {memory_id!r} was retired meanwhile."
    )


def spoiled(where: object, why: str, memory_id: str) -> StoreDamaged:
    return StoreDamaged(
        f"{where} is not what was written ({why}). Learn the memory again from its journal: "
        f"rebuild({memory_id!r}), or roll back."
    )
