"""JSON from strangers: bounded in size, depth and number of containers; no NaN."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from templora_memory.importers._text import decode
from templora_memory.importers._values import FileRefused, Limits


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse(data: bytes | str, limits: Limits) -> Any:
    """The value of a JSON text.

    Raises:
        FileRefused: `too_large`, `bad_json`.
    """
    if len(data) > limits.text:
        raise FileRefused(
            "too_large",
            f"The card's JSON has over {limits.text / 1e6:.0f} MB of text: that is no character.",
        )
    text = data if isinstance(data, str) else decode(data)[0]
    if text.count("[") + text.count("{") > limits.containers:
        raise FileRefused("bad_json", "The JSON has far more lists and objects than a card needs.")
    try:
        value = json.loads(text, parse_constant=_no_constant)
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
    level, depth = [value], 0
    while level:
        if depth > limits.depth:
            raise FileRefused("bad_json", "The JSON is nested too deeply for a card.")
        below: list[Any] = []
        for item in level:
            inner = item.values() if isinstance(item, dict) else item
            below.extend(child for child in inner if isinstance(child, (dict, list)))
        if depth == 0 and not isinstance(value, (dict, list)):
            return
        level, depth = below, depth + 1
