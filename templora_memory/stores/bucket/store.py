"""The object store: memories in a bucket, for several machines that share nothing else.

::

    s3://<bucket>/<prefix>/<encoded id>.json                    see `manifest_object`;
                                                                swapped by comparison
    s3://<bucket>/<prefix>/<encoded id>/<place>/journal/...     text, see `journal`
    s3://<bucket>/<prefix>/<encoded id>/<place>/revisions/<commit>/...

Every write that decides something is conditional (``If-Match``, ``If-None-Match``), so there are
no locks, and a writer that was declared dead and wakes up finds its condition unmet. A location
(``<place>``) has a random name and is never used again: nothing that belongs to a forgotten memory
can be taken for a part of one made later under its id.

A delete writes a tombstone in place of the manifest, then clears the location, then removes the
tombstone. While it stands, the memory is gone for every reader, no writer can change or revive it,
and whoever deletes again, or opens the store an hour later, knows what is left to clear.

Removing texts moves the memory to a new location, which has a journal without them and, with a
key, a key of its own: the swap of the manifest replaces both at once, then the old location is
cleared. Before its journal is read for that, a line seals it (`journal.sealed_line`). A writer that
finds the seal for longer than a second raises the epoch, so that the move fails, and goes on: no
line gets lost between reading the old journal and the swap.

With a key there is one more object at each location, see `location`, and text, manifests and
revisions are encrypted, in the bucket and in the cache. Backends then read plain copies, see
`decrypted_cache`.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from templora_memory.domain.amendment import amend
from templora_memory.domain.ids import folder_name, id_of_folder, parse_id
from templora_memory.domain.journal import Journal, decode_line, encode_line, sealed_line
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
from templora_memory.fs.files import make_folder, replace_file
from templora_memory.fs.staging import file_records, with_staged_files
from templora_memory.ports import retry_on_conflict
from templora_memory.stores import archive
from templora_memory.stores.bucket import manifest_object
from templora_memory.stores.bucket.journal import SegmentedJournal
from templora_memory.stores.bucket.local_cache import LocalCache
from templora_memory.stores.bucket.location import Location, Locations
from templora_memory.stores.bucket.s3 import Bucket, ObjectEntry, PreconditionFailed
from templora_memory.stores.bucket.transfer import BucketTransfer
from templora_memory.stores.conflicts import changed, check_epoch, exists
from templora_memory.stores.decrypted_cache import DecryptedCache
from templora_memory.stores.encryption_key import KEY_FILE, Key
from templora_memory.stores.integrity import corrupted, corrupted_file, retired
from templora_memory.stores.journal_records import (
    MAX_OPEN_JOURNALS,
    JournalRecord,
    dialogue_records,
    document_records,
    learned_records,
    pin_records,
    withdraw_records,
)

JSON = ".json"
ORPHAN_SECONDS = 3600.0
"""Age at which what no manifest names belongs to a process that was killed."""
SEAL_SECONDS = 1.0
"""How long a writer waits for one that is about to move a memory."""
_TRIES = 60
_PAUSE_SECONDS = 0.01
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredManifest:
    """A manifest as it lies in the bucket.

    Args:
        manifest: what is stored.
        location: the folder of everything else.
        commits: the folder of each revision, by the revision's name.
        etag: its version, which a swap compares.
    """

    manifest: Manifest
    location: Location
    commits: Mapping[str, str]
    etag: str

    @property
    def name(self) -> str:
        """The encoded id."""
        return folder_name(parse_id(self.manifest.id))

    def is_same_memory(self, other: _StoredManifest) -> bool:
        """Return False if one of the two was made again under the same id."""
        return self.location.path == other.location.path

    def revision_location(self, revision: str) -> Location:
        """Return the folder of a revision of this name."""
        return _revision_location(self.location, self.commits[revision])


class ObjectStore:
    """Memories in a bucket of S3's kind; see the module for the layout, `Store` for promises.

    Needs the extra ``objects`` (boto3) and a service that honours ``If-Match`` and
    ``If-None-Match`` when an object is written: AWS S3, Cloudflare R2, MinIO, Ceph and others do.
    Any number of machines may use one place. Of two writers the slower one gets `Conflict` and
    has changed nothing; text is appended by all of them and never lost.

    What differs from a folder on a disk:

    - Adapters and full parts of journals are copied into `cache`, because backends read folders.
      A copy is checked against the manifest's SHA-256 before it is used, and fetched again if it
      is not what it should be. `delete` clears the copies of this machine; another machine clears
      its own when it next opens the store or lists it (`ids`).
    - A process that is killed may leave objects that no manifest names. Those of a revision go
      with the first commit an hour later, all others when the store is opened an hour later, and
      everything with `delete`. A writer killed in the very moment in which another one forgets
      the memory may leave its last lines until then.

    Args:
        url: ``s3://bucket/prefix``.
        cache: folder of this machine for copies and work under way. Processes may share it.
        endpoint: address of the service, where it is not AWS; None: as ``AWS_ENDPOINT_URL`` says.
        client: a boto3 client for S3 to use instead of one of its own.
        key: encrypts everything below the prefix and in `cache` but the names of memories (extra
            ``encryption``). All memories there have it or none has: one that is not as it should
            be is refused with `InvalidSetting`, when it is used, and by `open`, which tries one of
            the encrypted ones. Exported files are never encrypted, and the folders that `stage`
            and `folder` give lie in the memory of this machine, as for `DirectoryStore`. `delete`
            removes the key of a memory first, with all versions that the bucket keeps of it. None:
            nothing is encrypted.
    """

    def __init__(
        self,
        url: str,
        *,
        cache: str | os.PathLike[str],
        endpoint: str | None = None,
        client: Any = None,
        key: Key | None = None,
    ) -> None:
        self._bucket = Bucket(url, endpoint=endpoint, client=client)
        self._key = key
        decrypted = None if key is None else DecryptedCache(self._bucket.url)
        self._cache = LocalCache(Path(cache), decrypted)
        self._locations = Locations(self._bucket, key)
        self._transfer = BucketTransfer(self._bucket, self._cache.work)
        self._journals: LruCache[str, SegmentedJournal] = LruCache(MAX_OPEN_JOURNALS)
        self._journals_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"ObjectStore({self._bucket.url!r})"

    # --- the bucket ----------------------------------------------------------------------------

    def open(self) -> None:
        """Make the cache, and clear what killed processes left behind long enough ago.

        Raises:
            InvalidSetting: the memories are not as `key` would have them. Nothing was changed.
        """
        self._cache.open()
        self._bucket.open()
        # before looking at the bucket: copies of what is made meanwhile stay
        cached_memories, cached_locations = self._cache.memories(), self._cache.locations()
        manifests, locations = self._list_all()
        self._refuse_wrong_key(manifests, locations)
        self._cache.clear()
        names = self._sweep(manifests, locations)
        self._drop_unlisted(cached_memories, names)
        self._drop_unlisted(cached_locations, locations)

    def _list_all(self) -> tuple[dict[str, ObjectEntry], dict[str, list[ObjectEntry]]]:
        """Return manifests by their names, and the objects at each location."""
        manifests: dict[str, ObjectEntry] = {}
        locations: dict[str, list[ObjectEntry]] = {}
        for entry in self._bucket.list(""):
            folder, _, rest = entry.key.partition("/")
            if folder.startswith("."):  # of others: the names of memories never begin so
                continue
            if not rest:
                manifests[folder.removesuffix(JSON)] = entry
            elif manifest_object.LOCATION_TOKEN.fullmatch(token := rest.partition("/")[0]):
                locations.setdefault(f"{folder}/{token}", []).append(entry)
        return manifests, locations

    def _refuse_wrong_key(
        self, manifests: Mapping[str, ObjectEntry], locations: Mapping[str, list[ObjectEntry]]
    ) -> None:
        """Refuse a bucket that is not as the key would have it, before anything is changed.

        A listing shows which memories have a key of their own; that the store's key decrypts them
        is tried with one, however many there are.
        """
        encrypted_names = {
            location.partition("/")[0]
            for location, entries in locations.items()
            if any(entry.key == f"{location}/{KEY_FILE}" for entry in entries)
        }
        names = [
            name
            for name, entry in manifests.items()
            if entry.key == name + JSON and not _is_tombstone(entry)
        ]
        needs_key = self._key is not None
        wrong = [name for name in names if (name in encrypted_names) != needs_key]
        sample = [name for name in names if name in encrypted_names and needs_key][:1]
        for name in (*wrong, *sample):
            with suppress(
                StoreDamaged
            ):  # not a matter of keys: who uses that memory gets the error
                self._load_named(name)

    def _sweep(
        self, manifests: Mapping[str, ObjectEntry], locations: Mapping[str, list[ObjectEntry]]
    ) -> set[str]:
        """Finish what was interrupted, and return under which names there are manifests."""
        for name, entry in manifests.items():
            if _is_tombstone(entry) and entry.age > ORPHAN_SECONDS:
                self._finish_delete(name)
        for location, entries in locations.items():
            if min(entry.age for entry in entries) > ORPHAN_SECONDS:
                self._sweep_location(location, entries, manifests)
        return {name for name, entry in manifests.items() if not _is_tombstone(entry)}

    def _drop_unlisted(self, cached: Collection[str], listed: Collection[str]) -> None:
        """Remove copies of memories or locations that are no more."""
        for name in cached:
            if name not in listed:
                self._cache.drop(name)

    def _sweep_location(
        self, location: str, entries: Sequence[ObjectEntry], manifests: Mapping[str, ObjectEntry]
    ) -> None:
        """Remove a location that no manifest names, unless it is being made."""
        name = location.partition("/")[0]
        if name not in manifests:
            # a writer that still wants to make a memory of it loses against this tombstone
            with suppress(PreconditionFailed):
                tombstone = manifest_object.encode_tombstone(location)
                self._bucket.put(name + JSON, tombstone, replacing=None)
                self._finish_delete(name)
        elif not self._is_named(name, location):
            self._locations.remove(entry.key for entry in entries)

    def _is_named(self, name: str, location: str) -> bool:
        """Return True if a manifest names this location, or if that cannot be told."""
        stored = self._bucket.get(name + JSON)
        token = location.rpartition("/")[2].encode()
        return (
            stored is None
            or token in stored.body
            or manifest_object.decode(name, stored.body) is None
        )

    def _finish_delete(self, name: str) -> None:
        """Clear what the tombstone of an interrupted delete names, then remove the tombstone."""
        stored = self._bucket.get(name + JSON)
        location = None if stored is None else manifest_object.decode_tombstone(name, stored.body)
        if stored is not None and location is not None:
            self._locations.clear(location)
            self._bucket.remove_version(name + JSON, stored.etag)

    # --- reading -------------------------------------------------------------------------------

    def ids(self) -> tuple[str, ...]:
        """Return the ids of all memories, sorted; drops copies of those that are no more."""
        cached = self._cache.memories()  # before looking: what is made meanwhile stays
        ids, names = [], set()
        for entry in self._bucket.list("", below=False):
            name = entry.key.removesuffix(JSON)
            if entry.key == name or _is_tombstone(entry):
                continue  # not ours, or being forgotten
            if memory_id := id_of_folder(name):
                ids.append(str(memory_id))
            elif stored := self._load_named(name):  # a long id: its name is only a hash
                ids.append(stored.manifest.id)
            names.add(name)
        self._drop_unlisted(cached, names)
        return tuple(sorted(ids))

    def expiring(self) -> tuple[str, ...]:
        """Return the ids of memories that have a ttl; reads every manifest."""
        found = []
        for memory_id in self.ids():
            with suppress(StoreDamaged):
                if (manifest := self.manifest(memory_id)) is not None and manifest.ttl is not None:
                    found.append(memory_id)
        return tuple(found)

    def manifest(self, memory_id: str) -> Manifest | None:
        """Return the newest manifest of a memory; None if there is no such memory.

        Raises:
            StoreDamaged: it is not what was written, or it is of another memory.
        """
        stored = self._load(memory_id)
        return None if stored is None else stored.manifest

    def _load(self, memory_id: str) -> _StoredManifest | None:
        parsed = parse_id(memory_id)
        stored = self._load_named(folder_name(parsed))
        if stored is not None and stored.manifest.id != str(parsed):
            raise StoreDamaged(
                f"{folder_name(parsed)}{JSON} in {self._bucket.url} says it is "
                f"{stored.manifest.id!r}, not {str(parsed)!r}."
            )
        return stored

    def _load_named(self, name: str) -> _StoredManifest | None:
        key = name + JSON
        stored = self._bucket.get(key)
        if stored is None or manifest_object.decode_tombstone(name, stored.body) is not None:
            return None
        envelope = manifest_object.decode(name, stored.body)
        if envelope is None:
            raise StoreDamaged(f"{key} in {self._bucket.url} is damaged. Restore it from a backup.")
        try:
            location = self._locations.find(envelope.location, is_encrypted=envelope.is_encrypted)
            manifest = self._open_envelope(key, envelope, location)
        except (StoreDamaged, UnknownMemory):
            again = self._bucket.get(key)
            if again is not None and again.etag == stored.etag:
                raise
            return self._load_named(name)  # it was changed or forgotten between the two
        return _StoredManifest(
            manifest=manifest, location=location, commits=envelope.commits, etag=stored.etag
        )

    def _open_envelope(
        self, key: str, envelope: manifest_object.Envelope, location: Location
    ) -> Manifest:
        def read_list(manifest: Manifest, name: str) -> tuple[str, ...]:
            journal = self._open_journal(location, manifest)
            with journal.lock:
                if not journal.journal.has_list(name):
                    journal.refresh()
                return journal.journal.learned(name)

        try:
            return envelope.open(location.cipher, read_list)
        except ValueError as error:
            raise StoreDamaged(
                f"{key} in {self._bucket.url} is damaged: {error}. Restore it from a backup."
            ) from error
        except StoreDamaged as error:
            raise StoreDamaged(f"{key} in {self._bucket.url}: {error}") from error

    def _existing(self, memory_id: str) -> _StoredManifest:
        stored = self._load(memory_id)
        if stored is None:
            raise self._unknown(memory_id)
        return stored

    def _unknown(self, memory_id: str) -> UnknownMemory:
        return UnknownMemory(
            f"There is no memory {memory_id!r} in {self._bucket.url}: absorb something into it "
            "first, or check the id."
        )

    def journal(self, memory_id: str) -> Journal:
        """Return the text of a memory, as far as it is written by now."""
        stored = self._existing(memory_id)
        while True:
            try:
                return self._open_journal(stored.location, stored.manifest).refresh()
            except UnknownMemory:
                read, stored = stored, self._existing(memory_id)
                if stored.is_same_memory(read):  # else it was moved between the two
                    raise

    def _open_journal(self, location: Location, manifest: Manifest) -> SegmentedJournal:
        memory_id = manifest.id
        with self._journals_lock:
            cached = self._journals.get(memory_id)
            path, cipher = location
            if cached is None or cached.location != path:  # made again after a forget
                journal = SegmentedJournal(
                    self._bucket,
                    path,
                    self._cache.location_folder(path),
                    manifest.first,
                    cipher,
                )
                cached = self._journals.put(memory_id, journal)
            return cached

    def folder(self, memory_id: str, revision: Revision) -> Path:
        """Return a folder with the files of a revision, checked, fetched if they are not here.

        Raises:
            UnknownRevision: it was retired meanwhile.
            StoreDamaged: a file is missing in the bucket, or is not what was written.
        """
        stored = self._existing(memory_id)
        if stored.manifest.find(revision.name) != revision:
            raise retired(memory_id, revision)
        return self._cached_folder(stored, revision)

    def _cached_folder(self, stored: _StoredManifest, revision: Revision) -> Path:
        path, commit = stored.location.path, stored.commits[revision.name]
        with self._cache.exclusive(path, commit):
            if (copy := self._cache.find(path, commit, revision)) is not None:
                return copy
            try:
                copy = self._cache.make(
                    path, commit, lambda fresh: self._fetch(stored, revision, fresh)
                )
            except StoreWriteFailed:
                if self._key is not None:  # a forget takes copies away, also half made ones
                    self._drop_outdated(stored, revision)
                raise
        self._drop_outdated(stored, revision)
        return copy

    def _drop_outdated(self, stored: _StoredManifest, revision: Revision) -> None:
        """Remove copies of what is no more, after one of this revision was made.

        With a key the manifest is read again: a forget of another process may have dropped the
        plain copies that it saw, and not the one that was made in that moment.

        Raises:
            UnknownRevision: the revision is no more, either; without a key nobody looks.
        """
        if self._key is None:
            self._cache.retain(stored.location.path, stored.commits.values())
            return
        now = self._load(stored.manifest.id)
        if now is None:
            self._cache.drop(stored.name)
        else:
            self._cache.retain(now.location.path, now.commits.values())
        if now is None or stored.commits[revision.name] not in now.commits.values():
            raise retired(stored.manifest.id, revision)

    def _fetch(self, stored: _StoredManifest, revision: Revision, fresh: Path) -> None:
        """Fill a folder with the plain files of a revision."""
        origin, memory_id = stored.revision_location(revision.name), stored.manifest.id
        if (key := self._transfer.download(origin, revision, fresh, memory_id)) is not None:
            now = self._existing(memory_id)
            if now.commits.get(revision.name) != stored.commits[revision.name]:
                raise retired(memory_id, revision)
            raise StoreDamaged(f"{key} in {self._bucket.url} is missing.")
        if corrupted_file(fresh, revision) is not None:
            url = f"{origin.path} in {self._bucket.url}"
            raise corrupted(url, "size or checksum differ", memory_id)

    def size(self, memory_id: str) -> int:
        """Return the bytes of all objects of a memory."""
        return sum(entry.size for entry in self._objects(memory_id))

    def last_used(self, memory_id: str) -> float:
        """Return the time of the last change, in seconds since 1970."""
        return max(entry.modified for entry in self._objects(memory_id))

    def _objects(self, memory_id: str) -> list[ObjectEntry]:
        stored = self._existing(memory_id)
        key = stored.name + JSON
        manifests = [entry for entry in self._bucket.list(key) if entry.key == key]
        if not manifests:
            raise self._unknown(memory_id)
        return [*manifests, *self._bucket.list(f"{stored.location.path}/")]

    # --- journal -------------------------------------------------------------------------------

    def record(
        self, memory_id: str, dialogue: Sequence[Message], *, after: str | None = None
    ) -> str:
        """Journal a dialogue durably, and return the digest it ends in; see `Store.record`."""
        return self._append(
            memory_id, lambda journal: dialogue_records(journal, dialogue, after, memory_id)
        )

    def record_documents(
        self, memory_id: str, documents: Sequence[Document], *, after: str | None = None
    ) -> tuple[str, ...]:
        """Journal documents durably, and return their digests; see `Store.record_documents`."""
        return self._append(memory_id, lambda journal: document_records(journal, documents, after))

    def withdraw_documents(self, memory_id: str, digests: Sequence[str]) -> None:
        """Note that documents are not to be learned again."""
        self._append(memory_id, lambda journal: (withdraw_records(journal, digests), None))

    def pin(self, memory_id: str, digests: Sequence[str], *, pinned: bool) -> None:
        """Note durably that texts are pinned, or are not any more."""
        self._append(memory_id, lambda index: (pin_records(index, digests, pinned=pinned), None))

    def _append(
        self, memory_id: str, missing: Callable[[Journal], tuple[list[JournalRecord], T]]
    ) -> T:
        """Append the `missing` records of a journal, read anew as long as others are faster.

        Raises:
            Conflict: others were faster every time.
        """
        patience = time.monotonic() + SEAL_SECONDS

        def attempt() -> T:
            stored = self._existing(memory_id)
            journal = self._open_journal(stored.location, stored.manifest)
            try:
                result, key = _append_once(journal, missing, memory_id, stored.manifest.epoch)
            except _SealedError:
                if time.monotonic() > patience:  # who sealed it may have been killed
                    self._take_over(stored.manifest, journal.journal.sealed or 0)
                raise
            except UnknownMemory:  # cleared while it was read
                raise _moved(stored.manifest, self._load(memory_id)) from None
            if key is not None:
                self._confirm(stored, key)
            return result

        return retry_on_conflict(attempt, tries=_TRIES, pause=_PAUSE_SECONDS)

    def _take_over(self, manifest: Manifest, sealed: int) -> None:
        """Raise the epoch over that of a seal, so that a writer that is about to move it fails.

        Raises:
            Conflict: it has moved, or was changed meanwhile.
        """
        epoch = max(manifest.epoch, sealed) + 1
        self.replace(replace(manifest, epoch=epoch), epoch=manifest.epoch)

    def _append_lists(self, location: Location, manifest: Manifest) -> SegmentedJournal:
        """Append to the journal the document lists that a manifest is about to name.

        Raises:
            Conflict: others were faster every time.
        """
        journal = self._open_journal(location, manifest)

        def attempt() -> SegmentedJournal:
            _append_once(
                journal,
                lambda index: (learned_records(index, manifest.revisions), None),
                manifest.id,
            )
            return journal

        return retry_on_conflict(attempt, tries=_TRIES, pause=_PAUSE_SECONDS)

    def _confirm(self, stored: _StoredManifest, key: str) -> None:
        """Take back what was written into a memory that was forgotten in that moment.

        A new segment has no older version to compare with, so it can be written after the delete
        has cleared the location.
        """
        now = self._load(stored.manifest.id)
        if now is None or not now.is_same_memory(stored):
            self._bucket.remove([key])
            raise _moved(stored.manifest, now)

    # --- making and committing -----------------------------------------------------------------

    def create(
        self, manifest: Manifest, *, source: str | None = None, journal: bool = False
    ) -> None:
        """Make a memory from its first manifest; see `Store.create`.

        Raises:
            Conflict: it exists already.
            UnknownMemory: there is no memory `source`, or it was forgotten meanwhile.
            UnknownRevision: a revision of `source` was retired meanwhile.
        """
        origin = None if source is None else self._existing(source)
        with self._making(manifest.id) as location:
            commits = {} if origin is None else self._copy_revisions(origin, manifest, location)
            if origin is not None and journal:
                self._transfer.copy_journal(origin.location, location)
            self._put_first(manifest, location, commits)
        if origin is not None and source is not None:
            # a forget of the source takes its copies along, and could not see this one
            now = self._load(source)
            if now is None or not now.is_same_memory(origin):
                self.delete(manifest.id)
                raise _moved(origin.manifest, now)

    @contextmanager
    def _making(self, memory_id: str) -> Iterator[Location]:
        """Give a location for a new memory; cleared if making it fails."""
        name = folder_name(parse_id(memory_id))
        self._refuse_existing(name, memory_id)
        path, began = f"{name}/{secrets.token_hex(16)}", time.monotonic()
        try:
            yield self._locations.make(path)
        except StoreWriteFailed:
            raise  # it may have been written all the same: a sweep finds out
        except BaseException:
            self._locations.clear(path)
            raise
        try:
            _check_in_time(began, memory_id)
        except Conflict:
            self.delete(memory_id)
            raise

    def _refuse_existing(self, name: str, memory_id: str) -> None:
        if self._bucket.get(name + JSON) is not None:
            raise exists(memory_id)

    def _put_first(
        self, manifest: Manifest, location: Location, commits: Mapping[str, str]
    ) -> None:
        key = folder_name(parse_id(manifest.id)) + JSON
        list_name = self._append_lists(location, manifest).journal.list_name
        body = manifest_object.encode(manifest, location.path, commits, location.cipher, list_name)
        try:
            self._bucket.put(key, body, replacing=None)
        except PreconditionFailed:
            raise exists(manifest.id) from None

    def _copy_revisions(
        self, origin: _StoredManifest, manifest: Manifest, location: Location
    ) -> dict[str, str]:
        """Copy the revisions that `manifest` names to a new location; return their folders."""
        commits, source = {}, origin.manifest.id
        for revision in manifest.revisions:
            if revision.name not in origin.commits:
                raise retired(source, revision)
            commit = commits[revision.name] = secrets.token_hex(8)
            target = _revision_location(location, commit)
            if not self._transfer.copy(
                origin.revision_location(revision.name), target, revision, source
            ):
                raise retired(source, revision)
        return commits

    @contextmanager
    def stage(self, memory_id: str) -> Iterator[Path]:
        """Give an empty folder for a new revision; gone afterwards unless it was committed."""
        stored = self._existing(memory_id)
        with self._cache.plain_work(stored.name) as folder:
            yield folder

    def commit(
        self, manifest: Manifest, revision: Revision, staged: Path, *, keep: int
    ) -> Manifest:
        """Upload a staged folder as the new head, and return the new manifest.

        Raises:
            Conflict: the stored epoch is not `manifest.epoch` any more.
            StoreError: a revision that is stored has this name.
        """
        revision = replace(revision, files=file_records(staged))
        new_manifest = manifest.with_revision(revision, keep)
        # before the upload: a commit of another writer that removes orphans by their age compares
        # with this manifest, and what is uploaded from here on is young
        stored = self._check_epoch(manifest, manifest.epoch)
        if stored.manifest.find(revision.name) is not None:
            raise StoreError(f"Memory {manifest.id!r} has revision {revision.name} already.")
        commit = secrets.token_hex(8)
        target = _revision_location(stored.location, commit)
        self._transfer.upload(staged, revision, target)
        try:
            now = self._swap(stored, new_manifest, {**stored.commits, revision.name: commit})
        except Conflict:
            if self._has_commit(stored, commit):  # the answer was lost, and others built upon it
                return new_manifest
            self._bucket.remove(f"{target.path}/{record.path}" for record in revision.files)
            raise
        # it is committed: whoever needs a copy makes one, or is told why there can be none
        with suppress(StoreWriteFailed), self._cache.exclusive(now.location.path, commit):
            self._cache.adopt(now.location.path, commit, staged)
        with suppress(StoreWriteFailed, UnknownRevision):
            self._drop_outdated(now, revision)
        return new_manifest

    def _has_commit(self, stored: _StoredManifest, commit: str) -> bool:
        now = self._load(stored.manifest.id)
        return now is not None and now.is_same_memory(stored) and commit in now.commits.values()

    def replace(self, manifest: Manifest, *, epoch: int) -> None:
        """Swap the manifest and remove revisions it no longer names.

        Raises:
            Conflict: the stored epoch is not `epoch` any more.
        """
        stored = self._check_epoch(manifest, epoch)
        now = self._swap(stored, manifest, stored.commits)
        self._cache.retain(now.location.path, now.commits.values())

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
        stored = self._check_epoch(manifest, epoch)
        path, began = f"{stored.name}/{secrets.token_hex(16)}", time.monotonic()
        try:
            location = self._locations.make(path)
            commits = self._fill_location(stored, manifest, location, staged)
            journal = self._seal(stored)
            lines = [encode_line(record) for record in amend(journal, edits).records]
            self._transfer.write_journal(lines, location)
            _check_in_time(began, manifest.id)
            list_name = self._append_lists(location, manifest).journal.list_name
            body = manifest_object.encode(manifest, path, commits, location.cipher, list_name)
            self._bucket.put(stored.name + JSON, body, replacing=stored.etag)
        except StoreWriteFailed:
            raise  # it may have been written all the same: a sweep finds out
        except PreconditionFailed:
            if not self._is_at(path, manifest):  # else the answer to the write was lost
                self._locations.clear(path)
                raise changed(manifest) from None
        except BaseException:
            if not self._is_at(path, manifest):
                self._locations.clear(path)
            raise
        removed = self._locations.clear(stored.location.path)
        self._cache.retain(path, commits.values())
        return manifest, tuple(RemovedFile(path=p, bytes=size) for p, size in removed.items())

    def _is_at(self, path: str, manifest: Manifest) -> bool:
        now = self._load(manifest.id)
        return now is not None and now.location.path == path

    def _fill_location(
        self,
        stored: _StoredManifest,
        manifest: Manifest,
        location: Location,
        staged: Mapping[str, Path],
    ) -> dict[str, str]:
        """Bring the revisions of a manifest to a new location; return their folders."""
        kept = [revision for revision in manifest.revisions if revision.name not in staged]
        commits = self._copy_revisions(stored, replace(manifest, revisions=tuple(kept)), location)
        for revision in manifest.revisions:
            if revision.name in staged:
                commit = commits[revision.name] = secrets.token_hex(8)
                target = _revision_location(location, commit)
                self._transfer.upload(staged[revision.name], revision, target)
        return commits

    def _seal(self, stored: _StoredManifest) -> Journal:
        """Seal the journal of a memory as long as its manifest is as it was; return its text."""
        journal = self._open_journal(stored.location, stored.manifest)
        epoch = stored.manifest.epoch

        def attempt() -> Journal:
            _append_once(
                journal,
                lambda index: ([] if index.sealed == epoch else [sealed_line(epoch)], None),
                stored.manifest.id,
            )
            return journal.journal

        return retry_on_conflict(attempt, tries=_TRIES, pause=_PAUSE_SECONDS)

    def _swap(
        self, stored: _StoredManifest, manifest: Manifest, commits: Mapping[str, str]
    ) -> _StoredManifest:
        """Write the new manifest, then remove the revisions it no longer names.

        Also those of killed commits: a writer that is still about to commit one of that age has
        compared with a manifest that is no more.

        Raises:
            Conflict: another manifest was written meanwhile.
        """
        named = {revision.name: commits[revision.name] for revision in manifest.revisions}
        key = folder_name(parse_id(manifest.id)) + JSON
        path, cipher = stored.location
        list_name = self._append_lists(stored.location, manifest).journal.list_name
        body = manifest_object.encode(manifest, path, named, cipher, list_name)
        try:
            etag = self._bucket.put(key, body, replacing=stored.etag)
        except PreconditionFailed:
            raise changed(manifest) from None
        current, previous = set(named.values()), set(stored.commits.values())
        prefix = f"{path}/revisions/"
        outdated = []
        for entry in self._bucket.list(prefix):
            commit = entry.key.removeprefix(prefix).partition("/")[0]
            if commit not in current and (commit in previous or entry.age > ORPHAN_SECONDS):
                outdated.append(entry.key)
        self._bucket.remove(outdated)
        return _StoredManifest(
            manifest=manifest, location=stored.location, commits=named, etag=etag
        )

    def _check_epoch(self, manifest: Manifest, epoch: int) -> _StoredManifest:
        """Return the stored manifest, which must be of this memory and at this epoch."""
        stored = self._existing(manifest.id)
        check_epoch(stored.manifest, manifest, epoch)
        return stored

    # --- removing and moving -------------------------------------------------------------------

    def delete(self, memory_id: str) -> tuple[RemovedFile, ...]:
        """Remove every object and copy of a memory, damaged or not, and return what was removed.

        Raises:
            UnknownMemory: there is no such memory.
        """
        name = folder_name(parse_id(memory_id))
        key = name + JSON
        size, location, etag = self._write_tombstone(key, name, memory_id)
        removed = {key: size, **self._locations.clear(location)}
        self._bucket.remove_version(key, etag)
        removed |= self._cache.drop(name)
        self._journals.drop(lambda cached: cached == str(parse_id(memory_id)))
        return tuple(RemovedFile(path=path, bytes=count) for path, count in removed.items())

    def _write_tombstone(self, key: str, name: str, memory_id: str) -> tuple[int, str, str]:
        """Put a tombstone in place of a manifest.

        From then on the memory is gone, and no writer can change or revive it. A tombstone that
        lies there already, of a delete that was interrupted, will do.

        Returns:
            The size of what lay there, its location, and the version of the tombstone.

        Raises:
            Conflict: others changed the manifest every time.
        """

        def attempt() -> tuple[int, str, str]:
            stored = self._bucket.get(key)
            if stored is None:
                raise self._unknown(memory_id)
            forgotten = manifest_object.decode_tombstone(name, stored.body)
            if forgotten is not None:
                return len(stored.body), forgotten, stored.etag
            envelope = manifest_object.decode(name, stored.body)
            # a damaged manifest does not tell its location: everything below the name goes
            location = name if envelope is None else envelope.location
            tombstone = manifest_object.encode_tombstone(location)
            try:
                etag = self._bucket.put(key, tombstone, replacing=stored.etag)
            except PreconditionFailed:
                raise _busy(memory_id) from None
            return len(stored.body), location, etag

        return retry_on_conflict(attempt, tries=_TRIES)

    def export(self, memory_id: str, target: Path) -> None:
        """Write a memory as one file, never encrypted; see `archive`."""
        stored = self._existing(memory_id)
        with self._cache.plain_work() as fresh:
            if lines := self._transfer.read_journal(stored.location):
                replace_file(fresh / archive.JOURNAL, b"".join(lines))
            for revision in stored.manifest.revisions:
                folder = self._cached_folder(stored, revision)
                revision_folder = fresh / archive.REVISIONS / revision.name
                make_folder(revision_folder)
                try:
                    for record in revision.files:
                        os.link(folder / record.path, revision_folder / record.path)
                except FileNotFoundError as error:
                    raise retired(memory_id, revision) from error
            archive.write(fresh, stored.manifest, Path(target), fresh / archive.JOURNAL)

    def import_(self, source: Path, memory_id: str | None) -> Manifest:
        """Make a memory from an exported file, under its own id if `memory_id` is None.

        Raises:
            StoreDamaged: not such a file, or damaged.
            Conflict: the id exists already.
        """
        with self._cache.plain_work() as fresh:
            make_folder(fresh / archive.REVISIONS)
            manifest = archive.read(Path(source), fresh)
            name = str(parse_id(manifest.id if memory_id is None else memory_id))
            manifest = replace(manifest, id=name)
            lines = _checked_lines(fresh / archive.JOURNAL, manifest.first)
            with self._making(name) as location:
                commits = {}
                for revision in manifest.revisions:
                    commit = commits[revision.name] = secrets.token_hex(8)
                    folder = fresh / archive.REVISIONS / revision.name
                    self._transfer.upload(folder, revision, _revision_location(location, commit))
                self._transfer.write_journal(lines, location)
                self._put_first(manifest, location, commits)
        return manifest


class _SealedError(Conflict):
    """The journal is sealed at the epoch that the manifest is at."""


def _append_once(
    journal: SegmentedJournal,
    missing: Callable[[Journal], tuple[list[JournalRecord], T]],
    memory_id: str,
    epoch: int | None = None,
) -> tuple[T, str | None]:
    """Append the `missing` records of a journal; return their result, and the key written to.

    `epoch`: of the manifest, at which a seal is in force; None: seals do not matter.

    Raises:
        Conflict: another writer was faster.
    """
    with journal.lock:
        records, result = missing(journal.refresh())
        sealed = journal.journal.sealed
        # a seal of a later epoch is in force too: the manifest that was read is out of date
        if records and epoch is not None and sealed is not None and sealed >= epoch:
            raise _SealedError(f"{memory_id!r} is being moved by another writer: try again.")
        try:
            return result, journal.append(records)
        except PreconditionFailed:
            raise _busy(memory_id) from None


def _is_tombstone(entry: ObjectEntry) -> bool:
    return entry.size <= manifest_object.MAX_TOMBSTONE_BYTES


def _revision_location(location: Location, commit: str) -> Location:
    return Location(f"{location.path}/revisions/{commit}", location.cipher)


def _checked_lines(path: Path, first: str) -> list[bytes]:
    """Return the complete lines of a journal from an archive.

    Raises:
        StoreDamaged: one is not what a store writes.
    """
    if not path.exists():
        return []
    lines = [line + b"\n" for line in path.read_bytes().split(b"\n")[:-1]]
    journal = Journal(first, lambda _: {})
    try:
        for number, line in enumerate(lines):
            journal.add(decode_line(line), number)
    except (ValueError, TypeError, KeyError) as error:
        raise StoreDamaged(f"The journal in the file is damaged: {error}.") from error
    return lines


# --- errors ------------------------------------------------------------------------------------


def _moved(manifest: Manifest, now: _StoredManifest | None) -> StoreError | UnknownMemory:
    """Return the error for a memory that is at another location, or nowhere any more."""
    if now is not None and now.manifest.same_memory(manifest):
        return Conflict(f"Texts were removed from memory {manifest.id!r} meanwhile: try again.")
    return UnknownMemory(f"Memory {manifest.id!r} was forgotten meanwhile.")


def _check_in_time(began: float, memory_id: str) -> None:
    """Refuse to go on with a location that a sweep may have taken for lost."""
    if time.monotonic() - began > ORPHAN_SECONDS / 2:
        raise Conflict(f"Making memory {memory_id!r} took too long: try again.")


def _busy(memory_id: str) -> Conflict:
    return Conflict(f"Others write to {memory_id!r} all the time: try again.")
