"""The directory store: one folder a memory, plain JSON and safetensors.

::

    <root>/<encoded id>/
      manifest.json        replaced atomically
      journal.jsonl        appended and fsynced before anything is learned
      revisions/<name>/    written beside, synced, renamed into place
      lock                 held for moments only, never while learning

A commit moves the staged folder into place and then swaps the manifest; a process killed between
the two leaves a folder that no manifest names, which the next `open` removes. Forgetting renames
the memory's folder out of the way first, so it is gone at once even if deleting it is interrupted.

With a key, all of it but the lock is encrypted and there is one more file, see `_seals`::

      key.json             the memory's own key, which the store's key opens; removed first

Backends then read plain copies, see `_copies`.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from templora_memory.domain.ids import folder_name, id_of_folder, parse_id
from templora_memory.domain.journal import Journal, decode_line, encode_line
from templora_memory.domain.manifest import Manifest, Revision
from templora_memory.domain.messages import Document, Message
from templora_memory.domain.results import RemovedFile
from templora_memory.errors import (
    Conflict,
    StoreDamaged,
    StoreError,
    StoreWriteFailed,
    UnknownMemory,
    UnknownRevision,
)
from templora_memory.fs.files import (
    append_file,
    entries,
    files_below,
    make_folder,
    remove_tree,
    replace_file,
    sync_folder,
    write_file,
    writing,
)
from templora_memory.fs.locks import hold
from templora_memory.fs.staging import clear, file_records, temporary
from templora_memory.stores import archive
from templora_memory.stores.decrypted_cache import Copies
from templora_memory.stores.encryption import (
    BARE,
    KEY,
    Key,
    Seal,
    encrypted,
    key_missing,
    not_encrypted,
)
from templora_memory.stores.integrity import Stamps, retired, spoiled, spoiled_file, stamps
from templora_memory.stores.journal_records import dialogue_lines, document_lines, withdraw_lines
from templora_memory.stores.lru import CHECKED, JOURNALS, Recent

MANIFEST, JOURNAL, REVISIONS, LOCK = "manifest.json", "journal.jsonl", "revisions", "lock"
FORGOTTEN, INCOMING, STAGING = ".forgotten-", ".incoming-", ".staging-"
LOCK_SECONDS = 60.0


class _Place(NamedTuple):
    """A folder, and how bytes lie in it."""

    folder: Path
    seal: Seal


class _OpenJournal:
    """The index of one journal file, kept up to date by reading what was added."""

    def __init__(self, path: Path, first: str, seal: Seal) -> None:
        self.path = path
        self._seal = seal
        self._lock = threading.Lock()
        self._inode: int | None = None
        self._empty(first)

    def _empty(self, first: str) -> None:
        self.journal = Journal(first, self._body)
        self.size = 0  # bytes of whole, checked lines

    def refresh(self) -> Journal:
        """Read new lines; a torn last line (a write that was cut off) is left out."""
        with self._lock:
            try:
                with self.path.open("rb") as file:
                    state = os.fstat(file.fileno())
                    if state.st_ino != self._inode or state.st_size < self.size:
                        self._empty(self.journal.first)
                        self._inode = state.st_ino
                    if state.st_size == self.size:
                        return self.journal
                    file.seek(self.size)
                    rest = file.read()
            except FileNotFoundError:
                return self.journal
            self._take(rest)
            return self.journal

    def _take(self, rest: bytes) -> None:
        for line in rest.split(b"\n")[:-1]:  # what follows the last line feed is a torn write
            try:
                self.journal.add(decode_line(self._seal.open_line(line, self.size)), self.size)
            except (ValueError, TypeError, KeyError, StoreDamaged) as error:
                raise StoreDamaged(
                    f"{self.path} is damaged at byte {self.size}: {error}. Restore the file from a "
                    "backup; the lines before it are good."
                ) from error
            self.size += len(line) + 1

    def _body(self, position: int) -> dict[str, Any]:
        with self.path.open("rb") as file:
            file.seek(position)
            line = file.readline()
        try:
            return decode_line(self._seal.open_line(line, position))
        except (ValueError, TypeError) as error:
            raise StoreDamaged(f"{self.path} is damaged at byte {position}: {error}.") from error

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        """Write lines behind what `refresh` has read."""
        if lines:
            end = self.size
            written = _closed(self._seal, [encode_line(line) for line in lines], end)
            append_file(self.path, written, end)
            self.refresh()


class DirectoryStore:
    """Memories as folders below a root. See the module for the layout and `Store` for promises.

    Several processes may share a root: writes take a short lock per memory and compare the
    manifest's epoch. Files are readable for their owner only.

    Args:
        root: folder of the memories.
        key: encrypts everything below the root but the names of memories (extra ``encryption``).
            A root is either encrypted or not, as a whole and with one key: a memory that is not as
            it should be is refused with `InvalidSetting`. Exported files are never encrypted, and
            the folders that `stage` and `folder` give lie in the memory of this machine
            (``/dev/shm``, where it has that): a copy that nobody asked for in ten minutes may
            be gone. None: nothing is encrypted.
    """

    def __init__(self, root: str | os.PathLike[str], *, key: Key | None = None) -> None:
        self._root = Path(root)
        self._key = key
        self._copies = Copies(str(self._root.absolute()))
        self._journals: Recent[str, tuple[tuple[str, float], _OpenJournal]] = Recent(JOURNALS)
        self._checked: Recent[Path, Stamps] = Recent(CHECKED)
        self._guard = threading.Lock()
        self._copying = threading.Lock()

    def __repr__(self) -> str:
        return f"DirectoryStore({str(self._root)!r})"

    @property
    def root(self) -> Path:
        return self._root

    # --- the place -----------------------------------------------------------------------------

    def open(self) -> None:
        """Make the root and clear what killed processes left behind."""
        if self._root.exists() and not self._root.is_dir():
            raise StoreWriteFailed(f"{self._root} is a file: give a folder as the root.")
        make_folder(self._root)
        if self._key is not None:
            self._copies.sweep()
            for name in self._copies.memories():
                if not (self._root / name).is_dir():
                    self._copies.drop(name)
        with writing(self._root):
            found = entries(self._root)
        for entry in found:
            if entry.name.startswith((FORGOTTEN, INCOMING)):
                clear(entry)
            elif (entry / MANIFEST).is_file():
                with suppress(StoreDamaged, UnknownMemory):  # whoever uses that memory is told
                    self._sweep(entry)

    def _sweep(self, folder: Path) -> None:
        self._read(folder)  # before the lock file is made: the folder may not be ours
        with self._locked(folder):
            named = {revision.name for revision in self._read(folder).revisions}
            for entry in (*entries(folder / REVISIONS), *folder.glob(f".{MANIFEST}.*")):
                if entry.name not in named:
                    remove_tree(entry)
            for entry in folder.glob(f"{STAGING}*"):
                clear(entry)

    def _folder(self, memory_id: str) -> Path:
        return self._root / folder_name(parse_id(memory_id))

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        path = folder / LOCK
        with ExitStack() as stack:
            try:
                with writing(path, but=(FileNotFoundError, NotADirectoryError, TimeoutError)):
                    stack.enter_context(hold(path, seconds=LOCK_SECONDS))
            except TimeoutError as error:
                raise Conflict(
                    f"{folder} is locked by another process for over {LOCK_SECONDS:.0f} seconds: "
                    "try again."
                ) from error
            except OSError as error:
                raise UnknownMemory(f"The memory in {folder} does not exist (any more).") from error
            yield

    # --- reading -------------------------------------------------------------------------------

    def ids(self) -> tuple[str, ...]:
        found = []
        for entry in entries(self._root):
            if not entry.name.startswith(".") and (entry / MANIFEST).is_file():
                # from the folder's name: a damaged memory is listed too, so it can be forgotten
                if name := id_of_folder(entry.name):
                    found.append(str(name))
                else:
                    with suppress(UnknownMemory, StoreDamaged):
                        found.append(self._read(entry).id)
        return tuple(sorted(found))

    def manifest(self, memory_id: str) -> Manifest | None:
        folder = self._folder(memory_id)
        if not (folder / MANIFEST).is_file():
            return None
        manifest = self._read(folder)
        if manifest.id != str(parse_id(memory_id)):
            raise StoreDamaged(f"{folder} says it is {manifest.id!r}, not {memory_id!r}.")
        return manifest

    def _read(self, folder: Path) -> Manifest:
        path = folder / MANIFEST
        try:
            seal, content = self._seal(folder), path.read_bytes()
        except FileNotFoundError as error:
            raise UnknownMemory(f"The memory in {folder} was forgotten meanwhile.") from error
        try:
            return Manifest.from_json(json.loads(seal.open(content, MANIFEST)))
        except (ValueError, RecursionError) as error:
            raise StoreDamaged(f"{path} is damaged: {error}. Restore it from a backup.") from error
        except StoreDamaged as error:
            raise StoreDamaged(f"{path}: {error}") from error

    def _seal(self, folder: Path) -> Seal:
        """How the bytes of a memory lie in its folder.

        Raises:
            InvalidSetting: not as this store's key would have it.
            FileNotFoundError: the memory was forgotten meanwhile.
        """
        if self._key is None:
            if (folder / KEY).exists():
                raise encrypted(str(folder))
            return BARE
        try:
            return self._key.open_seal((folder / KEY).read_bytes(), str(folder))
        except FileNotFoundError:
            content = (folder / MANIFEST).read_bytes()
        try:
            Manifest.from_json(json.loads(content))
        except (ValueError, RecursionError, StoreDamaged):
            raise key_missing(str(folder)) from None
        raise not_encrypted(str(folder))

    def _existing(self, memory_id: str) -> Manifest:
        manifest = self.manifest(memory_id)
        if manifest is None:
            raise self._unknown(memory_id)
        return manifest

    def _unknown(self, memory_id: str) -> UnknownMemory:
        return UnknownMemory(
            f"There is no memory {memory_id!r} under {self._root}: absorb something into it "
            "first, or check the id."
        )

    def journal(self, memory_id: str) -> Journal:
        return self._open_journal(memory_id, self._existing(memory_id)).refresh()

    def _open_journal(self, memory_id: str, manifest: Manifest) -> _OpenJournal:
        path = self._folder(memory_id) / JOURNAL
        made = (manifest.salt, manifest.created)  # made again after a forget, it is another one
        with self._guard:
            known = self._journals.get(manifest.id)
            if known is None or known[0] != made:
                opened = _OpenJournal(path, manifest.first, self._seal_of(manifest.id))
                known = self._journals.put(manifest.id, (made, opened))
            return known[1]

    def _seal_of(self, memory_id: str) -> Seal:
        try:
            return self._seal(self._folder(memory_id))
        except FileNotFoundError as error:
            raise self._unknown(memory_id) from error

    def folder(self, memory_id: str, revision: Revision) -> Path:
        folder = self._folder(memory_id) / REVISIONS / revision.name
        try:
            state = stamps(folder, revision)
        except FileNotFoundError as error:
            if folder.exists():
                raise StoreDamaged(
                    f"{error.filename} of memory {memory_id!r} is missing."
                ) from error
            raise retired(memory_id, revision) from error
        if self._key is not None:
            with self._copying:
                return self._copy(memory_id, revision, state)
        if self._checked.get(folder) != state:
            _check(folder, revision, folder, memory_id)
            self._checked.put(folder, state)
        return folder

    def _copy(self, memory_id: str, revision: Revision, state: Stamps) -> Path:
        """A plain copy of a revision whose files have these stamps."""
        folder = self._folder(memory_id)
        copy = self._copies.find(folder.name, revision.name)
        with suppress(FileNotFoundError):
            if self._checked.get(copy) == state + stamps(copy, revision):
                self._copies.touch(copy)
                return copy
        origin = _Place(folder / REVISIONS / revision.name, self._seal_of(memory_id))

        def fill(fresh: Path) -> None:
            _write_revision(revision, origin, _Place(fresh, BARE), memory_id)
            _check(fresh, revision, origin.folder, memory_id)

        copied: Stamps | None = None
        try:
            self._copies.make(copy, fill)
            with suppress(FileNotFoundError):
                copied = stamps(copy, revision)
        except StoreWriteFailed:
            if origin.folder.is_dir():
                raise
        if copied is None or not origin.folder.is_dir():
            self._copies.drop(folder.name)
            raise retired(memory_id, revision)
        self._checked.put(copy, state + copied)
        return copy

    def size(self, memory_id: str) -> int:
        self._existing(memory_id)
        return sum(files_below(self._folder(memory_id)).values())

    def last_used(self, memory_id: str) -> float:
        self._existing(memory_id)
        folder = self._folder(memory_id)
        times = [0.0]
        for path in (folder / MANIFEST, folder / JOURNAL):
            with suppress(FileNotFoundError):
                times.append(path.stat().st_mtime)
        return max(times)

    # --- journal -------------------------------------------------------------------------------

    def record(
        self, memory_id: str, dialogue: Sequence[Message], *, after: str | None = None
    ) -> str:
        with self._writing_journal(memory_id) as opened:
            lines, end = dialogue_lines(opened.journal, dialogue, after, memory_id)
            opened.append(lines)
        return end

    def record_documents(
        self, memory_id: str, documents: Sequence[Document], *, after: str | None = None
    ) -> tuple[str, ...]:
        with self._writing_journal(memory_id) as opened:
            lines, digests = document_lines(opened.journal, documents, after)
            opened.append(lines)
        return digests

    def withdraw_documents(self, memory_id: str, digests: Sequence[str]) -> None:
        with self._writing_journal(memory_id) as opened:
            opened.append(withdraw_lines(opened.journal, digests))

    @contextmanager
    def _writing_journal(self, memory_id: str) -> Iterator[_OpenJournal]:
        self._existing(memory_id)
        with self._locked(self._folder(memory_id)):
            opened = self._open_journal(memory_id, self._existing(memory_id))
            opened.refresh()
            yield opened

    # --- making and committing -----------------------------------------------------------------

    def create(
        self, manifest: Manifest, *, source: str | None = None, journal: bool = False
    ) -> None:
        folder = self._folder(manifest.id)
        self._refuse_existing(manifest.id, folder)
        fresh = self._root / f"{INCOMING}{secrets.token_hex(8)}"
        with temporary(fresh):
            make_folder(fresh)
            make_folder(fresh / REVISIONS)
            place = self._new_place(fresh)
            if source is not None:
                with self._locked(self._folder(source)):
                    origin = _Place(self._folder(source), self._seal_of(source))
                    for revision in manifest.revisions:
                        _copy_revision(revision, origin, place, source)
                    if journal:
                        _copy_journal(origin, place)
            _write_manifest(place, manifest)
            self._move_in(fresh, folder, manifest.id)

    def _new_place(self, folder: Path) -> _Place:
        """A folder for a new memory, with a key of its own where there are keys."""
        if self._key is None:
            return _Place(folder, BARE)
        seal, content = self._key.make_seal()
        replace_file(folder / KEY, content)
        return _Place(folder, seal)

    def _refuse_existing(self, memory_id: str, folder: Path) -> None:
        if (folder / MANIFEST).exists():
            raise Conflict(
                f"Memory {memory_id!r} exists already: forget it first, or use another id."
            )

    def _move_in(self, fresh: Path, folder: Path, memory_id: str) -> None:
        with writing(folder):
            try:
                fresh.rename(folder)
            except OSError as error:
                self._refuse_existing(memory_id, folder)
                raise error from None
            sync_folder(self._root)

    @contextmanager
    def stage(self, memory_id: str) -> Iterator[Path]:
        self._existing(memory_id)
        if self._key is not None:
            with self._copies.work() as folder:
                yield folder
            return
        folder = self._folder(memory_id) / f"{STAGING}{secrets.token_hex(8)}"
        with temporary(folder):
            make_folder(folder, parents=False)  # a memory forgotten meanwhile stays away
            yield folder

    def commit(
        self, manifest: Manifest, revision: Revision, staged: Path, *, keep: int
    ) -> Manifest:
        revision = replace(revision, files=file_records(staged))
        changed = manifest.with_revision(revision, keep)
        folder = self._folder(manifest.id)
        with self._locked(folder):
            if self._expect(manifest, manifest.epoch).find(revision.name) is not None:
                raise StoreError(f"Memory {manifest.id!r} has revision {revision.name} already.")
            target = folder / REVISIONS / revision.name
            remove_tree(target)  # an orphan of a killed commit
            ready = staged if self._key is None else self._closed_copy(folder, revision, staged)
            with writing(target):
                ready.rename(target)
                sync_folder(target.parent)
            self._swap(folder, changed)
        return changed

    def _closed_copy(self, folder: Path, revision: Revision, staged: Path) -> Path:
        """An encrypted copy of a staged folder, in the folder of its memory."""
        seal, fresh = self._seal(folder), folder / f"{STAGING}{secrets.token_hex(8)}"
        try:
            make_folder(fresh)
            _write_revision(revision, _Place(staged, BARE), _Place(fresh, seal), folder.name)
            with writing(fresh):
                sync_folder(fresh)
        except BaseException:
            remove_tree(fresh)
            raise
        return fresh

    def replace(self, manifest: Manifest, *, epoch: int) -> None:
        folder = self._folder(manifest.id)
        with self._locked(folder):
            self._expect(manifest, epoch)
            self._swap(folder, manifest)

    def _swap(self, folder: Path, manifest: Manifest) -> None:
        """Make `manifest` the truth, then remove the revisions it no longer names."""
        _write_manifest(_Place(folder, self._seal_of(manifest.id)), manifest)
        named = {revision.name for revision in manifest.revisions}
        for entry in entries(folder / REVISIONS):
            if entry.name not in named:
                remove_tree(entry)
        if self._key is not None:
            self._copies.drop(folder.name, but=named)

    def _expect(self, manifest: Manifest, epoch: int) -> Manifest:
        found = self._existing(manifest.id)
        if not found.same_memory(manifest):
            raise Conflict(
                f"Memory {manifest.id!r} was forgotten and made again by another writer: "
                "read it again and retry."
            )
        if found.epoch != epoch:
            raise Conflict(
                f"Memory {manifest.id!r} was changed by another writer (epoch {found.epoch}, "
                f"expected {epoch}): read it again and retry."
            )
        return found

    # --- removing and moving -------------------------------------------------------------------

    def delete(self, memory_id: str) -> tuple[RemovedFile, ...]:
        folder = self._folder(memory_id)
        self._present(memory_id, folder)
        gone = self._root / f"{FORGOTTEN}{secrets.token_hex(8)}"
        with self._locked(folder):
            self._present(memory_id, folder)
            with writing(folder):
                folder.rename(gone)
                sync_folder(self._root)
            sizes = {
                str(folder.name / path.relative_to(gone)): size
                for path, size in files_below(gone).items()
            }
            with writing(gone):
                if (gone / KEY).exists():
                    remove_tree(gone / KEY)  # first: from here on nothing can be read of the rest
                    sync_folder(gone)
                remove_tree(gone)
                sync_folder(self._root)  # so that no power failure brings it back
        if self._key is not None:
            sizes |= self._copies.drop(folder.name)
        self._journals.drop(lambda name: name == str(parse_id(memory_id)))
        self._checked.drop(lambda path: folder in path.parents)
        return tuple(RemovedFile(path=path, bytes=size) for path, size in sizes.items())

    def _present(self, memory_id: str, folder: Path) -> None:
        """Like `_existing` for a memory that may be damaged."""
        if not (folder / MANIFEST).is_file():
            raise self._unknown(memory_id)

    def export(self, memory_id: str, target: Path) -> None:
        self._existing(memory_id)
        folder = self._folder(memory_id)
        with self._locked(folder):
            manifest = self._existing(memory_id)
            held = [(self.folder(memory_id, one), one) for one in manifest.revisions]
            if self._key is None:
                archive.write(folder, manifest, Path(target))
                return
            with self._copies.work() as fresh:
                plain = _Place(fresh, BARE)
                _copy_journal(_Place(folder, self._seal(folder)), plain)
                for copy, revision in held:
                    inside = fresh / REVISIONS / revision.name
                    make_folder(inside)
                    _write_revision(revision, _Place(copy, BARE), _Place(inside, BARE), memory_id)
                archive.write(fresh, manifest, Path(target))

    def import_(self, source: Path, memory_id: str | None) -> Manifest:
        fresh = self._root / f"{INCOMING}{secrets.token_hex(8)}"
        with temporary(fresh):
            make_folder(fresh)
            make_folder(fresh / REVISIONS)
            if self._key is None:
                manifest = self._unpack(source, memory_id, fresh)
            else:
                with self._copies.work() as plain:
                    manifest = self._unpack(source, memory_id, plain)
                    origin, place = _Place(plain, BARE), self._new_place(fresh)
                    for revision in manifest.revisions:
                        _copy_revision(revision, origin, place, manifest.id)
                    _copy_journal(origin, place)
                    _write_manifest(place, manifest)
            self._move_in(fresh, self._folder(manifest.id), manifest.id)
        return manifest

    def _unpack(self, source: Path, memory_id: str | None, fresh: Path) -> Manifest:
        """A checked archive as a memory's folder, not encrypted."""
        manifest = archive.read(Path(source), fresh)
        name = str(parse_id(manifest.id if memory_id is None else memory_id))
        self._refuse_existing(name, self._folder(name))
        manifest = replace(manifest, id=name)
        _OpenJournal(fresh / JOURNAL, manifest.first, BARE).refresh()
        _write_manifest(_Place(fresh, BARE), manifest)
        return manifest


