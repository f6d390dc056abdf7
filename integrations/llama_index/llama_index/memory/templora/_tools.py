"""Tool calls in an answer, as LlamaIndex's messages and responses.

Calls are read as `templora_memory.tool_calls` says; a bare JSON object or list is a call as well.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from templora_memory.tool_calls import ToolCall, parse_calls, split_calls, text_before_calls

_log = logging.getLogger(__name__)


def read_calls(text: str, names: Sequence[str]) -> tuple[str, list[ToolCallBlock]]:
    """Return the text of an answer beside its calls, and the calls.

    An answer with a call that cannot be read, or of a tool that there is not, is all text.
    """
    rest, bodies = split_calls(text)
    if not bodies and text.strip()[:1] in {"{", "["}:
        rest, bodies = "", (text.strip(),)
    blocks: list[ToolCallBlock] = []
    for body in bodies:
        calls = parse_calls(body, names)
        if not calls:
            return text, []
        blocks += [_block(call) for call in calls]
    return (rest.strip(), blocks) if blocks else (text, [])


def _block(call: ToolCall) -> ToolCallBlock:
    return ToolCallBlock(
        tool_call_id=f"call_{uuid.uuid4().hex[:12]}",
        tool_name=call.name,
        tool_kwargs=call.arguments,
    )


def answer_message(text: str, names: Sequence[str], *, parallel: bool = True) -> ChatMessage:
    """Return an answer as a message: its text, then its calls, or the first one alone."""
    rest, calls = read_calls(text, names)
    if len(calls) > 1 and not parallel:
        _log.info("the model wrote %d calls and may make one: the first is taken", len(calls))
        calls = calls[:1]
    spoken = [TextBlock(text=rest)] if rest or not calls else []
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=[*spoken, *calls])


class AnswerReader:
    """Turns the growing text of a streamed answer into responses that never show half a call."""

    def __init__(self, names: Sequence[str], *, parallel: bool = True) -> None:
        self._names = names
        self._parallel = parallel
        self._shown = ""

    def piece(self, text: str) -> ChatResponse | None:
        """Return what can be shown of the text so far; None if that is no more than before."""
        seen = _visible(text)
        if seen == self._shown:
            return None
        delta, self._shown = seen[len(self._shown) :], seen
        return ChatResponse(
            message=ChatMessage(role=MessageRole.ASSISTANT, content=seen), delta=delta
        )

    def end(self, text: str) -> ChatResponse | None:
        """Return the whole answer; None if all of it was shown."""
        message = answer_message(text, self._names, parallel=self._parallel)
        if text == self._shown:
            return None
        delta = (message.content or "")[len(self._shown) :]
        return ChatResponse(message=message, delta=delta)


def _visible(text: str) -> str:
    """Return what may be shown of an unfinished answer: nothing that may be part of a call."""
    return "" if text.lstrip()[:1] in {"{", "["} else text_before_calls(text)
