"""One reply of a character: the prompt is put together, streamed and recorded. No Gradio here.

The whole conversation is sent every time; the memory finds out which part
of it lives in weights. So retry, undo and edit are nothing but another conversation.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from templora_memory import Memory, Message, ParametricMemory, Reply, Sampling, WithoutMemory
from templora_memory.domain.segmentation import sentences, words
from templora_memory.importers import (
    card_text,
    fill,
    greetings,
    instructions,
    matching_lore,
    spoken_name,
)

from .state import UNNAMED_PERSONA, Actor, Chat, Persona, PromptPart, PromptRecord

Mode: TypeAlias = Literal["weights", "prompt", "both", "neither"]
MODES: tuple[Mode, ...] = get_args(Mode)
_SCAN = 3  # newest messages that are searched for keys of the lorebook
_PASSAGES = 2
_PASSAGE = 400  # characters
_CARD, _CUT = "Card", "Card, cut: it does not fit"
_SPARE = 4  # tokens that a cut inside a word may cost


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyControls:
    """The options of one reply.

    Args:
        mode: memory in weights, card in the prompt, both, or neither.
        strength: factor on the memory; 0 is exactly the base model.
        temperature: 0 takes the most likely token.
        repetition_penalty: over 1 makes what was said already less likely.
        max_tokens: of the reply; None: the policy's.
        lore, notes: whether these may be retrieved into the prompt.
    """

    mode: Mode = "weights"
    strength: float = 1.0
    temperature: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None
    lore: bool = True
    notes: bool = True

    def with_temperature(self, temperature: float) -> ReplyControls:
        """Return the same options with another temperature."""
        return replace(self, temperature=temperature)

    def with_mode(self, mode: Mode) -> ReplyControls:
        """Return the same options with the story elsewhere."""
        return replace(self, mode=mode)

    @property
    def uses_memory(self) -> bool:
        """Whether the memory in weights answers."""
        return self.mode in {"weights", "both"}

    @property
    def shows_card(self) -> bool:
        """Whether the card stands in the prompt."""
        return self.mode in {"prompt", "both"}


def greet(actor: Actor, chat: Chat, persona: Persona) -> None:
    """Let the character open an empty conversation."""
    if not chat.messages and (offered := greetings(actor.character, user=persona.called)):
        chat.messages.append(Message("assistant", offered[0]))


def impersonation(actor: Actor, persona: Persona) -> str:
    """Return the instruction with which the model writes the user's next message."""
    name, other = persona.called, spoken_name(actor.character)
    who = f" {persona.note}" if persona.note else ""
    return (
        f"Write the next message of {name}, the user, to {other}: what {name} says now, in the "
        f"first person, in the language and the manner of {name}'s messages above.{who} Write "
        f"nothing of what {other} says or does."
    )


def without_speaker(text: str, persona: Persona) -> str:
    """Return a line without the name of its speaker before it, which some models write."""
    said = text.strip()
    for name in (persona.called, persona.name):
        begin = f"{name}:"
        if said.casefold().startswith(begin.casefold()):
            return said[len(begin) :].strip()
    return said


def passages(notes: str, question: str) -> tuple[str, ...]:
    """Return the paragraphs of the notes that share the rarest words with the question."""
    pieces = [
        piece.strip()
        for paragraph in re.split(r"\n\s*\n", notes)
        for piece in _cut(paragraph)
        if piece.strip()
    ]
    found = [set(words(piece)) for piece in pieces]
    common = Counter(word for piece in found for word in piece)
    asked = set(words(question))
    scored = [
        (sum(math.log(1 + len(pieces) / common[word]) for word in asked & piece), -number)
        for number, piece in enumerate(found)
    ]
    best = sorted((item for item in scored if item[0] > 0), reverse=True)[:_PASSAGES]
    return tuple(pieces[-number] for _, number in best)


def _cut(paragraph: str) -> list[str]:
    pieces = [""]
    for sentence in sentences(paragraph):
        if pieces[-1] and len(pieces[-1]) + len(sentence) > _PASSAGE:
            pieces.append("")
        pieces[-1] = f"{pieces[-1]} {sentence}".strip()
    return pieces


