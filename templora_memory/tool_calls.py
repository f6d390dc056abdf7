"""Tool calls as text: describe tools to a model, write a call, read calls out of an answer.

A call is JSON between two tags, ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, the
form that Hermes and Qwen models are trained on. Tools are given in OpenAI's format:
``{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from templora_memory.json_schemas import bounded_schema

OPEN_TAG = "<tool_call>"
CLOSE_TAG = "</tool_call>"
_TAGGED = re.compile(rf"{OPEN_TAG}\s*(.*?)\s*(?:{CLOSE_TAG}|\Z)", re.DOTALL)
_TAG = re.compile(f"{OPEN_TAG}|{CLOSE_TAG}")
_BARE_CALL = re.compile(r"\s*(?:\{|\[\s*(?:\{|\Z))")


@runtime_checkable
class ToolTemplate(Protocol):
    """A backend whose chat template may know tools."""

    def tools_text(self, tools: Sequence[Mapping[str, Any]]) -> str | None:
        """Return what the chat template says about tools; None if it knows none."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model wrote: the name of a tool, and the arguments for it."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TaggedText:
    """The text between the two tags of a call, not yet parsed."""

    body: str


# --- choosing ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """The tools of one answer, and whether one of them has to be called.

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

    def describe(self, backend: object = None) -> str:
        """Return the text for the system message, in the backend's words where it has some."""
        if not self.tools:
            return ""
        description = describe_tools(self.tools, backend)
        if not self.forced:
            return description
        return (
            f"{description}\nNow call {' or '.join(self.forced)}: answer with the JSON of the call."
        )

    def schema(self, characters: int) -> str | None:
        """The JSON schema of a forced call; texts without a limit get this many characters.

        None: no call is forced. With it any model, however small, writes a call that can be read.
        """
        if not self.forced:
            return None
        chosen = [
            tool["function"] for tool in self.tools if tool["function"]["name"] in self.forced
        ]
        calls = [
            _call_schema(tool, characters, at="#" if len(chosen) == 1 else f"#/anyOf/{index}")
            for index, tool in enumerate(chosen)
        ]
        return json.dumps(calls[0] if len(calls) == 1 else {"anyOf": calls})


def plan_tools(tools: Sequence[Mapping[str, Any]] | None, choice: object = None) -> ToolPlan:
    """Return the plan that `tools` and `tool_choice` of a request ask for.

    Choices: None, "auto", "none", "any", "required", True, False, a name, or OpenAI's
    ``{"type": "function", "function": {"name": ...}}``.

    Raises:
        ValueError: a choice that is none of these, names no tool, or has no tools.
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


def _call_schema(function: Mapping[str, Any], characters: int, *, at: str) -> dict[str, Any]:
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    place = f"{at}/properties/arguments"
    return {
        "type": "object",
        "properties": {
            "name": {"const": function["name"]},
            "arguments": bounded_schema(parameters, characters, at=place),
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


# --- writing -----------------------------------------------------------------------------------


def describe_tools(tools: Sequence[Mapping[str, Any]], backend: object = None) -> str:
    """Return the paragraph of a system message that tells a model about tools.

    Args:
        tools: in OpenAI's format.
        backend: its chat template's words are used where it has some (see `ToolTemplate`).
    """
    if (text := template_description(tools, backend)) is not None:
        return text
    return "\n".join(
        [
            "You can call these tools:",
            "<tools>",
            *(json.dumps(tool["function"], ensure_ascii=False) for tool in tools),
            "</tools>",
            "To call one, answer with its name and its arguments in this form:",
            f'{OPEN_TAG}\n{{"name": "...", "arguments": {{...}}}}\n{CLOSE_TAG}',
        ]
    )


def template_description(tools: Sequence[Mapping[str, Any]], backend: object) -> str | None:
    """Return what the backend's chat template says about tools; None if it says nothing."""
    return backend.tools_text(tools) if isinstance(backend, ToolTemplate) else None


def knows_tools(backend: object) -> bool:
    """Return True if the backend's chat template says anything about tools."""
    nothing = {"type": "object", "properties": {}}
    function = {"name": "look", "description": "Look.", "parameters": nothing}
    return template_description([{"type": "function", "function": function}], backend) is not None


def format_call(name: str, arguments: Mapping[str, Any] | str) -> str:
    """Return a call as the model would have written it; values that are no JSON become text."""
    body = {"name": name, "arguments": arguments}
    return f"{OPEN_TAG}\n{json.dumps(body, ensure_ascii=False, default=str)}\n{CLOSE_TAG}"


# --- reading -----------------------------------------------------------------------------------


