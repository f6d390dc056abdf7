"""The characters that come with the page: our own texts, as ordinary character cards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from templora_memory.domain.segmentation import sentences
from templora_memory.importers import Character, documents, load_character, one_line, spoken_name

from .faces import picture_address
from .fact_questions import facts_of_sentences
from .state import Actor, CharacterFact

_ORDER = ("orla_fernwick", "marta_quill", "oren_vale", "ilse_brandt", "kestrel", "bram_oxley")
_MAX_FACTS = 6
_READ = 4000  # letters of a bio that facts are looked for in
_COLOUR = re.compile(r"#[0-9a-f]{6}")


def names() -> tuple[str, ...]:
    """Return the names of the bundled characters, in the order of the gallery."""
    return _ORDER


@cache
def _read(name: str) -> Character:
    source = files(__package__).joinpath("bundled", f"{name}.json")
    return load_character(source.read_bytes(), filename=f"{name}.json")


def actor(name: str) -> Actor:
    """Return a fresh actor for a bundled character."""
    return from_character(_read(name))


def from_character(character: Character) -> Actor:
    """Return an actor for any character; its facts are the card's, or sentences of its bio."""
    extension = _extension(character)
    accent = str(extension.get("accent", ""))
    return Actor(
        label=character.name,
        character=character,
        facts=_facts(extension) or _sentences(character),
        tagline=one_line(str(extension.get("tagline", ""))),
        art=str(extension.get("art", "")),
        accent=accent if _COLOUR.fullmatch(accent) else "",
        image=picture_address(character.portrait),
    )


def _extension(character: Character) -> Mapping[str, object]:
    """Return the additions of this page to a card; {} if there are none.

    They may be a stranger's.
    """
    data = character.raw.get("data")
    extensions = data.get("extensions") if isinstance(data, Mapping) else None
    extension = extensions.get("templora") if isinstance(extensions, Mapping) else None
    return extension if isinstance(extension, Mapping) else {}


def _facts(extension: Mapping[str, object]) -> tuple[CharacterFact, ...]:
    rows = extension.get("facts")
    facts = []
    for row in rows[:_MAX_FACTS] if isinstance(rows, list) else ():
        texts = [row.get(key) for key in ("ask", "answer", "said")] if isinstance(row, dict) else []
        cleaned = [one_line(text, 200) for text in texts if isinstance(text, str)]
        if len(cleaned) == 3 and all(cleaned):  # noqa: PLR2004  # ask, answer, said
            facts.append(CharacterFact(*cleaned))
    return tuple(facts)


def _sentences(character: Character) -> tuple[CharacterFact, ...]:
    """Return facts made of sentences of the bio."""
    text = " ".join(item.text for item in documents(character, examples=False))
    return facts_of_sentences(sentences(text[:_READ]), spoken_name(character), at_most=_MAX_FACTS)
