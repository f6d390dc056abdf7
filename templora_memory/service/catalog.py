"""Memories by their id: making them, looking them up, describing them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from templora_memory.domain.ids import MemoryId, parse_id
from templora_memory.domain.manifest import Manifest, new_manifest
from templora_memory.domain.messages import (
    Item,
    Message,
    MessageLike,
    as_messages,
    dialogue,
)
from templora_memory.domain.results import Covered, Status, Transcript
from templora_memory.domain.suggestions import did_you_mean
from templora_memory.errors import Cancelled, Conflict, UnknownMemory
from templora_memory.ports import Backend, Store, retry_on_conflict
from templora_memory.service.admission import Admission, new_items
from templora_memory.service.conversation import SentConversation, sent_positions
from templora_memory.service.jobs import JobQueue

MAX_TRIES = 8
"""How often a change is planned again when another writer was faster."""
_NAMED_IDS = 5


class Catalog:
    """The memories of a store.

    Args:
        backend: names the base model of new memories.
        store: where they are kept.
        jobs: the absorbs that `status` counts.
        admission: decides which text may be told to a memory.
        ttl: seconds without use after which new memories expire; None: never.
    """

    def __init__(
        self,
        backend: Backend,
        store: Store,
        jobs: JobQueue,
        admission: Admission,
        ttl: float | None,
    ) -> None:
        self._backend = backend
        self._store = store
        self._jobs = jobs
        self._admission = admission
        self._ttl = ttl

    def get(self, memory_id: str) -> Manifest:
        """Return the newest manifest of a memory.

        Raises:
            UnknownMemory: names memories that there are.
        """
        name = str(parse_id(memory_id))
        manifest = self._store.manifest(name)
        if manifest is None:
            ids = self._store.ids()
            listed = ", ".join(map(repr, ids[:_NAMED_IDS]))
            listed += ", ..." if len(ids) > _NAMED_IDS else ""
            raise UnknownMemory(
                f"There is no memory {name!r}. There are: {listed or 'none yet'}."
                f"{did_you_mean(name, ids)} Absorb something into it first, or check the id."
            )
        return manifest

    def still_there(self, earlier: Manifest) -> Manifest:
        """Return the newest manifest of a memory that existed a moment ago.

        Raises:
            Cancelled: it was forgotten meanwhile.
            Conflict: texts were removed from it meanwhile.
        """
        manifest = self._store.manifest(earlier.id)
        if manifest is None or not manifest.same_memory(earlier):
            raise Cancelled(f"Memory {earlier.id!r} was forgotten meanwhile.")
        if manifest.edits != earlier.edits:
            raise Conflict(f"Texts were removed from memory {earlier.id!r} meanwhile: ask again.")
        return manifest

    def ensure(
        self, name: MemoryId, base: MemoryId | None = None, *, create: bool = True
    ) -> Manifest:
        """Return the manifest of a memory, which is made if it does not exist.

        A new one starts from the newest revision of `base`, or of its parent (`MemoryId.parent`).

        Raises:
            UnknownMemory: it does not exist and `create` is False.
            BaseMismatch: what it starts from was learned on another base model.
        """
        for _ in range(MAX_TRIES):
            if not create:
                return self.get(str(name))
            if (existing := self._store.manifest(str(name))) is not None:
                return existing
            start = base or name.parent
            origin = self._store.manifest(str(start)) if start else None
            if origin is not None and origin.newest is None:
                origin = None
            if origin is not None:
                origin.check_base(self._backend.identity)
                if base is not None:  # a pair needs no note: it goes with its name
                    self.note_copy(origin.id, fork=str(name))
            manifest = new_manifest(
                str(name),
                self._backend.identity,
                created=time.time(),
                ttl=self._ttl,
                origin=origin,
            )
            try:
                self._store.create(manifest, source=origin.id if origin else None)
            except Conflict:
                continue  # another thread or process was faster
            return manifest
        raise Conflict(f"Memory {str(name)!r} is made and forgotten all the time: try again.")

    def note_copy(
        self, memory_id: str, *, fork: str | None = None, export: str | None = None
    ) -> Manifest:
        """Note where a copy is about to be made, for the receipt of a later forget.

        Raises:
            UnknownMemory.
            Conflict: other writers were faster each time.
        """

        def note(manifest: Manifest) -> Manifest | None:
            noted = manifest.copied_to(fork=fork, export=export)
            known = (noted.forks, noted.exports) == (manifest.forks, manifest.exports)
            return None if known else noted

        return self.update(memory_id, note)

    def update(self, memory_id: str, change: Callable[[Manifest], Manifest | None]) -> Manifest:
        """Replace a manifest, planned again where another writer was faster; returns the newest.

        Args:
            memory_id: of which memory.
            change: returns the manifest to store in place of a given one; None: nothing to do.

        Raises:
            UnknownMemory, and whatever `change` raises.
            Conflict: other writers were faster each time.
        """

        def attempt() -> Manifest:
            manifest = self.get(memory_id)
            changed = change(manifest)
            if changed is None:
                return manifest
            self._store.replace(changed, epoch=manifest.epoch)
            return changed

        return retry_on_conflict(attempt, tries=MAX_TRIES)

    def check_admitted(
        self,
        name: MemoryId,
        items: Sequence[Item],
        *,
        after: int | None = None,
        resumes: bool = False,
    ) -> None:
        """Refuse text before a byte of it is written.

        `after`: the messages follow so many of the newest conversation. `resumes`: they may leave
        out the beginning of a conversation (`Journal.omitted_before`).

        Raises:
            NotAdmitted: by the application's hook, or an author has taught enough.
        """
        if not self._admission.asks:
            return
        manifest = self._store.manifest(str(name))
        journal = None if manifest is None else self._store.journal(manifest.id)
        start = None
        if journal is not None and after is not None:
            start = journal.beginning(journal.tip, after)
        if manifest is not None and journal is not None and resumes:
            sent = tuple(item for item in items if isinstance(item, Message))
            start = SentConversation.resume(sent, manifest, journal).start
        self._admission.check(str(name), new_items(items, journal, after=start), journal)

    def status(self, memory_id: str) -> Status:
        """Return a memory at a glance; see `Memory.status`."""
        manifest = self.get(memory_id)
        journal, head = self._store.journal(manifest.id), manifest.newest
        return Status(
            id=manifest.id,
            head_name=head.name if head else None,
            revisions=len(manifest.revisions),
            message_count=journal.length(journal.tip),
            absorbed_messages=head.messages if head else 0,
            document_count=len(journal.to_learn),
            absorbed_documents=len(head.documents) if head else 0,
            absorbed_tokens=head.tokens if head else 0,
            bytes=self._store.size(manifest.id),
            jobs=len(self._jobs.jobs(manifest.id)),
            last_error=self._jobs.failure(manifest.id),
            base=manifest.base.name,
            origin=manifest.origin.id if manifest.origin else None,
        )

    def transcript(self, memory_id: str) -> Transcript:
        """Return every text in force of a memory; see `Memory.transcript`."""
        manifest = self.get(memory_id)
        journal = self._store.journal(manifest.id)
        return Transcript(
            documents=tuple(journal.document(digest) for digest in journal.documents),
            messages=journal.messages(journal.tip),
        )

    def covered(self, memory_id: str, messages: Iterable[MessageLike]) -> Covered:
        """Return how much of a history lives in weights; see `Memory.covered`."""
        manifest, history = self.get(memory_id), as_messages(messages)
        sent = dialogue(history)
        conversation = SentConversation.resume(sent, manifest, self._store.journal(manifest.id))
        revision = conversation.covering(manifest, len(conversation.digests) - 1)
        covered = sent_positions(history, conversation, revision)
        return Covered(messages=covered, revision=revision)
