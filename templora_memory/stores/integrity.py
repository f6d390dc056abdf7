"""Checks that the files of a revision are still those that were committed."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from templora_memory.domain.manifest import Revision
from templora_memory.errors import StoreDamaged, UnknownRevision
from templora_memory.fs.files import digest_file

MAX_CHECKED_REVISIONS = 4096
"""Revisions whose files are not read again, as long as their stamps stay what they were."""

FileStamps: TypeAlias = tuple[tuple[int, int, int], ...]
"""Inode, size and time of change of each file of a revision."""


def file_stamps(folder: Path, revision: Revision) -> FileStamps:
    """Return the stamps of the files of a revision.

    A stamp costs one system call and a checksum reads the whole file, so a folder is read once
    and again only when a stamp has changed.

    Raises:
        FileNotFoundError: a file is missing.
    """
    states = [(folder / record.path).stat() for record in revision.files]
    return tuple((state.st_ino, state.st_size, state.st_mtime_ns) for state in states)


def corrupted_file(folder: Path, revision: Revision) -> str | None:
    """Return the first file whose size or checksum is not the recorded one; None: all are good."""
    for record in revision.files:
        path = folder / record.path
        if path.stat().st_size != record.bytes or digest_file(path) != record.sha256:
            return record.path
    return None


def retired(memory_id: str, revision: Revision) -> UnknownRevision:
    """Return the error for a revision that another writer has removed meanwhile."""
    return UnknownRevision(
        f"Revision {revision.name[:12]} of memory {memory_id!r} was retired meanwhile."
    )


def corrupted(location: object, reason: str, memory_id: str) -> StoreDamaged:
    """Return the error for a file of a revision that is not what was committed."""
    return StoreDamaged(
        f"{location} is not what was written ({reason}). Learn memory {memory_id!r} "
        "again from its journal (rebuild), or roll back."
    )
