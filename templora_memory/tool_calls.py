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

OPEN_TAG = "<tool_call>"
CLOSE_TAG = "</tool_call>"
_TAGGED = re.compile(rf"{OPEN_TAG}\s*(.*?)\s*(?:{CLOSE_TAG}|\Z)", re.DOTALL)


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


def format_call(name: str, arguments: Mapping[str, Any] | str) -> str:
    """Return a call as the model would have written it; values that are no JSON become text."""
    body = {"name": name, "arguments": arguments}
    return f"{OPEN_TAG}\n{json.dumps(body, ensure_ascii=False, default=str)}\n{CLOSE_TAG}"


# --- reading -----------------------------------------------------------------------------------


def parse_calls(body: str, names: Sequence[str]) -> tuple[ToolCall, ...]:
    """Return the calls in a JSON text: one object, or a list of them.

    Arguments stand under "arguments" or "parameters", as an object or as JSON in a string.

    Args:
        body: the text between the tags.
        names: of the tools that may be called.

    Returns:
        The calls; none if any of them cannot be read or names another tool.
    """
    value = _parse_json(body)
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


def text_before_calls(text: str) -> str:
    """Return the beginning of an unfinished answer that is certainly no part of a call."""
    before, tag, _ = text.partition(OPEN_TAG)
    return before if tag else text[: len(text) - _overlap(text, OPEN_TAG)]


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


def _overlap(text: str, tag: str) -> int:
    """Return the length of the longest end of `text` that begins `tag`."""
    lengths = range(min(len(text), len(tag) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(tag[:length])), 0)
