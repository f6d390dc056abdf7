"""Tools of a chat completion: what the model is told, and its calls in OpenAI's form.

Nothing is called here. The client gets the calls and sends the results with its next request.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

from templora_memory.server.errors import ApiError
from templora_memory.server.schemas import (
    ChatRequest,
    FunctionCall,
    MessageToolCall,
    NamedTool,
    RequestNote,
)
from templora_memory.tool_calls import (
    CLOSE_TAG,
    OPEN_TAG,
    TaggedText,
    ToolAnswerReader,
    ToolPlan,
    parse_calls,
    plan_tools,
)

WITHOUT_TEMPLATE = RequestNote(
    "The tools are described in words: the chat template of this model says nothing of tools, so "
    "it may never call one unless tool_choice forces it.",
    "tools",
)
"""For a model that was not trained to call tools."""


def asked_tools(chat_request: ChatRequest) -> ToolPlan:
    """Return the tools that a request offers, and which of them has to be called.

    Raises:
        ApiError: 400, a choice that names no tool, or a response format beside tools.
    """
    tools = [tool.model_dump(exclude_none=True) for tool in chat_request.tools or ()]
    choice = chat_request.tool_choice
    name = choice.function.name if isinstance(choice, NamedTool) else choice
    try:
        plan = plan_tools(tools, name)
    except ValueError as error:
        raise ApiError(400, str(error), code="invalid_value", param="tool_choice") from error
    form = chat_request.response_format
    if plan.tools and form is not None and form.schema_text is not None:
        raise ApiError(
            400,
            "response_format and tools do not go together: leave one of them out, or offer the "
            "schema as a tool.",
            code="invalid_value",
            param="response_format",
        )
    return plan


def forced_call_schema(plan: ToolPlan, characters: int) -> str | None:
    """Return the JSON schema of a forced call; None: the model decides.

    Raises:
        ApiError: 400, the parameters of a tool are nested too deeply.
    """
    try:
        return plan.schema(characters)
    except RecursionError as error:
        raise ApiError(
            400, "The parameters of a tool are nested too deeply.", code="invalid_value",
            param="tools",
        ) from error  # fmt: skip


class CallReader:
    """Splits an answer, as it comes, into text and calls; what cannot be read as a call is text.

    Args:
        plan: the tools of the request.
    """

    def __init__(self, plan: ToolPlan) -> None:
        self._plan = plan
        self._reader = ToolAnswerReader(plan)
        self.count = 0
        """Calls so far."""

    def feed(self, piece: str) -> Iterator[str | MessageToolCall]:
        """Take in a piece of the answer, and yield what is certain by now."""
        for part in self._reader.feed(piece):
            yield from self._read(part, CLOSE_TAG)

    def finish(self) -> Iterator[str | MessageToolCall]:
        """Yield the rest once the answer has ended."""
        for part in self._reader.finish():
            yield from self._read(part, "")  # cut off: the model wrote no second tag

    def _read(self, part: str | TaggedText, end: str) -> Iterator[str | MessageToolCall]:
        if isinstance(part, str):
            yield part
            return
        body = part.body.replace(OPEN_TAG, "").replace(CLOSE_TAG, "").strip()
        calls = parse_calls(body, self._plan.names)
        self.count += len(calls)
        for call in calls:
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            yield MessageToolCall(
                id=f"call_{secrets.token_hex(12)}",
                function=FunctionCall(name=call.name, arguments=arguments),
            )
        if not calls:
            yield part.body if self._plan.forced else f"{OPEN_TAG}{part.body}{end}"
