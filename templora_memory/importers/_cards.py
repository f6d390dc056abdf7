"""Parsed cards of every dialect -> `Character`. Tolerant in types, strict in what is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from templora_memory.importers import _lore
from templora_memory.importers._dialogues import example_dialogues
from templora_memory.importers._text import one_line, plain, unknown_macros
from templora_memory.importers._values import Character, FileRefused

_NEWEST = 3.0
_NAMES = ("name", "char_name", "bot")
_OLD_NAMES = {
    "char_name": "name",
    "bot": "name",
    "char_persona": "description",
    "context": "description",
    "persona": "description",
    "char_greeting": "first_mes",
    "greeting": "first_mes",
    "first_message": "first_mes",
    "firstMessage": "first_mes",
    "example_dialogue": "mes_example",
    "sampleChat": "mes_example",
    "example_dialogues": "mes_example",
    "definition": "mes_example",
    "world_scenario": "scenario",
    "systemPrompt": "system_prompt",
    "postHistoryInstructions": "post_history_instructions",
    "alternateGreetings": "alternate_greetings",
    "characterBook": "character_book",
    "participant__name": "name",
}
_TOLD = (
    "description first_mes personality mes_example scenario system_prompt character_book".split()
)
"""Fields that make a mapping with a name a character."""
_PROGRAM = frozenset({"scripts", "dependencies", "version", "main", "license", "devDependencies"})
"""Fields of a package of a programming language, which has a name and a description, too."""
_USED = frozenset(
    "name nickname description personality scenario first_mes alternate_greetings mes_example "
    "system_prompt post_history_instructions character_book creator_notes creator tags "
    "character_version extensions spec spec_version data create_date chat avatar fav talkativeness "
    "creatorcomment assets creation_date modification_date source json_data".split()
)
"""Fields that are read, or that say nothing about the character."""
_UNUSED = {
    "group_only_greetings": "greetings for groups",
    "creator_notes_multilingual": "notes of its creator in other languages",
}


def is_card(value: object) -> bool:
    """Whether a parsed value looks like a character of any dialect."""
    if not isinstance(value, Mapping):
        return False
    inner = value.get("data")
    if isinstance(inner, Mapping) and (
        "name" in inner or str(value.get("spec")).startswith("chara_")
    ):
        return True
    if isinstance(value.get("character"), Mapping) and "participant__name" in value["character"]:
        return True
    named = any(key in value for key in _NAMES)
    told = {key for key in (*_TOLD, *_OLD_NAMES) if key in value} - {*_NAMES}
    if told == {"description"} and not _PROGRAM.isdisjoint(value):
        return False
    return named and bool(told)


def character(
    value: object,
    *,
    source: str,
    filename: str = "",
    portrait: bytes | None = None,
    warnings: tuple[str, ...] = (),
) -> Character:
    """A character from a parsed card (V1, V2, V3, Pygmalion, text-generation-webui, Agnai ...).

    Raises:
        FileRefused: `not_a_card`, `empty`.
    """
    if not isinstance(value, Mapping) or not is_card(value):
        raise FileRefused(
            "not_a_card",
            "This file has no character inside: a card has a name and a description. Export it "
            "from SillyTavern as PNG or JSON, or paste the bio.",
        )
    noted = [*warnings]
    kind, data = _dialect(value, noted)
    name = one_line(_text(data.get("name"))) or one_line(filename) or "Nameless"
    nickname = one_line(_text(data.get("nickname")))
    lore, lore_notes = _lore.book(data.get("character_book"))
    more = data.get("extensions")
    more = more if isinstance(more, Mapping) else {}
    example = _text(data.get("mes_example"))
    found = Character(
        name=name,
        nickname=nickname,
        description=plain(_text(data.get("description"))),
        personality=plain(_text(data.get("personality"))),
        scenario=plain(_text(data.get("scenario"))),
        first_message=plain(_text(data.get("first_mes"))),
        alternate_greetings=_greetings(data),
        example_dialogues=example_dialogues(example, name, nickname),
        system_prompt=plain(_text(data.get("system_prompt"))),
        post_history_instructions=plain(_text(data.get("post_history_instructions"))),
        depth_prompt=plain(_depth_prompt(more, data)),
        lore=lore,
        creator_notes=plain(_text(data.get("creator_notes")))[:20_000],
        creator=one_line(_text(data.get("creator"))),
        version=one_line(_text(data.get("character_version"))),
        tags=tuple(filter(None, (one_line(tag, 60) for tag in _texts(data.get("tags"))[:100]))),
        source_format=f"{kind}, {source}" if source else kind,
        portrait=portrait,
        warnings=(),
        raw=value,
    )
    if not _says_something(found):
        raise FileRefused(
            "empty", "This character has a name and nothing else: there is nothing to absorb."
        )
    if example.strip() and not found.example_dialogues:
        noted.append("The example dialogues have no text that could be read.")
    noted += [*lore_notes, *_unused(data, more), *_macros(found)]
    return replace(found, warnings=tuple(noted))


def _says_something(found: Character) -> bool:
    return bool(
        found.description
        or found.personality
        or found.scenario
        or found.example_dialogues
        or found.first_message
        or found.alternate_greetings
        or found.system_prompt
        or found.post_history_instructions
        or found.depth_prompt
        or found.lore
    )


def _macros(found: Character) -> list[str]:
    texts: Iterable[str] = (
        found.description,
        found.personality,
        found.scenario,
        found.first_message,
        *found.alternate_greetings,
        found.system_prompt,
        found.post_history_instructions,
        found.depth_prompt,
        *(entry.content for entry in found.lore),
        *(message.content for block in found.example_dialogues for message in block),
    )
    words = unknown_macros(texts)
    if not words:
        return []
    shown = ", ".join(f"{{{{{word}}}}}" for word in words[:10])
    rest = f" and {len(words) - 10} more" if len(words) > 10 else ""  # noqa: PLR2004  # as shown
    return [f"Macros that are not known here stay as they are written: {shown}{rest}."]


def _unused(data: Mapping[str, Any], more: Mapping[str, Any]) -> list[str]:
    """What of a card is neither learned nor shown to the model, in words."""
    noted = [f"Not used: {what}." for field, what in _UNUSED.items() if data.get(field)]
    assets = data.get("assets")
    if isinstance(assets, list) and len(assets) > 1:
        noted.append(f"Not used: {len(assets)} pictures and other assets beside the portrait.")
    risu = more.get("risuai")
    if isinstance(risu, Mapping):
        scripts = [
            name for name in ("customScripts", "triggerscript", "virtualscript") if risu.get(name)
        ]
        if scripts:
            noted.append("Not used: scripts and triggers of RisuAI.")
        if risu.get("additionalText") or risu.get("backgroundHTML"):
            noted.append("Not used: RisuAI's additional text and background.")
    if more.get("regex_scripts"):
        noted.append("Not used: regular expressions that SillyTavern would apply to replies.")
    if isinstance(more.get("world"), str) and more["world"] and not data.get("character_book"):
        noted.append("The card names a world file that is not in it: read that file, too.")
    others = sorted(
        one_line(str(name), 40)
        for name, value in data.items()
        if name not in _USED and name not in _OLD_NAMES and name not in _UNUSED
        and isinstance(value, str) and len(value) > 40  # noqa: PLR2004  # a text, no setting
    )  # fmt: skip
    if others:
        noted.append(f"Not used: the fields {', '.join(others[:10])}.")
    return noted


def _depth_prompt(more: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    for place in (more.get("depth_prompt"), data.get("insert")):
        if isinstance(place, Mapping) and _text(place.get("prompt")):
            return _text(place["prompt"])
    return ""


def _dialect(value: Mapping[str, Any], noted: list[str]) -> tuple[str, dict[str, Any]]:
    """The dialect in words, and the fields under the names of Character Card V2."""
    if isinstance(value.get("character"), Mapping) and "participant__name" in value["character"]:
        data = dict(value["character"])
        data["personality"], data["description"] = data.get("title"), data.get("description")
        return "Character.AI character", _renamed(data)
    if value.get("kind") == "character" or _is_agnai_persona(value.get("persona")):
        return "Agnai character", _agnai(value)
    inner = value.get("data")
    if isinstance(inner, Mapping):
        data = dict(inner)
        for name in (*_TOLD, *_NAMES, "creator_notes", "tags", "creator", "alternate_greetings"):
            if not data.get(name) and value.get(name):
                data[name] = value[name]  # V1's fields beside: some writers fill only those
    else:
        data = dict(value)
    return _kind(value.get("spec"), value, noted), _renamed(data)


def _renamed(data: dict[str, Any]) -> dict[str, Any]:
    for old, new in _OLD_NAMES.items():
        if old in data and not data.get(new):
            data[new] = data[old]
    return data


# --- Agnai ----------------------------------------------------------------------------------------


def _is_agnai_persona(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("attributes"), Mapping)


def _agnai(value: Mapping[str, Any]) -> dict[str, Any]:
    """Agnai's description is a note about the file; who the character is stands in its persona."""
    persona, kind = value.get("persona"), ""
    lines: list[str] = []
    if isinstance(persona, Mapping):
        kind = _text(persona.get("kind"))
        attributes = persona.get("attributes")
        for name, given in attributes.items() if isinstance(attributes, Mapping) else ():
            texts = (
                [_text(item) for item in given if _text(item)]
                if isinstance(given, list)
                else [_text(given)]
            )
            joined = "\n".join(texts) if kind == "text" or name == "text" else ", ".join(texts)
            if joined:
                lines.append(joined if kind == "text" or name == "text" else f"{name}: {joined}")
    elif isinstance(persona, str):
        lines.append(persona)
    book = value.get("characterBook")
    data = {key: item for key, item in value.items() if key not in {"persona", "description"}}
    data["character_book"] = book
    data["description"] = "\n".join(lines)
    data["creator_notes"] = value.get("description")
    return _renamed(data)


def _kind(spec: object, value: Mapping[str, Any], noted: list[str]) -> str:
    if spec == "chara_card_v3":
        try:
            newer = float(str(value.get("spec_version", "3.0"))) > _NEWEST
        except ValueError:
            newer = True
        if newer:
            noted.append("The card follows a newer specification; unknown parts were left out.")
        return "Character Card V3"
    if spec == "chara_card_v2" or isinstance(value.get("data"), Mapping):
        return "Character Card V2"
    if any(key in value for key in ("char_name", "char_persona")):
        return "Pygmalion character"
    if "context" in value or "greeting" in value:
        return "text-generation-webui character"
    return "Character Card V1"


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return str(value) if type(value) in {int, float} else ""


def _texts(value: object) -> list[str]:
    """Several texts, however they were written: a list, one string, nothing."""
    if isinstance(value, str):
        return [part for part in value.split(",") if part.strip()]
    return [_text(item) for item in value if _text(item)] if isinstance(value, list) else []


def _greetings(data: Mapping[str, Any]) -> tuple[str, ...]:
    given = data.get("alternate_greetings")
    several = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    return tuple(filter(None, (plain(_text(item)) for item in several[:100])))
