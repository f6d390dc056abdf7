"""What a character gives to a memory and what to a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from templora_memory.domain.messages import Document, Message
from templora_memory.errors import InvalidText
from templora_memory.importers import _lore
from templora_memory.importers._export import lore_entry
from templora_memory.importers._text import fill, one_line, plain
from templora_memory.importers._values import Character, World

NEUTRAL_USER = "the user"
"""Who the user is in what a character learns: a real name would make its memory personal."""


def spoken_name(character: Character) -> str:
    """What the character is called in conversation."""
    return character.nickname or character.name


def documents(
    character: Character,
    *,
    user: str = NEUTRAL_USER,
    examples: bool = True,
    lore: bool = False,
) -> tuple[Document, ...]:
    """What is learned, in the character's voice: the bio; example dialogues; the lore, if wanted.

    Notes, tags, creator and version are about the file and never learned.
    """
    name = spoken_name(character)
    bio = "\n\n".join(
        part for part in (character.description, character.personality, character.scenario) if part
    )
    texts = [bio]
    if examples:
        texts += [
            "\n".join(_said(message, name, user) for message in block)
            for block in character.example_dialogues
        ]
    if lore:
        texts += [entry.content for entry in character.lore if entry.enabled]
    filled = (fill(text, char=name, user=user).strip() for text in texts)
    return tuple(Document(text, character=name) for text in filled if text)


def _said(message: Message, name: str, user: str) -> str:
    """A line of a dialogue: with who says it, unless that stands in it or it is nobody's."""
    if message.role == "system" or message.name:
        return message.content
    return f"{name if message.role == 'assistant' else user}: {message.content}"


def card_text(character: Character, *, user: str) -> str:
    """The character as one text for a prompt, for models without a memory of it."""
    return "\n\n".join(item.text for item in documents(character, user=user))


def instructions(character: Character, *, user: str) -> str:
    """What always stays in the prompt: the card's own instructions; often empty."""
    given = (
        character.system_prompt,
        character.depth_prompt,
        character.post_history_instructions,
    )
    kept = "\n\n".join(text.replace("{{original}}", "").strip() for text in given if text.strip())
    return fill(kept, char=spoken_name(character), user=user).strip()


def greetings(character: Character, *, user: str) -> tuple[str, ...]:
    """What the character may say first, the usual greeting before the alternate ones."""
    given = (character.first_message, *character.alternate_greetings)
    filled = (fill(text, char=spoken_name(character), user=user).strip() for text in given)
    return tuple(text for text in filled if text)


def world_character(world: World) -> Character:
    """A world as a character whose whole text is its lore: a narrator, a game."""
    entries = [lore_entry(entry) for entry in world.lore]
    data = {"name": world.name, "description": "", "character_book": {"entries": entries}}
    return Character(
        name=world.name,
        lore=world.lore,
        source_format=world.source_format,
        warnings=world.warnings,
        raw={"spec": "chara_card_v2", "spec_version": "2.0", "data": data},
    )


def with_lore(character: Character, world: World) -> Character:
    """The character with the entries of a world file beside its own."""
    lore = tuple(sorted((*character.lore, *world.lore), key=lambda entry: entry.order))
    noted = tuple(f"{world.name}: {text}" for text in world.warnings)
    return replace(character, lore=lore, warnings=(*character.warnings, *noted), raw={})


