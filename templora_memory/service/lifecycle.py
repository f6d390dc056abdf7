"""Copies of memories, ways back, and ends: fork, rollback, export, import, forget, expire."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from templora_memory.domain.ids import MemoryId, parse_id
from templora_memory.domain.manifest import Manifest, Revision
from templora_memory.domain.results import ForgetReceipt, RemovedFile
from templora_memory.errors import StoreDamaged, UnknownMemory
from templora_memory.ports import Backend, Store
from templora_memory.service.catalog import Catalog
from templora_memory.service.jobs import JobQueue
from templora_memory.service.search import Searcher
from templora_memory.service.streams import OpenStreams
from templora_memory.stores.archive import clear_partials

_log = logging.getLogger("templora_memory")


class Lifecycle:
    """Copies memories, takes them back to an older revision, removes them.

    Args:
        backend: is told to drop what it caches of a memory that is gone.
        store: where the memories are kept.
        catalog: looks them up.
        jobs: the absorbs that are waited for, or cancelled.
        searcher: drops the index of a memory that is gone.
        streams: replies under way, stopped when their memory is forgotten.
    """

    def __init__(
        self,
        backend: Backend,
        store: Store,
        *,
        catalog: Catalog,
        jobs: JobQueue,
        searcher: Searcher,
        streams: OpenStreams,
    ) -> None:
        self._backend = backend
        self._store = store
        self._catalog = catalog
        self._jobs = jobs
        self._searcher = searcher
        self._streams = streams

    def fork(self, memory_id: str, target: str, revision: str | None) -> str:
        """Copy a memory under another id, which is returned; see `Memory.fork`."""
        name = str(parse_id(target))
        self._jobs.wait_for(str(parse_id(memory_id)))
        source = self._catalog.get(memory_id)
        copied = replace(source, id=name, epoch=0, created=time.time(), forks=(), exports=())
        if revision is not None:
            copied = replace(copied.rolled_back(copied.get(revision)), epoch=0)
        if self._store.manifest(name) is None:  # create() says what is wrong otherwise
            self._catalog.note_copy(source.id, fork=name)
        self._store.create(copied, source=source.id, journal=True)
        if revision is not None:
            self._withdraw(name, copied.newest)
        return name

    def rollback(self, memory_id: str, revision: str) -> Revision:
        """Make an older revision the newest again; see `Memory.rollback`."""
        name = self._catalog.get(memory_id).id
        self._jobs.cancel(name)
        changed = self._catalog.update(name, lambda now: now.rolled_back(now.get(revision)))
        chosen = changed.get(revision)
        self._withdraw(name, chosen)
        return chosen

    def _withdraw(self, memory_id: str, head: Revision | None) -> None:
        """Withdraw the documents that `head` has not learned."""
        learned = set(head.documents if head else ())
        journal = self._store.journal(memory_id)
        self._store.withdraw_documents(
            memory_id, [digest for digest in journal.to_learn if digest not in learned]
        )

    def export(self, memory_id: str, path: Path) -> None:
        """Write a memory to one file; see `Memory.export`."""
        self._jobs.wait_for(str(parse_id(memory_id)))
        name = self._catalog.note_copy(memory_id, export=str(path.absolute())).id
        self._store.export(name, path)

    def forget(self, name: MemoryId) -> ForgetReceipt:
        """Delete a memory with everything made from it; see `Memory.forget`."""
        chosen = [i for i in self._store.ids() if name.covers(parse_id(i))]
        if not chosen:
            raise UnknownMemory(f"There is nothing to forget of {str(name)!r}.")
        return self._remove(chosen)

    def forget_user(self, user: str) -> ForgetReceipt:
        """Delete all memories of a user; see `ParametricMemory.forget`."""
        wanted = parse_id(f"any@{user}").user
        chosen = [i for i in self._store.ids() if parse_id(i).user == wanted]
        if not chosen:
            raise UnknownMemory(f"There is nothing to forget of user {user!r}.")
        return self._remove(chosen)

    def expire(self) -> ForgetReceipt:
        """Forget memories that were not changed for longer than their `ttl`."""
        expired = []
        for memory_id in self._store.expiring():
            try:
                manifest = self._store.manifest(memory_id)
            except StoreDamaged as error:  # one damaged memory does not stop the others
                _log.warning("%s", error)
                continue
            if manifest is None or manifest.ttl is None:
                continue
            if time.time() - self._store.last_used(memory_id) > manifest.ttl:
                expired.append(memory_id)
        return self._remove(expired)

    def _remove(self, ids: Sequence[str]) -> ForgetReceipt:
        files: list[RemovedFile] = []
        forks: dict[str, None] = {}
        exports: dict[str, None] = {}
        remote: list[str] = []
        for memory_id in ids:
            self._streams.close(memory_id)
            self._jobs.cancel(memory_id)
            for manifest in self._with_copies(memory_id):
                forks |= dict.fromkeys(manifest.forks)
                exports |= dict.fromkeys(manifest.exports)
            files += self._store.delete(memory_id)
            for path in exports:  # what a killed export left beside its file
                files += clear_partials(Path(path))
            self._searcher.drop(memory_id)
            remote += self._backend.release(f"{memory_id}/")
            self._jobs.clear_failure(memory_id)
        return ForgetReceipt(
            ids=tuple(ids),
            files=tuple(files),
            forks=tuple(fork for fork in forks if fork not in ids and fork in self._store.ids()),
            exports=tuple(path for path in exports if Path(path).exists()),
            remote=tuple(remote),
        )

    def copies(self, memory_id: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return what else knows what a memory knew: other memories, and exported files.

        The memories are those that were copied or began from it, pairs among them.
        """
        forks: dict[str, None] = {}
        exports: dict[str, None] = {}
        for manifest in self._with_copies(memory_id):
            forks |= dict.fromkeys(manifest.forks)
            exports |= dict.fromkeys(manifest.exports)
        name, ids = parse_id(memory_id), self._store.ids()
        pairs = [i for i in ids if parse_id(i).parent == name and self._began_from(i, memory_id)]
        return (
            tuple(fork for fork in dict.fromkeys((*forks, *pairs)) if fork in ids),
            tuple(path for path in exports if Path(path).exists()),
        )

    def _began_from(self, memory_id: str, origin: str) -> bool:
        try:
            manifest = self._store.manifest(memory_id)
        except StoreDamaged as error:  # it may have
            _log.warning("%s", error)
            return True
        begun = None if manifest is None else manifest.origin
        return begun is not None and begun.id == origin

    def _with_copies(self, memory_id: str) -> Iterator[Manifest]:
        """Yield a memory and its copies, and theirs, as far as they exist and can be read."""
        waiting, seen = [memory_id], {memory_id}
        while waiting:
            try:
                manifest = self._store.manifest(waiting.pop())
            except StoreDamaged as error:  # forgetting goes on: its copies are not known
                _log.warning("%s", error)
                continue
            if manifest is not None:
                yield manifest
                waiting += [fork for fork in manifest.forks if fork not in seen]
                seen.update(manifest.forks)
