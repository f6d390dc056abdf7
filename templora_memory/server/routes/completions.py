"""Routes for a prompt without a conversation: completions, tokens, and what there is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NoReturn

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from templora_memory.domain.messages import Message
from templora_memory.domain.results import Reply, TokenLogprob
from templora_memory.server.answers import (
    STREAMED,
    ChoiceEvents,
    check_ignored,
    finish_reason,
    stream_answers,
    whole_answers,
)
from templora_memory.server.errors import ApiError
from templora_memory.server.reply_task import ReplyPiece, StreamOpener
from templora_memory.server.routes.chat import answering, named_memory, reply_limit
from templora_memory.server.schemas import (
    CompletionBody,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    TokenCount,
    TokenizeRequest,
    memory_use_of,
    usage_of,
)
from templora_memory.server.state import StateDep, TenantDep
from templora_memory.service.answering import HEAD

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

    def opener(number: int) -> StreamOpener:
        return lambda cancelled: answering(tenant, memory_id).stream(
            [Message("user", body.text)],
            strength=body.strength,
            sampling=body.sampling(number=number),
            max_tokens=reply_limit(tenant.service.policy, body.max_tokens),
            revision=None if memory_id is None else HEAD,
            cancelled=cancelled,
        )

    openers = [opener(number) for number in range(body.n or 1)]
    with_logprobs = body.logprob_count is not None
    events = _CompletionEvents.of(body, memory_id, notes, with_logprobs=with_logprobs)
    if body.stream:
        return await stream_answers(request, state, tenant, openers, events)
    return events.completion(await whole_answers(request, state, tenant, openers))


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
class _CompletionEvents(ChoiceEvents):
    """The events of the answers to one prompt, and the body of whole ones."""

    kind: ClassVar[str] = "text_completion"
    prefix: ClassVar[str] = "cmpl"

    with_logprobs: bool
    tokens: Counter[int] = field(default_factory=Counter)
    """Of each answer, how many tokens were reported while it was streamed."""
    offsets: Counter[int] = field(default_factory=Counter)
    """Of each answer, how many characters these have."""

    def completion(self, replies: Sequence[Reply]) -> CompletionBody:
        """Return the body of whole answers."""
        return CompletionBody(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[
                CompletionChoice(
                    index=index,
                    text=reply.text,
                    finish_reason=finish_reason(reply),
                    logprobs=CompletionLogprobs.of(reply.logprobs) if self.with_logprobs else None,
                )
                for index, reply in enumerate(replies)
            ],
            usage=usage_of(*replies),
            templora=memory_use_of(self.memory, replies[-1], self.notes),
        )

    def _text(
        self,
        index: int,
        text: str,
        logprobs: Sequence[TokenLogprob],
        reason: str | None = None,
        **more: object,
    ) -> str:
        told = CompletionLogprobs.of(logprobs, self.offsets[index]) if logprobs else None
        self.tokens[index] += len(logprobs)
        self.offsets[index] += sum(len(token.token) for token in logprobs)
        choice = {
            "index": index,
            "text": text,
            "logprobs": told and told.model_dump(),
            "finish_reason": reason,
        }
        return self.choices(choice, **more)

    def begin(self) -> Iterator[str]:
        """Yield nothing: the text begins at once."""
        yield from ()

    def piece(self, index: int, piece: ReplyPiece) -> Iterator[str]:
        """Yield the event of a piece of text."""
        yield self._text(index, piece.text, piece.logprobs)

    def end(self, index: int, reply: Reply) -> Iterator[str]:
        """Yield the last event of an answer."""
        use = memory_use_of(self.memory, reply, self.notes).model_dump()
        rest = reply.logprobs[self.tokens[index] :]
        yield self._text(index, "", rest, finish_reason(reply), templora=use)