def with_lore_entry(
    character: Character,
    number: int | None,
    *,
    content: str,
    keys: Sequence[str],
    name: str = "",
    enabled: bool = True,
    constant: bool = False,
) -> Character:
    """The character with one lorebook entry changed, or with another one.

    Its card has the entry as Character Cards do; whatever else an entry or the card says stays.

    `number` is its position in `Character.lore`; None: a new entry, behind the others. For the rest
    see `LoreEntry`; markup is taken out.

    Raises:
        InvalidText: nothing is left of the text, or nothing would ever mention the entry.
    """
    fields: dict[str, Any] = {
        "keys": [key for text in keys if (key := _lore.clean_key(text))],
        "content": plain(content),
        "name": one_line(name),
        "enabled": enabled,
        "constant": constant,
    }
    if not fields["content"]:
        raise InvalidText("A lorebook entry needs a text.")
    if not fields["keys"] and not constant:
        raise InvalidText("A lorebook entry needs a key that mentions it, or is always used.")
    data = character.raw.get("data")
    data = data if isinstance(data, Mapping) else {}
    book = data.get("character_book")
    rows, positions = _lore.rows_of(book)
    if [_lore.entry_of(rows[at]) for at in positions] != list(character.lore):
        rows, positions = [lore_entry(e) for e in character.lore], [*range(len(character.lore))]
    if number is None:
        last = max((entry.order for entry in character.lore), default=-1)
        rows = [*rows, {**fields, "insertion_order": last + 1, "extensions": {}}]
    else:
        rows = list(rows)
        rows[positions[number]] = _changed(rows[positions[number]], fields)
    lore, _ = _lore.book(rows)
    settings = book if isinstance(book, Mapping) else {"extensions": {}}
    raw = character.raw
    if data:
        raw = {**raw, "data": {**data, "character_book": {**settings, "entries": rows}}}
    return replace(character, lore=lore, raw=raw)


def _changed(row: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a lorebook with these fields, so that it reads as they say."""
    changed = _lore.with_texts(row, fields)
    entry = _lore.entry_of(changed)
    if entry is not None and (entry.enabled, entry.constant, list(entry.keys)) == (
        fields["enabled"], fields["constant"], fields["keys"],
    ):  # fmt: skip
        return changed
    changed["content"] = fields["content"]  # a decorator or a chance of 0 said otherwise
    more = row.get("extensions")
    more = more if isinstance(more, Mapping) else {}
    return {**_certain(changed), "extensions": _certain(more)}


def _certain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Fields without the chance of an entry."""
    return {name: value for name, value in row.items() if name != "probability"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Uses:
    """What becomes of the parts of a character, each in a few words for people.

    Args:
        learned: goes into the weights.
        prompt: stays in the prompt.
        ignored: is not used at all, and why.
    """

    learned: tuple[str, ...]
    prompt: tuple[str, ...]
    ignored: tuple[str, ...]


def uses(character: Character, *, examples: bool = True, lore: bool = False) -> Uses:
    """What of a character is learned, shown to the model, and ignored, with these choices."""
    active = [entry for entry in character.lore if entry.enabled]
    told = character.description or character.personality or character.scenario
    dialogues = _many(len(character.example_dialogues), "example dialogue")
    entries = _many(len(active), "lorebook text")
    greeted = bool(character.first_message) + len(character.alternate_greetings)
    instructed = (
        character.system_prompt or character.post_history_instructions or character.depth_prompt
    )
    learned = (
        ("the bio", bool(told)),
        (dialogues, examples and bool(character.example_dialogues)),
        (entries, lore and bool(active)),
    )
    prompt = (
        (_many(greeted, "greeting"), greeted > 0),
        ("the card's instructions", bool(instructed)),
        (f"{entries}, when a key word is mentioned", bool(active)),
    )
    ignored = (
        (f"{dialogues}, not ticked", not examples and bool(character.example_dialogues)),
        (_many(len(character.lore) - len(active), "lorebook text") + ", switched off",
         len(active) < len(character.lore)),
        ("the creator's notes", bool(character.creator_notes)),
        (_many(len(character.tags), "tag"), bool(character.tags)),
        ("creator and version", bool(character.creator or character.version)),
    )  # fmt: skip
    return Uses(
        learned=tuple(text for text, there in learned if there),
        prompt=tuple(text for text, there in prompt if there),
        ignored=(*(text for text, there in ignored if there), *character.warnings),
    )


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
