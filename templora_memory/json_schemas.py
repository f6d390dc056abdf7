"""JSON schemas that a small model can answer to: closed, and with an end.

Knows nothing of tools, models and frameworks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_SAFE_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader takes exactly (RFC 8259)."""


def bounded_schema(schema: Mapping[str, Any], characters: int, *, at: str = "#") -> dict[str, Any]:
    """Return a schema that is closed to unknown keys and whose texts and integers have an end.

    A small model may otherwise write one of them until its tokens are used up.

    Args:
        schema: a JSON schema.
        characters: of a text that has no limit of its own.
        at: where it will stand in a larger schema, as a JSON pointer; its references follow.
    """
    return dict(_bounded(schema, characters, at))


def _bounded(schema: Any, characters: int, at: str) -> Any:
    if isinstance(schema, list):
        return [_bounded(item, characters, at) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    limited: dict[str, Any] = {}
    for key, value in schema.items():
        match key:
            case "title" | "description" | "strict":
                continue
            case "$ref" if isinstance(value, str) and value.startswith("#"):
                limited[key] = at + value[1:]
            case "const" | "enum" | "default" | "examples" | "required":
                limited[key] = value
            case "properties" | "$defs" | "definitions" if isinstance(value, Mapping):
                # a property may be called "title" or "enum": its name is not a word of the schema
                limited[key] = {
                    name: _bounded(item, characters, at) for name, item in value.items()
                }
            case _:
                limited[key] = _bounded(value, characters, at)
    if "properties" in limited:
        limited.setdefault("additionalProperties", False)
    _bound_values(limited, characters)
    return limited


def _bound_values(limited: dict[str, Any], characters: int) -> None:
    """Give the texts and integers of a schema an end."""
    kind, free = limited.get("type"), not {"enum", "const"} & set(limited)
    if kind == "string" and free and not {"pattern", "format"} & set(limited):
        limited.setdefault("maxLength", max(characters, _whole(limited, "minLength")))
    if kind == "integer" and free:
        if not {"minimum", "exclusiveMinimum"} & set(limited):
            limited["minimum"] = min(-MAX_SAFE_INTEGER, _whole(limited, "maximum"))
        if not {"maximum", "exclusiveMaximum"} & set(limited):
            limited["maximum"] = max(MAX_SAFE_INTEGER, _whole(limited, "minimum"))


def _whole(schema: Mapping[str, Any], key: str) -> int:
    value = schema.get(key, 0)
    return int(value) if isinstance(value, (int, float)) else 0
