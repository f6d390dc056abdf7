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
    """Splits an answer, as it comes, into text and LangChain's tool call chunks.

    Where only one call is allowed, what the model writes after it is left out: the model goes on
    when it has the result.
    """

    def __init__(self, tools: ToolPlan, *, parallel: bool = True) -> None:
        self._names = tools.names
        self._parallel = parallel
        self._reader = ToolAnswerReader(tools)
        self._count = 0  # calls given out

    def feed(self, piece: str) -> Iterator[str | ToolCallChunk]:
        """Take in a piece of text, and yield what is certain by now."""
        yield from self._chunks(self._reader.feed(piece))

    def finish(self) -> Iterator[str | ToolCallChunk]:
        """Yield the rest, once the answer has ended."""
        yield from self._chunks(self._reader.finish())

    def _chunks(self, parts: Iterator[str | TaggedText]) -> Iterator[str | ToolCallChunk]:
        for part in parts:
            for chunk in [part] if isinstance(part, str) else self._calls(part.body):
                if self._count and not self._parallel:
                    return
                self._count += not isinstance(chunk, str)
                yield chunk

    def _calls(self, body: str) -> Iterator[ToolCallChunk]:
        body = body.replace(OPEN_TAG, "").replace(CLOSE_TAG, "").strip()
        for call in parse_calls(body, self._names) or (None,):
            yield tool_call_chunk(
                name=call.name if call else None,
                # a text instead of arguments, so that LangChain takes the call for an invalid one
                args=json.dumps(call.arguments if call else body, ensure_ascii=False),
                id=f"call_{uuid.uuid4().hex}",
                index=self._count,
            )
