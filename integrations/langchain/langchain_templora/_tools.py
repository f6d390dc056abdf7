"""Tools for a model that only reads and writes text.

Bound tools are described in the system message; a call is JSON between <tool_call> marks, the
format that Hermes and Qwen models are trained on. A forced call follows a JSON schema instead, so
that any model, however small, makes a valid one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.utils.json_schema import dereference_refs

SAFE = 2**53 - 1
"""The largest integer that every JSON reader takes exactly (RFC 8259)."""
OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """The tools of one call, and whether one of them has to be called.

    Args:
        tools: in OpenAI's format; empty: no tools.
        forced: names of which one has to be called; empty: the model decides.
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    forced: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(tool["function"]["name"] for tool in self.tools)

    def describe(self, template: str | None) -> str:
        """What the system message says; `template` is the wording of the model's chat template."""
        if not self.tools:
            return ""
        told = template or "\n".join(
            [
                "You can call these tools:",
                "<tools>",
                *(json.dumps(tool["function"], ensure_ascii=False) for tool in self.tools),
                "</tools>",
                "To call one, answer with its name and its arguments in this form:",
                f'{OPEN}\n{{"name": "...", "arguments": {{...}}}}\n{CLOSE}',
            ]
        )
        if not self.forced:
            return told
        return f"{told}\nNow call {' or '.join(self.forced)}: answer with the JSON of the call."

    def schema(self, characters: int) -> str | None:
        """The JSON schema of a forced call; texts without a limit get this many characters."""
        if not self.forced:
            return None
        calls = [
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool["function"]["name"]},
                    "arguments": _arguments(tool["function"], characters),
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for tool in self.tools
            if tool["function"]["name"] in self.forced
        ]
        return json.dumps(calls[0] if len(calls) == 1 else {"anyOf": calls})


def plan(tools: Sequence[Mapping[str, Any]] | None, choice: object) -> ToolPlan:
    """What `tools` and `tool_choice` of a call ask for.

    Choices: None, "auto", "none", "any", "required", True, False, a name, or OpenAI's
    ``{"type": "function", "function": {"name": ...}}``.

    Raises:
        ValueError: a choice that is none of these, names no bound tool, or has no tools.
    """
    given = tuple(tools or ())
    names = tuple(tool["function"]["name"] for tool in given)
    if isinstance(choice, Mapping):
        named = choice.get("function", choice)
        choice = named.get("name") if isinstance(named, Mapping) else choice
    match choice:
        case None | False | "auto":
            return ToolPlan(given)
        case "none":
            return ToolPlan()
        case True | "any" | "required" if given:
            return ToolPlan(given, names)
        case str() if choice in names:
            return ToolPlan(given, (choice,))
        case _:
            raise ValueError(
                f"tool_choice is {choice!r}: use 'auto', 'any', 'none' or the name of a bound "
                f"tool, {list(names) or 'of which there are none'}."
            )


def bounded(schema: Mapping[str, Any], characters: int) -> dict[str, Any]:
    """A schema without references, closed to unknown keys, whose texts and integers have an end.

    A small model may otherwise write one of them until its tokens are used up.
    """
    return dict(_bounded(dereference_refs(dict(schema), skip_keys=[]), characters))


def _arguments(function: Mapping[str, Any], characters: int) -> dict[str, Any]:
    return bounded(function.get("parameters") or {"type": "object", "properties": {}}, characters)


def _bounded(schema: Any, characters: int) -> Any:
    if isinstance(schema, list):
        return [_bounded(item, characters) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {
        key: value
        if key in {"const", "enum", "default", "examples", "required"}
        else _named(value, characters)
        if key == "properties"
        else _bounded(value, characters)
        for key, value in schema.items()
        if key not in {"$defs", "definitions", "title", "description", "strict"}
    }
    if "properties" in found:
        found.setdefault("additionalProperties", False)
    free = not {"enum", "const", "pattern", "format"} & set(found)
    if found.get("type") == "string" and free:
        found.setdefault("maxLength", max(characters, int(found.get("minLength", 0))))
    if found.get("type") == "integer" and not {"enum", "const"} & set(found):
        if not {"minimum", "exclusiveMinimum"} & set(found):
            found["minimum"] = min(-SAFE, int(found.get("maximum", 0)))
        if not {"maximum", "exclusiveMaximum"} & set(found):
            found["maximum"] = max(SAFE, int(found.get("minimum", 0)))
    return found


def _named(properties: Any, characters: int) -> Any:
    """A property may be called "title" or "enum": its name is not a word of the schema."""
    return {name: _bounded(value, characters) for name, value in properties.items()}


class ToolReader:
    """Splits an answer, as it comes, into text and tool calls.

    What may be the beginning of a call is held back until it is clear what it is.
    """

    def __init__(self, tools: ToolPlan) -> None:
        self._plan = tools
        self._buffer = ""
        self._inside = False  # after <tool_call>
        self._said = False  # whether text was given out
        self._count = 0

    def feed(self, piece: str) -> Iterator[str | ToolCallChunk]:
        """Take in a piece of text; gives out what is certain by now."""
        if not self._plan.tools:
            yield piece
            return
        self._buffer += piece
        if not self._plan.forced and not self._bare():
            yield from self._split()

    def _split(self) -> Iterator[str | ToolCallChunk]:
        while True:
            before, mark, rest = self._buffer.partition(CLOSE if self._inside else OPEN)
            if not mark:
                break
            self._buffer = rest
            if self._inside:
                yield self._call(before)
            else:
                yield from self._text(before)
            self._inside = not self._inside
        if not self._inside:
            known = len(self._buffer) - _overlap(self._buffer, OPEN)
            text, self._buffer = self._buffer[:known], self._buffer[known:]
            yield from self._text(text)

    def finish(self) -> Iterator[str | ToolCallChunk]:
        """The rest, once the answer has ended."""
        bare = self._bare() and _parsed(self._buffer, self._plan.names) is not None
        if bare or (self._plan.forced and self._buffer.strip()):
            yield self._call(self._buffer)
            return
        yield from self._split()
        if self._inside:
            yield self._call(self._buffer)
        else:
            yield from self._text(self._buffer)

    def _text(self, text: str) -> Iterator[str]:
        if self._count and not text.strip():
            return  # line ends between calls
        if text:
            self._said = self._said or bool(text.strip())
            yield text

    def _bare(self) -> bool:
        """Whether the answer begins like a JSON object: some models call without marks."""
        begun = self._said or self._count or self._inside
        return not begun and self._buffer.lstrip().startswith("{")

    def _call(self, body: str) -> ToolCallChunk:
        body = body.replace(OPEN, "").replace(CLOSE, "").strip()
        found = _parsed(body, self._plan.names)
        self._count += 1
        return tool_call_chunk(
            name=found[0] if found else None,
            # a text instead of arguments, so that LangChain takes the call for an invalid one
            args=json.dumps(found[1] if found else body, ensure_ascii=False),
            id=f"call_{uuid.uuid4().hex}",
            index=self._count - 1,
        )


def _parsed(body: str, names: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments of a call; None if this is none of a bound tool."""
    try:
        value = json.loads(body)
    except ValueError:
        return None
    if not isinstance(value, dict) or value.get("name") not in names:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    return (value["name"], arguments) if isinstance(arguments, dict) else None


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that begins `mark`."""
    sizes = range(min(len(text), len(mark) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(mark[:size])), 0)
