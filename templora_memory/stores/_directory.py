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
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from templora_memory._ids import folder_name, id_of_folder, parse_id
from templora_memory._journal import Journal, decode_line, encode_line
from templora_memory._manifest import Manifest, Revision
from templora_memory._messages import Document, Message
from templora_memory._reports import RemovedFile
from templora_memory.errors import (
    Conflict,
    StoreDamaged,
    StoreError,
    StoreWriteFailed,
    UnknownMemory,
    UnknownRevision,
)
from templora_memory.stores import _archive
from templora_memory.stores._files import (
    append_file,
    copy_file,
    digest_file,
    files_below,
    make_folder,
    remove_tree,
    replace_file,
    sync_folder,
    writing,
)
from templora_memory.stores._lines import dialogue_lines, document_lines, withdraw_lines
from templora_memory.stores._locks import hold
from templora_memory.stores._temporary import clear, file_records, temporary

MANIFEST, JOURNAL, REVISIONS, LOCK = "manifest.json", "journal.jsonl", "revisions", "lock"
FORGOTTEN, INCOMING, STAGING = ".forgotten-", ".incoming-", ".staging-"
LOCK_SECONDS = 60.0


class _OpenJournal:
    """The index of one journal file, kept up to date by reading what was added."""

    def __init__(self, path: Path, first: str) -> None:
        self.path = path
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
                self.journal.add(decode_line(line), self.size)
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
            return decode_line(line)
        except (ValueError, TypeError) as error:
            raise StoreDamaged(f"{self.path} is damaged at byte {position}: {error}.") from error


