"""A `Character` as a card that other programs read; nothing of an imported card is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from templora_memory.importers import _png
from templora_memory.importers._values import Character, Limits, LoreEntry


def to_card(character: Character) -> dict[str, Any]:
    """The character as Character Card V2, or V3 if it came as V3; unknown fields survive."""
    raw = character.raw
    if raw.get("spec") in {"chara_card_v2", "chara_card_v3"} and isinstance(
        raw.get("data"), Mapping
    ):
        return {**raw, "data": {**raw["data"], "name": character.name}}
    blocks = (
        "<START>\n"
        + "\n".join(
            message.content
            if message.role == "system" or message.name
            else f"{'{{char}}' if message.role == 'assistant' else '{{user}}'}: {message.content}"
            for message in block
        )
        for block in character.example_dialogues
    )
    data: dict[str, Any] = {
        "name": character.name,
        "description": character.description,
        "personality": character.personality,
        "scenario": character.scenario,
        "first_mes": character.first_message,
        "mes_example": "\n".join(blocks),
        "creator_notes": character.creator_notes,
        "system_prompt": character.system_prompt,
        "post_history_instructions": character.post_history_instructions,
        "alternate_greetings": list(character.alternate_greetings),
        "tags": list(character.tags),
        "creator": character.creator,
        "character_version": character.version,
        "extensions": {},
    }
    if character.nickname:
        data["nickname"] = character.nickname
    if character.depth_prompt:
        data["extensions"] = {"depth_prompt": {"prompt": character.depth_prompt, "depth": 4}}
    if character.lore:
        data["character_book"] = {
            "extensions": {},
            "entries": [lore_entry(e) for e in character.lore],
        }
    return {"spec": "chara_card_v2", "spec_version": "2.0", "data": data}


_LOGIC = {"any": 0, "not_all": 1, "not_any": 2, "all": 3}


def lore_entry(entry: LoreEntry) -> dict[str, Any]:
    """An entry as Character Card V2 has it."""
    more: dict[str, Any] = {}
    if entry.logic != "any":
        more["selectiveLogic"] = _LOGIC[entry.logic]
    if entry.whole_words:
        more["match_whole_words"] = True
    return {
        "keys": list(entry.keys),
        "secondary_keys": list(entry.secondary_keys),
        "selective": bool(entry.secondary_keys),
        "content": entry.content,
        "name": entry.name,
        "enabled": entry.enabled,
        "constant": entry.constant,
        "case_sensitive": entry.case_sensitive,
        "use_regex": entry.regex,
        "insertion_order": entry.order,
        "extensions": more,
    }


def to_json(character: Character) -> bytes:
    """The card as a JSON file."""
    return json.dumps(to_card(character), indent=2).encode()


def to_png(character: Character) -> bytes:
    """The card inside its portrait, or inside a plain picture."""
    card = json.dumps(to_card(character)).encode()
    keyword = "ccv3" if to_card(character)["spec"] == "chara_card_v3" else "chara"
    picture = character.portrait or _png.blank()
    return _png.write(picture, {"chara": card, keyword: card}, Limits())
