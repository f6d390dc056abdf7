"""A lock between processes and threads: held on a file, gone with its holder.

The operating system releases it when its process ends, however that ends: no lock is left behind
that somebody would have to remove. Taking a lock never makes the folder of its file, so a writer
that waits for a memory which is forgotten meanwhile does not bring its folder back.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PAUSE_SECONDS = 0.005

if sys.platform == "win32":
    import msvcrt

    def _try(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _release(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _release(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)


@contextmanager
def hold(path: Path, *, seconds: float) -> Iterator[None]:
    """Hold the lock on `path` for the ``with`` block.

    Raises:
        FileNotFoundError: the folder does not exist (any more).
        TimeoutError: somebody else held it for `seconds`.
    """
    handle = acquire(path, seconds=seconds)
    try:
        yield
    finally:
        release(handle)


def acquire(path: Path, *, seconds: float) -> int:
    """Take the lock on `path` and return its handle, for `release`.

    Raises:
        FileNotFoundError: the folder does not exist (any more).
        TimeoutError: somebody else held it for `seconds`.
    """
    end = time.monotonic() + seconds
    while (handle := _attempt(path)) is None:
        if time.monotonic() >= end:
            raise TimeoutError(f"{path} is locked.")
        time.sleep(_PAUSE_SECONDS)
    return handle


def release(handle: int) -> None:
    """Give back a lock that `acquire` took."""
    try:
        _release(handle)
    finally:
        os.close(handle)


def _attempt(path: Path) -> int | None:
    """Return a handle that holds the lock, or None if somebody else holds it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # The file may have been removed or moved away between opening and locking. A lock on such
        # a file excludes nobody, since others lock the new file of that name.
        if _try(handle) and os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None
