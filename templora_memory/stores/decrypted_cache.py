"""Plain copies of encrypted revisions, for backends, which read folders.

::

    /dev/shm/.templora-copies-<random>/<store>/<encoded id>/<revision>/

In the memory of this machine where it has ``/dev/shm``, else in the folder for temporary files;
readable for their owner only; gone with the store, or, where a process was killed, as soon as
another one of its user opens a store. Any process that drops the copies of a memory drops those of
all processes of its user.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from templora_memory.fs.files import files_below, make_folder, remove_tree, writing
from templora_memory.fs.staging import claim, clear, discard

PREFIX = ".templora-copies-"
SHARED = Path("/dev/shm")  # noqa: S108  # folders of random names, for their owner only
IDLE_SECONDS = 600.0
"""A copy that nobody asked for in this time goes when the next one is made."""


class DecryptedCache:
    """The plain copies of the revisions of one store.

    Args:
        store: what names the store in every process.
    """

    def __init__(self, store: str) -> None:
        self._store_name = hashlib.sha256(os.fsencode(store)).hexdigest()[:16]
        self._lock = threading.Lock()
        self._process_folder: Path | None = None
        self._last_use: dict[Path, float] = {}  # by the monotonic clock

    def _folder(self) -> Path:
        """Return the folder of this process; made when it is first needed."""
        with self._lock:
            folder = self._process_folder
            if folder is None or not folder.exists():  # a clean-up of /tmp, say
                folder = _base() / f"{PREFIX}{secrets.token_hex(16)}"
                # The lock beside the folder says that this process lives. A handle and no context
                # manager: one that a forked child drops would be closed, and with it the lock.
                weakref.finalize(self, _discard, folder, claim(folder), os.getpid())
                with writing(folder):
                    folder.mkdir(mode=0o700)
                self._process_folder = folder
            return folder

    def sweep(self) -> None:
        """Remove what killed processes left."""
        for path in _process_paths():
            clear(path)

    def memories(self) -> set[str]:
        """Return the encoded ids of which there are copies, in all processes."""
        return {
            memory.name
            for process in _process_paths()
            for memory in _children(process / self._store_name)
        }

    @contextmanager
    def work(self) -> Iterator[Path]:
        """Give an empty folder; gone afterwards, unless it was moved away."""
        folder = self._folder() / f".work-{secrets.token_hex(8)}"
        make_folder(folder)
        try:
            yield folder
        finally:
            remove_tree(folder)

    def find(self, memory: str, revision: str) -> Path:
        """Return where the copy of a revision belongs, whether it is there or not."""
        return self._folder() / self._store_name / memory / revision

    def make(self, target: Path, fill: Callable[[Path], None]) -> None:
        """Make a new copy at `target`, in place of a corrupted one, and remove idle ones.

        Raises:
            StoreWriteFailed: there is no room for it.
        """
        remove_tree(target)
        with self.work() as folder:
            fill(folder)
            make_folder(target.parent.parent)  # each for its owner only
            make_folder(target.parent)
            with suppress(OSError):  # another thread was faster
                folder.rename(target)
        self.touch(target)
        with self._lock:
            oldest = time.monotonic() - IDLE_SECONDS
            idle = [path for path, used in self._last_use.items() if used < oldest]
            idle = [path for path in idle if path != target]
            for path in idle:
                del self._last_use[path]
        for path in idle:
            remove_tree(path)

    def touch(self, target: Path) -> None:
        """Note that a copy is used now."""
        with self._lock:
            self._last_use[target] = time.monotonic()

    def drop(self, memory: str, *, keep: Collection[str] = ()) -> dict[str, int]:
        """Remove the copies of a memory in all processes, but not of the revisions in `keep`.

        Returns the files that were removed, with their sizes.
        """
        removed = {}
        for process in _process_paths():
            folder = process / self._store_name / memory
            for path in _children(folder):
                if path.name not in keep:
                    sizes = files_below(path).items()
                    removed.update(
                        {str(file.relative_to(process.parent)): size for file, size in sizes}
                    )
                    remove_tree(path)
            if not keep:  # an empty folder would still tell whose memory there was
                remove_tree(folder)
        return removed


def _base() -> Path:
    usable = SHARED.is_dir() and os.access(SHARED, os.W_OK | os.X_OK)
    return SHARED if usable else Path(tempfile.gettempdir())


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):  # a lock, or its process has just ended
        return []


def _process_paths() -> list[Path]:
    """Return the folders of all processes of this user, and their locks."""
    return [path for path in sorted(_base().glob(f"{PREFIX}*")) if _is_own(path)]


def _is_own(path: Path) -> bool:
    if sys.platform == "win32":  # its folder for temporary files belongs to one user
        return True
    try:
        return path.lstat().st_uid == os.getuid()
    except FileNotFoundError:
        return False


def _discard(folder: Path, handle: int, process: int) -> None:
    if os.getpid() == process:  # a forked child leaves its parent's copies alone
        discard(folder, handle)
