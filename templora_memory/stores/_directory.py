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
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from templora_memory._ids import folder_name, parse_id
from templora_memory._journal import (
    Journal,
    decode_line,
    document_line,
    encode_line,
    message_line,
)
from templora_memory._manifest import FileRecord, Manifest, Revision
from templora_memory._messages import Document, Message, chain
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
    sync_file,
    sync_folder,
    writing,
)

MANIFEST, JOURNAL, REVISIONS, LOCK = "manifest.json", "journal.jsonl", "revisions", "lock"
FORGOTTEN, INCOMING, STAGING = ".forgotten-", ".incoming-", ".staging-"
SUFFIXES = frozenset({".json", ".safetensors"})
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
        self._journals: dict[str, _OpenJournal] = {}
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
        for entry in self._root.iterdir():
            if entry.name.startswith((FORGOTTEN, INCOMING)):
                if self._abandoned(entry):
                    remove_tree(entry)
                    _lock_beside(entry).unlink(missing_ok=True)
            elif (entry / MANIFEST).exists():
                self._sweep(entry)
            elif entry.is_dir() and self._abandoned_creation(entry):
                remove_tree(entry)

    def _sweep(self, folder: Path) -> None:
        with self._locked(folder):
            named = {revision.name for revision in self._read(folder).revisions}
            for entry in (*_entries(folder / REVISIONS), *folder.glob(f".{MANIFEST}.*")):
                if entry.name not in named:
                    remove_tree(entry) if entry.is_dir() else entry.unlink()
            for entry in folder.glob(f"{STAGING}*"):
                if entry.is_dir() and self._abandoned(entry):
                    remove_tree(entry)
                    _lock_beside(entry).unlink(missing_ok=True)

    def _abandoned(self, folder: Path) -> bool:
        """Whether no living process works on a temporary folder (its lock is free)."""
        if folder.suffix == ".lock":
            return False
        try:
            with FileLock(_lock_beside(folder), timeout=0, thread_local=False):
                return True
        except Timeout:
            return False

    def _abandoned_creation(self, folder: Path) -> bool:
        if not (folder / LOCK).exists():
            return False  # not ours
        try:
            with FileLock(folder / LOCK, timeout=0, thread_local=False):
                return not (folder / MANIFEST).exists()
        except Timeout:
            return False

    def _folder(self, memory_id: str) -> Path:
        return self._root / folder_name(parse_id(memory_id))

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        lock = FileLock(folder / LOCK, timeout=LOCK_SECONDS, mode=0o600, thread_local=False)
        try:
            with writing(folder / LOCK):
                lock.acquire()
        except FileNotFoundError as error:
            raise UnknownMemory(f"The memory in {folder} does not exist (any more).") from error
        except Timeout as error:
            raise Conflict(
                f"{folder} is locked by another process for over {LOCK_SECONDS:.0f} seconds: "
                "try again."
            ) from error
        try:
            yield
        finally:
            lock.release()

    # --- reading -------------------------------------------------------------------------------

    def ids(self) -> tuple[str, ...]:
        found = []
        for entry in _entries(self._root):
            if not entry.name.startswith(".") and (entry / MANIFEST).is_file():
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
            raise UnknownMemory(
                f"There is no memory {memory_id!r} under {self._root}: absorb something into it "
                "first, or check the id."
            )
        return manifest

    def journal(self, memory_id: str) -> Journal:
        return self._open_journal(memory_id, self._existing(memory_id)).refresh()

    def _open_journal(self, memory_id: str, manifest: Manifest) -> _OpenJournal:
        path = self._folder(memory_id) / JOURNAL
        with self._guard:
            known = self._journals.get(memory_id)
            if known is None or known.journal.first != manifest.first:
                known = self._journals[memory_id] = _OpenJournal(path, manifest.first)
            return known

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
        return sum(path.lstat().st_size for path in files_below(self._folder(memory_id)))

    def last_used(self, memory_id: str) -> float:
        self._existing(memory_id)
        folder = self._folder(memory_id)
        paths = (folder / MANIFEST, folder / JOURNAL)
        return max(path.stat().st_mtime for path in paths if path.exists())

    # --- journal -------------------------------------------------------------------------------

    def record(
        self, memory_id: str, dialogue: Sequence[Message], *, after: str | None = None
    ) -> str:
        with self._writing_journal(memory_id) as (opened, manifest):
            if after is not None and not opened.journal.knows(after):
                raise StoreDamaged(
                    f"The journal of {memory_id!r} has no conversation {after[:12]}."
                )
            digests = chain(after or manifest.first, dialogue)
            missing = opened.journal.missing(digests)
            lines = [
                message_line(parent, message)
                for parent, message in zip(
                    digests[len(dialogue) - missing :],
                    dialogue[len(dialogue) - missing :],
                    strict=False,
                )
            ]
            if not lines and opened.journal.tip != digests[-1]:
                lines = [{"kind": "tip", "digest": digests[-1]}]
            self._append(opened, lines)
        return digests[-1]

    def record_documents(self, memory_id: str, documents: Sequence[Document]) -> tuple[str, ...]:
        with self._writing_journal(memory_id) as (opened, manifest):
            lines = {}
            for document in documents:
                line = document_line(manifest.first, document)
                lines[str(line["digest"])] = line
            known = set(opened.journal.documents)
            self._append(opened, [line for digest, line in lines.items() if digest not in known])
        return tuple(lines)

    def withdraw_documents(self, memory_id: str, digests: Sequence[str]) -> None:
        with self._writing_journal(memory_id) as (opened, _):
            kept = opened.journal.documents
            self._append(
                opened,
                [{"kind": "withdraw", "digest": digest} for digest in digests if digest in kept],
            )

    @contextmanager
    def _writing_journal(self, memory_id: str) -> Iterator[tuple[_OpenJournal, Manifest]]:
        self._existing(memory_id)
        with self._locked(self._folder(memory_id)):
            manifest = self._existing(memory_id)
            opened = self._open_journal(memory_id, manifest)
            opened.refresh()
            yield opened, manifest

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
        with self._temporary(fresh):
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
                os.rename(fresh, folder)
            except OSError as error:
                self._refuse_existing(memory_id, folder)
                raise error from None
            sync_folder(self._root)

    @contextmanager
    def _temporary(self, folder: Path) -> Iterator[None]:
        """A temporary folder whose lock says that its maker is alive."""
        lock = FileLock(_lock_beside(folder), mode=0o600, thread_local=False)
        with writing(folder):
            lock.acquire()
        try:
            yield
        finally:
            try:
                remove_tree(folder)
            finally:
                lock.release()
                _lock_beside(folder).unlink(missing_ok=True)

    @contextmanager
    def stage(self, memory_id: str) -> Iterator[Path]:
        self._existing(memory_id)
        folder = self._folder(memory_id) / f"{STAGING}{secrets.token_hex(8)}"
        with self._temporary(folder):
            make_folder(folder)
            yield folder

    def commit(
        self, manifest: Manifest, revision: Revision, staged: Path, *, keep: int
    ) -> Manifest:
        records = []
        for path in files_below(staged):
            if path.suffix not in SUFFIXES or path.parent != staged:
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
        changed = manifest.with_revision(replace(revision, files=tuple(records)), keep)
        folder = self._folder(manifest.id)
        with self._locked(folder):
            self._expect(manifest.id, manifest.epoch)
            target = folder / REVISIONS / revision.name
            remove_tree(target)  # an orphan, or the same revision committed again
            with writing(target):
                os.rename(staged, target)
                sync_folder(target.parent)
            self._swap(folder, changed)
        return changed

    def replace(self, manifest: Manifest, *, epoch: int) -> None:
        folder = self._folder(manifest.id)
        with self._locked(folder):
            self._expect(manifest.id, epoch)
            self._swap(folder, manifest)

    def _swap(self, folder: Path, manifest: Manifest) -> None:
        """Make `manifest` the truth, then remove the revisions it no longer names."""
        replace_file(folder / MANIFEST, _encode(manifest))
        named = {revision.name for revision in manifest.revisions}
        for entry in _entries(folder / REVISIONS):
            if entry.name not in named:
                remove_tree(entry)

    def _expect(self, memory_id: str, epoch: int) -> Manifest:
        manifest = self._existing(memory_id)
        if manifest.epoch != epoch:
            raise Conflict(
                f"Memory {memory_id!r} was changed by another writer (epoch {manifest.epoch}, "
                f"expected {epoch}): read it again and retry."
            )
        return manifest

    # --- removing and moving -------------------------------------------------------------------

    def delete(self, memory_id: str) -> tuple[RemovedFile, ...]:
        self._existing(memory_id)
        folder = self._folder(memory_id)
        gone = self._root / f"{FORGOTTEN}{secrets.token_hex(8)}"
        with self._locked(folder):
            self._existing(memory_id)
            removed = tuple(
                RemovedFile(path=str(path.relative_to(self._root)), bytes=path.lstat().st_size)
                for path in files_below(folder)
            )
            with writing(folder):
                os.rename(folder, gone)
                sync_folder(self._root)
            # The lock file goes while the lock is held, so that whoever waits for it notices.
            remove_tree(gone)
        with self._guard:
            self._journals.pop(memory_id, None)
            self._checked = {p: s for p, s in self._checked.items() if folder not in p.parents}
        return removed

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
        with self._temporary(fresh):
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


def _lock_beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


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
    sync_folder(target)