class CharacterReply:
    """A reply under way: iterate for pieces of text, then ask for `prompt`.

    Args:
        memory: the service.
        actor, chat, persona: who answers whom. A message of the user at the end is answered, one of
            the character is gone on with.
        options: of this reply.
        seed: of the random numbers, for temperatures over 0.
        instruction: what this one reply is to be instead, after a message of the character; it is
            shown last and never learned, nor is the reply.
    """

    def __init__(
        self,
        memory: ParametricMemory,
        actor: Actor,
        chat: Chat,
        persona: Persona,
        options: ReplyControls,
        *,
        seed: int | None = None,
        instruction: str = "",
    ) -> None:
        self._memory = memory
        self._options = options
        self._body = tuple(chat.messages)
        self._count = memory.backend.count
        policy = memory.policy
        max_tokens = options.max_tokens or policy.reply_tokens
        self._max_tokens = min(max_tokens, max(1, policy.window // 2))
        self._instruction = [Message("system", instruction)] if instruction else []
        self._room = policy.window - self._max_tokens
        if instruction:
            self._room -= self._count(self._instruction)
        self._card = card_text(actor.character, user=persona.called)
        self._system = self._system_parts(actor, persona)
        self._actor = actor
        self._id = actor.pair(persona) if options.uses_memory else None
        self._sampling = Sampling(
            temperature=options.temperature,
            repetition_penalty=options.repetition_penalty,
            seed=seed,
        )
        self._reply: Reply | None = None
        self._sent_body = self._body

    def _system_parts(self, actor: Actor, persona: Persona) -> list[tuple[str, str]]:
        parts = [("Card's instructions", instructions(actor.character, user=persona.called))]
        if self._options.shows_card:
            parts.append((_CARD, self._card))
        if persona.name != UNNAMED_PERSONA or persona.note:
            parts.append(("Who you are", f"The user is {persona.called}. {persona.note}".strip()))
        texts = [message.content for message in self._body[-_SCAN:]]
        if self._options.lore:
            entries = matching_lore(actor.character.lore, texts)
            names = {"char": spoken_name(actor.character), "user": persona.called}
            parts += [
                (f"Lorebook: {e.name or ', '.join(e.keys)}", fill(e.content, **names))
                for e in entries
            ]
        if self._options.notes and actor.notes:
            asked = next((m.content for m in reversed(self._body) if m.role == "user"), texts[-1])
            parts += [("Your notes", text) for text in passages(actor.notes, asked)]
        return [(kind, text) for kind, text in parts if text]

    def __iter__(self) -> Iterator[str]:
        talks: Memory | WithoutMemory
        if self._id is None:
            talks = self._memory.without_memory
            self._shorten()
        else:
            talks = self._memory[self._id]
            self._actor.enter(self._memory, self._id)
            if self._options.shows_card:
                self._halve_card()
        stream = talks.stream(
            [*self._sent_body, *self._instruction],
            context=[text for _, text in self._system],
            strength=self._options.strength,
            sampling=self._sampling,
            max_tokens=self._max_tokens,
            recall_tokens=0,  # the page shows what stands in the prompt, and the rest is in weights
            create=False,
        )
        with stream:
            yield from stream
            self._reply = stream.reply

    def _shorten(self) -> None:
        """Without a memory what does not fit is lost: the oldest messages, then the card's end."""
        least = 2 if self._body[-1].role == "assistant" else 1  # and what it was said to
        while len(self._sent_body) > least and self._tokens() > self._room:
            self._sent_body = self._sent_body[1:]
        over = self._tokens() - self._room
        if over > 0 and self._options.shows_card:
            self._cut_card(self._count([Message("system", self._card)]) - over - _SPARE)

    def _halve_card(self) -> None:
        """Beside a memory the card gets half the prompt at most; the turns need the rest."""
        if self._count([Message("system", self._card)]) > self._room // 2:
            self._cut_card(self._room // 2 - _SPARE)

    def _cut_card(self, tokens: int) -> None:
        cut = self._memory.backend.split(self._card, max(1, tokens))[0]
        self._system = [
            (_CUT, cut) if kind == _CARD else (kind, text) for kind, text in self._system
        ]

    def _tokens(self) -> int:
        return self._count([*self._joined(), *self._sent_body])

    def _joined(self) -> list[Message]:
        text = "\n\n".join(text for _, text in self._system)
        return [Message("system", text)] if text else []

    @property
    def prompt(self) -> PromptRecord | None:
        """The prompt of this reply; None if it was stopped before its end."""
        if self._reply is None:
            return None
        covered = self._covered(self._reply.revision)
        turns = self._sent_body[covered:]
        parts = [PromptPart(kind, text, self._alone("system", text)) for kind, text in self._system]
        parts += [PromptPart(m.role, m.content, self._alone(m.role, m.content)) for m in turns]
        others = [text for kind, text in self._system if kind not in {_CARD, _CUT}]
        full = [Message("system", "\n\n".join([self._card, *others])), *self._body]
        return PromptRecord(
            parts=tuple(parts),
            sent=self._reply.prompt_tokens,
            full=self._count(full),
            in_weights=covered,
            dropped=len(self._body) - len(self._sent_body),
            learned=self._reply.absorbed_tokens if self._options.strength else 0,
            revision=self._reply.revision,
        )

    def _covered(self, revision: str | None) -> int:
        if self._id is None or revision is None:
            return 0
        revision_record = next(
            (r for r in self._memory[self._id].revisions() if r.name == revision), None
        )
        return revision_record.messages if revision_record else 0

    def _alone(self, role: str, text: str) -> int:
        # what a template adds to any prompt is left out
        probe = Message("user", "a")
        message = Message("user" if role == "system" else role, text)  # type: ignore[arg-type]
        return max(1, self._count([probe, message]) - self._count([probe]))
