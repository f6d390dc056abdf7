"""Tools of a request: what the model is told, and its calls in OpenAI's form.

Nothing is called here. The client gets the calls and sends the results with its next request.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from templora_memory.server.errors import ApiError
from templora_memory.server.schemas import (
    ChatRequest,
    FunctionCall,
    MessageToolCall,
    NamedResponsesTool,
    NamedTool,
    RequestNote,
    ResponsesRequest,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedTools:
    """The tools of a request, and how its answer is held to them.

    Args:
        plan: which tools, and which have to be called.
        one_call: whether the answer ends after its first call.
    """

    plan: ToolPlan
    one_call: bool

    @classmethod
    def of_chat(cls, asked: ChatRequest) -> AskedTools:
        """Return those of a chat completion.

        Raises:
            ApiError: 400, a choice that names no tool, or a response format beside tools.
        """
        choice = asked.tool_choice
        form = asked.response_format
        return cls._of(
            [tool.model_dump(exclude_none=True) for tool in asked.tools or ()],
            choice.function.name if isinstance(choice, NamedTool) else choice,
            parallel=asked.parallel_tool_calls,
            form="response_format" if form is not None and form.schema_text else None,
        )

    @classmethod
    def of_response(cls, asked: ResponsesRequest) -> AskedTools:
        """Return those of a response.

        Raises:
            ApiError: as `of_chat`.
        """
        choice = asked.tool_choice
        return cls._of(
            [tool.as_chat_tool() for tool in asked.tools or ()],
            choice.name if isinstance(choice, NamedResponsesTool) else choice,
            parallel=asked.parallel_tool_calls,
            form="text.format" if asked.schema_text else None,
        )

    @classmethod
    def _of(
        cls,
        tools: list[dict[str, Any]],
        choice: str | None,
        *,
        parallel: bool | None,
        form: str | None,
    ) -> AskedTools:
        try:
            plan = plan_tools(tools, choice)
        except ValueError as error:
            raise ApiError(400, str(error), code="invalid_value", param="tool_choice") from error
        if plan.tools and form is not None:
            raise ApiError(
                400,
                f"{form} and tools do not go together: leave one of them out, or offer the schema "
                "as a tool.",
                code="invalid_value",
                param=form,
            )
        one_call = bool(plan.tools) and not plan.forced and parallel is False
        return cls(plan=plan, one_call=one_call)

    def notes(self, *, in_template: bool) -> tuple[RequestNote, ...]:
        """Return what the client should know; `in_template`: the chat template has tools."""
        return () if in_template or not self.plan.tools else (WITHOUT_TEMPLATE,)

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return (CLOSE_TAG,) if self.one_call else ()

    def schema(self, characters: int) -> str | None:
        """Return the JSON schema of a forced call; None: the model decides.

        Raises:
            ApiError: 400, the parameters of a tool are nested too deeply.
        """
        try:
            return self.plan.schema(characters)
        except RecursionError as error:
            raise ApiError(
                400,
                "The parameters of a tool are nested too deeply.",
                code="invalid_value",
                param="tools",
            ) from error

    def describe(self, backend: object) -> str:
        """Return the text for the system message; takes the tokenizer, so not on the event loop."""
        return self.plan.describe(backend)


class CallReader:
    """Splits an answer, as it comes, into text and calls; what cannot be read as a call is text.

    Args:
        plan: the tools of the request.
    """

    def __init__(self, plan: ToolPlan) -> None:
        self._plan = plan
        self._reader = ToolAnswerReader(plan)

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
        calls = parse_calls(part.body, self._plan.names)
        for call in calls:
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            yield MessageToolCall(
                id=f"call_{secrets.token_hex(12)}",
                function=FunctionCall(name=call.name, arguments=arguments),
            )
        if not calls:
            yield part.body if self._plan.forced else f"{OPEN_TAG}{part.body}{end}"
