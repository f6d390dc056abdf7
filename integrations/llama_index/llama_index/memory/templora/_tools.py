"""Tool calls in an answer, as LlamaIndex's messages; read as `templora_memory.tool_calls` says."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from templora_memory.tool_calls import (
    TaggedText,
    ToolAnswerReader,
    ToolCall,
    ToolPlan,
    parse_calls,
)

_log = logging.getLogger(__name__)


class AnswerReader:
    """Turns the pieces of an answer into responses that never show half a call.

    An answer with a call that cannot be read, or of a tool that there is not, is all text.

    Args:
        plan: the tools of the request.
        parallel: whether several calls may be made; otherwise the first one counts.
    """

    def __init__(self, plan: ToolPlan, *, parallel: bool = True) -> None:
        self._names = plan.names
        self._parallel = parallel
        self._reader = ToolAnswerReader(plan)
        self._whole = ""  # the answer as the model wrote it
        self._text = ""  # beside its calls
        self._bodies: list[str] = []  # of its calls
        self._shown = ""

    def piece(self, delta: str) -> ChatResponse | None:
        """Take in a piece, and return what can be shown so far; None if no more than before."""
        self._whole += delta
        self._take(self._reader.feed(delta))
        # what follows a call waits: where the call cannot be read, it stands before that
        if self._bodies or self._text == self._shown:
            return None
        new, self._shown = self._text[len(self._shown) :], self._text
        return ChatResponse(
            message=ChatMessage(role=MessageRole.ASSISTANT, content=self._shown), delta=new
        )

    def end(self) -> ChatResponse | None:
        """Return the whole answer; None if all of it was shown."""
        message = self.message()
        if self._whole == self._shown:
            return None
        delta = (message.content or "")[len(self._shown) :]
        return ChatResponse(message=message, delta=delta)

    def message(self) -> ChatMessage:
        """End the answer, and return it as a message: its text, then its calls."""
        self._take(self._reader.finish())
        calls = self._calls()
        text = self._text.strip() if calls else self._whole
        spoken = [TextBlock(text=text)] if text or not calls else []
        return ChatMessage(role=MessageRole.ASSISTANT, blocks=[*spoken, *map(_block, calls)])

    def _take(self, parts: Iterator[str | TaggedText]) -> None:
        for part in parts:
            if isinstance(part, str):
                self._text += part
            else:
                self._bodies.append(part.body)

    def _calls(self) -> list[ToolCall]:
        calls: list[ToolCall] = []
        for body in self._bodies:
            readable = parse_calls(body, self._names)
            if not readable:
                return []
            calls += readable
        if len(calls) > 1 and not self._parallel:
            _log.info("the model wrote %d calls and may make one: the first is taken", len(calls))
            return calls[:1]
        return calls


def _block(call: ToolCall) -> ToolCallBlock:
    return ToolCallBlock(
        tool_call_id=f"call_{uuid.uuid4().hex[:12]}",
        tool_name=call.name,
        tool_kwargs=call.arguments,
    )
