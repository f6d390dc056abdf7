"""Tool calls in an answer, as LangChain's chunks; read as `templora_memory.tool_calls` says."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from templora_memory.tool_calls import (
    CLOSE_TAG,
    OPEN_TAG,
    TaggedText,
    ToolAnswerReader,
    ToolPlan,
    parse_calls,
)


class ToolReader:
    """Splits an answer, as it comes, into text and LangChain's tool call chunks."""

    def __init__(self, tools: ToolPlan) -> None:
        self._names = tools.names
        self._reader = ToolAnswerReader(tools)
        self._count = 0  # calls given out

    def feed(self, piece: str) -> Iterator[str | ToolCallChunk]:
        """Take in a piece of text, and yield what is certain by now."""
        yield from map(self._chunk, self._reader.feed(piece))

    def finish(self) -> Iterator[str | ToolCallChunk]:
        """Yield the rest, once the answer has ended."""
        yield from map(self._chunk, self._reader.finish())

    def _chunk(self, part: str | TaggedText) -> str | ToolCallChunk:
        if isinstance(part, str):
            return part
        body = part.body.replace(OPEN_TAG, "").replace(CLOSE_TAG, "").strip()
        calls = parse_calls(body, self._names)
        call = calls[0] if len(calls) == 1 else None
        self._count += 1
        return tool_call_chunk(
            name=call.name if call else None,
            # a text instead of arguments, so that LangChain takes the call for an invalid one
            args=json.dumps(call.arguments if call else body, ensure_ascii=False),
            id=f"call_{uuid.uuid4().hex}",
            index=self._count - 1,
        )
