"""The directory store: one folder a memory, plain JSON and safetensors.

::

    <root>/<encoded id>/
      manifest.json        replaced atomically
      journal.jsonl        appended and fsynced before anything is learned; where texts were removed
                           or corrected, journal-<how often>.jsonl, as the manifest counts
      revisions/<name>/    written beside, synced, renamed into place
      expires              empty; only where the memory has a ttl
      lock                 held for moments only, never while learning

What a crash may leave, and who clears it:

- A commit moves the staged folder into place and then swaps the manifest. A process killed between
  the two leaves a folder that no manifest names. In the other order the manifest would name a
  revision that is not there.
- Each store clears what is left in the folder of a memory when it first uses that memory: opening a
  root reads none of them, however many there are.
- A delete renames the folder of the memory first, so that it is gone at once, and removes the files
  afterwards; the next `open` finishes a removal that was interrupted.
- Removing texts writes another journal beside and moves new revisions in before the manifest is
  swapped, and removes the old journal and revisions afterwards. A process killed before the swap
  leaves the new ones, after it the old ones: whatever the manifest does not name is cleared.
- A torn last line of a journal is left out by readers and cut off by the next write, see `journal`.

With a key, all of it but the lock is encrypted and there is one more file, see `encryption_key`::

      key.json             the memory's own key, which the store's key decrypts; removed first

Backends then read plain copies, see `decrypted_cache`.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from templora_memory.domain.amendment import amend
from templora_memory.domain.ids import folder_name, id_of_folder, parse_id
from templora_memory.domain.journal import Journal, encode_line
from templora_memory.domain.lru import LruCache
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
    files_below,
    list_folder,
    make_folder,
    remove_tree,
    replace_file,
    sync_folder,
    write_file,
    writing,
)
from templora_memory.fs.locks import hold
from templora_memory.fs.staging import clear, file_records, temporary, with_staged_files
from templora_memory.stores import archive
from templora_memory.stores.conflicts import check_epoch, exists
from templora_memory.stores.decrypted_cache import DecryptedCache
from templora_memory.stores.directory.journal import JournalFile, copy_journal, encrypt_lines
from templora_memory.stores.encryption import PLAINTEXT, Cipher
from templora_memory.stores.encryption_key import (
    KEY_FILE,
    Key,
    encrypted,
    key_missing,
    not_encrypted,
)
from templora_memory.stores.integrity import (
    MAX_CHECKED_REVISIONS,
    FileStamps,
    corrupted,
    corrupted_file,
    file_stamps,
    retired,
)
from templora_memory.stores.journal_records import (
    MAX_OPEN_JOURNALS,
    dialogue_records,
    document_records,
    learned_records,
    pin_records,
    withdraw_records,
)

MANIFEST, REVISIONS, LOCK = "manifest.json", "revisions", "lock"
EXPIRES = "expires"
"""Marks memories that have a ttl, so that the others need not be read to find them."""
FORGOTTEN, INCOMING, STAGING = ".forgotten-", ".incoming-", ".staging-"
"""Beginnings of folders under way: memories being deleted or made; revisions being made."""
LOCK_SECONDS = 60.0


class _FolderLocation(NamedTuple):
    """A folder, and the cipher of what lies in it."""

    folder: Path
    cipher: Cipher


class DirectoryStore:
    """Memories as folders below a root; see the module for the layout, `Store` for promises.

    Several processes may share a root: writes take a short lock per memory and compare the
    manifest's epoch. Files are readable for their owner only.

    Args:
        root: folder of the memories.
        key: encrypts everything below the root but the names of memories (extra ``encryption``).
            A root is either encrypted or not, all of it and with one key: a memory that is not as
            it should be is refused with `InvalidSetting`. Exported files are never encrypted, and
            the folders that `stage` and `folder` give lie in the memory of this machine
            (``/dev/shm``, where it has that): a copy that nobody asked for in ten minutes may
            be gone. None: nothing is encrypted.
    """

    def __init__(self, root: str | os.PathLike[str], *, key: Key | None = None) -> None:
        self._root = Path(root)
        self._key = key
        self._decrypted = DecryptedCache(str(self._root.absolute()))
        # each with the salt and time of its memory, made again after a delete it is another one,
        # and with how often texts were removed from it
        self._journals: LruCache[str, tuple[tuple[str, float, int], JournalFile]] = LruCache(
            MAX_OPEN_JOURNALS
        )
        self._checked: LruCache[Path, FileStamps] = LruCache(MAX_CHECKED_REVISIONS)
        self._swept: set[str] = set()  # folders of memories
        self._journals_lock = threading.Lock()
        self._decrypting_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"DirectoryStore({str(self._root)!r})"

    @property
    def root(self) -> Path:
        """The folder of the memories."""
        return self._root

    # --- the root ------------------------------------------------------------------------------

    def open(self) -> None:
        """Make the root and clear what killed processes left behind.

        Raises:
            StoreWriteFailed: the root is a file, or may not be written.
            InvalidSetting: a memory is not as the key would have it.
        """
        if self._root.exists() and not self._root.is_dir():
            raise StoreWriteFailed(f"{self._root} is a file: give a folder as the root.")
        make_folder(self._root)
        if self._key is not None:
            self._decrypted.sweep()
            for name in self._decrypted.memories():
                if not (self._root / name).is_dir():
                    self._decrypted.drop(name)
        self._swept.clear()
        with writing(self._root):
            folders = list_folder(self._root)
        for folder in folders:
            if folder.name.startswith((FORGOTTEN, INCOMING)):
                clear(folder)
        self._check_keys(folders)

    def _check_keys(self, folders: Iterable[Path]) -> None:
        """Refuse a root that is not as the key would have it.

        Whether a memory is encrypted its files say; that the key opens them is tried with one.
        """
        for folder in folders:
            if folder.name.startswith(".") or not (folder / MANIFEST).is_file():
                continue
            with suppress(StoreDamaged, UnknownMemory, FileNotFoundError):
                self._cipher_in(folder)
                return

    def expiring(self) -> tuple[str, ...]:
        """Return the ids of memories that have a ttl, without reading the others."""
        folders = list_folder(self._root)
        return self._ids_of([folder for folder in folders if (folder / EXPIRES).exists()])

    def _sweep_once(self, folder: Path) -> None:
        """Remove what killed processes left of a memory, when this store first uses it."""
        if folder.name not in self._swept:
            # one damaged memory is reported to who uses it, when it is read
            with suppress(StoreDamaged, UnknownMemory):
                self._sweep(folder)
                self._swept.add(folder.name)

    def _sweep(self, folder: Path) -> None:
        """Remove what killed processes left in the folder of a memory."""
        self._read_manifest(folder)  # before the lock file is made: the folder may not be ours
        with self._locked(folder):
            self._sweep_locked(folder)

    def _sweep_locked(self, folder: Path) -> None:
        """Remove what the manifest of a memory does not name; the caller holds the lock."""
        manifest = self._read_manifest(folder)
        _mark_expiring(folder, manifest)  # versions before this one did not
        names = {revision.name for revision in manifest.revisions}
        for path in (*list_folder(folder / REVISIONS), *folder.glob(f".{MANIFEST}.*")):
            if path.name not in names:
                remove_tree(path)
        self._remove_journals(folder, manifest)
        for path in folder.glob(f"{STAGING}*"):
            clear(path)

    @staticmethod
    def _remove_journals(folder: Path, manifest: Manifest) -> dict[Path, int]:
        """Remove the journals of a memory but that of its manifest; return them with their sizes.

        The caller holds the lock.
        """
        outdated = {
            path: path.stat().st_size
            for path in sorted((*folder.glob("journal*"), *folder.glob(".journal*")))
            if path != _journal_path(folder, manifest)
        }
        for path in outdated:
            remove_tree(path)
        return outdated

    def _folder(self, memory_id: str) -> Path:
        return self._root / folder_name(parse_id(memory_id))

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        """Hold the lock of a memory, between processes and between threads.

        Raises:
            Conflict: another process held it for too long.
            UnknownMemory: the memory was deleted, perhaps while this one waited.
        """
        path = folder / LOCK
        with ExitStack() as stack:
            try:
                with writing(path, unless=(FileNotFoundError, NotADirectoryError, TimeoutError)):
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
        """Return the ids of all memories, sorted."""
        return self._ids_of(list_folder(self._root))

    def _ids_of(self, folders: Iterable[Path]) -> tuple[str, ...]:
        ids = []
        for folder in folders:
            if not folder.name.startswith(".") and (folder / MANIFEST).is_file():
                # from the folder's name: a damaged memory is listed too, so it can be forgotten
                if memory_id := id_of_folder(folder.name):
                    ids.append(str(memory_id))
                else:  # a long id: the name of its folder is only a hash
                    with suppress(UnknownMemory, StoreDamaged):
                        ids.append(self._read_manifest(folder).id)
        return tuple(sorted(ids))

    def manifest(self, memory_id: str) -> Manifest | None:
        """Return the newest manifest of a memory; None if there is no such memory.

        Raises:
            StoreDamaged: it is not what was written, or it is of another memory.
        """
        folder = self._folder(memory_id)
        if not (folder / MANIFEST).is_file():
            return None
        self._sweep_once(folder)
        manifest = self._read_manifest(folder)
        if manifest.id != str(parse_id(memory_id)):
            raise StoreDamaged(f"{folder} says it is {manifest.id!r}, not {memory_id!r}.")
        return manifest

    def _read_manifest(self, folder: Path) -> Manifest:
        content = self._manifest_content(folder)
        while True:
            try:
                return self._decode_manifest(folder, content)
            except StoreDamaged:
                # its lists stand in the journal: the memory may have been made again in between
                read, content = content, self._manifest_content(folder)
                if content == read:
                    raise

    def _manifest_content(self, folder: Path) -> bytes:
        try:
            return (folder / MANIFEST).read_bytes()
        except FileNotFoundError as error:
            raise _forgotten(folder) from error

    def _decode_manifest(self, folder: Path, content: bytes) -> Manifest:
        path = folder / MANIFEST

        def read_list(manifest: Manifest, name: str) -> tuple[str, ...]:
            file = self._journal_in(folder, manifest)
            if not file.journal.has_list(name):
                file.refresh()
            return file.journal.learned(name)

        try:
            cipher = self._cipher_in(folder)
        except FileNotFoundError as error:
            raise _forgotten(folder) from error
        try:
            return Manifest.from_json(json.loads(cipher.decrypt(content, MANIFEST)), read_list)
        except FileNotFoundError as error:  # the key of its journal
            raise _forgotten(folder) from error
        except (ValueError, RecursionError) as error:
            raise StoreDamaged(f"{path} is damaged: {error}. Restore it from a backup.") from error
        except StoreDamaged as error:
            raise StoreDamaged(f"{path}: {error}") from error

    def _cipher_in(self, folder: Path) -> Cipher:
        """Return the cipher of the memory in a folder.

        Raises:
            InvalidSetting: the memory is not as this store's key would have it.
            FileNotFoundError: the memory was forgotten meanwhile.
        """
        if self._key is None:
            if (folder / KEY_FILE).exists():
                raise encrypted(str(folder))
            return PLAINTEXT
        try:
            return self._key.open_cipher((folder / KEY_FILE).read_bytes(), str(folder))
        except FileNotFoundError:
            content = (folder / MANIFEST).read_bytes()
        # without a key file: a plain memory has a manifest that can be read, and one that lost its
        # key file has not; the two need different advice
        try:
            Manifest.from_json(json.loads(content), lambda *_: ())
        except (ValueError, RecursionError, StoreDamaged):
            raise key_missing(str(folder)) from None
        raise not_encrypted(str(folder))

    def _cipher_of(self, memory_id: str) -> Cipher:
        try:
            return self._cipher_in(self._folder(memory_id))
        except FileNotFoundError as error:
            raise self._unknown(memory_id) from error

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
        """Return the text of a memory, as far as it is written by now."""
        folder, manifest = self._folder(memory_id), self._existing(memory_id)
        while True:
            file = self._journal_in(folder, manifest)
            journal = file.refresh()
            if file.path.exists():
                return journal
            read, manifest = manifest, self._existing(memory_id)
            if manifest.edits == read.edits:  # nothing was journalled yet
                return journal

    def _journal_in(self, folder: Path, manifest: Manifest) -> JournalFile:
        """Return the journal of the memory in a folder, as far as it was read before.

        Raises:
            FileNotFoundError: the memory was forgotten meanwhile.
        """
        made = (manifest.salt, manifest.created, manifest.edits)
        with self._journals_lock:
            cached = self._journals.get(folder.name)
            if cached is None or cached[0] != made:
                path = _journal_path(folder, manifest)
                file = JournalFile(path, manifest.first, self._cipher_in(folder))
                cached = self._journals.put(folder.name, (made, file))
            return cached[1]

    def folder(self, memory_id: str, revision: Revision) -> Path:
        """Return the folder of a revision, after checking that its files are what was committed.

        Raises:
            UnknownRevision: it was retired meanwhile.
            StoreDamaged: a file is missing, or is not what was written.
        """
        folder = self._folder(memory_id) / REVISIONS / revision.name
        try:
            stamps = file_stamps(folder, revision)
        except FileNotFoundError as error:
            if folder.exists():
                raise StoreDamaged(
                    f"{error.filename} of memory {memory_id!r} is missing."
                ) from error
            raise retired(memory_id, revision) from error
        if self._key is not None:
            with self._decrypting_lock:  # two threads must not replace one copy at a time
                return self._decrypted_folder(memory_id, revision, stamps)
        if self._checked.get(folder) != stamps:
            _check(folder, revision, folder, memory_id)
            self._checked.put(folder, stamps)
        return folder

    def _decrypted_folder(self, memory_id: str, revision: Revision, stamps: FileStamps) -> Path:
        """Return a plain copy of a revision whose encrypted files have these stamps."""
        folder = self._folder(memory_id)
        copy = self._decrypted.find(folder.name, revision.name)
        with suppress(FileNotFoundError):
            if self._checked.get(copy) == stamps + file_stamps(copy, revision):
                self._decrypted.touch(copy)
                return copy
        origin = _FolderLocation(folder / REVISIONS / revision.name, self._cipher_of(memory_id))

        def fill(fresh: Path) -> None:
            _write_revision(revision, origin, _FolderLocation(fresh, PLAINTEXT), memory_id)
            _check(fresh, revision, origin.folder, memory_id)

        copy_stamps: FileStamps | None = None
        try:
            self._decrypted.make(copy, fill)
            with suppress(FileNotFoundError):
                copy_stamps = file_stamps(copy, revision)
        except StoreWriteFailed:
            if origin.folder.is_dir():
                raise
        # a retirement or delete in between has dropped the copies it saw, perhaps not this one
        if copy_stamps is None or not origin.folder.is_dir():
            self._decrypted.drop(folder.name)
            raise retired(memory_id, revision)
        self._checked.put(copy, stamps + copy_stamps)
        return copy

    def size(self, memory_id: str) -> int:
        """Return the bytes of all files of a memory."""
        self._existing(memory_id)
        return sum(files_below(self._folder(memory_id)).values())

    def last_used(self, memory_id: str) -> float:
        """Return the time of the last change, in seconds since 1970."""
        manifest = self._existing(memory_id)
        folder = self._folder(memory_id)
        times = [0.0]
        for path in (folder / MANIFEST, _journal_path(folder, manifest)):
            with suppress(FileNotFoundError):
                times.append(path.stat().st_mtime)
        return max(times)

    # --- journal -------------------------------------------------------------------------------

    def record(
        self, memory_id: str, dialogue: Sequence[Message], *, after: str | None = None
    ) -> str:
        """Journal a dialogue durably, and return the digest it ends in; see `Store.record`."""
        with self._writing_journal(memory_id) as file:
            records, end = dialogue_records(file.journal, dialogue, after, memory_id)
            file.append(records)
        return end

    def record_documents(
        self, memory_id: str, documents: Sequence[Document], *, after: str | None = None
    ) -> tuple[str, ...]:
        """Journal documents durably, and return their digests; see `Store.record_documents`."""
        with self._writing_journal(memory_id) as file:
            records, digests = document_records(file.journal, documents, after)
            file.append(records)
        return digests

    def withdraw_documents(self, memory_id: str, digests: Sequence[str]) -> None:
        """Note that documents are not to be learned again."""
        with self._writing_journal(memory_id) as file:
            file.append(withdraw_records(file.journal, digests))

    def pin(self, memory_id: str, digests: Sequence[str], *, pinned: bool) -> None:
        """Note durably that texts are pinned, or are not any more."""
        with self._writing_journal(memory_id) as file:
            file.append(pin_records(file.journal, digests, pinned=pinned))

    @contextmanager
    def _writing_journal(self, memory_id: str) -> Iterator[JournalFile]:
        self._existing(memory_id)
        with self._locked(self._folder(memory_id)):
            # again under the lock: the memory may have been made again while this one waited
            file = self._journal_in(self._folder(memory_id), self._existing(memory_id))
            file.refresh()
            yield file

    # --- making and committing -----------------------------------------------------------------

    def create(
        self, manifest: Manifest, *, source: str | None = None, journal: bool = False
    ) -> None:
        """Make a memory from its first manifest; see `Store.create`.

        Raises:
            Conflict: it exists already.
            UnknownMemory: there is no memory `source`.
            UnknownRevision: a revision of `source` was retired meanwhile.
        """
        folder = self._folder(manifest.id)
        self._refuse_existing(manifest.id, folder)
        # filled beside and renamed when it is complete: a killed process leaves no half memory
        fresh = self._root / f"{INCOMING}{secrets.token_hex(8)}"
        with temporary(fresh):
            make_folder(fresh)
            make_folder(fresh / REVISIONS)
            target = self._new_location(fresh)
            if source is not None:
                with self._locked(self._folder(source)):
                    origin = _FolderLocation(self._folder(source), self._cipher_of(source))
                    for revision in manifest.revisions:
                        _copy_revision(revision, origin, target, source)
                    if journal:
                        copy_journal(
                            _journal_path(origin.folder, self._read_manifest(origin.folder)),
                            origin.cipher,
                            _journal_path(fresh, manifest),
                            target.cipher,
                        )
            _write_manifest(target, manifest)
            self._move_in(fresh, folder, manifest.id)

    def _new_location(self, folder: Path) -> _FolderLocation:
        """Return the location of a new memory, with a key of its own if the store has one."""
        if self._key is None:
            return _FolderLocation(folder, PLAINTEXT)
        cipher, content = self._key.make_cipher()
        replace_file(folder / KEY_FILE, content)
        return _FolderLocation(folder, cipher)

    def _refuse_existing(self, memory_id: str, folder: Path) -> None:
        if (folder / MANIFEST).exists():
            raise exists(memory_id)

    def _move_in(self, fresh: Path, folder: Path, memory_id: str) -> None:
        with writing(folder):
            try:
                fresh.rename(folder)  # fails if another writer was faster: the folder is not empty
            except OSError as error:
                self._refuse_existing(memory_id, folder)
                raise error from None
            sync_folder(self._root)

    @contextmanager
    def stage(self, memory_id: str) -> Iterator[Path]:
        """Give an empty folder for a new revision; gone afterwards unless it was committed."""
        self._existing(memory_id)
        if self._key is not None:
            with self._decrypted.work() as folder:
                yield folder
            return
        folder = self._folder(memory_id) / f"{STAGING}{secrets.token_hex(8)}"
        with temporary(folder):
            make_folder(folder, parents=False)  # a memory forgotten meanwhile stays away
            yield folder

    def commit(
        self, manifest: Manifest, revision: Revision, staged: Path, *, keep: int
    ) -> Manifest:
        """Move a staged folder into place as the new head, and return the new manifest.

        Raises:
            Conflict: the stored epoch is not `manifest.epoch` any more.
            StoreError: a revision that is stored has this name.
        """
        # checksums and fsync of large files, before the lock: others need not wait for them
        revision = replace(revision, files=file_records(staged))
        new_manifest = manifest.with_revision(revision, keep)
        folder = self._folder(manifest.id)
        with self._locked(folder):
            if self._check_epoch(manifest, manifest.epoch).find(revision.name) is not None:
                raise StoreError(f"Memory {manifest.id!r} has revision {revision.name} already.")
            self._move_revision_in(folder, revision, staged)
            self._swap(folder, new_manifest)
        return new_manifest

    def _move_revision_in(self, folder: Path, revision: Revision, staged: Path) -> None:
        """Move a staged folder to where a manifest may name it; the caller holds the lock."""
        target = folder / REVISIONS / revision.name
        remove_tree(target)  # an orphan of a killed commit
        source = staged if self._key is None else self._encrypt(folder, revision, staged)
        with writing(target):
            source.rename(target)
            # durable before the manifest that names it is: else a power failure could leave
            # a manifest without its revision
            sync_folder(target.parent)

    def _encrypt(self, folder: Path, revision: Revision, staged: Path) -> Path:
        """Return an encrypted copy of a staged folder, in the folder of its memory."""
        cipher, fresh = self._cipher_in(folder), folder / f"{STAGING}{secrets.token_hex(8)}"
        try:
            make_folder(fresh)
            origin, target = _FolderLocation(staged, PLAINTEXT), _FolderLocation(fresh, cipher)
            _write_revision(revision, origin, target, folder.name)
            with writing(fresh):
                sync_folder(fresh)
        except BaseException:
            remove_tree(fresh)
            raise
        return fresh

    def replace(self, manifest: Manifest, *, epoch: int) -> None:
        """Swap the manifest and remove revisions it no longer names.

        Raises:
            Conflict: the stored epoch is not `epoch` any more.
        """
        folder = self._folder(manifest.id)
        with self._locked(folder):
            self._check_epoch(manifest, epoch)
            self._swap(folder, manifest)

    def amend(
        self,
        manifest: Manifest,
        *,
        epoch: int,
        edits: Mapping[str, str | None],
        staged: Mapping[str, Path],
    ) -> tuple[Manifest, tuple[RemovedFile, ...]]:
        """Replace manifest and journal at once; see `Store.amend`."""
        manifest = with_staged_files(manifest, staged)
        folder = self._folder(manifest.id)
        with self._locked(folder):
            before = self._journal_in(folder, self._check_epoch(manifest, epoch))
            cipher, path = self._cipher_in(folder), _journal_path(folder, manifest)
            lines = [encode_line(record) for record in amend(before.refresh(), edits).records]
            try:
                replace_file(path, encrypt_lines(cipher, lines, 0))
                for revision in manifest.revisions:
                    if revision.name in staged:
                        self._move_revision_in(folder, revision, staged[revision.name])
                removed = self._swap(folder, manifest) | {
                    f"{folder.name}/{path.name}": size
                    for path, size in self._remove_journals(folder, manifest).items()
                }
                with writing(folder):
                    sync_folder(folder)
            except BaseException:
                with suppress(StoreError):  # what it cannot remove either, the next process does
                    self._sweep_locked(folder)
                raise
        return manifest, tuple(RemovedFile(path=p, bytes=size) for p, size in removed.items())

    def _swap(self, folder: Path, manifest: Manifest) -> dict[str, int]:
        """Write the new manifest, then remove the revisions it no longer names.

        The caller holds the lock and has compared the epoch. Killed between the two, the revisions
        are orphans that the next `open` removes. Returns the files that were removed, with their
        sizes.
        """
        location = _FolderLocation(folder, self._cipher_of(manifest.id))
        _write_manifest(location, manifest, self._journal_in(folder, manifest))
        names = {revision.name for revision in manifest.revisions}
        removed: dict[str, int] = {}
        for outdated in list_folder(folder / REVISIONS):
            if outdated.name not in names:
                sizes = files_below(outdated)
                removed |= {
                    f"{folder.name}/{path.relative_to(folder)}": size
                    for path, size in sizes.items()
                }
                remove_tree(outdated)
        if self._key is not None:
            removed |= self._decrypted.drop(folder.name, keep=names)
        return removed

    def _check_epoch(self, manifest: Manifest, epoch: int) -> Manifest:
        """Return the stored manifest, which must be of this memory and at this epoch."""
        stored = self._existing(manifest.id)
        check_epoch(stored, manifest, epoch)
        return stored

    # --- removing and moving -------------------------------------------------------------------

    def delete(self, memory_id: str) -> tuple[RemovedFile, ...]:
        """Remove every file of a memory, damaged or not, and return what was removed.

        Raises:
            UnknownMemory: there is no such memory.
        """
        folder = self._folder(memory_id)
        self._check_present(memory_id, folder)
        removed = self._root / f"{FORGOTTEN}{secrets.token_hex(8)}"
        with self._locked(folder):
            self._check_present(memory_id, folder)
            with writing(folder):
                folder.rename(removed)
                sync_folder(self._root)
            sizes = {
                str(folder.name / path.relative_to(removed)): size
                for path, size in files_below(removed).items()
            }
            with writing(removed):
                if (removed / KEY_FILE).exists():
                    # first: from here on nothing of the rest can be read
                    remove_tree(removed / KEY_FILE)
                    sync_folder(removed)
                remove_tree(removed)
                sync_folder(self._root)  # so that no power failure brings it back
        if self._key is not None:
            sizes |= self._decrypted.drop(folder.name)
        self._journals.drop(lambda name: name == folder.name)
        self._checked.drop(lambda path: folder in path.parents)
        return tuple(RemovedFile(path=path, bytes=size) for path, size in sizes.items())

    def _check_present(self, memory_id: str, folder: Path) -> None:
        """Raise `UnknownMemory` like `_existing`, for a memory that may be damaged."""
        if not (folder / MANIFEST).is_file():
            raise self._unknown(memory_id)

    def export(self, memory_id: str, target: Path) -> None:
        """Write a memory as one file, never encrypted; see `archive`."""
        self._existing(memory_id)
        folder = self._folder(memory_id)
        with self._locked(folder):
            manifest = self._existing(memory_id)
            folders = [self.folder(memory_id, revision) for revision in manifest.revisions]
            journal = _journal_path(folder, manifest)
            if self._key is None:
                archive.write(folder, manifest, Path(target), journal)
                return
            with self._decrypted.work() as fresh:
                plain_journal = fresh / journal.name
                copy_journal(journal, self._cipher_in(folder), plain_journal, PLAINTEXT)
                for copy, revision in zip(folders, manifest.revisions, strict=True):
                    revision_folder = fresh / REVISIONS / revision.name
                    make_folder(revision_folder)
                    _write_revision(
                        revision,
                        _FolderLocation(copy, PLAINTEXT),
                        _FolderLocation(revision_folder, PLAINTEXT),
                        memory_id,
                    )
                archive.write(fresh, manifest, Path(target), plain_journal)

    def import_(self, source: Path, memory_id: str | None) -> Manifest:
        """Make a memory from an exported file, under its own id if `memory_id` is None.

        Raises:
            StoreDamaged: not such a file, or damaged.
            Conflict: the id exists already.
        """
        fresh = self._root / f"{INCOMING}{secrets.token_hex(8)}"
        with temporary(fresh):
            make_folder(fresh)
            make_folder(fresh / REVISIONS)
            if self._key is None:
                manifest = self._unpack(source, memory_id, fresh)
            else:
                with self._decrypted.work() as plain:
                    manifest = self._unpack(source, memory_id, plain)
                    origin, target = _FolderLocation(plain, PLAINTEXT), self._new_location(fresh)
                    for revision in manifest.revisions:
                        _copy_revision(revision, origin, target, manifest.id)
                    copy_journal(
                        _journal_path(plain, manifest),
                        PLAINTEXT,
                        _journal_path(fresh, manifest),
                        target.cipher,
                    )
                    _write_manifest(target, manifest)
            self._move_in(fresh, self._folder(manifest.id), manifest.id)
        return manifest

    def _unpack(self, source: Path, memory_id: str | None, fresh: Path) -> Manifest:
        """Unpack a checked archive as the folder of a memory, not encrypted."""
        manifest = archive.read(Path(source), fresh)
        name = str(parse_id(manifest.id if memory_id is None else memory_id))
        self._refuse_existing(name, self._folder(name))
        manifest = replace(manifest, id=name)
        # checks every line
        JournalFile(_journal_path(fresh, manifest), manifest.first, PLAINTEXT).refresh()
        _write_manifest(_FolderLocation(fresh, PLAINTEXT), manifest)
        return manifest


def _forgotten(folder: Path) -> UnknownMemory:
    return UnknownMemory(f"The memory in {folder} was forgotten meanwhile.")


def _mark_expiring(folder: Path, manifest: Manifest) -> None:
    if manifest.ttl is not None and not (folder / EXPIRES).exists():
        replace_file(folder / EXPIRES, b"")


def _write_manifest(
    location: _FolderLocation, manifest: Manifest, file: JournalFile | None = None
) -> None:
    """Write a manifest, and before it to its journal the document lists that it names.

    `file` is the journal, None: it is read here. The folder is new, or the caller holds its lock.
    """
    _mark_expiring(location.folder, manifest)
    path = _journal_path(location.folder, manifest)
    file = file or JournalFile(path, manifest.first, location.cipher)
    file.append(learned_records(file.refresh(), manifest.revisions))
    body = manifest.as_json(file.journal.list_name)
    content = json.dumps(body, ensure_ascii=False, indent=1).encode()
    replace_file(location.folder / MANIFEST, location.cipher.encrypt(content, MANIFEST))


def _check(folder: Path, revision: Revision, origin: Path, memory_id: str) -> None:
    """Raise StoreDamaged if `folder` is not what was committed; errors name the folder `origin`."""
    if (path := corrupted_file(folder, revision)) is not None:
        raise corrupted(origin / path, "size or checksum differ", memory_id)


def _copy_revision(
    revision: Revision, origin: _FolderLocation, target: _FolderLocation, memory_id: str
) -> None:
    """Copy a revision from the folder of the memory `memory_id` into that of another."""
    origin_folder = origin.folder / REVISIONS / revision.name
    if not origin_folder.is_dir():
        raise UnknownRevision(
            f"Revision {revision.name[:12]} of {memory_id!r} was retired meanwhile."
        )
    target_folder = target.folder / REVISIONS / revision.name
    make_folder(target_folder)
    _write_revision(
        revision,
        _FolderLocation(origin_folder, origin.cipher),
        _FolderLocation(target_folder, target.cipher),
        memory_id,
    )
    with writing(target_folder):
        sync_folder(target_folder)


def _write_revision(
    revision: Revision, origin: _FolderLocation, target: _FolderLocation, memory_id: str
) -> None:
    """Write the files of a revision of the memory `memory_id` into an empty folder."""
    for record in revision.files:
        path, associated_data = origin.folder / record.path, f"{revision.name}/{record.path}"
        chunks = origin.cipher.decrypt_file(path, associated_data)
        try:
            write_file(
                target.folder / record.path, target.cipher.encrypt_chunks(chunks, associated_data)
            )
        except ValueError as error:
            raise corrupted(path, str(error), memory_id) from error


def _journal_path(folder: Path, manifest: Manifest) -> Path:
    """Return the journal of a memory in a folder."""
    return folder / (f"journal-{manifest.edits}.jsonl" if manifest.edits else "journal.jsonl")
