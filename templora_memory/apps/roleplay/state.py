"""The state of each visitor on the server; it knows neither Gradio nor models."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from templora_memory import AbsorbReport, Message, ParametricMemory, Probe
from templora_memory.errors import UnknownMemory
from templora_memory.importers import Character, ChatLog

if TYPE_CHECKING:
    from .deletions import DeletionProof, PendingDeletion
    from .learning_task import LearningTask

PREFIX = "roleplay-"
"""The beginning of every memory id of this page; others are never touched."""
UNNAMED_PERSONA = "You"
"""The name of the persona that a visit begins with."""
MAX_ACTORS = 24
MAX_PERSONAS = 12
MAX_PENDING = 3
MAX_CHATS = 40
"""Chats of one character with one persona."""
MAX_LORE = 1000
"""Entries of a lorebook that can be written here."""
MAX_LORE_TEXT = 20_000  # characters of an entry
MAX_TITLE = 48  # characters


def new_id() -> str:
    """Return an id that nobody can guess and no name can influence."""
    return PREFIX + secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class CharacterFact:
    """A question for a character, what a right answer contains, and the sentence that says it."""

    question: str
    answer: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FactProbe:
    """The answers to one fact: nats per token of the right one, and the replies, before and now."""

    fact: CharacterFact
    base: float
    now: float
    base_reply: str = ""
    now_reply: str = ""

    @staticmethod
    def per_token(probe: Probe, *, base: bool = False) -> float:
        """Return the nats per token of a measured answer, with the memory or without."""
        return (probe.without_memory if base else probe.with_memory) / probe.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsorbRecord:
    """One finished absorb: its source, its report, and the mean perplexity of every pass.

    `text_tokens` counts the text alone; the report counts what was made of it to learn it by.
    """

    source: str
    time: float
    report: AbsorbReport
    perplexities: tuple[float, ...]
    text_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCost:
    """Prompt tokens of one turn: those sent, and those that card and full history would take."""

    sent: int
    full: int


@dataclass(frozen=True, slots=True)
class PromptPart:
    """A piece of the prompt: its kind, its text, and the tokens it takes alone."""

    kind: str
    text: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """The prompt of one reply, and what was left out of it.

    Args:
        parts: system texts first, then the turns in the prompt.
        sent: tokens of the whole prompt, as the backend counted them for this reply.
        full: tokens that the card and the whole conversation would take.
        in_weights: messages of the conversation that live in weights instead.
        dropped: messages that neither the prompt nor the weights hold.
        learned: tokens in the memory's weights.
        revision: name of the revision that answered; None: the base model.
    """

    parts: tuple[PromptPart, ...]
    sent: int
    full: int
    in_weights: int
    dropped: int
    learned: int
    revision: str | None

    @property
    def cost(self) -> PromptCost:
        """The tokens of this prompt, and those of card and full history."""
        return PromptCost(sent=self.sent, full=self.full)


@dataclass(slots=True)
class Persona:
    """The person that the visitor plays. `key` is the user part of memory ids."""

    name: str = UNNAMED_PERSONA
    note: str = ""
    key: str = field(default_factory=lambda: secrets.token_hex(6))

    @property
    def called(self) -> str:
        """The name by which characters address this persona."""
        return "friend" if self.name == UNNAMED_PERSONA else self.name


@dataclass(slots=True)
class Chat:
    """One conversation of an actor with one persona; the greeting is its first message.

    `swipes` are the answers to the newest message, `swipe` is the number of the one that is shown.
    """

    messages: list[Message] = field(default_factory=list)
    costs: list[PromptCost] = field(default_factory=list)
    prompt: PromptRecord | None = None
    swipes: list[str] = field(default_factory=list)
    swipe: int = 0
    key: str = field(default_factory=lambda: secrets.token_hex(6))
    created: float = field(default_factory=time.time)
    busy: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def begun(self) -> bool:
        """Whether the user has said anything."""
        return any(message.role == "user" for message in self.messages)

    @property
    def title(self) -> str:
        """The first words of the user; empty while nothing was said."""
        said = next((m.content for m in self.messages if m.role == "user"), "")
        line = " ".join(said.split())
        return line if len(line) <= MAX_TITLE else f"{line[: MAX_TITLE - 1].rstrip()}…"

    @property
    def last_line(self) -> str:
        """The newest message on one line; empty if there is none."""
        return " ".join(self.messages[-1].content.split()) if self.messages else ""


@dataclass(slots=True, kw_only=True)
class Actor:
    """A character of one visitor: its file, its memory id, its chats by persona key.

    The last chat with a persona is the open one. All chats with a persona share one memory: it
    finds out by itself how much of each lives in weights.
    """

    label: str
    character: Character
    facts: tuple[CharacterFact, ...] = ()
    id: str = field(default_factory=new_id)
    tagline: str = ""
    art: str = ""
    accent: str = ""
    image: str = ""
    saved: bool = False
    gone: bool = False
    notes: str = ""
    created: float = field(default_factory=time.time)
    chats: dict[str, list[Chat]] = field(default_factory=dict)
    absorbs: list[AbsorbRecord] = field(default_factory=list)
    probes: tuple[FactProbe, ...] = ()
    door: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def leave(self) -> None:
        """The character is discarded: from now on nothing makes a memory of it."""
        with self.door:
            self.gone = True

    def come_back(self) -> None:
        """The character is not discarded after all."""
        with self.door:
            self.gone = False

    def enter(self, memory: ParametricMemory, memory_id: str) -> None:
        """Make a memory of this character, if it does not exist yet.

        What is written into it afterwards says `create=False`, so a reply or an absorb under way
        does not bring back what is forgotten meanwhile.

        Raises:
            UnknownMemory: the character is discarded.
        """
        with self.door:
            if self.gone:
                raise UnknownMemory(f"{self.label} was deleted: there is no memory of it any more.")
            memory.open(memory_id)

    def chat(self, persona: Persona) -> Chat:
        """Return the open conversation with a persona; a new one if there is none."""
        chats = self.chats.setdefault(persona.key, [])
        if not chats:
            chats.append(Chat())
        return chats[-1]

    def new_chat(self, persona: Persona) -> Chat:
        """Open another conversation with a persona; the others stay.

        One in which nothing was said yet is taken instead.
        """
        if self.chat(persona).begun:
            self.chats[persona.key].append(Chat())
        return self.chat(persona)

    def open_chat(self, persona: Persona, key: str | None) -> Chat:
        """Open an older conversation; the open one stays open if there is none of this key."""
        chats = self.chats.get(persona.key, [])
        for chat in chats:
            if chat.key == key:
                chats.remove(chat)
                chats.append(chat)
                break
        return self.chat(persona)

    def pair(self, persona: Persona) -> str:
        """Return the id of what this character learns from this persona alone."""
        return f"{self.id}@{persona.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitEvent:
    """A line of the visitor's log."""

    time: float
    event: str
    detail: str


