"""Folders for work under way, and what a finished revision holds.

A temporary folder has a lock beside it that says its maker is alive, so whoever cleans up leaves
the work of others alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from templora_memory.domain.manifest import FileRecord
from templora_memory.errors import StoreError
from templora_memory.fs.files import (
    digest_file,
    files_below,
    remove_tree,
    sync_file,
    sync_folder,
    writing,
)
from templora_memory.fs.locks import acquire, hold, release

SUFFIXES = frozenset({".json", ".safetensors"})
LOCK_SUFFIX, LOCK_SECONDS = ".lock", 60.0


def _lock_beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{LOCK_SUFFIX}")


@contextmanager
def temporary(folder: Path) -> Iterator[None]:
    """A temporary folder, which the caller makes; gone afterwards, unless it was moved away."""
    handle = claim(folder)
    try:
        yield
    finally:
        discard(folder, handle)


def claim(folder: Path) -> int:
    """Say that the maker of a temporary folder is alive; what it returns is for `discard`."""
    lock = _lock_beside(folder)
    with writing(lock):
        return acquire(lock, seconds=LOCK_SECONDS)


def discard(folder: Path, handle: int) -> None:
    """Remove a temporary folder and its lock."""
    try:
        remove_tree(folder)
        lock = _lock_beside(folder)
        with writing(lock):
            lock.unlink(missing_ok=True)
    finally:
        release(handle)


def clear(entry: Path) -> None:
    """Remove a temporary folder or the lock of one, unless its maker is alive."""
    folder = entry.with_name(entry.name.removesuffix(LOCK_SUFFIX))
    lock = _lock_beside(folder)
    with suppress(TimeoutError), writing(lock, but=TimeoutError), hold(lock, seconds=0):
        remove_tree(folder)
        lock.unlink(missing_ok=True)


def file_records(staged: Path) -> tuple[FileRecord, ...]:
    """What a staged revision holds, made durable and private on the way.

    Raises:
        StoreError: something that is neither JSON nor safetensors, a folder or a link.
    """
    records = []
    for path in files_below(staged):
        if path.suffix not in SUFFIXES or path.parent != staged or path.is_symlink():
            raise StoreError(
                f"A revision may hold only JSON and safetensors files, not {path.name!r}."
            )
        with writing(path):
            path.chmod(0o600)
            sync_file(path)
        records.append(
            FileRecord(path=path.name, bytes=path.stat().st_size, sha256=digest_file(path))
        )
    with writing(staged):
        sync_folder(staged)
    return tuple(records)
