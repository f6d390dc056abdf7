"""Files as arguments of absorb: found, read by the importers, and told apart by their use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from templora_memory.cli._input import STDIN
from templora_memory.cli._lore import LoreUse
from templora_memory.domain.messages import MAX_CHARACTERS, Document, Message
from templora_memory.errors import InputError, InvalidText
from templora_memory.importers import (
    Character,
    ChatLog,
    FileRefused,
    Limits,
    Segments,
    World,
    decode,
    documents,
    fill,
    is_segments,
    load,
    load_segments,
    spoken_name,
    turns,
    uses,
    world_character,
)

_LIMITS = Limits(text=4 * MAX_CHARACTERS)
_TEXTS = {"text", "Markdown"}
_MAX_FILES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the options of absorb say about files.

    Args:
        user: the name of the user, in chats.
        character: whom the assistant plays in chats, and in whose voice texts are learned.
        source, target: languages of translation memories.
        lore: what becomes of lorebooks.
        examples: whether example dialogues of cards are learned.
        plain: read everything as plain text.
        ask: chooses one of several speakers; None: nobody can be asked.
    """

    user: str = ""
    character: str = ""
    source: str = ""
    target: str = ""
    lore: LoreUse = "recall"
    examples: bool = True
    plain: bool = False
    ask: Callable[[str, Sequence[str], str], str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file, and what becomes of it.

    Args:
        path: as it was given or found.
        kind: what it was read as, in words.
        name: of the character, the world or the other one; may be "".
        documents: learned, or kept for recall (`Document.recall_only`).
        segments: turns of a translation memory.
        learned, recalled, prompt, ignored: the same for people, a few words each.
    """

    path: str
    kind: str
    name: str = ""
    documents: tuple[Document, ...] = ()
    segments: tuple[Message, ...] = ()
    learned: tuple[str, ...] = ()
    recalled: tuple[str, ...] = ()
    prompt: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON, without the text."""
        return {
            "path": self.path,
            "kind": self.kind,
            "name": self.name,
            "learned": list(self.learned),
            "recalled": list(self.recalled),
            "prompt": list(self.prompt),
            "ignored": list(self.ignored),
        }


def find(given: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """Return the files that are meant, and whether each was named itself.

    A folder stands for all files in it and below, a name with ``*``, ``?`` or ``[`` that is no file
    for those that fit. Hidden files are left out of both.

    Raises:
        InvalidText: there is no such file, or there are too many.
    """
    count = 0
    for path in given:
        for found, named in _expanded(path):
            count += 1
            if count > _MAX_FILES:
                raise InvalidText(
                    f"More than {_MAX_FILES:,} files are meant: name a smaller folder."
                )
            yield found, named


def _expanded(path: Path) -> Iterator[tuple[Path, bool]]:
    if str(path) == STDIN or path.is_file():
        yield path, True
    elif path.is_dir():
        yield from _visible(path, path.rglob("*"))
    elif any(mark in str(path) for mark in "*?["):
        base = Path(path.anchor) if path.is_absolute() else Path()
        pattern = str(path.relative_to(path.anchor)) if path.is_absolute() else str(path)
        found = list(_visible(base, base.glob(pattern)))
        if not found:
            raise InvalidText(f"No file fits {path}.")
        yield from found
    else:
        yield path, True  # reading it says what is wrong


def _visible(base: Path, paths: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    for path in sorted(paths):
        hidden = any(part.startswith(".") and part not in {".", ".."}
                     for part in path.relative_to(base).parts)  # fmt: skip
        if not hidden and path.is_file():
            yield path, False


def read_all(given: Iterable[Path], choices: Choices) -> list[Source]:
    """Read every file that is meant, before anything is learned.

    What a folder or a pattern brings along and cannot be read is listed as ignored; what was named
    itself is refused.

    Raises:
        InvalidText: a named file that cannot be read, or no file at all.
    """
    sources: list[Source] = []
    for path, named in find(given):
        try:
            sources.append(read_source(path, choices))
        except InputError as error:
            if named:
                raise InvalidText(f"{path}: {error}") from error
            sources.append(Source(path=str(path), kind="not read", ignored=(str(error),)))
    if not sources:
        raise InvalidText("There is no file in what was given.")
    return sources


def read_source(path: Path, choices: Choices) -> Source:
    """Read a file, whatever it holds.

    Raises:
        InvalidText, FileRefused: it cannot be read.
    """
    data, name = _bytes(path), "" if str(path) == STDIN else path.name
    shown = str(path)
    if choices.plain:
        return _text(shown, data, "text", choices)
    if is_segments(data, name):
        return _translation(shown, data, choices)
    found = load(
        data, filename=name, limits=_LIMITS, user=choices.user, character=choices.character
    )
    if isinstance(found, ChatLog):
        if found.user_guessed and choices.ask is not None:
            user = choices.ask(shown, found.speakers, found.user_name)
            found = load(
                data, filename=name, limits=_LIMITS, user=user, character=choices.character
            )
        return _chat(shown, found, choices)  # type: ignore[arg-type]
    if isinstance(found, World):
        return _character(shown, world_character(found), found.source_format, choices)
    if found.source_format in _TEXTS:
        return _text(shown, data, found.source_format, choices)
    return _character(shown, found, found.source_format, choices)


def _bytes(path: Path) -> bytes:
    try:
        if str(path) == STDIN:
            data = sys.stdin.buffer.read(_LIMITS.file + 1)
        else:
            with path.open("rb") as file:
                data = file.read(_LIMITS.file + 1)
    except OSError as error:
        raise InvalidText(f"it cannot be read: {error.strerror}.") from error
    if len(data) > _LIMITS.file:
        raise FileRefused(
            "too_large", f"This file is larger than {_LIMITS.file / 1e6:.0f} MB: split it."
        )
    if not data.strip():
        raise FileRefused("empty", "This file is empty: there is nothing to learn.")
    return data


def _text(path: str, data: bytes, kind: str, choices: Choices) -> Source:
    """A text as it is, or in the voice of the character that was named."""
    text, guessed = decode(data)
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not text.strip():
        raise FileRefused("empty", "This file is empty: there is nothing to learn.")
    noted = ("The encoding was guessed; check that special characters are right.",)
    return Source(
        path=path,
        kind=kind,
        documents=(Document(text, character=choices.character or None),),
        learned=(f"the text, {len(text):,} characters",),
        ignored=noted if guessed else (),
    )


def _character(path: str, character: Character, kind: str, choices: Choices) -> Source:
    chosen = uses(character, examples=choices.examples, lore=choices.lore == "learn")
    learned = documents(character, examples=choices.examples, lore=choices.lore == "learn")
    name = spoken_name(character)
    active = [entry for entry in character.lore if entry.enabled]
    lore: list[Document] = []
    if choices.lore == "recall":
        filled = (fill(entry.content, char=name, user="the user").strip() for entry in active)
        lore = [Document(text, title=name, recall_only=True) for text in filled if text]
    prompt = [text for text in chosen.prompt if "key word" not in text]
    kept = (f"{len(lore):,} lorebook texts",) if lore else ()
    ignored = list(chosen.ignored)
    if active and choices.lore == "ignore":
        ignored.insert(0, f"{len(active):,} lorebook texts, as you wished")
    return Source(
        path=path,
        kind=kind,
        name=name,
        documents=(*learned, *lore),
        learned=chosen.learned,
        recalled=kept,
        prompt=tuple(prompt),
        ignored=tuple(ignored),
    )


def _chat(path: str, log: ChatLog, choices: Choices) -> Source:
    """Each conversation as a text of its own, so that one memory takes in any number of them."""
    user = log.user_name or choices.user or "User"
    other = log.character_name or choices.character or "Assistant"
    told = log.source_format == "SillyTavern chat"
    made, unsaid = [], 0
    for talk in log.conversations:
        lines = [
            " ".join(filter(None, (talk.title, f"({talk.started[:10]})" if talk.started else "")))
        ]
        for message in talk.messages:
            if message.role == "system" and not told:
                unsaid += 1
            elif message.role == "system" or message.name:
                lines.append(message.content)
            else:
                lines.append(f"{user if message.role == 'user' else other}: {message.content}")
        text = "\n".join(filter(None, lines))
        if len(lines) > 1:
            made.append(Document(text, title=talk.title or None))
    count = sum(len(talk.messages) for talk in log.conversations) - unsaid
    ignored = (f"{unsaid:,} system messages",) if unsaid else ()
    return Source(
        path=path,
        kind=log.source_format,
        name=log.character_name,
        documents=tuple(made),
        learned=(f"{len(made):,} conversations, {count:,} messages",),
        ignored=(*ignored, *log.warnings),
    )


def _translation(path: str, data: bytes, choices: Choices) -> Source:
    found: Segments = load_segments(
        data, source=choices.source, target=choices.target, limits=_LIMITS
    )
    named = " > ".join(filter(None, (found.source_language, found.target_language)))
    return Source(
        path=path,
        kind=found.source_format,
        name=named,
        segments=turns(found.pairs),
        learned=(f"{len(found.pairs):,} segments {named}".strip(),),
        ignored=found.warnings,
    )
