"""What one machine keeps of the memories in a bucket; all of it can be fetched again.

::

    <cache>/<encoded id>/<place>/journal-<number>.jsonl    as in the bucket, see `_segments`
    <cache>/<encoded id>/<place>/revision-<commit>/        for backends, which read folders
    <cache>/.work-<random>/                                work under way; also below an id

With a key, revisions are not here but among the plain copies, see `_copies`, and so is work under
way that is plain. Knows nothing of buckets.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

from templora_memory.domain.manifest import Revision
from templora_memory.fs.files import entries, files_below, make_folder, remove_tree
from templora_memory.fs.staging import clear, temporary
from templora_memory.stores.bucket.manifest_object import PLACE
from templora_memory.stores.decrypted_cache import Copies
from templora_memory.stores.integrity import Stamps, spoiled_file, stamps
from templora_memory.stores.lru import CHECKED, Recent

WORK, _REVISION = ".work-", "revision-"


class Shelf:
    """The folder of one machine for one bucket.

    Args:
        cache: the folder.
        copies: where revisions go instead, because those in the bucket are sealed; None: nothing
            is.
    """

    def __init__(self, cache: Path, copies: Copies | None) -> None:
        self._cache = cache
        self._copies = copies
        self._checked: Recent[Path, Stamps] = Recent(CHECKED)
        self._guard = threading.Lock()
        self._making: WeakValueDictionary[Path, threading.Lock] = WeakValueDictionary()

    def open(self) -> None:
        make_folder(self._cache)

    # --- memories ------------------------------------------------------------------------------

    def memories(self) -> set[str]:
        """The names of memories of which something is kept."""
        found = {entry.name for entry in entries(self._cache) if not entry.name.startswith(".")}
        return found if self._copies is None else found | self._copies.memories()

    def places(self) -> set[str]:
        """The places of which something is in the cache."""
        return {
            f"{entry.parent.name}/{entry.name}"
            for entry in self._cache.glob("*/*")
            if PLACE.fullmatch(entry.name)
        }

    def place(self, path: str) -> Path:
        """The folder of a place, whether it is there or not."""
        return self._cache / path

    def clear(self) -> None:
        """Remove the work of killed processes."""
        for entry in sorted(self._cache.glob(f"**/{WORK}*")):
            clear(entry)
        if self._copies is not None:
            self._copies.sweep()

    def drop(self, name: str) -> dict[str, int]:
        """Remove what is kept of a memory or of one of its places; the files, and their sizes."""
        folder = self._cache / name
        gone = {
            f"cache/{path.relative_to(self._cache)}": size
            for path, size in files_below(folder).items()
        }
        remove_tree(folder)
        if self._copies is not None and "/" not in name:
            gone |= self._copies.drop(name)
        return gone

    def retain(self, place: str, commits: Collection[str]) -> None:
        """Remove what is kept of a memory, but not of these revisions at this place."""
        folder = self._cache / place
        if self._copies is not None:
            self._copies.drop(folder.parent.name, but=commits)
        for entry in entries(folder):
            commit = entry.name.removeprefix(_REVISION)
            if commit != entry.name and commit not in commits:
                remove_tree(entry)
        for other in entries(folder.parent):
            if other != folder and not other.name.startswith(WORK):
                remove_tree(other)

    # --- revisions -----------------------------------------------------------------------------

    def _folder(self, place: str, commit: str) -> Path:
        if self._copies is None:
            return self._cache / place / f"{_REVISION}{commit}"
        return self._copies.find(place.partition("/")[0], commit)

    @contextmanager
    def alone(self, place: str, commit: str) -> Iterator[None]:
        """One thread makes a copy, and others that want it wait."""
        with self._guard:
            lock = self._making.setdefault(self._folder(place, commit), threading.Lock())
        with lock:
            yield

    def find(self, place: str, commit: str, revision: Revision) -> Path | None:
        """The folder of a revision, if all of it is there as it was committed."""
        folder = self._folder(place, commit)
        try:
            state = stamps(folder, revision)
            if self._checked.get(folder) != state:
                if spoiled_file(folder, revision) is not None:
                    return None
                self._checked.put(folder, state)
        except FileNotFoundError:
            return None
        if self._copies is not None:
            self._copies.touch(folder)
        return folder

    def make(self, place: str, commit: str, fill: Callable[[Path], None]) -> Path:
        """The folder of a revision, in place of a spoiled one."""
        folder = self._folder(place, commit)
        if self._copies is not None:
            self._copies.make(folder, fill)
            return folder
        remove_tree(folder)
        with self.work() as fresh:
            fill(fresh)
            self._move_in(fresh, folder)
        return folder

    def adopt(self, place: str, commit: str, staged: Path) -> None:
        """Keep the files of a revision that was just committed; they are not in `staged` then."""
        if self._copies is None:
            self._move_in(staged, self._folder(place, commit))
            return

        def fill(fresh: Path) -> None:
            for path in entries(staged):
                path.rename(fresh / path.name)

        self._copies.make(self._folder(place, commit), fill)

    def _move_in(self, fresh: Path, folder: Path) -> None:
        make_folder(folder.parent.parent)  # each for its owner only
        make_folder(folder.parent)
        with suppress(OSError):  # another process was faster
            fresh.rename(folder)

    # --- work under way ------------------------------------------------------------------------

    @contextmanager
    def work(self, name: str | None = None) -> Iterator[Path]:
        """An empty folder in the cache, below a memory's if one is named; gone afterwards."""
        home = self._cache
        if name is not None:  # a forget takes it along
            home /= name
            make_folder(home)
        folder = home / f"{WORK}{secrets.token_hex(8)}"
        with temporary(folder):
            make_folder(folder)
            yield folder

    def plain_work(self, name: str | None = None) -> AbstractContextManager[Path]:
        """The same, where plain files may lie."""
        return self.work(name) if self._copies is None else self._copies.work()
