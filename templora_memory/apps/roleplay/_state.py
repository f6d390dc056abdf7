"""What the page keeps on the server for each visitor. Knows nothing of Gradio and of models."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field

from templora_memory import AbsorbReport, Message, ParametricMemory
from templora_memory.errors import UnknownMemory
from templora_memory.importers import Character, ChatLog

PREFIX = "roleplay-"
"""Every memory id of this page begins so; what does not is somebody else's and never touched."""
NOBODY = "You"
"""The persona that a visit begins with."""
MOST_ACTORS = 24
MOST_PERSONAS = 12
MOST_PENDING = 3


def new_id() -> str:
    """An id that nobody can guess and no name can influence."""
    return PREFIX + secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Fact:
    """Something to ask a character: the question, what a right answer contains, how it is said."""

    ask: str
    answer: str
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """One fact, asked: nats per token of the right answer, and what was said instead."""

    fact: Fact
    base: float
    now: float
    base_said: str = ""
    now_said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One finished absorb: what, when, its receipt, and the perplexity of every step."""

    what: str
    when: float
    report: AbsorbReport
    curve: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Prompt tokens of one turn: what was sent, and what card and whole history would be."""

    sent: int
    whole: int


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the prompt: what it is, its text, how many tokens it takes alone."""

    kind: str
    text: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Everything the model was shown for one reply, and what it was not.

    Args:
        parts: system texts first, then the turns in the prompt.
        sent: tokens of the whole prompt, as the backend counted them for this reply.
        whole: tokens that the card and the whole conversation would take.
        in_weights: messages of the conversation that live in weights instead.
        dropped: messages that neither the prompt nor the weights hold.
        learned: tokens in the memory's weights.
        revision: name of the revision that answered; None: the base model.
    """

    parts: tuple[Part, ...]
    sent: int
    whole: int
    in_weights: int
    dropped: int
    learned: int
    revision: str | None

    @property
    def cost(self) -> Cost:
        return Cost(sent=self.sent, whole=self.whole)


@dataclass(slots=True)
class Persona:
    """Whom the visitor plays. `key` is the user part of memory ids."""

    name: str = NOBODY
    note: str = ""
    key: str = field(default_factory=lambda: secrets.token_hex(6))

    @property
    def called(self) -> str:
        """How a character addresses this persona."""
        return "friend" if self.name == NOBODY else self.name


@dataclass(slots=True)
class Chat:
    """One conversation of an actor with one persona; the greeting is its first message."""

    messages: list[Message] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    shown: Shown | None = None
    busy: threading.Lock = field(default_factory=threading.Lock, repr=False)


@dataclass(slots=True, kw_only=True)
class Actor:
    """A character of one visitor: its file, its memory id, its chats by persona key."""

    label: str
    character: Character
    facts: tuple[Fact, ...] = ()
    id: str = field(default_factory=new_id)
    tagline: str = ""
    art: str = ""
    accent: str = ""
    image: str = ""
    kept: bool = False
    gone: bool = False
    notes: str = ""
    created: float = field(default_factory=time.time)
    chats: dict[str, Chat] = field(default_factory=dict)
    lessons: list[Lesson] = field(default_factory=list)
    probes: tuple[Probed, ...] = ()
    door: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def leave(self) -> None:
        """The character is discarded: from now on nothing makes a memory of it."""
        with self.door:
            self.gone = True

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
        return self.chats.setdefault(persona.key, Chat())

    def pair(self, persona: Persona) -> str:
        """Id of what this character learns from this persona alone."""
        return f"{self.id}@{persona.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A line of the visitor's log."""

    when: float
    what: str
    detail: str


@dataclass(slots=True)
class Visitor:
    """Everything of one browser. The token is its only key and never leaves browser and server."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    actors: dict[str, Actor] = field(default_factory=dict)
    personas: list[Persona] = field(default_factory=lambda: [Persona()])
    receipts: list[Receipt] = field(default_factory=list)
    pending: dict[str, Actor | ChatLog] = field(default_factory=dict)
    learning: set[str] = field(default_factory=set)
    tabs: set[str] = field(default_factory=set)
    seen: float = 0.0
    closed_at: float | None = None
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def offer(self, thing: Actor | ChatLog) -> str:
        """Keep what was read until it is absorbed or three others were read; returns its key."""
        key = secrets.token_hex(8)
        with self.lock:
            self.pending[key] = thing
            while len(self.pending) > MOST_PENDING:
                del self.pending[next(iter(self.pending))]
        return key

    def note(self, what: str, detail: str) -> None:
        self.receipts.append(Receipt(when=time.time(), what=what, detail=detail))

    def persona(self, key: str | None) -> Persona:
        """The persona with this key; the first one if there is none."""
        return next((p for p in self.personas if p.key == key), self.personas[0])
