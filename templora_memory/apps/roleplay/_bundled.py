"""The characters that come with the page: our own texts, as ordinary character cards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from templora_memory.importers import Character, documents, load_character, one_line, spoken_name

from ._state import Actor, Fact

_ORDER = ("orla_fernwick", "marta_quill", "oren_vale", "ilse_brandt", "kestrel", "bram_oxley")
_MOST_FACTS = 6
_SHORTEST, _LONGEST = 12, 200  # letters of a sentence worth asking for
_ENDS = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s*")
_COLOUR = re.compile(r"#[0-9a-f]{6}")


def names() -> tuple[str, ...]:
    """The bundled characters, in the order of the gallery."""
    return _ORDER


@cache
def _read(name: str) -> Character:
    source = files(__package__).joinpath("bundled", f"{name}.json")
    return load_character(source.read_bytes(), filename=f"{name}.json")


def actor(name: str) -> Actor:
    """A fresh actor for a bundled character."""
    return from_character(_read(name))


def from_character(character: Character) -> Actor:
    """An actor for any character; what to ask is its own list, or sentences of its bio."""
    own = _own(character)
    accent = str(own.get("accent", ""))
    return Actor(
        label=character.name,
        character=character,
        facts=_facts(own) or _sentences(character),
        tagline=one_line(str(own.get("tagline", ""))),
        art=str(own.get("art", "")),
        accent=accent if _COLOUR.fullmatch(accent) else "",
    )


def _own(character: Character) -> Mapping[str, object]:
    """This page's own additions to a card; other cards have none. They may be a stranger's."""
    data = character.raw.get("data")
    extensions = data.get("extensions") if isinstance(data, Mapping) else None
    own = extensions.get("templora") if isinstance(extensions, Mapping) else None
    return own if isinstance(own, Mapping) else {}


def _facts(own: Mapping[str, object]) -> tuple[Fact, ...]:
    rows = own.get("facts")
    found = []
    for row in rows[:_MOST_FACTS] if isinstance(rows, list) else ():
        texts = [row.get(key) for key in ("ask", "answer", "said")] if isinstance(row, dict) else []
        cleaned = [one_line(text, 200) for text in texts if isinstance(text, str)]
        if len(cleaned) == 3 and all(cleaned):  # noqa: PLR2004  # ask, answer, said
            found.append(Fact(*cleaned))
    return tuple(found)


def _sentences(character: Character) -> tuple[Fact, ...]:
    """Sentences of the bio, for characters without questions."""
    text = " ".join(item.text for item in documents(character, examples=False))
    found = [" ".join(part.split()) for part in _ENDS.split(text[:4000])]
    whole = [part for part in found if _SHORTEST <= len(part) <= _LONGEST][:_MOST_FACTS]
    return tuple(Fact(f"Tell me about {spoken_name(character)}.", "", part) for part in whole)
