"""Copies on one machine of what lies in a bucket; all of it can be fetched again.

::

    <cache>/<encoded id>/<place>/journal-<number>.jsonl    as in the bucket, see `journal`
    <cache>/<encoded id>/<place>/revision-<commit>/        for backends, which read folders
    <cache>/.work-<random>/                                work under way; also below an id

With a key, revisions are not here but among the plain copies, see `decrypted_cache`, and so is
work under way that is plain. Knows nothing of buckets.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

from templora_memory.domain.lru import LruCache
from templora_memory.domain.manifest import Revision
from templora_memory.fs.files import files_below, list_folder, make_folder, remove_tree
from templora_memory.fs.staging import clear, temporary
from templora_memory.stores.bucket.manifest_object import LOCATION_TOKEN
from templora_memory.stores.decrypted_cache import DecryptedCache
from templora_memory.stores.integrity import (
    MAX_CHECKED_REVISIONS,
    FileStamps,
    corrupted_file,
    file_stamps,
)

_WORK, _REVISION = ".work-", "revision-"


class LocalCache:
    """The folder of one machine for one bucket.

    Args:
        root: the folder.
        decrypted: where revisions go instead, because those in the bucket are encrypted; None:
            nothing is.
    """

    def __init__(self, root: Path, decrypted: DecryptedCache | None) -> None:
        self._root = root
        self._decrypted = decrypted
        self._checked: LruCache[Path, FileStamps] = LruCache(MAX_CHECKED_REVISIONS)
        self._lock = threading.Lock()
        # a lock for each copy that is being made; gone when nobody holds or awaits it
        self._making: WeakValueDictionary[Path, threading.Lock] = WeakValueDictionary()

    def open(self) -> None:
        """Make the folder."""
        make_folder(self._root)

    # --- memories ------------------------------------------------------------------------------

    def memories(self) -> set[str]:
        """Return the encoded ids of memories of which something is here."""
        names = {path.name for path in list_folder(self._root) if not path.name.startswith(".")}
        return names if self._decrypted is None else names | self._decrypted.memories()

    def locations(self) -> set[str]:
        """Return the locations of which something is in the folder."""
        return {
            f"{path.parent.name}/{path.name}"
            for path in self._root.glob("*/*")
            if LOCATION_TOKEN.fullmatch(path.name)
        }

    def location_folder(self, location: str) -> Path:
        """Return the folder of a location, whether it is there or not."""
        return self._root / location

    def clear(self) -> None:
        """Remove the work of killed processes."""
        for path in sorted(self._root.glob(f"**/{_WORK}*")):
            clear(path)
        if self._decrypted is not None:
            self._decrypted.sweep()

    def drop(self, name: str) -> dict[str, int]:
        """Remove everything of a memory or of one of its locations.

        Returns the files that were removed, with their sizes.
        """
        folder = self._root / name
        removed = {
            f"cache/{path.relative_to(self._root)}": size
            for path, size in files_below(folder).items()
        }
        remove_tree(folder)
        if self._decrypted is not None and "/" not in name:
            removed |= self._decrypted.drop(name)
        return removed

    def retain(self, location: str, commits: Collection[str]) -> None:
        """Remove everything of a memory but these revisions at this location."""
        folder = self._root / location
        if self._decrypted is not None:
            self._decrypted.drop(folder.parent.name, keep=commits)
        for path in list_folder(folder):
            commit = path.name.removeprefix(_REVISION)
            if commit != path.name and commit not in commits:
                remove_tree(path)
        for other in list_folder(folder.parent):  # of a memory of this id that was forgotten
            if other != folder and not other.name.startswith(_WORK):
                remove_tree(other)

    # --- revisions -----------------------------------------------------------------------------

    def _revision_folder(self, location: str, commit: str) -> Path:
        if self._decrypted is None:
            return self._root / location / f"{_REVISION}{commit}"
        return self._decrypted.find(location.partition("/")[0], commit)

    @contextmanager
    def exclusive(self, location: str, commit: str) -> Iterator[None]:
        """Let one thread make the copy of a revision, while others that want it wait."""
        with self._lock:
            lock = self._making.setdefault(
                self._revision_folder(location, commit), threading.Lock()
            )
        with lock:
            yield

    def find(self, location: str, commit: str, revision: Revision) -> Path | None:
        """Return the folder of a revision; None if it is not all there as it was committed."""
        folder = self._revision_folder(location, commit)
        try:
            stamps = file_stamps(folder, revision)
            if self._checked.get(folder) != stamps:
                if corrupted_file(folder, revision) is not None:
                    return None
                self._checked.put(folder, stamps)
        except FileNotFoundError:
            return None
        if self._decrypted is not None:
            self._decrypted.touch(folder)
        return folder

    def make(self, location: str, commit: str, fill: Callable[[Path], None]) -> Path:
        """Make the folder of a revision, in place of a corrupted one, and return it."""
        folder = self._revision_folder(location, commit)
        if self._decrypted is not None:
            self._decrypted.make(folder, fill)
            return folder
        remove_tree(folder)
        with self.work() as fresh:
            fill(fresh)
            self._move_in(fresh, folder)
        return folder

    def adopt(self, location: str, commit: str, staged: Path) -> None:
        """Move in the files of a revision that was just committed, so nobody fetches them."""
        if self._decrypted is None:
            self._move_in(staged, self._revision_folder(location, commit))
            return

        def fill(fresh: Path) -> None:
            for path in list_folder(staged):
                path.rename(fresh / path.name)

        self._decrypted.make(self._revision_folder(location, commit), fill)

    def _move_in(self, fresh: Path, folder: Path) -> None:
        make_folder(folder.parent.parent)  # each for its owner only
        make_folder(folder.parent)
        with suppress(OSError):  # another process was faster
            fresh.rename(folder)

    # --- work under way ------------------------------------------------------------------------

    @contextmanager
    def work(self, name: str | None = None) -> Iterator[Path]:
        """Give an empty folder, below that of a memory if one is named; gone afterwards."""
        home = self._root
        if name is not None:  # a forget takes it along
            home /= name
            make_folder(home)
        folder = home / f"{_WORK}{secrets.token_hex(8)}"
        with temporary(folder):
            make_folder(folder)
            yield folder

    def plain_work(self, name: str | None = None) -> AbstractContextManager[Path]:
        """Give an empty folder where plain files may lie; gone afterwards."""
        return self.work(name) if self._decrypted is None else self._decrypted.work()
