"""The route of OpenAI's Responses interface, for text. Nothing is kept but in the memory."""

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
from templora_memory.server.schemas import ResponsesRequest, memory_use_of
from templora_memory.server.state import StateDep, TenantDep
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
    notes = check_ignored(body, state, response)

    def opener(cancelled: Callable[[], bool]) -> ReplyStream:
        return answering(tenant, memory_id).stream(
            [message.as_message() for message in body.sent],
            strength=body.strength,
            sampling=body.sampling(schema=body.schema_text),
            max_tokens=reply_limit(tenant.service.policy, body.max_output_tokens),
            recall_tokens=body.recall_tokens,
            cancelled=cancelled,
        )

    events = _ResponseEvents(
        id=f"resp_{secrets.token_hex(12)}",
        item_id=f"msg_{secrets.token_hex(12)}",
        request=body,
        memory=memory_id,
        created=int(time.time()),
        notes=notes,
    )
    if body.stream:
        return await stream_answers(request, state, tenant, [opener], events)
    (reply,) = await whole_answers(request, state, tenant, [opener])
    return events.response(reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ResponseEvents:
    """The fields that all events of one response share, and the bodies made with them."""

    id: str
    item_id: str
    request: ResponsesRequest
    memory: str | None
    created: int
    notes: tuple[str, ...]
    numbers: Iterator[int] = field(default_factory=count)

    def _body(self, status: str, output: list[dict[str, Any]], **more: object) -> dict[str, Any]:
        request = self.request
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
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": request.temperature or 0.0,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "usage": None,
            "metadata": {},
            **more,
        }

    @staticmethod
    def _part(text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _item(self, status: str, *parts: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self.item_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": list(parts),
        }

    def response(self, reply: Reply) -> dict[str, Any]:
        """Return the body of a whole answer."""
        cut = reply.finish_reason == "length"
        status = "incomplete" if cut else "completed"
        return self._body(
            status,
            [self._item(status, self._part(reply.text))],
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

    def _event(self, kind: str, **more: object) -> str:
        body = {"type": kind, "sequence_number": next(self.numbers), **more}
        return event(body, kind)

    def _text_event(self, kind: str, **more: object) -> str:
        place = {"item_id": self.item_id, "output_index": 0, "content_index": 0}
        return self._event(kind, **place, **more)

    def begin(self) -> Iterator[str]:
        """Yield the events before the text."""
        body = self._body("in_progress", [])
        yield self._event("response.created", response=body)
        yield self._event("response.in_progress", response=body)
        item = self._item("in_progress")
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._text_event("response.content_part.added", part=self._part(""))

    def piece(self, _: int, piece: ReplyPiece) -> Iterator[str]:
        """Yield the event of a piece of text."""
        yield self._text_event("response.output_text.delta", delta=piece.text, logprobs=[])

    def end(self, _: int, reply: Reply) -> Iterator[str]:
        """Yield the events after the text, the last with the whole response."""
        body = self.response(reply)
        yield self._text_event("response.output_text.done", text=reply.text, logprobs=[])
        yield self._text_event("response.content_part.done", part=self._part(reply.text))
        yield self._event("response.output_item.done", output_index=0, item=body["output"][0])
        yield self._event(f"response.{body['status']}", response=body)

    def last(self, _: Sequence[Reply]) -> Iterator[str]:
        """Yield nothing: there is one answer, which has ended."""
        yield from ()

    def failure(self, error: ApiError) -> Iterator[str]:
        """Yield the events of an error."""
        detail = {"code": error.code, "message": str(error.detail)}
        yield self._event("error", **detail, param=error.param)
        yield self._event("response.failed", response=self._body("failed", [], error=detail))
