"""Folders for work under way, and the records of the files in a staged revision.

A temporary folder has a lock beside it which its maker holds. So a clean-up can tell the work of
living processes from what killed ones left: only the lock of the latter can be taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from templora_memory.domain.manifest import FileRecord, Manifest
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
    """Claim a temporary folder, which the caller makes; gone afterwards, unless it was moved."""
    handle = claim(folder)
    try:
        yield
    finally:
        discard(folder, handle)


def claim(folder: Path) -> int:
    """Take the lock of a temporary folder and return its handle, for `discard`."""
    lock = _lock_beside(folder)
    with writing(lock):
        return acquire(lock, seconds=LOCK_SECONDS)


def discard(folder: Path, handle: int) -> None:
    """Remove a temporary folder and its lock, then release that."""
    try:
        remove_tree(folder)
        lock = _lock_beside(folder)
        with writing(lock):
            lock.unlink(missing_ok=True)
    finally:
        release(handle)


def clear(entry: Path) -> None:
    """Remove a temporary folder and its lock, given either, unless its maker is alive."""
    folder = entry.with_name(entry.name.removesuffix(LOCK_SUFFIX))
    lock = _lock_beside(folder)
    with suppress(TimeoutError), writing(lock, unless=TimeoutError), hold(lock, seconds=0):
        remove_tree(folder)
        lock.unlink(missing_ok=True)


def file_records(staged: Path) -> tuple[FileRecord, ...]:
    """Return the records of the files in a staged revision, made durable and private here.

    They are synced with their folder before anything names them.

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


def with_staged_files(manifest: Manifest, staged: Mapping[str, Path]) -> Manifest:
    """Return a manifest with the files of its staged revisions, given by their names.

    Raises:
        StoreError: as `file_records`.
    """
    revisions = (
        replace(revision, files=file_records(staged[revision.name]))
        if revision.name in staged
        else revision
        for revision in manifest.revisions
    )
    return replace(manifest, revisions=tuple(revisions))