def parse_calls(body: str, names: Sequence[str]) -> tuple[ToolCall, ...]:
    """Return the calls in a JSON text: one object, or a list of them.

    Arguments stand under "arguments" or "parameters", as an object or as JSON in a string.

    Args:
        body: the text between the tags; more of them around it do no harm.
        names: of the tools that may be called.

    Returns:
        The calls; none if any of them cannot be read or names another tool.
    """
    value = _parse_json(body)
    if value is None:
        value = _parse_json(_TAG.sub("", body))
    calls = [_parse_call(item, names) for item in (value if isinstance(value, list) else [value])]
    readable = tuple(call for call in calls if call is not None)
    return readable if len(readable) == len(calls) else ()


def _parse_call(item: object, names: Sequence[str]) -> ToolCall | None:
    if not isinstance(item, dict) or item.get("name") not in names:
        return None
    arguments = item.get("arguments", item.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _parse_json(arguments)
    return ToolCall(item["name"], arguments) if isinstance(arguments, dict) else None


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def split_calls(text: str) -> tuple[str, tuple[str, ...]]:
    """Split a finished answer into the text beside its calls and the bodies of the calls."""
    return _TAGGED.sub("", text), tuple(_TAGGED.findall(text))


class ToolCallSplitter:
    """Splits an answer into text and calls while it comes in.

    What may be the beginning of a tag is held back until it is clear what it is.
    """

    def __init__(self) -> None:
        self._pending = ""
        self._inside = False  # between the two tags

    @property
    def holding(self) -> bool:
        """Whether the answer so far ends in a call, or in what may become one."""
        return self._inside or bool(self._pending)

    def feed(self, piece: str) -> Iterator[str | TaggedText]:
        """Take in a piece of the answer, and yield the text and the calls that are complete."""
        self._pending += piece
        while True:
            tag = CLOSE_TAG if self._inside else OPEN_TAG
            before, mark, rest = self._pending.partition(tag)
            if not mark:
                break
            self._pending = rest
            if self._inside:
                yield TaggedText(before)
            elif before:
                yield before
            self._inside = not self._inside
        if self._inside:
            return
        certain = len(self._pending) - _overlap(self._pending, OPEN_TAG)
        text, self._pending = self._pending[:certain], self._pending[certain:]
        if text:
            yield text

    def finish(self) -> Iterator[str | TaggedText]:
        """Yield the rest once the answer has ended; a call without its second tag is a call."""
        rest, self._pending = self._pending, ""
        if self._inside:
            yield TaggedText(rest)
        elif rest:
            yield rest
        self._inside = False


class ToolAnswerReader:
    """Splits an answer to a request with tools, as it comes, into text and calls.

    A forced answer is a call as a whole. So is one that is nothing but a call without tags, which
    some models write; what may be one is held back until it is clear.
    """

    def __init__(self, plan: ToolPlan) -> None:
        self._plan = plan
        self._splitter = ToolCallSplitter()
        self._held = ""  # an answer that may be a call as a whole
        self._has_text = False  # whether text was given out
        self._has_call = False
        self._space = ""  # after a call; left out unless text follows

    def feed(self, piece: str) -> Iterator[str | TaggedText]:
        """Take in a piece of the answer, and yield the text and the calls that are certain."""
        if not self._plan.tools:
            yield piece
            return
        self._held += piece
        if not self._plan.forced and not self._may_be_bare():
            held, self._held = self._held, ""
            yield from self._parts(self._splitter.feed(held))

    def finish(self) -> Iterator[str | TaggedText]:
        """Yield the rest once the answer has ended."""
        bare = self._may_be_bare() and bool(parse_calls(self._held, self._plan.names))
        if bare or (self._plan.forced and self._held.strip()):
            yield TaggedText(self._held)
            return
        yield from self._parts(self._splitter.feed(self._held))
        yield from self._parts(self._splitter.finish())

    def _parts(self, parts: Iterator[str | TaggedText]) -> Iterator[str | TaggedText]:
        for part in parts:
            if isinstance(part, TaggedText):
                self._has_call, self._space = True, ""
                yield part
            elif self._has_call and not part.strip():  # perhaps the line end between two calls
                self._space += part
            else:
                self._has_text = self._has_text or bool(part.strip())
                space, self._space = self._space, ""
                yield space + part

    def _may_be_bare(self) -> bool:
        started = self._has_text or self._has_call or self._splitter.holding
        return not started and _BARE_CALL.match(self._held) is not None


def _overlap(text: str, tag: str) -> int:
    """Return the length of the longest end of `text` that begins `tag`."""
    lengths = range(min(len(text), len(tag) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(tag[:length])), 0)
