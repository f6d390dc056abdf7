"""Durable file operations: what is written is on the disk, wholly or not at all.

Every failure of the file system becomes `StoreWriteFailed` with the path and what to do.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from templora_memory.errors import StoreWriteFailed

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PIECE = 1 << 20


@contextmanager
def writing(path: Path, *, but: type[OSError] | tuple[type[OSError], ...] = ()) -> Iterator[None]:
    """Turn an OSError (`but` not these) while writing `path` into one that says what to do."""
    try:
        yield
    except but:
        raise
    except OSError as error:
        advice = (
            "the disk or quota is full: free some space and call again"
            if error.errno in _FULL
            else "check that the folder exists and may be written"
        )
        raise StoreWriteFailed(
            f"Could not write {path}: {error.strerror or error}; {advice}. Nothing was lost."
        ) from error


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path, *, parents: bool = True) -> None:
    """Make a folder only its owner can read, and make that durable.

    Without `parents` it is an error if the folder around it is gone.
    """
    with writing(folder):
        folder.mkdir(mode=0o700, parents=parents, exist_ok=True)
        sync_folder(folder.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside and rename it into place; readers see the old or the new content."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with writing(path):
        try:
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                _write_all(handle, content)
                os.fsync(handle)
            finally:
                os.close(handle)
            fresh.replace(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def append_file(path: Path, content: bytes, size: int) -> None:
    """Append durably to a file whose valid part has `size` bytes; a torn tail is cut off first.

    If the write fails, the file is cut back to `size`.
    """
    with writing(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.ftruncate(handle, size)
            os.lseek(handle, size, os.SEEK_SET)
            try:
                _write_all(handle, content)
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)
        if size == 0:
            sync_folder(path.parent)


def _write_all(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


def write_file(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a new file durably, piece by piece; if that fails, a part of it may be there."""
    with writing(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            for piece in pieces:
                _write_all(handle, piece)
            os.fsync(handle)
        finally:
            os.close(handle)


def digest_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def files_below(folder: Path) -> dict[Path, int]:
    """All plain files below a folder, sorted, with their sizes; links are listed, not followed.

    Files that vanish while it looks, because somebody is at work there, are left out.
    """
    found = {}
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if Path(place, name).is_symlink()]
        for name in (*files, *links):
            with suppress(FileNotFoundError):
                path = Path(place, name)
                found[path] = path.lstat().st_size
    return dict(sorted(found.items()))


def entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing if there is none."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def remove_tree(path: Path) -> None:
    """Remove a file or folder; half a removal is finished by the next start-up sweep."""
    with writing(path):
        while path.exists() or path.is_symlink():
            with suppress(FileNotFoundError):  # another process removes it too
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
