"""Tool calls as text: how a local model is told about tools, and how its calls are read.

Calls are written as ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, the form most
chat templates teach; a bare JSON object with these keys is understood as well.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from templora_memory import ParametricMemory

TAG = "<tool_call>"
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)


def template_text(service: ParametricMemory, tools: Sequence[Mapping[str, Any]]) -> str | None:
    """What the model's own chat template says about tools; None if it knows none."""
    ask = getattr(service.backend, "tools_text", None)
    return ask(tools) if ask else None


def tools_text(service: ParametricMemory, tools: Sequence[Mapping[str, Any]]) -> str:
    """The paragraph of the system message that tells a model about tools."""
    if (own := template_text(service, tools)) is not None:
        return own
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        f"You can call these tools:\n{listed}\n\nTo call one, answer only with\n"
        f'{TAG}{{"name": "its name", "arguments": {{...}}}}</tool_call>'
    )


def call_text(block: ToolCallBlock) -> str:
    """A call as the model would have written it."""
    body = {"name": block.tool_name, "arguments": block.tool_kwargs}
    return f"{TAG}\n{json.dumps(body, ensure_ascii=False, default=str)}\n</tool_call>"


def without_calls(text: str) -> str:
    """Text without the calls in it."""
    return _CALL.sub("", text)


def read_calls(text: str, names: Sequence[str]) -> tuple[str, list[ToolCallBlock]]:
    """What an answer says beside its calls, and the calls.

    An answer with a call that cannot be read, or of a tool that there is not, is all text.
    """
    said, bodies = without_calls(text).strip(), _CALL.findall(text)
    if not bodies and text.strip()[:1] in {"{", "["}:
        said, bodies = "", [text.strip()]
    calls: list[ToolCallBlock] = []
    for body in bodies:
        found = _parsed(body)
        read = [_call(item, names) for item in (found if isinstance(found, list) else [found])]
        if not read or None in read:
            return text, []
        calls += [call for call in read if call]
    return (said, calls) if calls else (text, [])


def _parsed(body: str) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _call(item: Any, names: Sequence[str]) -> ToolCallBlock | None:
    if not isinstance(item, dict) or item.get("name") not in names:
        return None
    given = item.get("arguments", item.get("parameters", {}))
    if isinstance(given, str):
        given = _parsed(given)
    if not isinstance(given, dict):
        return None
    number = f"call_{uuid.uuid4().hex[:12]}"
    return ToolCallBlock(tool_call_id=number, tool_name=item["name"], tool_kwargs=given)


def answer(text: str, names: Sequence[str]) -> ChatMessage:
    """An answer as a message: what is said, then the calls."""
    said, calls = read_calls(text, names)
    spoken = [TextBlock(text=said)] if said or not calls else []
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=[*spoken, *calls])


class Reader:
    """Turns the growing text of a streamed answer into responses that never show half a call."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._shown = ""

    def piece(self, text: str) -> ChatResponse | None:
        """What can be shown of the text so far, if that is more than before."""
        seen = _visible(text)
        if seen == self._shown:
            return None
        delta, self._shown = seen[len(self._shown) :], seen
        return ChatResponse(
            message=ChatMessage(role=MessageRole.ASSISTANT, content=seen), delta=delta
        )

    def end(self, text: str) -> ChatResponse | None:
        """The whole answer, where it is more than what was shown."""
        message = answer(text, self._names)
        if text == self._shown:
            return None
        delta = (message.content or "")[len(self._shown) :]
        return ChatResponse(message=message, delta=delta)


def _visible(text: str) -> str:
    if text.lstrip()[:1] in {"{", "["}:
        return ""
    if TAG in text:
        return text.partition(TAG)[0]
    held = next((n for n in range(len(TAG) - 1, 0, -1) if text.endswith(TAG[:n])), 0)
    return text[: len(text) - held]
