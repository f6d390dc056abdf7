"""Parsed cards of every dialect -> `Character`. Tolerant in types, strict in what is kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from templora_memory.domain.messages import Message
from templora_memory.importers._text import one_line, plain, repaired
from templora_memory.importers._values import Character, FileRefused, LoreEntry

_DECORATOR = re.compile(r"^@@@?[a-z_]+.*(?:\n|$)", re.MULTILINE)
_START = re.compile(r"<START>", re.IGNORECASE)
_SPEAKER = re.compile(
    r"^(\{\{user\}\}|\{\{char\}\}|<user>|<bot>|<char>|[^\s:][^:\n]{0,60}):[ \t]*", re.IGNORECASE
)
_MAX_LORE = 2000
_NEWEST = 3.0
_OLD_NAMES = {
    "char_name": "name",
    "bot": "name",
    "char_persona": "description",
    "context": "description",
    "char_greeting": "first_mes",
    "greeting": "first_mes",
    "example_dialogue": "mes_example",
    "world_scenario": "scenario",
}


def is_card(value: object) -> bool:
    """Whether a parsed value looks like a character of any dialect."""
    if not isinstance(value, Mapping):
        return False
    if isinstance(value.get("data"), Mapping) and "name" in value["data"]:
        return True
    named = any(key in value for key in ("name", "char_name", "bot"))
    told = ("description", "first_mes", "personality", "mes_example", "scenario", *_OLD_NAMES)
    return named and any(key in value for key in told if key not in {"char_name", "bot"})


def character(
    value: object,
    *,
    source: str,
    filename: str = "",
    portrait: bytes | None = None,
    warnings: tuple[str, ...] = (),
) -> Character:
    """A character from a parsed card (V1, V2, V3, Pygmalion, text-generation-webui).

    Raises:
        FileRefused: `not_a_card`, `empty`.
    """
    if not isinstance(value, Mapping) or not is_card(value):
        raise FileRefused(
            "not_a_card",
            "This file has no character inside: a card has a name and a description. Export it "
            "from SillyTavern as PNG or JSON, or paste the bio.",
        )
    spec = value.get("spec")
    inner = value.get("data")
    data: dict[str, Any] = dict(inner if isinstance(inner, Mapping) else value)
    for old, new in _OLD_NAMES.items():
        if old in data and not data.get(new):
            data[new] = data[old]
    noted = [*warnings]
    kind = _kind(spec, value, noted)
    names = one_line(_text(data.get("name"))) or one_line(filename) or "Nameless"
    lore, more = _lore(data.get("character_book"))
    noted += more
    found = Character(
        name=names,
        nickname=one_line(_text(data.get("nickname"))),
        description=plain(_text(data.get("description"))),
        personality=plain(_text(data.get("personality"))),
        scenario=plain(_text(data.get("scenario"))),
        first_message=plain(_text(data.get("first_mes"))),
        alternate_greetings=_greetings(data),
        example_dialogues=_dialogues(_text(data.get("mes_example")), names),
        system_prompt=plain(_text(data.get("system_prompt"))),
        post_history_instructions=plain(_text(data.get("post_history_instructions"))),
        lore=lore,
        creator_notes=plain(_text(data.get("creator_notes")))[:20_000],
        creator=one_line(_text(data.get("creator"))),
        version=one_line(_text(data.get("character_version"))),
        tags=tuple(filter(None, (one_line(tag, 60) for tag in _texts(data.get("tags"))[:100]))),
        source_format=f"{kind}, {source}" if source else kind,
        portrait=portrait,
        warnings=tuple(noted),
        raw=value,
    )
    if not (found.description or found.personality or found.scenario or found.example_dialogues):
        raise FileRefused(
            "empty", "This character has a name and no bio: there is nothing to absorb."
        )
    return found


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


def _dialogues(text: str, name: str) -> tuple[tuple[Message, ...], ...]:
    blocks = (block for block in _START.split(repaired(text)) if block.strip())
    found = (_dialogue(block, name) for block in blocks)
    return tuple(block for block in found if block)


def _dialogue(block: str, name: str) -> tuple[Message, ...]:
    messages: list[Message] = []
    for line in block.splitlines():
        hit = _SPEAKER.match(line)
        who = hit[1].lower() if hit else ""
        if who in {"{{user}}", "<user>", "you", "user"}:
            messages.append(Message("user", plain(line[hit.end() :]) if hit else ""))
        elif who in {"{{char}}", "<bot>", "<char>", name.lower()}:
            messages.append(Message("assistant", plain(line[hit.end() :]) if hit else ""))
        elif messages and line.strip():
            last = messages[-1]
            messages[-1] = Message(last.role, f"{last.content}\n{plain(line)}".strip())
    return tuple(message for message in messages if message.content)


def _lore(book: object) -> tuple[tuple[LoreEntry, ...], list[str]]:
    if not isinstance(book, Mapping):
        return (), []
    given = book.get("entries")
    rows = list(given.values()) if isinstance(given, Mapping) else given
    if not isinstance(rows, list):
        return (), []
    noted = []
    if len(rows) > _MAX_LORE:
        noted.append(f"Only the first {_MAX_LORE} lorebook entries were read.")
    entries = tuple(filter(None, (_entry(row) for row in rows[:_MAX_LORE])))
    if any(entry.regex for entry in entries):
        noted.append("Lorebook entries with regular expressions as keys are kept and never used.")
    return tuple(sorted(entries, key=lambda entry: entry.order)), noted


def _entry(row: object) -> LoreEntry | None:
    """An entry of a card's book, or of a SillyTavern world-info file."""
    if not isinstance(row, Mapping):
        return None
    content = plain(_DECORATOR.sub("", _text(row.get("content"))))
    if not content:
        return None
    order = row.get("insertion_order", row.get("order", 0))
    return LoreEntry(
        content=content,
        keys=_keys(row.get("keys", row.get("key"))),
        secondary_keys=_keys(row.get("secondary_keys", row.get("keysecondary")))
        if row.get("selective") in {True, None}
        else (),
        name=one_line(_text(row.get("name")) or _text(row.get("comment"))),
        enabled=row.get("enabled", not row.get("disable", False)) is not False,
        constant=row.get("constant") is True,
        case_sensitive=row.get("case_sensitive") is True,
        regex=row.get("use_regex") is True,
        order=order if type(order) is int else 0,
    )


def _keys(value: object) -> tuple[str, ...]:
    return tuple(filter(None, (one_line(key) for key in _texts(value)[:100])))
