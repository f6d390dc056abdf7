"""Plain copies of what is encrypted, for backends, which read folders.

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
"""A copy that nobody asked for so long goes when the next one is made."""


class Copies:
    """The plain copies of one store.

    Args:
        store: what names it in every process.
    """

    def __init__(self, store: str) -> None:
        self._name = hashlib.sha256(os.fsencode(store)).hexdigest()[:16]
        self._guard = threading.Lock()
        self._made: Path | None = None
        self._used: dict[Path, float] = {}

    def _place(self) -> Path:
        """Where this process has them; made when it is first needed."""
        with self._guard:
            if self._made is None or not self._made.exists():  # a clean-up of /tmp, say
                folder = _base() / f"{PREFIX}{secrets.token_hex(16)}"
                # a handle and no context manager: one that a forked child drops would be closed
                weakref.finalize(self, _close, folder, claim(folder), os.getpid())
                with writing(folder):
                    folder.mkdir(mode=0o700)
                self._made = folder
            return self._made

    def sweep(self) -> None:
        """Remove what killed processes left."""
        for entry in _entries():
            clear(entry)

    def memories(self) -> set[str]:
        """The encoded ids of which there are copies, in all processes."""
        return {memory.name for entry in _entries() for memory in _inside(entry / self._name)}

    @contextmanager
    def work(self) -> Iterator[Path]:
        """An empty folder; gone afterwards."""
        folder = self._place() / f".work-{secrets.token_hex(8)}"
        make_folder(folder)
        try:
            yield folder
        finally:
            remove_tree(folder)

    def find(self, memory: str, revision: str) -> Path:
        """Where the copy of a revision belongs, whether it is there or not."""
        return self._place() / self._name / memory / revision

    def make(self, target: Path, fill: Callable[[Path], None]) -> None:
        """A new copy at `target`, in place of a spoiled one; idle ones go."""
        remove_tree(target)
        with self.work() as folder:
            fill(folder)
            make_folder(target.parent.parent)  # each for its owner only
            make_folder(target.parent)
            with suppress(OSError):  # another thread was faster
                folder.rename(target)
        self.touch(target)
        with self._guard:
            end = time.monotonic() - IDLE_SECONDS
            idle = [path for path, used in self._used.items() if used < end and path != target]
            for path in idle:
                del self._used[path]
        for path in idle:
            remove_tree(path)

    def touch(self, target: Path) -> None:
        """Note that a copy is used."""
        with self._guard:
            self._used[target] = time.monotonic()

    def drop(self, memory: str, *, but: Collection[str] = ()) -> dict[str, int]:
        """Remove the copies of a memory, in all processes; `but` not of these revisions.

        Returns the files that went, with their sizes.
        """
        gone = {}
        for place in _entries():
            folder = place / self._name / memory
            for entry in _inside(folder):
                if entry.name not in but:
                    sizes = files_below(entry).items()
                    gone.update({str(path.relative_to(place.parent)): n for path, n in sizes})
                    remove_tree(entry)
            if not but:
                remove_tree(folder)
        return gone


def _base() -> Path:
    usable = SHARED.is_dir() and os.access(SHARED, os.W_OK | os.X_OK)
    return SHARED if usable else Path(tempfile.gettempdir())


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):  # a lock, or its process has just ended
        return []


def _entries() -> list[Path]:
    """The places of all processes of this user, and their locks."""
    return [entry for entry in sorted(_base().glob(f"{PREFIX}*")) if _is_own(entry)]


def _is_own(entry: Path) -> bool:
    if sys.platform == "win32":  # its folder for temporary files belongs to one user
        return True
    try:
        return entry.lstat().st_uid == os.getuid()
    except FileNotFoundError:
        return False


def _close(folder: Path, handle: int, process: int) -> None:
    if os.getpid() == process:  # a forked child leaves its parent's copies alone
        discard(folder, handle)
