"""Tools for a model that only reads and writes text.

Bound tools are described in the system message, and calls are read from the answer, as
`templora_memory.tool_calls` says. A forced call follows a JSON schema instead, so that any model,
however small, makes a valid one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.utils.json_schema import dereference_refs
from templora_memory.tool_calls import (
    CLOSE_TAG,
    OPEN_TAG,
    TaggedText,
    ToolCallSplitter,
    describe_tools,
    parse_calls,
)

SAFE = 2**53 - 1
"""The largest integer that every JSON reader takes exactly (RFC 8259)."""


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
        """The names of the tools."""
        return tuple(tool["function"]["name"] for tool in self.tools)

    def describe(self, template: str | None) -> str:
        """Return the text for the system message; `template` is that of the chat template."""
        if not self.tools:
            return ""
        description = template or describe_tools(self.tools)
        if not self.forced:
            return description
        return (
            f"{description}\nNow call {' or '.join(self.forced)}: answer with the JSON of the call."
        )

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
    """Return the plan that `tools` and `tool_choice` of a call ask for.

    Choices: None, "auto", "none", "any", "required", True, False, a name, or OpenAI's
    ``{"type": "function", "function": {"name": ...}}``.

    Raises:
        ValueError: a choice that is none of these, names no bound tool, or has no tools.
    """
    bound_tools = tuple(tools or ())
    names = tuple(tool["function"]["name"] for tool in bound_tools)
    if isinstance(choice, Mapping):
        named = choice.get("function", choice)
        choice = named.get("name") if isinstance(named, Mapping) else choice
    match choice:
        case None | False | "auto":
            return ToolPlan(bound_tools)
        case "none":
            return ToolPlan()
        case True | "any" | "required" if bound_tools:
            return ToolPlan(bound_tools, names)
        case str() if choice in names:
            return ToolPlan(bound_tools, (choice,))
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
    limited = {
        key: value
        if key in {"const", "enum", "default", "examples", "required"}
        else _named(value, characters)
        if key == "properties"
        else _bounded(value, characters)
        for key, value in schema.items()
        if key not in {"$defs", "definitions", "title", "description", "strict"}
    }
    if "properties" in limited:
        limited.setdefault("additionalProperties", False)
    free = not {"enum", "const", "pattern", "format"} & set(limited)
    if limited.get("type") == "string" and free:
        limited.setdefault("maxLength", max(characters, int(limited.get("minLength", 0))))
    if limited.get("type") == "integer" and not {"enum", "const"} & set(limited):
        if not {"minimum", "exclusiveMinimum"} & set(limited):
            limited["minimum"] = min(-SAFE, int(limited.get("maximum", 0)))
        if not {"maximum", "exclusiveMaximum"} & set(limited):
            limited["maximum"] = max(SAFE, int(limited.get("minimum", 0)))
    return limited


def _named(properties: Any, characters: int) -> Any:
    """A property may be called "title" or "enum": its name is not a word of the schema."""
    return {name: _bounded(value, characters) for name, value in properties.items()}


class ToolReader:
    """Splits an answer, as it comes, into text and LangChain's tool call chunks.

    What may be the beginning of a call is held back until it is clear what it is.
    """

    def __init__(self, tools: ToolPlan) -> None:
        self._plan = tools
        self._splitter = ToolCallSplitter()
        self._held = ""  # an answer that may be a call as a whole
        self._has_text = False  # whether text was given out
        self._count = 0  # calls given out

    def feed(self, piece: str) -> Iterator[str | ToolCallChunk]:
        """Take in a piece of text, and yield what is certain by now."""
        if not self._plan.tools:
            yield piece
            return
        self._held += piece
        if not self._plan.forced and not self._bare():
            held, self._held = self._held, ""
            yield from self._chunks(self._splitter.feed(held))

    def finish(self) -> Iterator[str | ToolCallChunk]:
        """Yield the rest, once the answer has ended."""
        bare = self._bare() and bool(parse_calls(self._held, self._plan.names))
        if bare or (self._plan.forced and self._held.strip()):
            yield self._call(self._held)
            return
        yield from self._chunks(self._splitter.feed(self._held))
        yield from self._chunks(self._splitter.finish())

    def _chunks(self, parts: Iterator[str | TaggedText]) -> Iterator[str | ToolCallChunk]:
        for part in parts:
            if isinstance(part, TaggedText):
                yield self._call(part.body)
            elif part.strip() or not self._count:  # no line ends between calls
                self._has_text = self._has_text or bool(part.strip())
                yield part

    def _bare(self) -> bool:
        """Return whether the answer begins like a JSON object: some models call without tags."""
        started = self._has_text or self._count or self._splitter.holding
        return not started and self._held.lstrip().startswith("{")

    def _call(self, body: str) -> ToolCallChunk:
        body = body.replace(OPEN_TAG, "").replace(CLOSE_TAG, "").strip()
        calls = parse_calls(body, self._plan.names)
        call = calls[0] if len(calls) == 1 else None
        self._count += 1
        return tool_call_chunk(
            name=call.name if call else None,
            # a text instead of arguments, so that LangChain takes the call for an invalid one
            args=json.dumps(call.arguments if call else body, ensure_ascii=False),
            id=f"call_{uuid.uuid4().hex}",
            index=self._count - 1,
        )
