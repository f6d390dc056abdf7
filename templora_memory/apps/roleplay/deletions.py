"""What visitors delete: it is out of sight at once, and removed when it can no longer be undone.

Deleted things wait for the grace time with their memories untouched, so that undoing brings back
exactly what there was. Then, or at once where the visitor says so, they are removed for good. A
server that is killed meanwhile removes them when it starts again: nothing deleted is on record.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from templora_memory import ForgetReceipt, ParametricMemory
from templora_memory.errors import Conflict, TemploraError, UnknownMemory

from .saved_characters import SavedCharacters
from .state import Actor, Chat, FactProbe, Persona, Visitor, new_id

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionProof:
    """The result of deleting something, with the proof that nothing is left of a character.

    `equals_base` tells whether every fact is exactly as likely as it was for the base model before;
    None where nothing was asked.
    """

    label: str
    receipt: ForgetReceipt
    downloads: int = 0
    probes: tuple[FactProbe, ...] = ()
    equals_base: bool | None = None


@dataclass(slots=True, kw_only=True)
class PendingDeletion:
    """Something deleted that can still come back.

    Args:
        label: of what is deleted.
        due: when it is removed for good, on the monotonic clock.
        restore: brings it back.
        finish: removes it; raises `TemploraError` if it must be tried again.
        memories: ids of characters whose memories must stay until then.
        ending: whether it is being restored or finished at this moment.
    """

    label: str
    due: float
    restore: Callable[[], None]
    finish: Callable[[], DeletionProof]
    memories: frozenset[str] = frozenset()
    key: str = field(default_factory=lambda: secrets.token_hex(6))
    ending: bool = False

    def seconds_left(self) -> float:
        """Seconds until it cannot be undone."""
        return max(0.0, self.due - time.monotonic())


def forget_if_there(memory: ParametricMemory, memory_id: str) -> ForgetReceipt:
    """Forget a memory; an empty receipt if there is none."""
    try:
        return memory[memory_id].forget()
    except UnknownMemory:
        return ForgetReceipt(ids=(), files=())


def removed(receipt: ForgetReceipt) -> str:
    """Return what a receipt says, in a few words."""
    return f"{len(receipt.files)} files, {receipt.bytes / 1e6:.2f} MB removed"


class Deletions:
    """The verbs that delete, and what undoes them.

    Args:
        memory: the service.
        saved: records and downloads of characters.
        grace: seconds in which a deletion can be undone.
    """

    def __init__(self, memory: ParametricMemory, saved: SavedCharacters, grace: float) -> None:
        self._memory = memory
        self._saved = saved
        self._grace = grace

    def _pend(
        self,
        visitor: Visitor,
        label: str,
        *,
        restore: Callable[[], None],
        finish: Callable[[], DeletionProof],
        memories: frozenset[str] = frozenset(),
    ) -> PendingDeletion:
        deletion = PendingDeletion(
            label=label,
            due=time.monotonic() + self._grace,
            restore=restore,
            finish=finish,
            memories=memories,
        )
        with visitor.lock:
            visitor.deletions.append(deletion)
        visitor.record(f"{label} was deleted", "can be undone for now")
        return deletion

    # --- ending them ---------------------------------------------------------------------------

    @staticmethod
    def _take(visitor: Visitor, key: str | None) -> PendingDeletion | None:
        """Return a deletion to undo or finish, which nobody else does then; None: the newest.

        It stays among the others until it has ended: a sweep would take its memories for strays.
        """
        with visitor.lock:
            for deletion in reversed(visitor.deletions):
                if key in {None, deletion.key} and not deletion.ending:
                    deletion.ending = True
                    return deletion
        return None

    @staticmethod
    @contextmanager
    def _ended(visitor: Visitor, deletion: PendingDeletion) -> Iterator[None]:
        """Take a deletion out once it is undone or finished; after an error it waits again."""
        try:
            yield
        except BaseException:
            deletion.due = max(deletion.due, time.monotonic() + 1.0)
            deletion.ending = False
            raise
        with visitor.lock:
            visitor.deletions.remove(deletion)

    def undo(self, visitor: Visitor, key: str | None = None) -> str | None:
        """Bring back what was deleted; its label, or None if it is too late."""
        deletion = self._take(visitor, key)
        if deletion is None:
            return None
        with self._ended(visitor, deletion):
            deletion.restore()
        visitor.record(f"{deletion.label} is back", "")
        return deletion.label

    def finish(self, visitor: Visitor, key: str | None = None) -> DeletionProof | None:
        """Remove for good what was deleted; None if it is gone or back already.

        Raises:
            TemploraError: it could not be removed; it stays deleted and is tried again.
        """
        deletion = self._take(visitor, key)
        if deletion is None:
            return None
        with self._ended(visitor, deletion):
            proof = deletion.finish()
        visitor.deleted = proof
        visitor.record(f"{deletion.label} is gone for good", removed(proof.receipt))
        return proof

    def finish_due(self, visitor: Visitor, *, every: bool = False) -> None:
        """Remove for good what can no longer be undone, or all of it; failures are logged."""
        now = time.monotonic()
        with visitor.lock:
            keys = [item.key for item in visitor.deletions if every or now >= item.due]
        for key in keys:
            try:
                self.finish(visitor, key)
            except TemploraError as error:
                _log.warning("A deletion has to be tried again: %s", error)

    # --- characters ----------------------------------------------------------------------------

    def character(self, visitor: Visitor, actor: Actor) -> PendingDeletion:
        """Delete a character with its memory, its chats and what every persona told it."""
        actor.leave()
        with visitor.lock:
            visitor.actors.pop(actor.id, None)
        self._saved.remove(actor)  # a server that dies now must not bring it back
        return self._pend(
            visitor,
            actor.label,
            restore=partial(self._restore_character, visitor, actor),
            finish=partial(self._finish_character, visitor, actor),
            memories=frozenset({actor.id}),
        )

    def _restore_character(self, visitor: Visitor, actor: Actor) -> None:
        actor.come_back()
        with visitor.lock:
            visitor.actors[actor.id] = actor
        self._save(visitor, actor)

    def _save(self, visitor: Visitor, actor: Actor) -> None:
        if actor.saved:
            self._saved.save(visitor, actor)

    def _finish_character(self, visitor: Visitor, actor: Actor) -> DeletionProof:
        receipt = forget_if_there(self._memory, actor.id)
        downloads = self._saved.clear_downloads(visitor, actor)
        probes, equals_base = actor.probes, None
        if probes:
            # an empty memory under the same id answers as whatever the delete left would
            handle = self._memory.open(actor.id)
            values = [
                row.per_token(handle.probe(row.fact.question, row.fact.sentence)) for row in probes
            ]
            equals_base = values == [row.base for row in probes]
            probes = tuple(replace(r, now=v) for r, v in zip(probes, values, strict=True))
            forget_if_there(self._memory, actor.id)
        return DeletionProof(
            label=actor.label,
            receipt=receipt,
            downloads=downloads,
            probes=probes,
            equals_base=equals_base,
        )

    # --- chats and personas --------------------------------------------------------------------

    def chat(self, visitor: Visitor, actor: Actor, persona: Persona, chat: Chat) -> PendingDeletion:
        """Delete a conversation and what was learned from it.

        The other conversations with this persona share the memory; it goes as a whole, and they are
        learned again from their text when they need it.
        """
        chats = actor.chats[persona.key]
        with visitor.lock:
            chats.remove(chat)
        self._save(visitor, actor)
        title = f"“{chat.title}”" if chat.title else f"A chat with {actor.label}"

        def restore() -> None:
            with visitor.lock:
                actor.chats.setdefault(persona.key, []).append(chat)
            self._save(visitor, actor)

        def finish() -> DeletionProof:
            receipt = self._forget_pair(actor, persona)
            return DeletionProof(label=title, receipt=receipt)

        return self._pend(visitor, title, restore=restore, finish=finish)

    def _forget_pair(self, actor: Actor, persona: Persona) -> ForgetReceipt:
        """Forget what a persona told a character.

        Raises:
            Conflict: it is answering them at this moment.
        """
        chats = actor.chats.get(persona.key, [])
        if any(chat.busy.locked() for chat in chats):
            raise Conflict(f"{actor.label} is answering: its memory is removed afterwards.")
        return forget_if_there(self._memory, actor.pair(persona))

    def persona(self, visitor: Visitor, persona: Persona) -> PendingDeletion:
        """Delete what every character learned from a persona, and the chats with them."""
        taken: dict[str, list[Chat]] = {}
        with visitor.lock:
            actors = list(visitor.actors.values())
            for actor in actors:
                taken[actor.id] = actor.chats.pop(persona.key, [])
        for actor in actors:
            self._save(visitor, actor)
        label = f"Everything {persona.name} said"

        def restore() -> None:
            for actor in actors:
                with visitor.lock:
                    chats = actor.chats.setdefault(persona.key, [])
                    chats.extend(taken[actor.id])  # the open one is among those that came back
                self._save(visitor, actor)

        def finish() -> DeletionProof:
            try:
                receipt = self._memory.forget(user=persona.key)
            except UnknownMemory:
                receipt = ForgetReceipt(ids=(), files=())
            return DeletionProof(label=label, receipt=receipt)

        return self._pend(visitor, label, restore=restore, finish=finish)

    # --- revisions -----------------------------------------------------------------------------

    def rollback(
        self, visitor: Visitor, actor: Actor, memory_id: str, revision: str
    ) -> PendingDeletion:
        """Make an older revision the newest; a copy of the memory waits for an undo."""
        spare = new_id()
        name = revision[:12]

        def restore() -> None:
            forget_if_there(self._memory, memory_id)
            self._memory[spare].fork(memory_id)
            forget_if_there(self._memory, spare)

        def finish() -> DeletionProof:
            receipt = forget_if_there(self._memory, spare)
            return DeletionProof(label=f"What came after revision {name}", receipt=receipt)

        deletion = self._pend(
            visitor,
            f"What {actor.label} learned after revision {name}",
            restore=restore,
            finish=finish,
            memories=frozenset({spare}),  # before it is made: a sweep must not take it for a stray
        )
        try:
            self._memory[memory_id].fork(spare)
            self._memory[memory_id].rollback(revision)
        except BaseException:
            with visitor.lock:
                visitor.deletions.remove(deletion)
            forget_if_there(self._memory, spare)
            raise
        return deletion
