"""The route of OpenAI's Responses interface, for text and functions.

Nothing is kept but in the memory.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from templora_memory.domain.results import Reply
from templora_memory.server.answers import (
    STREAMED,
    check_ignored,
    event,
    stream_answers,
    whole_answers,
)
from templora_memory.server.errors import ApiError
from templora_memory.server.reply_task import ReplyPiece
from templora_memory.server.routes.chat import answering, named_memory, reply_limit
from templora_memory.server.schemas import MessageToolCall, ResponsesRequest, memory_use_of
from templora_memory.server.state import StateDep, TenantDep
from templora_memory.server.tools import AskedTools, CallReader
from templora_memory.service.streams import ReplyStream

router = APIRouter(prefix="/v1", tags=["responses"])


@router.post(
    "/responses",
    response_model=None,
    summary="Answer a conversation, in the form of the Responses interface",
    responses=STREAMED,
)
async def respond(
    request: Request,
    response: Response,
    body: ResponsesRequest,
    state: StateDep,
    tenant: TenantDep,
) -> dict[str, Any] | StreamingResponse:
    """Answer as `/v1/chat/completions` does; `input` is a text or the whole conversation.

    With `stream` there are events `response.output_text.delta` and the others of that interface.
    With `tools` the answer may have calls of these, as items of the type `function_call`.
    """
    if (body.model_extra or {}).get("previous_response_id"):
        raise ApiError(
            400,
            "previous_response_id: responses are not kept here. Send the whole conversation in "
            "input; what the memory has learned of it takes no room in the prompt.",
            code="unsupported_parameter",
            param="previous_response_id",
        )
    memory_id = named_memory(state, body.model, body.memory)
    tools = AskedTools.of_response(body)
    more = tools.notes(in_template=state.tenants.template_has_tools)
    notes = check_ignored(body, state, response, more)
    policy = tenant.service.policy
    max_tokens = reply_limit(policy, body.max_output_tokens)
    schema = tools.schema(max_tokens or policy.reply_tokens) or body.schema_text
    sampling = body.sampling(schema=schema, stop=tools.stop)

    def opener(cancelled: Callable[[], bool]) -> ReplyStream:
        return answering(tenant, memory_id).stream(
            [message.as_message() for message in body.sent],
            context=tools.describe(tenant.service.backend),
            strength=body.strength,
            sampling=sampling,
            max_tokens=max_tokens,
            recall_tokens=body.recall_tokens,
            cancelled=cancelled,
        )

    events = _ResponseEvents(
        id=_new_id("resp"),
        request=body,
        reader=CallReader(tools.plan),
        memory=memory_id,
        created=int(time.time()),
        notes=notes,
    )
    if body.stream:
        return await stream_answers(request, state, tenant, [opener], events)
    (reply,) = await whole_answers(request, state, tenant, [opener])
    return events.response(reply)


@dataclass(slots=True, kw_only=True)
class _ResponseEvents:
    """The events of one response, and the body that they add up to.

    A message of the answer's text opens with the first piece of it and is closed by a call.
    """

    id: str
    request: ResponsesRequest
    reader: CallReader
    memory: str | None
    created: int
    notes: tuple[str, ...]
    numbers: Iterator[int] = field(default_factory=count)
    output: list[dict[str, Any]] = field(default_factory=list)
    """Items that are complete."""
    message: dict[str, Any] | None = None
    """The message that is open."""
    text: str = ""
    """Of the message that is open."""

    def _body(self, status: str, output: list[dict[str, Any]], **more: object) -> dict[str, Any]:
        request = self.request
        choice = request.tool_choice or ("auto" if request.tools else "none")
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "model": request.model,
            "output": output,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": request.temperature or 0.0,
            "text": {"format": {"type": "text"}},
            "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
            "tools": [tool.model_dump() for tool in request.tools or ()],
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "usage": None,
            "metadata": {},
            **more,
        }

    def response(self, reply: Reply) -> dict[str, Any]:
        """Return the body of a whole answer."""
        for _ in (*self.piece(0, ReplyPiece(reply.text)), *self._finish(_status(reply))):
            pass  # the items are what is wanted here, not their events
        return self._complete(reply)

    def _complete(self, reply: Reply) -> dict[str, Any]:
        cut = reply.finish_reason == "length"
        return self._body(
            _status(reply),
            self.output,
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            usage={
                "input_tokens": reply.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": reply.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": reply.prompt_tokens + reply.completion_tokens,
            },
            templora=memory_use_of(self.memory, reply, self.notes).model_dump(),
        )

    # --- events --------------------------------------------------------------------------------

    def _event(self, kind: str, **more: object) -> str:
        body = {"type": kind, "sequence_number": next(self.numbers), **more}
        return event(body, kind)

    def _item_event(self, kind: str, item_id: str, **more: object) -> str:
        return self._event(kind, item_id=item_id, output_index=len(self.output), **more)

    def begin(self) -> Iterator[str]:
        """Yield the events before the answer."""
        body = self._body("in_progress", [])
        yield self._event("response.created", response=body)
        yield self._event("response.in_progress", response=body)

    def piece(self, _: int, piece: ReplyPiece) -> Iterator[str]:
        """Yield the events of a piece of text."""
        for part in self.reader.feed(piece.text):
            yield from self._take(part)

    def _take(self, part: str | MessageToolCall) -> Iterator[str]:
        if isinstance(part, str):
            yield from self._take_text(part)
        else:
            yield from self._close_message()
            yield from self._take_call(part)

    def _take_text(self, text: str) -> Iterator[str]:
        if self.message is None:
            yield from self._open_message()
        assert self.message is not None  # noqa: S101  # it was opened
        self.text += text
        yield self._item_event(
            "response.output_text.delta",
            self.message["id"],
            content_index=0,
            delta=text,
            logprobs=[],
        )

    def _open_message(self) -> Iterator[str]:
        self.text = ""
        self.message = {
            "id": _new_id("msg"),
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        yield self._event(
            "response.output_item.added", output_index=len(self.output), item=self.message
        )
        yield self._item_event(
            "response.content_part.added", self.message["id"], content_index=0, part=_part("")
        )

    def _close_message(self, status: str = "completed") -> Iterator[str]:
        if self.message is None:
            return
        item_id, part = self.message["id"], _part(self.text)
        yield self._item_event(
            "response.output_text.done", item_id, content_index=0, text=self.text, logprobs=[]
        )
        yield self._item_event("response.content_part.done", item_id, content_index=0, part=part)
        yield from self._add({**self.message, "status": status, "content": [part]})
        self.message = None

    def _take_call(self, call: MessageToolCall) -> Iterator[str]:
        function, item_id = call.function, _new_id("fc")
        item = {
            "id": item_id,
            "type": "function_call",
            "status": "in_progress",
            "call_id": call.id,
            "name": function.name,
            "arguments": "",
        }
        yield self._event("response.output_item.added", output_index=len(self.output), item=item)
        kind, given = "response.function_call_arguments", function.arguments
        yield self._item_event(f"{kind}.delta", item_id, delta=given)
        yield self._item_event(f"{kind}.done", item_id, name=function.name, arguments=given)
        yield from self._add({**item, "status": "completed", "arguments": given})

    def _add(self, item: dict[str, Any]) -> Iterator[str]:
        yield self._event("response.output_item.done", output_index=len(self.output), item=item)
        self.output.append(item)

    def _finish(self, status: str) -> Iterator[str]:
        for part in self.reader.finish():
            yield from self._take(part)
        if not self.output and self.message is None:
            yield from self._open_message()  # an answer without a word is an empty message
        yield from self._close_message(status)

    def end(self, _: int, reply: Reply) -> Iterator[str]:
        """Yield the events after the answer, the last with the whole response."""
        yield from self._finish(_status(reply))
        body = self._complete(reply)
        yield self._event(f"response.{body['status']}", response=body)

    def last(self, _: Sequence[Reply]) -> Iterator[str]:
        """Yield nothing: there is one answer, which has ended."""
        yield from ()

    def failure(self, error: ApiError) -> Iterator[str]:
        """Yield the events of an error."""
        detail = {"code": error.code, "message": str(error.detail)}
        yield self._event("error", **detail, param=error.param)
        yield self._event("response.failed", response=self._body("failed", [], error=detail))


def _status(reply: Reply) -> str:
    return "incomplete" if reply.finish_reason == "length" else "completed"


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"
