"""JSON of chat programs, read one conversation after the other.

An export of 100 MB is never a value of that size: only what is kept of it is. The standard
library's decoder reads the items of a list one by one; it refuses deep nesting at once, which the
streaming parsers looked at do not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from templora_memory.importers import _chats, _json
from templora_memory.importers._encoding import decode
from templora_memory.importers._values import ChatLog, FileRefused, Limits

_PEEKED = 5
_BLANK = re.compile(r"[ \t\r\n]*")
_DAMAGED = "The JSON in this file is damaged: export it again."


def read(data: bytes, limits: Limits, *, user: str = "", character: str = "") -> ChatLog | None:
    """The chat or export in a JSON file of any size; None if it is another kind of JSON.

    Raises:
        FileRefused: `bad_json`, `too_large`, `empty`, `which_user`.
    """
    text = decode(data)[0].removeprefix("\ufeff")
    start = _BLANK.match(text).end()  # type: ignore[union-attr]  # it always matches
    if text.startswith("[", start):
        items = _items(text, start + 1, limits)
        first = [item for _, item in zip(range(_PEEKED), items, strict=False)]
        kind = _chats.kind_of(first)
        if kind is None:
            return None
        return _chats.read_items(
            _chained(first, items), kind, limits, user=user, character=character
        )
    value = _json.parse(text, limits, chat=True)
    kind = _chats.kind_of(value)
    if kind is None:
        return None
    return _chats.read_value(value, kind, limits, user=user, character=character)


def _chained(first: list[Any], rest: Iterator[Any]) -> Iterator[Any]:
    yield from first
    yield from rest


def _items(text: str, position: int, limits: Limits) -> Iterator[Any]:
    """The items of a list, each of them within the limits of one value."""
    decoder = json.JSONDecoder(parse_constant=_json.no_constant)
    while True:
        position = _after_blank(text, position)
        if text.startswith("]", position):
            return
        try:
            item, position = decoder.raw_decode(text, position)
        except RecursionError as error:
            raise FileRefused("bad_json", "The JSON is nested too deeply for a chat.") from error
        except ValueError as error:
            raise FileRefused("bad_json", _DAMAGED) from error
        _json.check_depth(item, limits)
        yield item
        position = _after_blank(text, position)
        if text.startswith(",", position):
            position += 1
        elif not text.startswith("]", position):
            raise FileRefused("bad_json", _DAMAGED)


def _after_blank(text: str, position: int) -> int:
    hit = _BLANK.match(text, position)
    return hit.end() if hit else position
