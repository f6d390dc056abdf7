"""The object store: memories in a bucket, for several machines that share nothing else.

::

    s3://<bucket>/<prefix>/<encoded id>.json                    the manifest, swapped by comparison
    s3://<bucket>/<prefix>/<encoded id>/<place>/journal/...     text, see `_segments`
    s3://<bucket>/<prefix>/<encoded id>/<place>/revisions/<commit>/...

Every write that decides something is conditional (``If-Match``, ``If-None-Match``), so there are
no locks, and a writer that was declared dead and wakes up finds its condition unmet. A place has
a random name and is never used again: nothing that belongs to a forgotten memory can be taken for
a part of one made later under its id.
"""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from templora_memory._ids import folder_name, id_of_folder, parse_id
from templora_memory._journal import Journal, decode_line
from templora_memory._manifest import Manifest, Revision
from templora_memory._messages import Document, Message
from templora_memory._reports import RemovedFile
from templora_memory.errors import (
    Conflict,
    StoreDamaged,
    StoreError,
    StoreWriteFailed,
    UnknownMemory,
)
from templora_memory.stores import _archive
from templora_memory.stores._bucket import Bucket, Entry, Lost
from templora_memory.stores._files import (
    files_below,
    make_folder,
    remove_tree,
    replace_file,
)
from templora_memory.stores._lines import (
    Line,
    dialogue_lines,
    document_lines,
    withdraw_lines,
)
from templora_memory.stores._recent import CHECKED, JOURNALS, Recent
from templora_memory.stores._revisions import Stamps, retired, spoiled, spoiled_file, stamps
from templora_memory.stores._segments import SegmentedJournal, segment_key, segments
from templora_memory.stores._temporary import clear, file_records, temporary

