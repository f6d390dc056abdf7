"""What a character gives to a memory and what to a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from templora_memory.domain.messages import Document
from templora_memory.domain.segmentation import contains_words
from templora_memory.importers._text import fill
from templora_memory.importers._values import Character, LoreEntry

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
    """What is learned: the bio; example dialogues; the enabled lore, if wanted.

    Notes, tags, creator and version are about the file and never learned.
    """
    name = spoken_name(character)
    bio = "\n\n".join(
        part for part in (character.description, character.personality, character.scenario) if part
    )
    texts = [bio]
    if examples:
        texts += [
            "\n".join(
                f"{name if message.role == 'assistant' else user}: {message.content}"
                for message in block
            )
            for block in character.example_dialogues
        ]
    if lore:
        texts += [entry.content for entry in character.lore if entry.enabled]
    filled = (fill(text, char=name, user=user).strip() for text in texts)
    return tuple(Document(text) for text in filled if text)


def card_text(character: Character, *, user: str) -> str:
    """The character as one text for a prompt, for models without a memory of it."""
    return "\n\n".join(item.text for item in documents(character, user=user))


def instructions(character: Character, *, user: str) -> str:
    """What always stays in the prompt: the card's own instructions; often empty."""
    given = (character.system_prompt, character.post_history_instructions)
    kept = "\n\n".join(text.replace("{{original}}", "").strip() for text in given if text.strip())
    return fill(kept, char=spoken_name(character), user=user).strip()


def greetings(character: Character, *, user: str) -> tuple[str, ...]:
    """What the character may say first, the usual greeting before the alternate ones."""
    given = (character.first_message, *character.alternate_greetings)
    filled = (fill(text, char=spoken_name(character), user=user).strip() for text in given)
    return tuple(text for text in filled if text)


def matching_lore(
    lore: Iterable[LoreEntry], texts: Sequence[str], *, most: int = 4000
) -> tuple[LoreEntry, ...]:
    """The enabled entries that these texts mention, and the constant ones, in the book's order.

    Together they have at most `most` characters of content.
    """
    said = "\n".join(texts)
    found, size = [], 0
    for entry in lore:
        if not entry.enabled or not (entry.constant or _mentioned(entry, said)):
            continue
        size += len(entry.content)
        if size > most:
            break
        found.append(entry)
    return tuple(found)


def _mentioned(entry: LoreEntry, said: str) -> bool:
    if entry.regex or not any(_contains(said, key, entry) for key in entry.keys):
        return False
    return not entry.secondary_keys or any(
        _contains(said, key, entry) for key in entry.secondary_keys
    )


def _contains(said: str, key: str, entry: LoreEntry) -> bool:
    """Whole words for scripts that have them, any place for those without spaces."""
    return contains_words(said, key, case_sensitive=entry.case_sensitive)
