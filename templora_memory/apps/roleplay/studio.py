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
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

from templora_memory import (
    AbsorbReport,
    Document,
    Job,
    Message,
    ParametricMemory,
    Probe,
)
from templora_memory.errors import InputError
from templora_memory.importers import (
    Character,
    ChatLog,
    chat_to_jsonl,
    spoken_name,
    to_png,
    with_lore_entry,
)

from .deletions import Deletions, PendingDeletion, forget_if_there
from .learning_estimate import LearningEstimate
from .learning_task import LearningStep, LearningTask, PassPerplexities
from .saved_characters import SavedCharacters
from .state import (
    MAX_ACTORS,
    MAX_CHATS,
    MAX_LORE,
    MAX_LORE_TEXT,
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
        self.deletions = Deletions(memory, self.saved, grace)
        self.learning_estimate = LearningEstimate(memory, self.saved.home)
        self._stop = threading.Event()
        self._sweeper: threading.Thread | None = None

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
        """Discard visitors and deletions that are due, then memories that belong to nobody.

        The last part catches what a killed server left.
        """
        self.visitors.sweep()
        for visitor in self.visitors.all():
            self.deletions.finish_due(visitor)
        strays = [memory_id for memory_id in self.memory.list() if memory_id.startswith(PREFIX)]
        known = set[str]()  # after the list: what began in between is not in it
        for visitor in self.visitors.all():
            with visitor.lock:
                known |= set(visitor.actors)
                known |= {memory for item in visitor.deletions for memory in item.memories}
        for memory_id in strays:
            if memory_id.partition("@")[0] not in known:
                forget_if_there(self.memory, memory_id)

    def _discard(self, visitor: Visitor) -> None:
        tasks = list(visitor.learning.values())
        for task in tasks:
            task.stop()
        self.deletions.finish_due(visitor, every=True)
        with visitor.lock:
            passing = [actor for actor in visitor.actors.values() if not actor.saved]
            for actor in passing:
                actor.leave()
                del visitor.actors[actor.id]
        for actor in passing:
            forget_if_there(self.memory, actor.id)
        for task in tasks:
            task.ended.wait()
        self.saved.clear_downloads(visitor)
        if visitor.actors or visitor.deletions:  # kept ones wait for their visitor to come back
            self.visitors.add(visitor)

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

    def learn(
        self, visitor: Visitor, actor: Actor, items: Sequence[Document], source: str
    ) -> LearningTask:
        """Begin to learn documents beside everything else; facts are asked before and after.

        A character that is new to this visitor and is stopped, or fails, goes.

        Raises:
            ActionRefused: it is learning already.
        """
        fresh = self._is_fresh(actor)

        def work(task: LearningTask) -> None:
            if fresh:
                try:
                    task.follow("asking first", self.base_probes(actor))
                except BaseException:
                    self.drop(visitor, actor)
                    raise
            task.follow("learning", self.absorb(visitor, actor, items, source))
            task.follow("asking again", self.probe(actor))
            self.save(visitor, actor)

        seconds = self.learning_estimate.seconds(self.text_tokens(items))
        task = LearningTask(actor, source, fresh=fresh, estimate=seconds)
        return self._begin(visitor, task, work)

    def learn_chat(
        self, visitor: Visitor, actor: Actor, persona: Persona, messages: Sequence[Message]
    ) -> LearningTask:
        """Begin to learn a conversation that was had elsewhere; it becomes another chat.

        Raises:
            ActionRefused: the character is learning already.
        """
        source = f"{len(messages)} messages with {persona.name}"

        def work(task: LearningTask) -> None:
            task.follow("learning", self.absorb_chat(visitor, actor, persona, messages))

        tokens = self.memory.backend.count(list(messages))
        seconds = self.learning_estimate.seconds(tokens)
        return self._begin(
            visitor, LearningTask(actor, source, fresh=False, estimate=seconds), work
        )

    def _begin(
        self, visitor: Visitor, task: LearningTask, work: Callable[[LearningTask], None]
    ) -> LearningTask:
        with visitor.lock:
            if task.actor.id in visitor.learning:
                raise ActionRefused(f"{task.actor.label} is learning already: wait, or stop it.")
            visitor.learning[task.actor.id] = task
        visitor.changed()
        threading.Thread(
            target=task.run, args=(visitor, work), name="roleplay-learning", daemon=True
        ).start()
        return task

    def text_tokens(self, items: Sequence[Document]) -> int:
        """Return the tokens of texts, as previews and receipts count them."""
        split = self.memory.backend.split
        return sum(len(split(item.text, 1)) for item in items)

    def _is_fresh(self, actor: Actor) -> bool:
        return actor.id not in self.memory.list() or self.memory[actor.id].head() is None

    def absorb(
        self, visitor: Visitor, actor: Actor, items: Sequence[Document], source: str
    ) -> Generator[LearningStep, None, None]:
        """Learn documents. Closing the iterator cancels, and waits until nothing of it is left.

        A new character vanishes then. What personas told the character is learned anew on top, from
        their chats.

        Raises:
            TemploraError: as `Memory.absorb`; a new character is removed then, too.
        """
        fresh = self._is_fresh(actor)
        actor.enter(self.memory, actor.id)
        job = self.memory[actor.id].absorb(items, create=False, wait=False)
        try:
            record = yield from self._follow(job, source, self.text_tokens(items))
        except BaseException:
            self._clean(visitor, actor, job, drop=fresh)
            raise
        self.learning_estimate.learned(record.text_tokens, record.report.seconds)
        actor.absorbs.append(record)
        self._rebase(actor)
        visitor.record(f"{actor.label} learned {source}", _learned(record.report))
        self.save(visitor, actor)

    def absorb_chat(
        self, visitor: Visitor, actor: Actor, persona: Persona, messages: Sequence[Message]
    ) -> Generator[LearningStep, None, None]:
        """Open another conversation with a persona, and learn all but its newest exchange."""
        actor.new_chat(persona).messages[:] = messages
        old = _older(messages)
        if not old:
            return
        actor.enter(self.memory, actor.pair(persona))
        job = self.memory[actor.pair(persona)].absorb(old, create=False, wait=False)
        source = f"{len(old)} messages with {persona.name}"
        try:
            record = yield from self._follow(job, source, self.memory.backend.count(old))
        except BaseException:
            self._clean(visitor, actor, job, drop=False)
            raise
        actor.absorbs.append(record)
        visitor.record(f"{actor.label} learned {record.source}", _learned(record.report))
        self.save(visitor, actor)

    def _follow(
        self, job: Job, source: str, text_tokens: int
    ) -> Generator[LearningStep, None, AbsorbRecord]:
        started, passes = time.monotonic(), PassPerplexities()
        while not job.done:
            now = job.progress
            if now is not None:
                passes.add(now)
            yield LearningStep(
                done=now.chunk if now else 0,
                total=now.chunks if now else 0,
                seconds=time.monotonic() - started,
                perplexities=passes.values(),
            )
            time.sleep(_POLL)
        report = job.wait()
        if job.progress is not None:
            passes.add(job.progress)
        return AbsorbRecord(
            source=source,
            time=time.time(),
            report=report,
            perplexities=passes.values(),
            text_tokens=text_tokens,
        )

    def _clean(self, visitor: Visitor, actor: Actor, job: Job, *, drop: bool) -> None:
        """Wait until a cancelled job has let go, then remove what must not stay."""
        job.cancel()
        job.finished()
        if drop or actor.gone:
            self.drop(visitor, actor)

    def drop(self, visitor: Visitor, actor: Actor) -> None:
        """Remove a character that has learned nothing worth a receipt."""
        if any(actor.id in item.memories for item in visitor.deletions):
            return  # deleted meanwhile, which can still be undone
        actor.leave()
        with visitor.lock:
            visitor.actors.pop(actor.id, None)
        self.saved.remove(actor)
        forget_if_there(self.memory, actor.id)

    def _rebase(self, actor: Actor) -> None:
        """Let every pair start from the newest revision again; chats are resent and relearned."""
        for key in list(actor.chats):
            forget_if_there(self.memory, f"{actor.id}@{key}")

    # --- asking --------------------------------------------------------------------------------

    def base_probes(self, actor: Actor) -> Generator[tuple[FactProbe, ...], None, None]:
        """Ask the base model every fact, one by one."""
        self.memory.open(actor.id)
        done: list[FactProbe] = []
        for fact in actor.facts:
            measured = self.memory[actor.id].probe(fact.question, fact.sentence)
            value = FactProbe.per_token(measured, base=True)
            reply = self._say(None, fact.question) if fact.answer else ""
            done.append(FactProbe(fact=fact, base=value, now=value, base_reply=reply))
            yield tuple(done)
        actor.probes = tuple(done)

    def probe(self, actor: Actor) -> Generator[tuple[FactProbe, ...], None, None]:
        """Ask again, now with the memory; what the base model said is kept."""
        done = list(actor.probes)
        for number, row in enumerate(done):
            measured = self.memory[actor.id].probe(row.fact.question, row.fact.sentence)
            value = FactProbe.per_token(measured)
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
            for key, originals in actor.chats.items():
                copied.chats[key] = [
                    Chat(
                        messages=list(chat.messages),
                        costs=list(chat.costs),
                        swipes=list(chat.swipes),
                        swipe=chat.swipe,
                        created=chat.created,
                    )
                    for chat in originals
                ]
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

    def write_lore(
        self,
        visitor: Visitor,
        actor: Actor,
        number: int | None,
        *,
        content: str,
        keys: Sequence[str],
        name: str,
        enabled: bool,
        constant: bool,
    ) -> int:
        """Change an entry of a character's lorebook, or add one; return its number.

        Its card has it from now on, as it is exported too. Nothing of it is learned by that.

        Raises:
            ActionRefused: there is no entry of this number, it is too long, or there are too many.
            InvalidText: it has no text, or nothing would ever mention it.
        """
        lore = actor.character.lore
        if number is None and len(lore) >= MAX_LORE:
            raise ActionRefused(f"A lorebook has {MAX_LORE} entries at most: change one of them.")
        if number is not None and not 0 <= number < len(lore):
            raise ActionRefused("This entry is gone: choose it again.")
        if len(content) > MAX_LORE_TEXT:
            raise ActionRefused(f"An entry has {MAX_LORE_TEXT:,} characters at most.")
        actor.character = with_lore_entry(
            actor.character, number, content=content, keys=keys, name=name, enabled=enabled,
            constant=constant,
        )  # fmt: skip
        self.save(visitor, actor)
        return len(lore) if number is None else number

    def new_chat(self, visitor: Visitor, actor: Actor, persona: Persona) -> Chat:
        """Open another conversation; the others stay.

        Raises:
            ActionRefused: there are as many as there may be.
        """
        if len(actor.chats.get(persona.key, [])) >= MAX_CHATS and actor.chat(persona).begun:
            raise ActionRefused(f"You have {MAX_CHATS} chats with {actor.label}: delete one first.")
        chat = actor.new_chat(persona)
        self.save(visitor, actor)
        return chat

    # --- going back ----------------------------------------------------------------------------

    def rollback(
        self, visitor: Visitor, actor: Actor, memory_id: str, revision: str
    ) -> PendingDeletion:
        """Make an older revision the newest, of the character or of one of its pairs.

        Raises:
            ActionRefused: the memory is somebody else's.
        """
        if memory_id != actor.id and memory_id not in {f"{actor.id}@{k}" for k in actor.chats}:
            raise ActionRefused("This memory does not belong to the character.")
        deletion = self.deletions.rollback(visitor, actor, memory_id, revision)
        if memory_id == actor.id:
            self._rebase(actor)
        return deletion


def _older(messages: Sequence[Message]) -> list[Message]:
    """All but the newest exchange, which may still be retried or edited."""
    end = len(messages)
    while end and messages[end - 1].role != "user":
        end -= 1
    return list(messages[: max(0, end - 1)])


def _learned(report: AbsorbReport) -> str:
    if not report.tokens:
        return "it knew all of it"
    return (
        f"{report.tokens:,} tokens, perplexity {report.perplexity_before:.2f} to "
        f"{report.perplexity_after or math.nan:.2f}, {report.bytes / 1e6:.1f} MB"
    )


__all__ = ["ActionRefused", "Studio"]
