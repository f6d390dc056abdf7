"""Durable file operations: what is written is on the disk, all of it or nothing.

The order is always the same: write the file, fsync it, rename it into place, fsync its folder.
Without the first fsync a power failure may leave a file of the right name and no content; without
the second one the rename itself may be undone.

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

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CHUNK_BYTES = 1 << 20


@contextmanager
def writing(
    path: Path, *, unless: type[OSError] | tuple[type[OSError], ...] = ()
) -> Iterator[None]:
    """Turn an OSError while writing `path`, `unless` it is one of these, into `StoreWriteFailed`.

    Raises:
        StoreWriteFailed: names the path and says what to do.
    """
    try:
        yield
    except unless:
        raise
    except OSError as error:
        advice = (
            "the disk or quota is full: free some space and call again"
            if error.errno in _DISK_FULL
            else "check that the folder exists and may be written"
        )
        raise StoreWriteFailed(
            f"Could not write {path}: {error.strerror or error}; {advice}. Nothing was lost."
        ) from error


def sync_folder(folder: Path) -> None:
    """Make new names and renames inside a folder survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make the content of a file survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path, *, parents: bool = True) -> None:
    """Make a folder that only its owner can read, durably; it may exist already.

    Without `parents` it is an error if the folder around it is gone.

    Raises:
        StoreWriteFailed: it could not be made.
    """
    with writing(folder):
        folder.mkdir(mode=0o700, parents=parents, exist_ok=True)
        sync_folder(folder.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside and rename it into place; readers see the old or the new content.

    Raises:
        StoreWriteFailed: the old content is still there, or, if only the fsync of the folder
            failed, the new one.
    """
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

    Raises:
        StoreWriteFailed: the file was cut back to `size`, so that it can be tried again.
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
                os.ftruncate(handle, size)  # half a line must not stand before the next one
                raise
        finally:
            os.close(handle)
        if size == 0:  # a new file: its name must be durable too
            sync_folder(path.parent)


def _write_all(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


def write_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a new file durably, chunk by chunk; the caller makes its folder durable.

    Raises:
        StoreWriteFailed: a part of the file may be there.
    """
    with writing(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            for chunk in chunks:
                _write_all(handle, chunk)
            os.fsync(handle)
        finally:
            os.close(handle)


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def files_below(folder: Path) -> dict[Path, int]:
    """Return all files below a folder with their sizes, sorted; links are listed, not followed.

    Files that vanish meanwhile, because another writer is at work there, are left out.
    """
    sizes = {}
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in (*files, *links):
            with suppress(FileNotFoundError):
                path = Path(parent, name)
                sizes[path] = path.lstat().st_size
    return dict(sorted(sizes.items()))


def list_folder(folder: Path) -> list[Path]:
    """Return the paths in a folder, sorted; none if there is no folder."""
    # names are sorted, not paths: that takes a tenth of the time
    return [folder / name for name in sorted(os.listdir(folder))] if folder.is_dir() else []  # noqa: PTH208


def remove_tree(path: Path) -> None:
    """Remove a file or folder; half a removal is finished by the next start-up sweep."""
    with writing(path):
        while path.exists() or path.is_symlink():
            with suppress(FileNotFoundError):  # another process removes it too
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
