"""Routes of OpenAI's interface that chat clients use: models and chat completions.

A memory is a model: ``<base>:<memory id>``. Or `model` is the base model and `memory` the id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from templora_memory.domain.ids import parse_id
from templora_memory.domain.results import Reply
from templora_memory.domain.settings import ResolvedPolicy
from templora_memory.server.answers import (
    STREAMED,
    ChoiceEvents,
    check_ignored,
    finish_reason,
    stream_answer,
    whole_answer,
)
from templora_memory.server.errors import ApiError
from templora_memory.server.schemas import (
    AssistantMessage,
    ChatCompletion,
    ChatRequest,
    Choice,
    ModelCard,
    ModelList,
    memory_use_of,
    usage_of,
)
from templora_memory.server.state import ServerState, StateDep, TenantDep
from templora_memory.server.tenants import Tenant
from templora_memory.service.memory import Memory, WithoutMemory
from templora_memory.service.streams import ReplyStream

router = APIRouter(prefix="/v1", tags=["chat"])


@router.get("/models", summary="The base model, and every memory as a model")
async def models(state: StateDep, tenant: TenantDep) -> ModelList:
    """List the base model and, as `<base>:<memory id>`, every memory of this key."""
    ids = await state.run_file_work(tenant, tenant.service.list)
    names = (state.model_name, *(f"{state.model_name}:{memory_id}" for memory_id in ids))
    return ModelList(data=[_model_card(state, name) for name in names])


@router.get("/models/{model:path}", summary="One model")
async def model(state: StateDep, tenant: TenantDep, model: str) -> ModelCard:
    """Describe the base model, or a memory as a model; 404 if there is none of this name."""
    memory_id = named_memory(state, model, None)
    if memory_id is not None and not await state.run_file_work(tenant, tenant.exists, memory_id):
        raise _no_model(state, model)
    return _model_card(state, model)


def _model_card(state: ServerState, name: str) -> ModelCard:
    return ModelCard(id=name, created=state.start_time)


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    summary="Answer a conversation",
    responses=STREAMED,
)
async def chat(
    request: Request,
    response: Response,
    chat_request: ChatRequest,
    state: StateDep,
    tenant: TenantDep,
) -> ChatCompletion | StreamingResponse:
    """Answer a whole conversation; the memory is made if it does not exist.

    What it has absorbed of the conversation stays out of the prompt; the newest exchange is never
    learned. Messages that end with the assistant's are continued (`continue_final_message`), and a
    system message after one is an instruction for this answer. With `stream` the answer comes as
    server-sent events that end with `[DONE]`; an error after the first of them is an event
    `{"error": ...}`. What of the request was ignored is in `templora.notes`.
    """
    memory_id = named_memory(state, chat_request.model, chat_request.memory)
    notes = check_ignored(chat_request, state, response)
    events = _ChatEvents.of(chat_request, memory_id, notes)
    count = chat_request.n or 1
    if chat_request.stream:
        if count > 1:
            raise ApiError(
                400,
                f"n is {count}: with stream there is one answer; leave one of the two out.",
                code="invalid_value",
                param="n",
            )
        opener = _stream_opener(chat_request, memory_id, tenant)
        return await stream_answer(request, state, tenant, opener, events)
    replies = []
    for number in range(count):
        opener = _stream_opener(chat_request, memory_id, tenant, number)
        replies.append(await whole_answer(request, state, tenant, opener))
    return events.completion(replies)


def _stream_opener(
    chat_request: ChatRequest, memory_id: str | None, tenant: Tenant, number: int = 0
) -> Callable[[], ReplyStream]:
    """Return the function that starts a reply, to be called on a reply thread.

    `number` counts the answers to one request: each has random numbers of its own.
    """
    form = chat_request.response_format
    sampling = chat_request.sampling(
        schema=None if form is None else form.schema_text, number=number
    )
    max_tokens = reply_limit(
        tenant.service.policy, chat_request.max_completion_tokens or chat_request.max_tokens
    )
    return partial(
        answering(tenant, memory_id).stream,
        [message.as_message() for message in chat_request.messages],
        context=tuple(chat_request.context),
        strength=chat_request.strength,
        sampling=sampling,
        max_tokens=max_tokens,
        revision=chat_request.revision,
        recall_tokens=chat_request.recall_tokens,
        continue_final_message=chat_request.continues,
    )


def answering(tenant: Tenant, memory_id: str | None) -> Memory | WithoutMemory:
    """Return what answers a request: a memory, or None: the base model alone."""
    service = tenant.service
    return service.without_memory if memory_id is None else service[memory_id]


def reply_limit(policy: ResolvedPolicy, asked: int | None) -> int | None:
    """Return the `max_tokens` of a reply; None, 0 and -1 ask for the policy's.

    At most half of the window, or the policy's value if that is larger: clients ask for as many as
    large models give, and a smaller window must not make that an error.
    """
    if asked is None or asked <= 0:
        return None
    return min(asked, max(policy.reply_tokens, policy.window // 2))


def named_memory(state: ServerState, model: str, memory: str | None) -> str | None:
    """Return the id of the memory that a request names; None: the base model.

    Raises:
        ApiError: 404, another model; 400, two memories.
        InvalidId: a name that cannot be a memory id.
    """
    before, prefix, suffix = model.partition(f"{state.model_name}:")
    if model != state.model_name and (before or not prefix):
        raise _no_model(state, model)
    ids = [str(parse_id(name)) for name in (suffix, memory) if name]
    if len(set(ids)) > 1:
        raise ApiError(
            400,
            f"The model names the memory {ids[0]!r} and the field memory {ids[1]!r}: name one.",
            code="invalid_value",
            param="memory",
        )
    return ids[0] if ids else None


def _no_model(state: ServerState, model: str) -> ApiError:
    base = state.model_name
    return ApiError(
        404,
        f"There is no model {model[:80]!r}: use {base!r}, or {base + ':ID'!r} for a memory.",
        code="model_not_found",
        param="model",
    )


class _ChatEvents(ChoiceEvents):
    """The chunks of one answer, and the body of a whole one."""

    __slots__ = ()
    kind, prefix = "chat.completion.chunk", "chatcmpl"

    def completion(self, replies: Sequence[Reply]) -> ChatCompletion:
        """Return the body of a whole answer."""
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[
                Choice(
                    index=index,
                    message=AssistantMessage(content=reply.text),
                    finish_reason=finish_reason(reply),
                )
                for index, reply in enumerate(replies)
            ],
            usage=usage_of(*replies),
            system_fingerprint=_fingerprint(replies[-1]),
            templora=memory_use_of(self.memory, replies[-1], self.notes),
        )

    def _delta(self, delta: dict[str, str], reason: str | None = None, **more: object) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self.choices(choice, **more)

    def begin(self) -> Iterator[str]:
        """Yield the event of the role."""
        yield self._delta({"role": "assistant", "content": ""})

    def piece(self, text: str) -> Iterator[str]:
        """Yield the event of a piece of text."""
        yield self._delta({"content": text})

    def end(self, reply: Reply) -> Iterator[str]:
        """Yield the last events."""
        yield self._delta(
            {},
            finish_reason(reply),
            system_fingerprint=_fingerprint(reply),
            templora=memory_use_of(self.memory, reply, self.notes).model_dump(),
        )
        yield from self.last(reply)


def _fingerprint(reply: Reply) -> str | None:
    return reply.revision and f"rev_{reply.revision[:12]}"
