"""What readers of chats hand over, and how it becomes a `ChatLog`: roles, names, what was left out.

A reader yields talks of lines. Where a file says who is the user (SillyTavern, assistants), its
lines have a role; where it does not (messengers), they have only a speaker, and the user is given,
or follows from the file (the chat is named after the other one), or is guessed, which is said.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from templora_memory.domain.messages import Message
from templora_memory.importers._text import one_line, spoken, without_thoughts
from templora_memory.importers._values import ChatLog, ExportedConversation, FileRefused, Limits

Who: TypeAlias = Literal["user", "assistant", "system", ""]
"""Role of a line; "": whoever `Line.speaker` is."""
EMPTY = "This chat has no message that could be read."
_SHOWN = 12
_PAIR = 2


@dataclass(frozen=True, slots=True)
class Line:
    """One message: who says it, and its text as the file has it."""

    who: Who
    text: str
    speaker: str = ""


@dataclass(slots=True)
class RawTalk:
    """One conversation of a file."""

    lines: list[Line]
    title: str = ""
    started: str = ""
    others: tuple[str, ...] = ()
    """Who the file says is the other one, or the character."""


@dataclass(slots=True)
class Notes:
    """What a reader left out, counted in words: "tool calls", "pictures"."""

    left_out: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    warnings: list[str] = field(default_factory=list)
    user: str = ""
    """Who the file itself says is the user."""
    guessed: bool = False
    """Whether the user had to be guessed."""


def assemble(
    talks: Iterable[RawTalk],
    *,
    source: str,
    notes: Notes,
    limits: Limits,
    user: str = "",
    character: str = "",
) -> ChatLog:
    """All conversations of a file as one value.

    Args:
        talks: read one after the other, so that a large file is never held as a whole.
        source: the format, in words.
        notes: filled by the reader while it is read.
        limits: of the number of messages.
        user: name of the user, if it is given.
        character: name of whom the assistant plays, if it is given.

    Raises:
        FileRefused: `empty`, `which_user`.
    """
    kept, cut = _bounded(talks, limits)
    lines = [line for talk in kept for line in talk.lines]
    speakers = tuple(dict.fromkeys(line.speaker for line in lines if line.speaker))
    if any(not line.who for line in lines):
        found = _user(one_line(user) or notes.user, kept, speakers, notes, asked=bool(user))
    else:
        mine = dict.fromkeys(line.speaker for line in lines if line.who == "user" and line.speaker)
        found = notes.user or (one_line(next(iter(mine))) if len(mine) == 1 else "")
    main = _character(character, kept, lines, found)
    conversations = []
    for talk in kept:
        messages = tuple(_messages(talk.lines, found, main, notes))
        if messages:
            conversations.append(
                ExportedConversation(
                    messages=messages, title=one_line(talk.title), started=talk.started[:40]
                )
            )
    if not conversations:
        raise FileRefused("empty", EMPTY)
    return ChatLog(
        messages=tuple(message for talk in conversations for message in talk.messages),
        user_name=found,
        character_name=main,
        conversations=tuple(conversations),
        speakers=speakers,
        user_guessed=notes.guessed,
        skipped=notes.skipped,
        source_format=source,
        warnings=(*notes.warnings, *_left_out(notes), *_cut(limits, cut=cut)),
    )


def _cut(limits: Limits, *, cut: bool) -> list[str]:
    return [f"Only the first {limits.messages:,} messages were read."] if cut else []


def _bounded(talks: Iterable[RawTalk], limits: Limits) -> tuple[list[RawTalk], bool]:
    kept: list[RawTalk] = []
    room = limits.messages
    for talk in talks:
        if len(talk.lines) > room:
            talk.lines = talk.lines[:room]
            return [*kept, talk], True
        room -= len(talk.lines)
        if talk.lines:
            kept.append(talk)
    return kept, False


def _left_out(notes: Notes) -> list[str]:
    texts = [f"{notes.skipped} lines could not be read and were left out."] if notes.skipped else []
    if some := {what: number for what, number in notes.left_out.items() if number}:
        counted = ", ".join(f"{what} ({number:,})" for what, number in some.items())
        texts.append(f"Left out: {counted}.")
    return texts


def same(one: str, other: str) -> bool:
    """Whether two names are the same person's, however they are written."""
    return _key(one) == _key(other) != ""


def _key(name: str) -> str:
    name = unicodedata.normalize("NFKC", name)
    return " ".join("".join(c for c in name if unicodedata.category(c) != "Cf").split()).casefold()


def _user(
    given: str,
    talks: Sequence[RawTalk],
    speakers: Sequence[str],
    notes: Notes,
    *,
    asked: bool,
) -> str:
    """Which of the speakers the user is."""
    if given:
        found = next((name for name in speakers if same(name, given)), "")
        begun = [name for name in speakers if _key(name).startswith(_key(given) + " ")]
        found = found or (begun[0] if len(begun) == 1 else "")
        if found:
            return found
        if asked:
            shown = ", ".join(one_line(name, 40) for name in speakers[:_SHOWN])
            raise FileRefused(
                "which_user",
                f"Nobody in this chat is called {one_line(given, 40)!r}: name one of them "
                f"({shown}{', ...' if len(speakers) > _SHOWN else ''}).",
            )
    others = {_key(name) for talk in talks for name in talk.others}
    left = [name for name in speakers if _key(name) not in others]
    if len(speakers) == _PAIR and len(left) == 1:
        return left[0]
    if not speakers:
        return ""
    everywhere = Counter(
        name for talk in talks for name in {line.speaker for line in talk.lines if line.speaker}
    )
    best = max(everywhere.values())
    guess = next(name for name in left or speakers if everywhere[name] == best or not others)
    shown = ", ".join(one_line(name, 40) for name in speakers[:_SHOWN])
    notes.guessed = True
    notes.warnings.append(
        f"The file does not say who of {shown} the user is: {one_line(guess, 40)} was guessed."
    )
    return guess


def _character(character: str, talks: Sequence[RawTalk], lines: Sequence[Line], user: str) -> str:
    """Whose words need no name before them: the one whom the assistant plays."""
    names = dict.fromkeys(
        line.speaker
        for line in lines
        if line.who in {"assistant", ""} and line.speaker and not same(line.speaker, user)
    )
    for wanted in (character, *(name for talk in talks for name in talk.others)):
        if found := next((name for name in names if same(name, wanted)), ""):
            return one_line(found)
    if len(names) == 1:
        return one_line(next(iter(names)))
    return one_line(next((name for talk in talks for name in talk.others), "")) if not names else ""


def _messages(lines: Iterable[Line], user: str, character: str, notes: Notes) -> Iterator[Message]:
    for line in lines:
        text, who = spoken(line.text), line.who
        if who == "":
            who = "user" if same(line.speaker, user) else "assistant"
        if who == "assistant":
            text, thought = without_thoughts(text)
            notes.left_out["thoughts of the assistant"] += thought
        if not text:
            continue
        if who == "assistant" and line.speaker and not same(line.speaker, character):
            name = one_line(line.speaker)
            yield Message("assistant", f"{name}: {text}", name)
        else:
            yield Message(who, text)
