"""Routes of OpenAI's interface that chat clients use: models and chat completions.

A memory is a model: ``<base>:<memory id>``. Or `model` is the base model and `memory` the id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from templora_memory.domain.ids import parse_id
from templora_memory.domain.results import Reply, TokenLogprob
from templora_memory.domain.settings import ResolvedPolicy
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
from templora_memory.server.schemas import (
    AssistantMessage,
    ChatCompletion,
    ChatRequest,
    Choice,
    ChoiceLogprobs,
    MessageToolCall,
    ModelCard,
    ModelList,
    memory_use_of,
    usage_of,
)
from templora_memory.server.state import ServerState, StateDep, TenantDep
from templora_memory.server.tenants import Tenant
from templora_memory.server.tools import AskedTools, CallReader
from templora_memory.service.memory import Memory, WithoutMemory
from templora_memory.service.streams import ReplyStream
from templora_memory.tool_calls import ToolPlan

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

    With `tools` the answer may be calls of these (`tool_calls`); the client makes them and sends
    the results as messages of the role `tool`. Neither calls nor results are ever learned.
    """
    memory_id = named_memory(state, chat_request.model, chat_request.memory)
    tools = AskedTools.of_chat(chat_request)
    more = tools.notes(in_template=state.tenants.template_has_tools)
    notes = check_ignored(chat_request, state, response, more)
    count = chat_request.n or 1
    events = _ChatEvents.of(
        chat_request,
        memory_id,
        notes,
        plan=tools.plan,
        with_logprobs=chat_request.logprob_count is not None,
        streamed=tuple(_StreamedChoice(CallReader(tools.plan)) for _ in range(count)),
    )
    openers = [
        _stream_opener(chat_request, tools, memory_id, tenant, number) for number in range(count)
    ]
    if chat_request.stream:
        return await stream_answers(request, state, tenant, openers, events)
    return events.completion(await whole_answers(request, state, tenant, openers))


def _stream_opener(
    chat_request: ChatRequest,
    tools: AskedTools,
    memory_id: str | None,
    tenant: Tenant,
    number: int,
) -> StreamOpener:
    """Return the function that starts a reply, to be called on a reply thread.

    `number` counts the answers to one request: each has random numbers of its own.
    """
    policy = tenant.service.policy
    max_tokens = reply_limit(policy, chat_request.max_completion_tokens or chat_request.max_tokens)
    form = chat_request.response_format
    schema = tools.schema(max_tokens or policy.reply_tokens)
    if form is not None and schema is None:
        schema = form.schema_text
    sampling = chat_request.sampling(schema=schema, number=number, stop=tools.stop)

    def open_stream(cancelled: Callable[[], bool]) -> ReplyStream:
        return answering(tenant, memory_id).stream(
            [message.as_message() for message in chat_request.messages],
            context=(tools.describe(tenant.service.backend), *chat_request.context),
            strength=chat_request.strength,
            sampling=sampling,
            max_tokens=max_tokens,
            revision=chat_request.revision,
            recall_tokens=chat_request.recall_tokens,
            continue_final_message=chat_request.continues,
            cancelled=cancelled,
        )

    return open_stream


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


@dataclass(slots=True)
class _StreamedChoice:
    """How far an answer is that is streamed."""

    reader: CallReader
    calls: int = 0
    logprobs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _ChatEvents(ChoiceEvents):
    """The chunks of the answers to one request, and the body of whole ones."""

    kind: ClassVar[str] = "chat.completion.chunk"
    prefix: ClassVar[str] = "chatcmpl"

    plan: ToolPlan
    with_logprobs: bool
    streamed: tuple[_StreamedChoice, ...]

    def completion(self, replies: Sequence[Reply]) -> ChatCompletion:
        """Return the body of whole answers."""
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[self._choice(index, reply) for index, reply in enumerate(replies)],
            usage=usage_of(*replies),
            system_fingerprint=_fingerprint(replies[-1]),
            templora=memory_use_of(self.memory, replies[-1], self.notes),
        )

    def _choice(self, index: int, reply: Reply) -> Choice:
        reader = CallReader(self.plan)
        parts = [*reader.feed(reply.text), *reader.finish()]
        text = "".join(part for part in parts if isinstance(part, str))
        calls = [part for part in parts if not isinstance(part, str)]
        return Choice(
            index=index,
            message=AssistantMessage(
                content=None if calls and not text.strip() else text, tool_calls=calls or None
            ),
            finish_reason=_finish_reason(reply, len(calls)),
            logprobs=ChoiceLogprobs.of(reply.logprobs) if self.with_logprobs else None,
        )

    def _delta(
        self,
        index: int,
        delta: dict[str, Any],
        reason: str | None = None,
        logprobs: Sequence[TokenLogprob] = (),
        **more: object,
    ) -> str:
        told = ChoiceLogprobs.of(logprobs).model_dump() if logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": told, "finish_reason": reason}
        return self.choices(choice, **more)

    def begin(self) -> Iterator[str]:
        """Yield the events of the role."""
        for index in range(len(self.streamed)):
            yield self._delta(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, piece: ReplyPiece) -> Iterator[str]:
        """Yield the events of a piece of text."""
        choice = self.streamed[index]
        choice.logprobs += len(piece.logprobs)
        logprobs: Sequence[TokenLogprob] = piece.logprobs
        for part in choice.reader.feed(piece.text):
            yield self._part(index, part, logprobs)
            logprobs = ()
        if logprobs:  # the text is held back: it may become a call
            yield self._part(index, "", logprobs)

    def _part(
        self, index: int, part: str | MessageToolCall, logprobs: Sequence[TokenLogprob] = ()
    ) -> str:
        if isinstance(part, str):
            return self._delta(index, {"content": part}, logprobs=logprobs)
        choice = self.streamed[index]
        call = {"index": choice.calls, **part.model_dump()}
        choice.calls += 1
        return self._delta(index, {"tool_calls": [call]}, logprobs=logprobs)

    def end(self, index: int, reply: Reply) -> Iterator[str]:
        """Yield the last events of an answer."""
        choice = self.streamed[index]
        for part in choice.reader.finish():
            yield self._part(index, part)
        yield self._delta(
            index,
            {},
            _finish_reason(reply, choice.calls),
            reply.logprobs[choice.logprobs :],
            system_fingerprint=_fingerprint(reply),
            templora=memory_use_of(self.memory, reply, self.notes).model_dump(),
        )


def _finish_reason(reply: Reply, calls: int) -> Literal["stop", "length", "tool_calls"]:
    reason = finish_reason(reply)
    return "tool_calls" if calls and reason == "stop" else reason


def _fingerprint(reply: Reply) -> str | None:
    return reply.revision and f"rev_{reply.revision[:12]}"