@dataclass(slots=True)
class Visitor:
    """Everything of one browser. The token is its only key and never leaves browser and server.

    `learning` are the absorbs under way by character id, `learned` is the one that ended last.
    `deletions` can still be undone, `deleted` is the proof of the last that cannot. `version`
    grows with every change that an open page has to show.
    """

    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    actors: dict[str, Actor] = field(default_factory=dict)
    personas: list[Persona] = field(default_factory=lambda: [Persona()])
    events: list[VisitEvent] = field(default_factory=list)
    pending: dict[str, Actor | ChatLog] = field(default_factory=dict)
    learning: dict[str, LearningTask] = field(default_factory=dict)
    learned: LearningTask | None = None
    deletions: list[PendingDeletion] = field(default_factory=list)
    deleted: DeletionProof | None = None
    version: int = 0
    tabs: set[str] = field(default_factory=set)
    seen: float = 0.0
    closed_at: float | None = None
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def offer(self, candidate: Actor | ChatLog) -> str:
        """Keep what was read until it is absorbed or three others were read, and return its key."""
        key = secrets.token_hex(8)
        with self.lock:
            self.pending[key] = candidate
            while len(self.pending) > MAX_PENDING:
                del self.pending[next(iter(self.pending))]
        return key

    def record(self, event: str, detail: str) -> None:
        """Add a line to the log of this visit."""
        self.events.append(VisitEvent(time=time.time(), event=event, detail=detail))
        self.changed()

    def changed(self) -> None:
        """Note that open pages have something new to show."""
        with self.lock:
            self.version += 1

    def persona(self, key: str | None) -> Persona:
        """Return the persona with this key; the first one if there is none."""
        return next((p for p in self.personas if p.key == key), self.personas[0])