def _write_manifest(place: _Place, manifest: Manifest) -> None:
    content = json.dumps(manifest.as_json(), ensure_ascii=False, indent=1).encode()
    replace_file(place.folder / MANIFEST, place.seal.close(content, MANIFEST))


def _check(folder: Path, revision: Revision, said: Path, memory_id: str) -> None:
    """Whether `folder` holds what was committed; errors name the folder `said`."""
    if (path := spoiled_file(folder, revision)) is not None:
        raise spoiled(said / path, "size or checksum differ", memory_id)


def _copy_revision(revision: Revision, origin: _Place, fresh: _Place, source: str) -> None:
    """Copy a revision from the folder of the memory `source` into that of another."""
    own = origin.folder / REVISIONS / revision.name
    if not own.is_dir():
        raise UnknownRevision(f"Revision {revision.name[:12]} of {source!r} was retired meanwhile.")
    target = fresh.folder / REVISIONS / revision.name
    make_folder(target)
    _write_revision(revision, _Place(own, origin.seal), _Place(target, fresh.seal), source)
    with writing(target):
        sync_folder(target)


def _write_revision(revision: Revision, origin: _Place, target: _Place, source: str) -> None:
    """Write the files of a revision of the memory `source` into another folder of its own."""
    for record in revision.files:
        path, what = origin.folder / record.path, f"{revision.name}/{record.path}"
        pieces = target.seal.close_pieces(origin.seal.open_file(path, what), what)
        try:
            write_file(target.folder / record.path, pieces)
        except ValueError as error:
            raise spoiled(path, str(error), source) from error


def _closed(seal: Seal, lines: Iterable[bytes], begin: int) -> bytes:
    """What to write for lines of a journal, the first of which begins at byte `begin`."""
    written: list[bytes] = []
    for line in lines:
        written.append(seal.close_line(line, begin))
        begin += len(written[-1])
    return b"".join(written)


def _copy_journal(origin: _Place, fresh: _Place) -> None:
    """Copy the whole lines of a journal, if there is one."""
    path = origin.folder / JOURNAL
    if not path.exists():
        return
    begin, lines = 0, []
    for line in path.read_bytes().split(b"\n")[:-1]:  # what follows the last is a torn write
        try:
            lines.append(origin.seal.open_line(line + b"\n", begin))
        except ValueError as error:
            raise StoreDamaged(
                f"{path} is damaged at byte {begin}: {error}. Restore the file from a backup; the "
                "lines before it are good."
            ) from error
        begin += len(line) + 1
    replace_file(fresh.folder / JOURNAL, _closed(fresh.seal, lines, 0))
