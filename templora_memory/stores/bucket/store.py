"""The object store: memories in a bucket, for several machines that share nothing else.

::

    s3://<bucket>/<prefix>/<encoded id>.json                    the manifest, see `_heads`;
                                                                swapped by comparison
    s3://<bucket>/<prefix>/<encoded id>/<place>/journal/...     text, see `_segments`
    s3://<bucket>/<prefix>/<encoded id>/<place>/revisions/<commit>/...

Every write that decides something is conditional (``If-Match``, ``If-None-Match``), so there are
no locks, and a writer that was declared dead and wakes up finds its condition unmet. A place has
a random name and is never used again: nothing that belongs to a forgotten memory can be taken for
a part of one made later under its id.

With a key there is one more object at each place, see `_places`, and text, manifests and revisions
are sealed, in the bucket and in the cache. Backends then read plain copies, see `_copies`.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from templora_memory.domain.ids import folder_name, id_of_folder, parse_id
from templora_memory.domain.journal import Journal, decode_line
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
    make_folder,
    replace_file,
)
from templora_memory.fs.staging import file_records
from templora_memory.stores import archive
from templora_memory.stores.bucket import manifest_object
from templora_memory.stores.bucket.journal import SegmentedJournal
from templora_memory.stores.bucket.local_cache import Shelf
from templora_memory.stores.bucket.location import Place, Places
from templora_memory.stores.bucket.s3 import Bucket, Entry, Lost
from templora_memory.stores.bucket.transfer import Transfers
from templora_memory.stores.decrypted_cache import Copies
from templora_memory.stores.encryption import KEY, Key
from templora_memory.stores.integrity import retired, spoiled, spoiled_file
from templora_memory.stores.journal_records import (
    Line,
    dialogue_lines,
    document_lines,
    withdraw_lines,
)
from templora_memory.stores.lru import JOURNALS, Recent

JSON = ".json"
ORPHAN_SECONDS = 3600.0
"""Age at which what no manifest names belongs to a process that was killed."""
_TRIES = 60
_PAUSE = 0.01
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """A manifest as it lies in the bucket.

    `place` is the folder of everything else, `commits` tells the folder of each revision, `etag`
    is what a swap compares.
    """

    manifest: Manifest
    place: Place
    commits: Mapping[str, str]
    etag: str

    def is_at(self, other: _Head) -> bool:
        """Whether both are of one memory, not of one that was made again under its id."""
        return self.place.path == other.place.path

    def revision(self, name: str) -> Place:
        return _revision(self.place, self.commits[name])


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
        self._shelf = Shelf(Path(cache), None if key is None else Copies(self._bucket.url))
        self._places = Places(self._bucket, key)
        self._transfers = Transfers(self._bucket, self._shelf.work)
        self._journals: Recent[str, SegmentedJournal] = Recent(JOURNALS)
        self._guard = threading.Lock()

    def __repr__(self) -> str:
        return f"ObjectStore({self._bucket.url!r})"

    # --- the place -----------------------------------------------------------------------------

    def open(self) -> None:
        """Make the cache, and clear what killed processes left behind long enough ago.

        Raises:
            InvalidSetting: the memories are not as `key` would have them. Nothing was changed.
        """
        self._shelf.open()
        self._bucket.open()
        kept = self._shelf.memories(), self._shelf.places()  # before looking: new ones stay
        manifests, places = self._listed()
        self._refuse_strange(manifests, places)
        self._shelf.clear()
        names = self._sweep(manifests, places)
        self._drop_strange(kept[0], names)
        self._drop_strange(kept[1], places)

    def _listed(self) -> tuple[dict[str, Entry], dict[str, list[Entry]]]:
        """Manifests by their names, and what lies at each place."""
        manifests: dict[str, Entry] = {}
        places: dict[str, list[Entry]] = {}
        for entry in self._bucket.list(""):
            folder, _, rest = entry.key.partition("/")
            if folder.startswith("."):  # of others: the names of memories never begin so
                continue
            if not rest:
                manifests[folder.removesuffix(JSON)] = entry
            elif manifest_object.PLACE.fullmatch(place := rest.partition("/")[0]):
                places.setdefault(f"{folder}/{place}", []).append(entry)
        return manifests, places

    def _refuse_strange(
        self, manifests: Mapping[str, Entry], places: Mapping[str, list[Entry]]
    ) -> None:
        """Refuse a bucket that is not as the key would have it, before anything is changed.

        A listing shows which memories have a key of their own; that the store's key opens them is
        tried with one, however many there are.
        """
        sealed = {
            place.partition("/")[0]
            for place, entries in places.items()
            if any(entry.key == f"{place}/{KEY}" for entry in entries)
        }
        names = [
            name
            for name, entry in manifests.items()
            if entry.key == name + JSON and entry.size > manifest_object.LARGEST_TOMBSTONE
        ]
        strange = [name for name in names if (name in sealed) != (self._key is not None)]
        tried = [name for name in names if name in sealed and self._key is not None][:1]
        for name in (*strange, *tried):
            with suppress(StoreDamaged):  # whoever uses that memory is told
                self._head_of(name)

    def _sweep(self, manifests: Mapping[str, Entry], places: Mapping[str, list[Entry]]) -> set[str]:
        """Finish what was interrupted; returns under which names there are manifests."""
        for name, entry in manifests.items():
            if entry.size <= manifest_object.LARGEST_TOMBSTONE and entry.age > ORPHAN_SECONDS:
                self._bury(name)
        for place, entries in places.items():
            if min(entry.age for entry in entries) > ORPHAN_SECONDS:
                self._sweep_place(place, entries, manifests)
        return {
            name
            for name, entry in manifests.items()
            if entry.size > manifest_object.LARGEST_TOMBSTONE
        }

    def _drop_strange(self, kept: Collection[str], known: Collection[str]) -> None:
        """Remove copies of memories or places that are no more."""
        for name in kept:
            if name not in known:
                self._shelf.drop(name)

    def _sweep_place(
        self, place: str, entries: Sequence[Entry], manifests: Mapping[str, Entry]
    ) -> None:
        """Remove a place that no manifest names, unless it is being made."""
        name = place.partition("/")[0]
        if name not in manifests:
            # whoever still wants to make a memory of it loses against this stone
            with suppress(Lost):
                self._bucket.put(name + JSON, manifest_object.tombstone(place), replacing=None)
                self._bury(name)
        elif not self._is_named(name, place):
            self._places.remove(entry.key for entry in entries)

    def _is_named(self, name: str, place: str) -> bool:
        """Whether a manifest names this place; yes if that cannot be told."""
        found = self._bucket.get(name + JSON)
        token = place.rpartition("/")[2].encode()
        return (
            found is None or token in found.body or manifest_object.decode(name, found.body) is None
        )

    def _bury(self, name: str) -> None:
        """Finish an interrupted forget."""
        found = self._bucket.get(name + JSON)
        place = None if found is None else manifest_object.forgotten(name, found.body)
        if found is not None and place is not None:
            self._places.clear(place)
            self._bucket.remove_version(name + JSON, found.etag)

    # --- reading -------------------------------------------------------------------------------

    def ids(self) -> tuple[str, ...]:
        kept = self._shelf.memories()  # before looking: what is made meanwhile stays
        found, folders = [], set()
        for entry in self._bucket.list("", below=False):
            name = entry.key.removesuffix(JSON)
            if entry.key == name or entry.size <= manifest_object.LARGEST_TOMBSTONE:
                continue  # not ours, or being forgotten
            if memory_id := id_of_folder(name):
                found.append(str(memory_id))
            elif head := self._head_of(name):  # a long id: its name is only a hash
                found.append(head.manifest.id)
            folders.add(name)
        self._drop_strange(kept, folders)
        return tuple(sorted(found))

    def manifest(self, memory_id: str) -> Manifest | None:
        head = self._head(memory_id)
        return None if head is None else head.manifest

    def _head(self, memory_id: str) -> _Head | None:
        name = str(parse_id(memory_id))
        head = self._head_of(folder_name(parse_id(memory_id)))
        if head is not None and head.manifest.id != name:
            raise StoreDamaged(
                f"{folder_name(parse_id(name))}{JSON} in {self._bucket.url} says it is "
                f"{head.manifest.id!r}, not {name!r}."
            )
        return head

    def _head_of(self, name: str) -> _Head | None:
        key = name + JSON
        found = self._bucket.get(key)
        if found is None or manifest_object.forgotten(name, found.body) is not None:
            return None
        envelope = manifest_object.decode(name, found.body)
        if envelope is None:
            raise StoreDamaged(f"{key} in {self._bucket.url} is damaged. Restore it from a backup.")
        try:
            place = self._places.find(envelope.place, sealed=envelope.sealed)
        except StoreDamaged:
            again = self._bucket.get(key)
            if again is not None and again.etag == found.etag:
                raise
            return self._head_of(name)  # it was forgotten between the two
        try:
            manifest = envelope.open(place.seal)
        except ValueError as error:
            raise StoreDamaged(
                f"{key} in {self._bucket.url} is damaged: {error}. Restore it from a backup."
            ) from error
        except StoreDamaged as error:
            raise StoreDamaged(f"{key} in {self._bucket.url}: {error}") from error
        return _Head(manifest=manifest, place=place, commits=envelope.commits, etag=found.etag)

    def _existing(self, memory_id: str) -> _Head:
        head = self._head(memory_id)
        if head is None:
            raise self._unknown(memory_id)
        return head

    def _unknown(self, memory_id: str) -> UnknownMemory:
        return UnknownMemory(
            f"There is no memory {memory_id!r} in {self._bucket.url}: absorb something into it "
            "first, or check the id."
        )

    def journal(self, memory_id: str) -> Journal:
        return self._open_journal(self._existing(memory_id)).refresh()

    def _open_journal(self, head: _Head) -> SegmentedJournal:
        memory_id = head.manifest.id
        with self._guard:
            known = self._journals.get(memory_id)
            path, seal = head.place
            if known is None or known.place != path:  # made again after a forget
                opened = SegmentedJournal(
                    self._bucket, path, self._shelf.place(path), head.manifest.first, seal
                )
                known = self._journals.put(memory_id, opened)
            return known

    def folder(self, memory_id: str, revision: Revision) -> Path:
        head = self._existing(memory_id)
        if head.manifest.find(revision.name) != revision:
            raise retired(memory_id, revision)
        return self._fetched(head, revision)

    def _fetched(self, head: _Head, revision: Revision) -> Path:
        where = head.place.path, head.commits[revision.name]
        with self._shelf.alone(*where):
            if (copy := self._shelf.find(*where, revision)) is not None:
                return copy
            try:
                copy = self._shelf.make(*where, lambda fresh: self._fetch(head, revision, fresh))
            except StoreWriteFailed:
                if self._key is not None:  # a forget takes copies away, also half made ones
                    self._tidy(head, revision)
                raise
        self._tidy(head, revision)
        return copy

    def _tidy(self, head: _Head, revision: Revision) -> None:
        """Remove copies of what is no more, after one of this revision was made.

        Raises:
            UnknownRevision: that is no more, either; without a key nobody looks.
        """
        if self._key is None:
            self._shelf.retain(head.place.path, head.commits.values())
            return
        now = self._head(head.manifest.id)
        if now is None:
            self._shelf.drop(_name(head))
        else:
            self._shelf.retain(now.place.path, now.commits.values())
        if now is None or head.commits[revision.name] not in now.commits.values():
            raise retired(head.manifest.id, revision)

    def _fetch(self, head: _Head, revision: Revision, fresh: Path) -> None:
        """Fill a folder with the files of a revision, in plain."""
        origin, memory_id = head.revision(revision.name), head.manifest.id
        if (key := self._transfers.download(origin, revision, fresh, memory_id)) is not None:
            again = self._existing(memory_id)
            if again.commits.get(revision.name) != head.commits[revision.name]:
                raise retired(memory_id, revision)
            raise StoreDamaged(f"{key} in {self._bucket.url} is missing.")
        if spoiled_file(fresh, revision) is not None:
            where = f"{origin.path} in {self._bucket.url}"
            raise spoiled(where, "size or checksum differ", memory_id)

    def size(self, memory_id: str) -> int:
        return sum(entry.size for entry in self._objects(memory_id))

    def last_used(self, memory_id: str) -> float:
        return max(entry.modified for entry in self._objects(memory_id))

    def _objects(self, memory_id: str) -> list[Entry]:
        head = self._existing(memory_id)
        key = folder_name(parse_id(memory_id)) + JSON
        own = [entry for entry in self._bucket.list(key) if entry.key == key]
        if not own:
            raise self._unknown(memory_id)
        return [*own, *self._bucket.list(f"{head.place.path}/")]

    # --- journal -------------------------------------------------------------------------------

    def record(
        self, memory_id: str, dialogue: Sequence[Message], *, after: str | None = None
    ) -> str:
        return self._append(
            memory_id, lambda journal: dialogue_lines(journal, dialogue, after, memory_id)
        )

    def record_documents(
        self, memory_id: str, documents: Sequence[Document], *, after: str | None = None
    ) -> tuple[str, ...]:
        return self._append(memory_id, lambda journal: document_lines(journal, documents, after))

    def withdraw_documents(self, memory_id: str, digests: Sequence[str]) -> None:
        self._append(memory_id, lambda journal: (withdraw_lines(journal, digests), None))

    def _append(self, memory_id: str, lacking: Callable[[Journal], tuple[list[Line], T]]) -> T:
        """Write what a journal lacks; again and again, as long as others are faster."""
        for attempt in range(_TRIES):
            head = self._existing(memory_id)
            opened = self._open_journal(head)
            with opened.lock:
                lines, answer = lacking(opened.refresh())
                try:
                    key = opened.append(lines)
                except Lost:
                    key = ""
            if key is None:
                return answer
            if key:
                self._confirm(head, key)
                return answer
            time.sleep(random.uniform(0, _PAUSE * (1 + min(attempt, 10))))  # noqa: S311  # a pause
        raise Conflict(f"Others write to {memory_id!r} all the time: try again.")

    def _confirm(self, head: _Head, key: str) -> None:
        """Take back what was written into a memory that was forgotten in that moment."""
        now = self._head(head.manifest.id)
        if now is None or not now.is_at(head):
            self._bucket.remove([key])
            raise UnknownMemory(f"Memory {head.manifest.id!r} was forgotten meanwhile.")

    # --- making and committing -----------------------------------------------------------------

    def create(
        self, manifest: Manifest, *, source: str | None = None, journal: bool = False
    ) -> None:
        origin = None if source is None else self._existing(source)
        with self._making(manifest.id) as place:
            commits = {} if origin is None else self._copied(origin, manifest, place)
            if origin is not None and journal:
                self._transfers.copy_journal(origin.place, place)
            self._put_first(manifest, place, commits)
        if origin is not None and source is not None:
            now = self._head(source)
            if now is None or not now.is_at(origin):
                self.delete(manifest.id)
                raise UnknownMemory(f"Memory {source!r} was forgotten meanwhile.")

    @contextmanager
    def _making(self, memory_id: str) -> Iterator[Place]:
        """A place for a new memory; cleared if making it fails."""
        name = folder_name(parse_id(memory_id))
        self._refuse_existing(name, memory_id)
        path, began = f"{name}/{secrets.token_hex(16)}", time.monotonic()
        try:
            yield self._places.make(path)
        except StoreWriteFailed:
            raise  # it may have been written all the same: a sweep finds out
        except BaseException:
            self._places.clear(path)
            raise
        if time.monotonic() - began > ORPHAN_SECONDS / 2:  # a sweep may have taken it for lost
            self.delete(memory_id)
            raise Conflict(f"Making memory {memory_id!r} took too long: try again.")

    def _refuse_existing(self, name: str, memory_id: str) -> None:
        if self._bucket.get(name + JSON) is not None:
            raise _exists(memory_id)

    def _put_first(self, manifest: Manifest, place: Place, commits: Mapping[str, str]) -> None:
        key = folder_name(parse_id(manifest.id)) + JSON
        body = manifest_object.encode(manifest, place.path, commits, place.seal)
        try:
            self._bucket.put(key, body, replacing=None)
        except Lost:
            raise _exists(manifest.id) from None

    def _copied(self, origin: _Head, manifest: Manifest, place: Place) -> dict[str, str]:
        commits, source = {}, origin.manifest.id
        for revision in manifest.revisions:
            if revision.name not in origin.commits:
                raise retired(source, revision)
            commit = commits[revision.name] = secrets.token_hex(8)
            own, target = origin.revision(revision.name), _revision(place, commit)
            if not self._transfers.copy(own, target, revision, source):
                raise retired(source, revision)
        return commits

    @contextmanager
    def stage(self, memory_id: str) -> Iterator[Path]:
        self._existing(memory_id)
        with self._shelf.plain_work(folder_name(parse_id(memory_id))) as folder:
            yield folder

    def commit(
        self, manifest: Manifest, revision: Revision, staged: Path, *, keep: int
    ) -> Manifest:
        revision = replace(revision, files=file_records(staged))
        changed = manifest.with_revision(revision, keep)
        head = self._expect(manifest, manifest.epoch)  # what is uploaded from here on is young
        if head.manifest.find(revision.name) is not None:
            raise StoreError(f"Memory {manifest.id!r} has revision {revision.name} already.")
        commit = secrets.token_hex(8)
        target = _revision(head.place, commit)
        self._transfers.upload(staged, revision, target)
        try:
            now = self._swap(head, changed, {**head.commits, revision.name: commit})
        except Conflict:
            if self._has(head, commit):  # the answer was lost, and others built upon it since
                return changed
            self._bucket.remove(f"{target.path}/{record.path}" for record in revision.files)
            raise
        where = now.place.path, commit
        # it is committed: whoever needs a copy makes one, or is told why there can be none
        with suppress(StoreWriteFailed), self._shelf.alone(*where):
            self._shelf.adopt(*where, staged)
        with suppress(StoreWriteFailed, UnknownRevision):
            self._tidy(now, revision)
        return changed

    def _has(self, head: _Head, commit: str) -> bool:
        now = self._head(head.manifest.id)
        return now is not None and now.is_at(head) and commit in now.commits.values()

    def replace(self, manifest: Manifest, *, epoch: int) -> None:
        head = self._expect(manifest, epoch)
        now = self._swap(head, manifest, head.commits)
        self._shelf.retain(now.place.path, now.commits.values())

    def _swap(self, head: _Head, manifest: Manifest, commits: Mapping[str, str]) -> _Head:
        """Make `manifest` the truth, then remove the revisions it no longer names.

        Also those of killed commits: whoever is still about to commit one of that age has compared
        with a manifest that is no more.

        Raises:
            Conflict: another one is the truth already.
        """
        named = {revision.name: commits[revision.name] for revision in manifest.revisions}
        key = folder_name(parse_id(manifest.id)) + JSON
        body = manifest_object.encode(manifest, head.place.path, named, head.place.seal)
        try:
            etag = self._bucket.put(key, body, replacing=head.etag)
        except Lost:
            raise _changed(manifest) from None
        kept, retired = set(named.values()), set(head.commits.values())
        below = f"{head.place.path}/revisions/"
        gone = []
        for entry in self._bucket.list(below):
            commit = entry.key.removeprefix(below).partition("/")[0]
            if commit not in kept and (commit in retired or entry.age > ORPHAN_SECONDS):
                gone.append(entry.key)
        self._bucket.remove(gone)
        return _Head(manifest=manifest, place=head.place, commits=named, etag=etag)

    def _expect(self, manifest: Manifest, epoch: int) -> _Head:
        found = self._existing(manifest.id)
        if not found.manifest.same_memory(manifest):
            raise Conflict(
                f"Memory {manifest.id!r} was forgotten and made again by another writer: "
                "read it again and retry."
            )
        if found.manifest.epoch != epoch:
            raise _changed(manifest, f" (epoch {found.manifest.epoch}, expected {epoch})")
        return found

    # --- removing and moving -------------------------------------------------------------------

    def delete(self, memory_id: str) -> tuple[RemovedFile, ...]:
        name = folder_name(parse_id(memory_id))
        key = name + JSON
        size, place, etag = self._lay_stone(key, name, memory_id)
        removed = {key: size, **self._places.clear(place)}
        self._bucket.remove_version(key, etag)
        removed |= self._shelf.drop(name)
        self._journals.drop(lambda name: name == str(parse_id(memory_id)))
        return tuple(RemovedFile(path=path, bytes=count) for path, count in removed.items())

    def _lay_stone(self, key: str, name: str, memory_id: str) -> tuple[int, str, str]:
        """Put a tombstone in place of a manifest; its size, its place, the stone's version.

        From then on the memory is gone, and no writer can change or revive it. A stone that lies
        there already, of a forget that was interrupted, will do.
        """
        for _ in range(_TRIES):
            found = self._bucket.get(key)
            if found is None:
                raise self._unknown(memory_id)
            if (place := manifest_object.forgotten(name, found.body)) is not None:
                return len(found.body), place, found.etag
            envelope = manifest_object.decode(name, found.body)
            place = name if envelope is None else envelope.place  # damaged: all there is
            with suppress(Lost):
                etag = self._bucket.put(key, manifest_object.tombstone(place), replacing=found.etag)
                return len(found.body), place, etag
        raise Conflict(f"Others write to {memory_id!r} all the time: try again.")

    def export(self, memory_id: str, target: Path) -> None:
        head = self._existing(memory_id)
        with self._shelf.plain_work() as fresh:
            if lines := self._transfers.read_journal(head.place):
                replace_file(fresh / archive.JOURNAL, b"".join(lines))
            for revision in head.manifest.revisions:
                folder = self._fetched(head, revision)
                inside = fresh / archive.REVISIONS / revision.name
                make_folder(inside)
                try:
                    for record in revision.files:
                        os.link(folder / record.path, inside / record.path)
                except FileNotFoundError as error:
                    raise retired(memory_id, revision) from error
            archive.write(fresh, head.manifest, Path(target))

    def import_(self, source: Path, memory_id: str | None) -> Manifest:
        with self._shelf.plain_work() as fresh:
            make_folder(fresh / archive.REVISIONS)
            manifest = archive.read(Path(source), fresh)
            name = str(parse_id(manifest.id if memory_id is None else memory_id))
            manifest = replace(manifest, id=name)
            lines = _checked_lines(fresh / archive.JOURNAL, manifest.first)
            with self._making(name) as place:
                commits = {}
                for revision in manifest.revisions:
                    commit = commits[revision.name] = secrets.token_hex(8)
                    folder = fresh / archive.REVISIONS / revision.name
                    self._transfers.upload(folder, revision, _revision(place, commit))
                self._transfers.write_journal(lines, place)
                self._put_first(manifest, place, commits)
        return manifest


def _name(head: _Head) -> str:
    return folder_name(parse_id(head.manifest.id))


def _revision(place: Place, commit: str) -> Place:
    """Where a revision lies."""
    return Place(f"{place.path}/revisions/{commit}", place.seal)


def _checked_lines(path: Path, first: str) -> list[bytes]:
    """The whole lines of a journal that somebody hands in."""
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


def _exists(memory_id: str) -> Conflict:
    return Conflict(f"Memory {memory_id!r} exists already: forget it first, or use another id.")


def _changed(manifest: Manifest, how: str = "") -> Conflict:
    return Conflict(
        f"Memory {manifest.id!r} was changed by another writer{how}: read it again and retry."
    )