class DirectoryStore:
    """Memories as folders below a root. See the module for the layout and `Store` for promises.

    Several processes may share a root: writes take a short lock per memory and compare the
    manifest's epoch. Files are readable for their owner only.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(root)
        self._journals: dict[str, tuple[tuple[str, float], _OpenJournal]] = {}
        self._checked: dict[Path, tuple[tuple[int, int, int], ...]] = {}
        self._guard = threading.Lock()

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
        with writing(self._root):
            entries = _entries(self._root)
        for entry in entries:
            if entry.name.startswith((FORGOTTEN, INCOMING)):
                clear(entry)
            elif (entry / MANIFEST).is_file():
                with suppress(StoreDamaged, UnknownMemory):  # whoever uses that memory is told
                    self._sweep(entry)

    def _sweep(self, folder: Path) -> None:
        self._read(folder)  # before the lock file is made: the folder may not be ours
        with self._locked(folder):
            named = {revision.name for revision in self._read(folder).revisions}
            for entry in (*_entries(folder / REVISIONS), *folder.glob(f".{MANIFEST}.*")):
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
        for entry in _entries(self._root):
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
            return Manifest.from_json(json.loads(path.read_bytes()))
        except FileNotFoundError as error:
            raise UnknownMemory(f"The memory in {folder} was forgotten meanwhile.") from error
        except (ValueError, RecursionError) as error:
            raise StoreDamaged(f"{path} is damaged: {error}. Restore it from a backup.") from error
        except StoreDamaged as error:
            raise StoreDamaged(f"{path}: {error}") from error

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
                known = self._journals[manifest.id] = (made, _OpenJournal(path, manifest.first))
            return known[1]

    def folder(self, memory_id: str, revision: Revision) -> Path:
        folder = self._folder(memory_id) / REVISIONS / revision.name
        try:
            state = tuple(_stamp(folder / record.path) for record in revision.files)
        except FileNotFoundError as error:
            if folder.exists():
                raise StoreDamaged(
                    f"{error.filename} of memory {memory_id!r} is missing."
                ) from error
            raise UnknownRevision(
                f"Revision {revision.name[:12]} of memory {memory_id!r} was retired meanwhile."
            ) from error
        if self._checked.get(folder) == state:
            return folder
        for record in revision.files:
            path = folder / record.path
            if path.stat().st_size != record.bytes or digest_file(path) != record.sha256:
                raise StoreDamaged(
                    f"{path} is not what was written (size or checksum differ). Learn the memory "
                    f"again from its journal: rebuild({memory_id!r}), or roll back."
                )
        self._checked[folder] = state
        return folder

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
            self._append(opened, lines)
        return end

    def record_documents(
        self, memory_id: str, documents: Sequence[Document], *, after: str | None = None
    ) -> tuple[str, ...]:
        with self._writing_journal(memory_id) as opened:
            lines, digests = document_lines(opened.journal, documents, after)
            self._append(opened, lines)
        return digests

    def withdraw_documents(self, memory_id: str, digests: Sequence[str]) -> None:
        with self._writing_journal(memory_id) as opened:
            self._append(opened, withdraw_lines(opened.journal, digests))

    @contextmanager
    def _writing_journal(self, memory_id: str) -> Iterator[_OpenJournal]:
        self._existing(memory_id)
        with self._locked(self._folder(memory_id)):
            opened = self._open_journal(memory_id, self._existing(memory_id))
            opened.refresh()
            yield opened

    def _append(self, opened: _OpenJournal, lines: Sequence[dict[str, Any]]) -> None:
        if lines:
            append_file(opened.path, b"".join(encode_line(line) for line in lines), opened.size)
            opened.refresh()

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
            if source is not None:
                origin = self._folder(source)
                with self._locked(origin):
                    for revision in manifest.revisions:
                        _copy_revision(origin, fresh, revision, source)
                    if journal and (origin / JOURNAL).exists():
                        copy_file(origin / JOURNAL, fresh / JOURNAL)
            replace_file(fresh / MANIFEST, _encode(manifest))
            self._move_in(fresh, folder, manifest.id)

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
        folder = self._folder(memory_id) / f"{STAGING}{secrets.token_hex(8)}"
        with temporary(folder):
            make_folder(folder)
            yield folder

    def commit(
        self, manifest: Manifest, revision: Revision, staged: Path, *, keep: int
    ) -> Manifest:
        changed = manifest.with_revision(replace(revision, files=file_records(staged)), keep)
        folder = self._folder(manifest.id)
        with self._locked(folder):
            self._expect(manifest, manifest.epoch)
            if manifest.find(revision.name) is not None:
                raise StoreError(f"Memory {manifest.id!r} has revision {revision.name} already.")
            target = folder / REVISIONS / revision.name
            remove_tree(target)  # an orphan of a killed commit
            with writing(target):
                staged.rename(target)
                sync_folder(target.parent)
            self._swap(folder, changed)
        return changed

    def replace(self, manifest: Manifest, *, epoch: int) -> None:
        folder = self._folder(manifest.id)
        with self._locked(folder):
            self._expect(manifest, epoch)
            self._swap(folder, manifest)

    def _swap(self, folder: Path, manifest: Manifest) -> None:
        """Make `manifest` the truth, then remove the revisions it no longer names."""
        replace_file(folder / MANIFEST, _encode(manifest))
        named = {revision.name for revision in manifest.revisions}
        for entry in _entries(folder / REVISIONS):
            if entry.name not in named:
                remove_tree(entry)

    def _expect(self, manifest: Manifest, epoch: int) -> None:
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
            removed = tuple(
                RemovedFile(path=str(folder.name / path.relative_to(gone)), bytes=size)
                for path, size in files_below(gone).items()
            )
            remove_tree(gone)
        with self._guard:
            self._journals.pop(str(parse_id(memory_id)), None)
            checked = self._checked.copy()
            self._checked = {p: s for p, s in checked.items() if folder not in p.parents}
        return removed

    def _present(self, memory_id: str, folder: Path) -> None:
        """Like `_existing` for a memory that may be damaged."""
        if not (folder / MANIFEST).is_file():
            raise self._unknown(memory_id)

    def export(self, memory_id: str, target: Path) -> None:
        self._existing(memory_id)
        folder = self._folder(memory_id)
        with self._locked(folder):
            manifest = self._existing(memory_id)
            for revision in manifest.revisions:
                self.folder(memory_id, revision)
            _archive.write(folder, manifest, Path(target))

    def import_(self, source: Path, memory_id: str | None) -> Manifest:
        fresh = self._root / f"{INCOMING}{secrets.token_hex(8)}"
        with temporary(fresh):
            make_folder(fresh)
            make_folder(fresh / REVISIONS)
            manifest = _archive.read(Path(source), fresh)
            name = str(parse_id(manifest.id if memory_id is None else memory_id))
            folder = self._folder(name)
            self._refuse_existing(name, folder)
            manifest = replace(manifest, id=name)
            _OpenJournal(fresh / JOURNAL, manifest.first).refresh()
            replace_file(fresh / MANIFEST, _encode(manifest))
            self._move_in(fresh, folder, name)
        return manifest


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _stamp(path: Path) -> tuple[int, int, int]:
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


def _encode(manifest: Manifest) -> bytes:
    return json.dumps(manifest.as_json(), ensure_ascii=False, indent=1).encode()


def _copy_revision(origin: Path, fresh: Path, revision: Revision, source: str) -> None:
    folder = origin / REVISIONS / revision.name
    if not folder.is_dir():
        raise UnknownRevision(f"Revision {revision.name[:12]} of {source!r} was retired meanwhile.")
    target = fresh / REVISIONS / revision.name
    make_folder(target)
    for record in revision.files:
        copy_file(folder / record.path, target / record.path)
    with writing(target):
        sync_folder(target)