WORK, JSON = ".work-", ".json"
ORPHAN_SECONDS = 3600.0
"""Age at which what no manifest names belongs to a process that was killed."""
_TRIES = 60
_PAUSE = 0.01
_LARGEST_TOMBSTONE = 200
_PLACE = re.compile(r"[0-9a-f]{32}")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """A manifest as it lies in the bucket.

    `place` is the folder of everything else, `commits` tells the folder of each revision, `etag`
    is what a swap compares.
    """

    manifest: Manifest
    place: str
    commits: Mapping[str, str]
    etag: str

    def revision(self, name: str) -> str:
        return f"{self.place}/revisions/{self.commits[name]}"


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
    """

    def __init__(
        self,
        url: str,
        *,
        cache: str | os.PathLike[str],
        endpoint: str | None = None,
        client: Any = None,
    ) -> None:
        self._bucket = Bucket(url, endpoint=endpoint, client=client)
        self._cache = Path(cache)
        self._journals: Recent[str, SegmentedJournal] = Recent(JOURNALS)
        self._checked: Recent[Path, Stamps] = Recent(CHECKED)
        self._guard = threading.Lock()

    def __repr__(self) -> str:
        return f"ObjectStore({self._bucket.url!r})"

    # --- the place -----------------------------------------------------------------------------

    def open(self) -> None:
        """Make the cache, and clear what killed processes left behind long enough ago."""
        make_folder(self._cache)
        self._bucket.open()
        for entry in sorted(self._cache.glob(f"**/{WORK}*")):
            clear(entry)
        copies = _entries(self._cache)
        self._drop_strange(copies, self._sweep())

    def _sweep(self) -> set[str]:
        """Finish what was interrupted; returns under which names there are manifests."""
        manifests: dict[str, Entry] = {}
        places: dict[str, list[Entry]] = {}
        for entry in self._bucket.list(""):
            folder, _, rest = entry.key.partition("/")
            if not rest:
                manifests[folder.removesuffix(JSON)] = entry
            elif _PLACE.fullmatch(place := rest.partition("/")[0]):
                places.setdefault(f"{folder}/{place}", []).append(entry)
        for name, entry in manifests.items():
            if entry.size <= _LARGEST_TOMBSTONE and entry.age > ORPHAN_SECONDS:
                self._bury(name)
        for place, entries in places.items():
            if min(entry.age for entry in entries) > ORPHAN_SECONDS:
                self._sweep_place(place, entries, manifests)
        return {name for name, entry in manifests.items() if entry.size > _LARGEST_TOMBSTONE}

    def _drop_strange(self, copies: Sequence[Path], names: Collection[str]) -> None:
        """Remove copies of memories that are no more."""
        for copy in copies:
            if not copy.name.startswith(".") and copy.name not in names:
                remove_tree(copy)

    def _sweep_place(
        self, place: str, entries: Sequence[Entry], manifests: Mapping[str, Entry]
    ) -> None:
        """Remove a place that no manifest names, unless it is being made."""
        name = place.partition("/")[0]
        if name not in manifests:
            # whoever still wants to make a memory of it loses against this stone
            with suppress(Lost):
                self._bucket.put(name + JSON, _tombstone(place), replacing=None)
                self._bury(name)
        elif not self._is_named(name, place):
            self._bucket.remove(entry.key for entry in entries)

    def _is_named(self, name: str, place: str) -> bool:
        """Whether a manifest names this place; yes if that cannot be told."""
        found = self._bucket.get(name + JSON)
        token = place.rpartition("/")[2].encode()
        return found is None or token in found.body or _parse(found.body) is None

    def _bury(self, name: str) -> None:
        """Finish an interrupted forget."""
        found = self._bucket.get(name + JSON)
        place = None if found is None else _forgotten(name, found.body)
        if found is not None and place is not None:
            self._clear_place(place)
            self._bucket.remove_version(name + JSON, found.etag)

    def _clear_place(self, place: str) -> dict[str, int]:
        """Remove everything at a place, also what is written there meanwhile; key and size."""
        removed: dict[str, int] = {}
        while left := {entry.key: entry.size for entry in self._bucket.list(f"{place}/")}:
            self._bucket.remove(left)
            removed.update(left)
        return removed

    # --- reading -------------------------------------------------------------------------------

    def ids(self) -> tuple[str, ...]:
        copies = _entries(self._cache)  # before looking: what is made meanwhile is kept
        found, folders = [], set()
        for entry in self._bucket.list("", below=False):
            name = entry.key.removesuffix(JSON)
            if entry.key == name or entry.size <= _LARGEST_TOMBSTONE:
                continue  # not ours, or being forgotten
            if memory_id := id_of_folder(name):
                found.append(str(memory_id))
            elif head := self._head_of(name):  # a long id: its name is only a hash
                found.append(head.manifest.id)
            folders.add(name)
        self._drop_strange(copies, folders)
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
        if found is None or _forgotten(name, found.body) is not None:
            return None
        body = _parse(found.body)
        if body is None:
            raise StoreDamaged(f"{key} in {self._bucket.url} is damaged. Restore it from a backup.")
        try:
            manifest = Manifest.from_json(body["manifest"])
        except StoreDamaged as error:
            raise StoreDamaged(f"{key} in {self._bucket.url}: {error}") from error
        return _Head(
            manifest=manifest, place=body["place"], commits=body["commits"], etag=found.etag
        )

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

    def _copies(self, place: str) -> Path:
        return self._cache / place

    def journal(self, memory_id: str) -> Journal:
        return self._open_journal(self._existing(memory_id)).refresh()

    def _open_journal(self, head: _Head) -> SegmentedJournal:
        memory_id = head.manifest.id
        with self._guard:
            known = self._journals.get(memory_id)
            if known is None or known.place != head.place:  # made again after a forget
                opened = SegmentedJournal(
                    self._bucket, head.place, self._copies(head.place), head.manifest.first
                )
                known = self._journals.put(memory_id, opened)
            return known

    def folder(self, memory_id: str, revision: Revision) -> Path:
        head = self._existing(memory_id)
        if head.manifest.find(revision.name) != revision:
            raise retired(memory_id, revision)
        return self._fetched(head, revision)

    def _fetched(self, head: _Head, revision: Revision) -> Path:
        folder = self._copy_of(head, revision)
        state: Stamps | None = None
        with suppress(FileNotFoundError):
            state = stamps(folder, revision)
        if state is not None:
            if self._checked.get(folder) == state:
                return folder
            if spoiled_file(folder, revision) is None:
                self._checked.put(folder, state)
                return folder
        remove_tree(folder)  # a copy that was spoiled
        fresh = self._cache / f"{WORK}{secrets.token_hex(8)}"
        with temporary(fresh):
            make_folder(fresh)
            for record in revision.files:
                key = f"{head.revision(revision.name)}/{record.path}"
                if not self._bucket.download(key, fresh / record.path):
                    again = self._existing(head.manifest.id)
                    if again.commits.get(revision.name) != head.commits[revision.name]:
                        raise retired(head.manifest.id, revision)
                    raise StoreDamaged(f"{key} in {self._bucket.url} is missing.")
            if spoiled_file(fresh, revision) is not None:
                where = f"{head.revision(revision.name)} in {self._bucket.url}"
                raise spoiled(where, "size or checksum differ", head.manifest.id)
            self._move_in(fresh, folder)
        self._drop_copies(head)
        return folder

    def _copy_of(self, head: _Head, revision: Revision) -> Path:
        return self._copies(head.place) / f"revision-{head.commits[revision.name]}"

    def _move_in(self, fresh: Path, folder: Path) -> None:
        make_folder(folder.parent.parent)  # each for its owner only
        make_folder(folder.parent)
        with suppress(OSError):  # another thread or process was faster
            fresh.rename(folder)

    def _drop_copies(self, head: _Head) -> None:
        """Remove copies of revisions and places that are no more."""
        kept = {f"revision-{commit}" for commit in head.commits.values()}
        place = self._copies(head.place)
        for entry in _entries(place):
            if entry.name.startswith("revision-") and entry.name not in kept:
                remove_tree(entry)
        for other in _entries(place.parent):
            if other != place and not other.name.startswith(WORK):
                remove_tree(other)

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
        return [*own, *self._bucket.list(f"{head.place}/")]

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
        if now is None or now.place != head.place:
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
                self._copy_journal(origin, place)
            self._put_first(manifest, place, commits)
        if origin is not None and source is not None:
            now = self._head(source)
            if now is None or now.place != origin.place:
                self.delete(manifest.id)
                raise UnknownMemory(f"Memory {source!r} was forgotten meanwhile.")

    @contextmanager
    def _making(self, memory_id: str) -> Iterator[str]:
        """A place for a new memory; cleared if making it fails."""
        name = folder_name(parse_id(memory_id))
        self._refuse_existing(name, memory_id)
        place, began = f"{name}/{secrets.token_hex(16)}", time.monotonic()
        try:
            yield place
        except StoreWriteFailed:
            raise  # it may have been written all the same: a sweep finds out
        except BaseException:
            self._clear_place(place)
            raise
        if time.monotonic() - began > ORPHAN_SECONDS / 2:  # a sweep may have taken it for lost
            self.delete(memory_id)
            raise Conflict(f"Making memory {memory_id!r} took too long: try again.")

    def _refuse_existing(self, name: str, memory_id: str) -> None:
        if self._bucket.get(name + JSON) is not None:
            raise _exists(memory_id)

    def _put_first(self, manifest: Manifest, place: str, commits: Mapping[str, str]) -> None:
        key = folder_name(parse_id(manifest.id)) + JSON
        try:
            self._bucket.put(key, _encode(manifest, place, commits), replacing=None)
        except Lost:
            raise _exists(manifest.id) from None

    def _copied(self, origin: _Head, manifest: Manifest, place: str) -> dict[str, str]:
        commits = {}
        for revision in manifest.revisions:
            if revision.name not in origin.commits:
                raise retired(origin.manifest.id, revision)
            commit = commits[revision.name] = secrets.token_hex(8)
            for record in revision.files:
                key = f"{origin.revision(revision.name)}/{record.path}"
                if not self._bucket.copy(key, f"{place}/revisions/{commit}/{record.path}"):
                    raise retired(origin.manifest.id, revision)
        return commits

    def _copy_journal(self, origin: _Head, place: str) -> None:
        number = 0
        while self._bucket.copy(segment_key(origin.place, number), segment_key(place, number)):
            number += 1

    @contextmanager
    def stage(self, memory_id: str) -> Iterator[Path]:
        self._existing(memory_id)
        home = self._cache / folder_name(parse_id(memory_id))  # a forget takes it along
        make_folder(home)
        folder = home / f"{WORK}{secrets.token_hex(8)}"
        with temporary(folder):
            make_folder(folder)
            yield folder

    def commit(
        self, manifest: Manifest, revision: Revision, staged: Path, *, keep: int
    ) -> Manifest:
        records = file_records(staged)
        changed = manifest.with_revision(replace(revision, files=records), keep)
        head = self._expect(manifest, manifest.epoch)  # what is uploaded from here on is young
        if manifest.find(revision.name) is not None:
            raise StoreError(f"Memory {manifest.id!r} has revision {revision.name} already.")
        commit = secrets.token_hex(8)
        keys = {f"{head.place}/revisions/{commit}/{r.path}": staged / r.path for r in records}
        for key, path in keys.items():
            self._bucket.upload(key, path)
        try:
            now = self._swap(head, changed, {**head.commits, revision.name: commit})
        except Conflict:
            if self._has(head, commit):  # the answer was lost, and others built upon it since
                return changed
            self._bucket.remove(keys)
            raise
        self._move_in(staged, self._copy_of(now, revision))
        self._drop_copies(now)
        return changed

    def _has(self, head: _Head, commit: str) -> bool:
        now = self._head(head.manifest.id)
        return now is not None and now.place == head.place and commit in now.commits.values()

    def replace(self, manifest: Manifest, *, epoch: int) -> None:
        head = self._expect(manifest, epoch)
        self._drop_copies(self._swap(head, manifest, head.commits))

    def _swap(self, head: _Head, manifest: Manifest, commits: Mapping[str, str]) -> _Head:
        """Make `manifest` the truth, then remove the revisions it no longer names.

        Also those of killed commits: whoever is still about to commit one of that age has compared
        with a manifest that is no more.

        Raises:
            Conflict: another one is the truth already.
        """
        named = {revision.name: commits[revision.name] for revision in manifest.revisions}
        key = folder_name(parse_id(manifest.id)) + JSON
        try:
            etag = self._bucket.put(key, _encode(manifest, head.place, named), replacing=head.etag)
        except Lost:
            raise _changed(manifest) from None
        kept, retired = set(named.values()), set(head.commits.values())
        below = f"{head.place}/revisions/"
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
        removed = {key: size, **self._clear_place(place)}
        self._bucket.remove_version(key, etag)
        for path, count in files_below(self._cache / name).items():
            removed[f"cache/{path.relative_to(self._cache)}"] = count
        remove_tree(self._cache / name)
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
            if (place := _forgotten(name, found.body)) is not None:
                return len(found.body), place, found.etag
            body = _parse(found.body)
            place = name if body is None else str(body["place"])  # damaged: all there is
            with suppress(Lost):
                etag = self._bucket.put(key, _tombstone(place), replacing=found.etag)
                return len(found.body), place, etag
        raise Conflict(f"Others write to {memory_id!r} all the time: try again.")

    def export(self, memory_id: str, target: Path) -> None:
        head = self._existing(memory_id)
        fresh = self._cache / f"{WORK}{secrets.token_hex(8)}"
        with temporary(fresh):
            make_folder(fresh)
            replace_file(fresh / _archive.MANIFEST, _plain(head.manifest))
            lines, number = [], 0
            while found := self._bucket.get(segment_key(head.place, number)):
                lines.append(found.body)
                number += 1
            if lines:
                replace_file(fresh / _archive.JOURNAL, b"".join(lines))
            for revision in head.manifest.revisions:
                folder = self._fetched(head, revision)
                inside = fresh / _archive.REVISIONS / revision.name
                make_folder(inside)
                try:
                    for record in revision.files:
                        os.link(folder / record.path, inside / record.path)
                except FileNotFoundError as error:
                    raise retired(memory_id, revision) from error
            _archive.write(fresh, head.manifest, Path(target))

    def import_(self, source: Path, memory_id: str | None) -> Manifest:
        fresh = self._cache / f"{WORK}{secrets.token_hex(8)}"
        with temporary(fresh):
            make_folder(fresh)
            make_folder(fresh / _archive.REVISIONS)
            manifest = _archive.read(Path(source), fresh)
            name = str(parse_id(manifest.id if memory_id is None else memory_id))
            manifest = replace(manifest, id=name)
            lines = _checked_lines(fresh / _archive.JOURNAL, manifest.first)
            with self._making(name) as place:
                commits = {}
                for revision in manifest.revisions:
                    commit = commits[revision.name] = secrets.token_hex(8)
                    for record in revision.files:
                        self._bucket.upload(
                            f"{place}/revisions/{commit}/{record.path}",
                            fresh / _archive.REVISIONS / revision.name / record.path,
                        )
                for number, body in enumerate(segments(lines)):
                    self._bucket.put(segment_key(place, number), body, replacing=None)
                self._put_first(manifest, place, commits)
        return manifest


# --- what lies in the bucket -------------------------------------------------------------------


def _plain(manifest: Manifest) -> bytes:
    return json.dumps(manifest.as_json(), ensure_ascii=False, indent=1).encode()


def _encode(manifest: Manifest, place: str, commits: Mapping[str, str]) -> bytes:
    body = {"place": place, "commits": dict(commits), "manifest": manifest.as_json()}
    return json.dumps(body, ensure_ascii=False, indent=1).encode()


def _parse(body: bytes) -> dict[str, Any] | None:
    """A manifest and where its parts lie; None if it is none."""
    try:
        found = json.loads(body)
        name, _, token = found["place"].partition("/")
        names = {revision["name"] for revision in found["manifest"]["revisions"]}
        sound = name and _PLACE.fullmatch(token) and set(found["commits"]) == names
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return found if sound else None


def _tombstone(place: str) -> bytes:
    # short, so that a listing tells it from a manifest
    return json.dumps({"forgotten": place.rpartition("/")[2]}).encode()


def _forgotten(name: str, body: bytes) -> str | None:
    """The place that a tombstone says is to be cleared; None: it is no tombstone."""
    if len(body) > _LARGEST_TOMBSTONE:
        return None
    try:
        token = json.loads(body)["forgotten"]
    except (ValueError, TypeError, KeyError):
        return None
    return f"{name}/{token}" if _PLACE.fullmatch(str(token)) else name


def _checked_lines(path: Path, first: str) -> bytes:
    """The whole lines of a journal that somebody hands in."""
    if not path.exists():
        return b""
    lines = path.read_bytes()
    lines = lines[: lines.rfind(b"\n") + 1]
    journal = Journal(first, lambda _: {})
    try:
        for number, line in enumerate(lines.split(b"\n")[:-1]):
            journal.add(decode_line(line), number)
    except (ValueError, TypeError, KeyError) as error:
        raise StoreDamaged(f"The journal in the file is damaged: {error}.") from error
    return lines


# --- what lies in the cache --------------------------------------------------------------------


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


# --- errors ------------------------------------------------------------------------------------


def _exists(memory_id: str) -> Conflict:
    return Conflict(f"Memory {memory_id!r} exists already: forget it first, or use another id.")


def _changed(manifest: Manifest, how: str = "") -> Conflict:
    return Conflict(
        f"Memory {manifest.id!r} was changed by another writer{how}: read it again and retry."
    )
