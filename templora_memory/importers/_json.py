"""JSON from strangers: bounded in size, depth and number of containers; no NaN."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from templora_memory.importers._encoding import decode
from templora_memory.importers._values import FileRefused, Limits


def no_constant(name: str) -> NoReturn:
    """Refuse NaN and infinity, which are not JSON."""
    raise ValueError(f"{name} is not JSON")


_CHAT_CONTAINERS = 40  # times as many lists and objects has an export as a card may have


def parse(data: bytes | str, limits: Limits, *, chat: bool = False) -> Any:
    """The value of a JSON text: of a card, or of a chat, which may be larger.

    Raises:
        FileRefused: `too_large`, `bad_json`.
    """
    most = limits.file if chat else limits.text
    if len(data) > most:
        raise FileRefused(
            "too_large", f"The JSON in this file has over {most / 1e6:.0f} MB of text."
        )
    text = (data if isinstance(data, str) else decode(data)[0]).removeprefix("\ufeff")
    if text.count("[") + text.count("{") > limits.containers * (_CHAT_CONTAINERS if chat else 1):
        raise FileRefused("bad_json", "The JSON has far more lists and objects than a card needs.")
    try:
        value = json.loads(text, parse_constant=no_constant)
    except RecursionError as error:
        raise FileRefused("bad_json", "The JSON is nested too deeply for a card.") from error
    except ValueError as error:  # not JSON, or a number of thousands of digits
        raise FileRefused(
            "bad_json", "The JSON in this file is damaged: export the character again."
        ) from error
    check_depth(value, limits)
    return value


def check_depth(value: Any, limits: Limits) -> None:
    """Refuse what a recursive walk could stumble over.

    Raises:
        FileRefused: `bad_json`.
    """
    if not isinstance(value, (dict, list)):
        return
    level, depth = [value], 0
    while level:
        if depth > limits.depth:
            raise FileRefused("bad_json", "The JSON is nested too deeply for a card.")
        below: list[Any] = []
        for item in level:
            inner = item.values() if isinstance(item, dict) else item
            below.extend(child for child in inner if isinstance(child, (dict, list)))
        level, depth = below, depth + 1
