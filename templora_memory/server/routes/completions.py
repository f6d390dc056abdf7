"""Routes for a prompt without a conversation: completions, tokens, and what there is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from templora_memory.domain.messages import Message
from templora_memory.domain.results import Reply
from templora_memory.server.answers import (
    STREAMED,
    ChoiceEvents,
    check_ignored,
    finish_reason,
    stream_answers,
    whole_answers,
)
from templora_memory.server.errors import ApiError
from templora_memory.server.reply_task import ReplyPiece
from templora_memory.server.routes.chat import answering, named_memory, reply_limit
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
from templora_memory.service.streams import ReplyStream

router = APIRouter(tags=["completions"])


@router.post(
    "/v1/completions",
    response_model=CompletionBody,
    summary="Answer a prompt",
    responses=STREAMED,
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

    def opener(cancelled: Callable[[], bool]) -> ReplyStream:
        return answering(tenant, memory_id).stream(
            [Message("user", body.text)],
            strength=body.strength,
            sampling=body.sampling(),
            max_tokens=reply_limit(tenant.service.policy, body.max_tokens),
            revision=None if memory_id is None else HEAD,
            cancelled=cancelled,
        )

    events = _CompletionEvents.of(body, memory_id, notes)
    if body.stream:
        return await stream_answers(request, state, tenant, [opener], events)
    (reply,) = await whole_answers(request, state, tenant, [opener])
    return events.completion(reply)


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


class _CompletionEvents(ChoiceEvents):
    """The events of one answer, and the body of a whole one."""

    __slots__ = ()
    kind, prefix = "text_completion", "cmpl"

    def completion(self, reply: Reply) -> CompletionBody:
        """Return the body of a whole answer."""
        return CompletionBody(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[CompletionChoice(text=reply.text, finish_reason=finish_reason(reply))],
            usage=usage_of(reply),
            templora=memory_use_of(self.memory, reply, self.notes),
        )

    def _text(self, text: str, reason: str | None = None, **more: object) -> str:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        return self.choices(choice, **more)

    def begin(self) -> Iterator[str]:
        """Yield nothing: the text begins at once."""
        yield from ()

    def piece(self, _: int, piece: ReplyPiece) -> Iterator[str]:
        """Yield the event of a piece of text."""
        yield self._text(piece.text)

    def end(self, _: int, reply: Reply) -> Iterator[str]:
        """Yield the last events."""
        use = memory_use_of(self.memory, reply, self.notes).model_dump()
        yield self._text("", finish_reason(reply), templora=use)
