"""Routes for a prompt without a conversation: completions, tokens, and what there is not."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from templora_memory.domain.messages import Message
from templora_memory.domain.results import Reply
from templora_memory.server.answers import (
    DONE,
    check_ignored,
    event,
    finish_reason,
    stream_answer,
    whole_answer,
)
from templora_memory.server.errors import ApiError
from templora_memory.server.routes.chat import named_memory, reply_limit
from templora_memory.server.schemas import (
    CompletionBody,
    CompletionChoice,
    CompletionRequest,
    TokenCount,
    TokenizeRequest,
    memory_use_of,
    usage_of,
)
from templora_memory.server.state import StateDep, TenantDep
from templora_memory.service.answering import HEAD
from templora_memory.service.memory import Memory, WithoutMemory

router = APIRouter(tags=["completions"])


@router.post(
    "/v1/completions",
    response_model=CompletionBody,
    summary="Answer a prompt",
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def complete(
    request: Request,
    response: Response,
    body: CompletionRequest,
    state: StateDep,
    tenant: TenantDep,
) -> CompletionBody | StreamingResponse:
    """Answer a prompt as a user's message, with the newest revision of the memory.

    It is no conversation: nothing is journalled or learned, and a memory must exist.
    """
    memory_id = named_memory(state, body.model, body.memory)
    notes = check_ignored(body, state, response)
    service = tenant.service
    answers: Memory | WithoutMemory
    answers = service.without_memory if memory_id is None else service[memory_id]
    opener = partial(
        answers.stream,
        [Message("user", body.text)],
        strength=body.strength,
        sampling=body.sampling(),
        max_tokens=reply_limit(service.policy, body.max_tokens),
        revision=None if memory_id is None else HEAD,
    )
    options = body.stream_options
    events = _CompletionEvents(
        id=f"cmpl-{secrets.token_hex(12)}",
        model=body.model,
        memory=memory_id,
        created=int(time.time()),
        notes=notes,
        with_usage=options is not None and options.include_usage,
    )
    if body.stream:
        return await stream_answer(request, state, tenant, opener, events)
    return events.whole(await whole_answer(request, state, tenant, opener))


@router.post("/tokenize", summary="How many tokens has a text?")
async def tokenize(body: TokenizeRequest, state: StateDep, tenant: TenantDep) -> TokenCount:
    """Count the tokens of a text, or of messages as a prompt, as vLLM's route of this name."""
    if body.model is not None:
        named_memory(state, body.model, None)
    backend = tenant.service.backend

    def work() -> int:
        if body.messages is not None:
            return backend.count([message.as_message() for message in body.messages])
        return len(backend.split(body.prompt or "", 1))

    if (body.prompt is None) == (body.messages is None):
        raise ApiError(
            400, "Give a prompt or messages, one of the two.", code="invalid_value", param="prompt"
        )
    size = len(body.prompt or "") + sum(len(m.as_message().content) for m in body.messages or ())
    if size > _MAX_COUNTED:
        raise ApiError(
            400,
            f"The text has {size:,} characters, the limit for counting is {_MAX_COUNTED:,}: count "
            "it in parts.",
            code="invalid_value",
            param="prompt" if body.prompt is not None else "messages",
        )
    count = await state.run_model_work(tenant, work)
    return TokenCount(count=count, max_model_len=tenant.service.policy.window)


_MAX_COUNTED = 1 << 18


@router.post("/v1/embeddings", include_in_schema=False, response_model=None)
async def embeddings(_: TenantDep) -> NoReturn:
    """Say that there are none."""
    raise ApiError(
        404,
        "This server has no embeddings: it answers with what a memory has learned, and finds "
        "passages by words (recall_tokens). Name another server for embeddings in your client.",
        code="not_found",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _CompletionEvents:
    """The fields that all events of one answer share, and the bodies made with them."""

    id: str
    model: str
    memory: str | None
    created: int
    notes: tuple[str, ...]
    with_usage: bool

    def whole(self, reply: Reply) -> CompletionBody:
        """Return the body of a whole answer."""
        return CompletionBody(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[CompletionChoice(text=reply.text, finish_reason=finish_reason(reply))],
            usage=usage_of(reply),
            templora=memory_use_of(self.memory, reply, self.notes),
        )

    def _event(self, choices: list[dict[str, Any]], **more: object) -> str:
        return event(
            {
                "id": self.id,
                "object": "text_completion",
                "created": self.created,
                "model": self.model,
                "choices": choices,
                **more,
            }
        )

    def _choice(self, text: str, reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}]

    def begin(self) -> Iterator[str]:
        """Yield nothing: the text begins at once."""
        yield from ()

    def piece(self, text: str) -> Iterator[str]:
        """Yield the event of a piece of text."""
        yield self._event(self._choice(text))

    def end(self, reply: Reply) -> Iterator[str]:
        """Yield the last events."""
        use = memory_use_of(self.memory, reply, self.notes).model_dump()
        yield self._event(self._choice("", finish_reason(reply)), templora=use)
        if self.with_usage:
            yield self._event([], usage=usage_of(reply).model_dump())
        yield DONE

    def failure(self, error: ApiError) -> Iterator[str]:
        """Yield the event of an error."""
        yield event(error.body())
