"""Verbs for the characters of visitors: learn, ask, copy, keep, delete. No Gradio here.

The page resends whole conversations, so a memory can always be made again from them. What must not
outlive its character are the memory's folder, the kept record and prepared downloads; `delete`
removes all three.
"""

from __future__ import annotations

import logging
import math
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from templora_memory import (
    AbsorbReport,
    Document,
    ForgetReceipt,
    Job,
    Message,
    ParametricMemory,
    Probe,
)
from templora_memory.errors import Cancelled, InputError, UnknownMemory
from templora_memory.importers import Character, ChatLog, chat_to_jsonl, spoken_name, to_png

from .saved_characters import SavedCharacters
from .state import (
    MAX_ACTORS,
    MAX_PERSONAS,
    PREFIX,
    AbsorbRecord,
    Actor,
    Chat,
    FactProbe,
    Persona,
    Visitor,
)
from .visitors import Visitors

_log = logging.getLogger(__name__)
_POLL = 0.1
_SAY_TOKENS = 32


class ActionRefused(InputError):
    """Something that this page does not do, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningStep:
    """The progress of an absorb: `done` of `total` steps, and the perplexity of each so far."""

    done: int
    total: int
    seconds: float
    perplexities: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionProof:
    """The result of deleting a character, with the proof that nothing is left.

    `equals_base` tells whether every fact is exactly as likely as it was for the base model before;
    None where nothing was asked.
    """

    label: str
    receipt: ForgetReceipt
    downloads: int
    probes: tuple[FactProbe, ...]
    equals_base: bool | None


class Studio:
    """All visitors' characters on one memory service.

    Args:
        memory: the service; memories whose id does not begin with `PREFIX` are never touched.
        home: folder for kept characters and prepared downloads; None: a temporary one, so that
            nothing outlives `close`.
        grace, idle: see `Visitors`, in seconds.
    """

    def __init__(
        self,
        memory: ParametricMemory,
        *,
        home: Path | None = None,
        grace: float = 60.0,
        idle: float = 1800.0,
    ) -> None:
        self.memory = memory
        self.grace = grace
        self._temporary_home = tempfile.TemporaryDirectory() if home is None else None
        self.saved = SavedCharacters(
            home
            if home is not None
            else Path(self._temporary_home.name if self._temporary_home else "")
        )
        self.visitors = Visitors(grace=grace, idle=idle, discard=self._discard)
        self._stop = threading.Event()
        self._sweeper: threading.Thread | None = None
        self._guard = threading.Lock()
        self._cleaners: list[threading.Thread] = []

    # --- life ----------------------------------------------------------------------------------

    def open(self) -> Studio:
        """Bring back kept characters, forget what a killed server left, begin to sweep.

        Raises:
            ActionRefused: another server uses this home.
        """
        self.saved.lock()
        self.memory.load()
        for visitor in self.saved.load(self.memory.list()):
            self.visitors.add(visitor)
        self.sweep()
        self._sweeper = threading.Thread(target=self._run, name="roleplay-sweeper", daemon=True)
        self._sweeper.start()
        return self

    def close(self) -> None:
        """Discard what is not kept. The memory service stays open."""
        self._stop.set()
        self.settle()
        if self._sweeper is not None:
            self._sweeper.join()
            for visitor in self.visitors.all():
                self._discard(visitor)
            self._sweeper = None
        self.saved.unlock()
        if self._temporary_home is not None:
            self._temporary_home.cleanup()

    def _run(self) -> None:
        while not self._stop.wait(min(1.0, max(0.1, self.grace / 4))):
            try:
                self.sweep()
            except Exception:  # noqa: BLE001  # logged; the sweeper must go on
                _log.exception("A sweep failed; the next one tries again")

    def sweep(self) -> None:
        """Discard visitors who are due, then memories of this page that belong to nobody.

        The second part catches what a killed server left.
        """
        self.visitors.sweep()
        known = {actor.id for visitor in self.visitors.all() for actor in visitor.actors.values()}
        for memory_id in self.memory.list():
            if memory_id.startswith(PREFIX) and memory_id.partition("@")[0] not in known:
                self._forget(memory_id)

    def _discard(self, visitor: Visitor) -> None:
        with visitor.lock:
            passing = [actor for actor in visitor.actors.values() if not actor.saved]
            for actor in passing:
                actor.leave()
                del visitor.actors[actor.id]
        for actor in passing:
            self._forget(actor.id)
        self.saved.clear_downloads(visitor)
        if visitor.actors:  # kept ones wait for their visitor to come back
            self.visitors.add(visitor)

    def _forget(self, memory_id: str) -> ForgetReceipt:
        try:
            return self.memory[memory_id].forget()
        except UnknownMemory:
            return ForgetReceipt(ids=(), files=())

    # --- characters ----------------------------------------------------------------------------

    def actor(self, visitor: Visitor, actor_id: str | None) -> Actor:
        """A character of this visitor.

        Raises:
            ActionRefused: it belongs to somebody else, or is gone.
        """
        actor = visitor.actors.get(actor_id or "")
        if actor is None or actor.gone:
            raise ActionRefused("Choose a character first: this one is gone.")
        return actor

    def add(self, visitor: Visitor, actor: Actor) -> Actor:
        """Give a character to a visitor, under a label that is new to them.

        Raises:
            ActionRefused: they have as many as they may have.
        """
        with visitor.lock:
            if len(visitor.actors) >= MAX_ACTORS:
                raise ActionRefused(f"You have {MAX_ACTORS} characters: delete one first.")
            actor.label = self._free_label(visitor, actor.label)
            visitor.actors[actor.id] = actor
        return actor

    @staticmethod
    def _free_label(visitor: Visitor, label: str) -> str:
        taken = {actor.label for actor in visitor.actors.values()}
        number, free = 2, label
        while free in taken:
            free, number = f"{label} {number}", number + 1
        return free

    def rename(self, visitor: Visitor, actor: Actor, label: str) -> None:
        """Show a character under another name; its memory does not change."""
        with visitor.lock:
            if not label:
                raise ActionRefused("Type a new name first.")
            if label != actor.label:
                actor.label = self._free_label(visitor, label)
        self.save(visitor, actor)

    def persona(self, visitor: Visitor, name: str, note: str) -> Persona:
        """Add somebody to play, or change the note of the one with this name."""
        if not name:
            raise ActionRefused("Type a name for whom you play first.")
        with visitor.lock:
            known = next((p for p in visitor.personas if p.name == name), None)
            if known is not None:
                known.note = note
                return known
            if len(visitor.personas) >= MAX_PERSONAS:
                raise ActionRefused(f"You have {MAX_PERSONAS} personas: that is the most.")
            persona = Persona(name=name, note=note)
            visitor.personas.append(persona)
        return persona

    # --- learning ------------------------------------------------------------------------------

    def absorb(
        self, visitor: Visitor, actor: Actor, items: Sequence[Document], source: str
    ) -> Iterator[LearningStep]:
        """Learn documents; closing the iterator cancels, and a new character then vanishes.

        Closing returns at once; `settle` waits until nothing is left. What personas told the
        character is learned anew on top, from their chats.

        Raises:
            TemploraError: as `Memory.absorb`; a new character is removed then, too.
        """
        fresh = actor.id not in self.memory.list() or self.memory[actor.id].head() is None
        actor.enter(self.memory, actor.id)
        job = self.memory[actor.id].absorb(items, create=False, wait=False)
        clean = partial(self._clean, visitor, actor, job, drop=fresh)
        try:
            record = yield from self._follow(job, source)
        except GeneratorExit:
            job.cancel()
            self._later(clean)  # Gradio closes on its event loop, which must not wait
            raise
        except BaseException:
            clean()
            raise
        actor.absorbs.append(record)
        self._rebase(actor)
        visitor.record(f"{actor.label} learned {source}", _learned(record.report))
        self.save(visitor, actor)

    def absorb_chat(
        self, visitor: Visitor, actor: Actor, persona: Persona, messages: Sequence[Message]
    ) -> Iterator[LearningStep]:
        """Make a conversation the history with a persona, and learn all but its newest exchange."""
        chat = actor.chat(persona)
        with chat.busy:
            chat.messages[:] = messages
            chat.costs.clear()
        self._forget(actor.pair(persona))
        old = _older(messages)
        if not old:
            return
        actor.enter(self.memory, actor.pair(persona))
        job = self.memory[actor.pair(persona)].absorb(old, create=False, wait=False)
        try:
            record = yield from self._follow(job, f"{len(old)} messages with {persona.name}")
        except GeneratorExit:
            job.cancel()
            self._later(partial(self._clean, visitor, actor, job, drop=False))
            raise
        actor.absorbs.append(record)
        visitor.record(f"{actor.label} learned {record.source}", _learned(record.report))
        self.save(visitor, actor)

    def _follow(self, job: Job, source: str) -> Generator[LearningStep, None, AbsorbRecord]:
        started, last = time.monotonic(), None
        perplexities: list[float] = []
        while not job.done:
            now = job.progress
            if now is not None and now is not last:
                last = now
                if math.isfinite(now.perplexity):
                    perplexities.append(now.perplexity)
            yield LearningStep(
                done=now.chunk if now else 0,
                total=now.chunks if now else 0,
                seconds=time.monotonic() - started,
                perplexities=tuple(perplexities),
            )
            time.sleep(_POLL)
        report = job.wait()
        return AbsorbRecord(
            source=source, time=time.time(), report=report, perplexities=tuple(perplexities)
        )

    def _clean(self, visitor: Visitor, actor: Actor, job: Job, *, drop: bool) -> None:
        """Wait until a cancelled job has let go, then remove what must not stay."""
        job.cancel()
        job.finished()
        if drop or actor.gone:
            self.drop(visitor, actor)

    def _later(self, work: Callable[[], None]) -> None:
        cleaner = threading.Thread(target=work, name="roleplay-cleaner", daemon=True)
        with self._guard:
            self._cleaners = [thread for thread in self._cleaners if thread.is_alive()]
            cleaner.start()
            self._cleaners.append(cleaner)

    def settle(self, timeout: float | None = None) -> None:
        """Wait until what was stopped is cleaned up."""
        with self._guard:
            cleaners = list(self._cleaners)
        for thread in cleaners:
            thread.join(timeout)

    def drop(self, visitor: Visitor, actor: Actor) -> None:
        """Remove a character that has learned nothing worth a receipt."""
        actor.leave()
        with visitor.lock:
            visitor.actors.pop(actor.id, None)
        self._forget(actor.id)

    def _rebase(self, actor: Actor) -> None:
        """Let every pair start from the newest revision again; chats are resent and relearned."""
        for key in list(actor.chats):
            self._forget(f"{actor.id}@{key}")

    # --- asking --------------------------------------------------------------------------------

    def base_probes(self, actor: Actor) -> Iterator[tuple[FactProbe, ...]]:
        """Ask the base model every fact, one by one."""
        self.memory.open(actor.id)
        done: list[FactProbe] = []
        for fact in actor.facts:
            value = _per_token(self.memory[actor.id].probe(fact.question, fact.sentence), base=True)
            reply = self._say(None, fact.question) if fact.answer else ""
            done.append(FactProbe(fact=fact, base=value, now=value, base_reply=reply))
            yield tuple(done)
        actor.probes = tuple(done)

    def probe(self, actor: Actor) -> Iterator[tuple[FactProbe, ...]]:
        """Ask again, now with the memory; what the base model said is kept."""
        done = list(actor.probes)
        for number, row in enumerate(done):
            value = _per_token(
                self.memory[actor.id].probe(row.fact.question, row.fact.sentence), base=False
            )
            reply = self._say(actor.id, row.fact.question) if row.fact.answer else ""
            done[number] = replace(row, now=value, now_reply=reply)
            yield tuple(done)
        actor.probes = tuple(done)

    def ask(self, actor: Actor, persona: Persona, question: str, answer: str) -> Probe:
        """Measure how likely an answer is, for the memory that this persona talks to."""
        return self.memory.open(actor.pair(persona)).probe(question, answer)

    def _say(self, memory_id: str | None, question: str) -> str:
        asked = [Message("user", question)]
        limit = min(_SAY_TOKENS, self.memory.policy.reply_tokens)
        if memory_id is None:
            reply = self.memory.without_memory.reply(asked, max_tokens=limit)
        else:
            reply = self.memory[memory_id].reply(asked, revision="head", max_tokens=limit)
        return reply.text.strip()

    # --- copies and files ----------------------------------------------------------------------

    def copy(self, visitor: Visitor, actor: Actor, *, chats: bool) -> Actor:
        """Another character with the same memory: with its chats (a fork) or without (a snapshot).

        What either learns from now on does not reach the other.
        """
        copied = replace(
            actor,
            id=Actor(label="", character=actor.character).id,
            label=f"{actor.label} {'fork' if chats else 'snapshot'}",
            saved=False,
            created=time.time(),
            chats={},
            absorbs=list(actor.absorbs),
        )
        self.add(visitor, copied)
        self.memory[actor.id].fork(copied.id)
        if chats:
            for key, chat in actor.chats.items():
                copied.chats[key] = Chat(messages=list(chat.messages), costs=list(chat.costs))
                if f"{actor.id}@{key}" in self.memory.list():
                    self.memory[f"{actor.id}@{key}"].fork(f"{copied.id}@{key}")
        visitor.record(f"{copied.label} was made", f"a copy of {actor.label}")
        return copied

    def export(self, visitor: Visitor, actor: Actor, persona: Persona) -> list[Path]:
        """Memory, card and chat as files for the visitor to download."""
        folder = self.saved.download_folder(visitor, actor)
        name = (
            "".join(c if c.isalnum() else "_" for c in actor.label)[:40].strip("_") or "character"
        )
        paths = [self.memory[actor.id].export(folder / f"{name}.templora")]
        card = folder / f"{name}.png"
        card.write_bytes(to_png(replace(actor.character, name=actor.label)))
        paths.append(card)
        if messages := actor.chat(persona).messages:
            log = folder / f"{name}.jsonl"
            log.write_bytes(
                chat_to_jsonl(
                    ChatLog(
                        messages=tuple(messages),
                        user_name=persona.name,
                        character_name=spoken_name(actor.character),
                    )
                )
            )
            paths.append(log)
        return paths

    def import_memory(self, visitor: Visitor, path: Path, label: str) -> Actor:
        """A character from an exported memory; its bio is what the memory was told.

        Raises:
            StoreDamaged, BaseMismatch: not a memory, damaged, or of another model.
        """
        imported = self.add(visitor, Actor(label=label, character=Character(name=label)))
        try:
            self.memory.import_(path, imported.id)
            self.memory.open(imported.id)  # refuses what was learned on another model
            documents = self.memory[imported.id].transcript().documents
            bio = "\n\n".join(item.text for item in documents)
            imported.character = Character(
                name=label, description=bio, source_format="exported memory"
            )
        except BaseException:
            self.drop(visitor, imported)
            raise
        visitor.record(f"{imported.label} was imported", f"{len(documents)} documents")
        return imported

    def keep(self, visitor: Visitor, actor: Actor, *, saved: bool) -> None:
        """Make a character outlive this visit and the server, or stop that."""
        actor.saved = saved
        self.save(visitor, actor)
        visitor.record(f"{actor.label} is {'kept' if saved else 'temporary'}", "")

    def save(self, visitor: Visitor, actor: Actor) -> None:
        """Write a kept character's record; remove the record of one that is not."""
        if actor.saved and not actor.gone:
            self.saved.save(visitor, actor)
        else:
            self.saved.remove(actor)

    # --- going back and away -------------------------------------------------------------------

    def rollback(self, visitor: Visitor, actor: Actor, memory_id: str, revision: str) -> None:
        """Make an older revision the newest, of the character or of one of its pairs."""
        if memory_id != actor.id and memory_id not in {f"{actor.id}@{k}" for k in actor.chats}:
            raise ActionRefused("This memory does not belong to the character.")
        chosen = self.memory[memory_id].rollback(revision)
        if memory_id == actor.id:
            self._rebase(actor)
        visitor.record(f"{actor.label} went back", f"to revision {chosen.name[:12]}")

    def new_chat(self, visitor: Visitor, actor: Actor, persona: Persona) -> None:
        """Forget what this persona told the character, and begin again."""
        actor.chats.pop(persona.key, None)
        receipt = self._forget(actor.pair(persona))
        if receipt.files:
            visitor.record(f"{actor.label} forgot {persona.name}", _removed(receipt))
        self.save(visitor, actor)

    def forget_persona(self, visitor: Visitor, persona: Persona) -> ForgetReceipt:
        """Remove what every character learned from this persona, and the chats."""
        for actor in list(visitor.actors.values()):
            actor.chats.pop(persona.key, None)
            self.save(visitor, actor)
        try:
            receipt = self.memory.forget(user=persona.key)
        except UnknownMemory:
            receipt = ForgetReceipt(ids=(), files=())
        visitor.record(f"Everything {persona.name} said is forgotten", _removed(receipt))
        return receipt

    def delete(self, visitor: Visitor, actor: Actor) -> DeletionProof:
        """Delete a character with everything made from it, and measure that nothing is left."""
        label, asked = actor.label, actor.probes
        actor.leave()
        receipt = self._forget(actor.id)
        self.saved.remove(actor)
        downloads = self.saved.clear_downloads(visitor, actor)
        probes, equals_base = asked, None
        if asked:
            # an empty memory under the same id answers as whatever the delete left would
            handle = self.memory.open(actor.id)
            values = [
                _per_token(handle.probe(r.fact.question, r.fact.sentence), base=False)
                for r in asked
            ]
            equals_base = values == [row.base for row in asked]
            probes = tuple(replace(r, now=v) for r, v in zip(asked, values, strict=True))
            self._forget(actor.id)
        with visitor.lock:
            visitor.actors.pop(actor.id, None)
        visitor.record(f"{label} was deleted", _removed(receipt))
        return DeletionProof(
            label=label,
            receipt=receipt,
            downloads=downloads,
            probes=probes,
            equals_base=equals_base,
        )


def _older(messages: Sequence[Message]) -> list[Message]:
    """All but the newest exchange, which may still be retried or edited."""
    end = len(messages)
    while end and messages[end - 1].role != "user":
        end -= 1
    return list(messages[: max(0, end - 1)])


def _per_token(probe: Probe, *, base: bool) -> float:
    return (probe.without_memory if base else probe.with_memory) / probe.tokens


def _learned(report: AbsorbReport) -> str:
    if not report.tokens:
        return "it knew all of it"
    return (
        f"{report.tokens:,} tokens, perplexity {report.perplexity_before:.2f} to "
        f"{report.perplexity_after or math.nan:.2f}, {report.bytes / 1e6:.1f} MB"
    )


def _removed(receipt: ForgetReceipt) -> str:
    return f"{len(receipt.files)} files, {receipt.bytes / 1e6:.2f} MB removed"


__all__ = ["ActionRefused", "Cancelled", "DeletionProof", "LearningStep", "Studio"]
