"""Routes of OpenAI's interface that chat clients use: models and chat completions.

A memory is a model: ``<base>:<memory id>``. Or `model` is the base model and `memory` the id.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from templora_memory.domain.ids import parse_id
from templora_memory.domain.results import Reply
from templora_memory.domain.settings import ResolvedPolicy, Sampling
from templora_memory.errors import TemploraError
from templora_memory.server.errors import ApiError, as_api_error, internal_error
from templora_memory.server.reply_task import ReplyTask
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
_DISCONNECT_POLL_SECONDS = 0.25
_log = logging.getLogger("templora_memory.server")
T = TypeVar("T")


def client_closed() -> ApiError:
    """Return the error of a request whose client went away; nobody reads it, but the log has it."""
    return ApiError(499, "The client closed the connection.", code="client_closed_request")


@router.get("/models", summary="The base model, and every memory as a model")
async def models(state: StateDep, tenant: TenantDep) -> ModelList:
    """List the base model and, as `<base>:<memory id>`, every memory of this key."""
    ids = await state.run_file_work(tenant, tenant.service.list)
    names = (state.model_name, *(f"{state.model_name}:{memory_id}" for memory_id in ids))
    return ModelList(data=[_model_card(state, name) for name in names])


@router.get("/models/{model:path}", summary="One model")
async def model(state: StateDep, tenant: TenantDep, model: str) -> ModelCard:
    """Describe the base model, or a memory as a model; 404 if there is none of this name."""
    memory_id = _memory_id(state, model, None)
    if memory_id is not None and not await state.run_file_work(tenant, tenant.exists, memory_id):
        raise _no_model(state, model)
    return _model_card(state, model)


def _model_card(state: ServerState, name: str) -> ModelCard:
    return ModelCard(id=name, created=state.start_time)


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    summary="Answer a conversation",
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def chat(
    request: Request, chat_request: ChatRequest, state: StateDep, tenant: TenantDep
) -> ChatCompletion | StreamingResponse:
    """Answer a whole conversation; the memory is made if it does not exist.

    What it has absorbed of the conversation stays out of the prompt; the newest exchange is never
    learned. With `stream` the answer comes as server-sent events that end with `[DONE]`; an error
    after the first of them is an event `{"error": ...}`.
    """
    memory_id = _memory_id(state, chat_request.model, chat_request.memory)
    envelope = _Envelope(
        id=f"chatcmpl-{secrets.token_hex(12)}",
        model=chat_request.model,
        memory=memory_id,
        created=int(time.time()),
    )
    start_time = time.monotonic()
    task = await state.start_reply(tenant, _stream_opener(chat_request, memory_id, tenant))
    # before the status is sent: most errors, such as a prompt that is too long, come here
    await _cancel_if_disconnected(request, task, task.wait_started())
    if not chat_request.stream:
        work = _read_reply(task, state, start_time)
        return envelope.completion(await _cancel_if_disconnected(request, task, work))
    options = chat_request.stream_options
    with_usage = options is not None and options.include_usage
    return StreamingResponse(
        _server_sent_events(envelope, task, state, start_time=start_time, with_usage=with_usage),
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


def _stream_opener(
    chat_request: ChatRequest, memory_id: str | None, tenant: Tenant
) -> Callable[[], ReplyStream]:
    """Return the function that starts a reply, to be called on a reply thread."""
    service = tenant.service
    sampling = Sampling(
        temperature=chat_request.temperature or 0.0,
        top_p=1.0 if chat_request.top_p is None else chat_request.top_p,
        top_k=chat_request.top_k or 0,
        repetition_penalty=chat_request.repetition_penalty or 1.0,
        seed=chat_request.seed,
        stop=chat_request.stops,
    )
    max_tokens = chat_request.max_completion_tokens or chat_request.max_tokens
    limit = _max_reply_tokens(service.policy)
    answers: Memory | WithoutMemory
    answers = service.without_memory if memory_id is None else service[memory_id]
    return partial(
        answers.stream,
        [message.as_message() for message in chat_request.messages],
        context=tuple(chat_request.context),
        strength=chat_request.strength,
        sampling=sampling,
        max_tokens=None if max_tokens is None else min(max_tokens, limit),
        revision=chat_request.revision,
        recall_tokens=chat_request.recall_tokens,
        continue_final_message=chat_request.continues,
    )


def _max_reply_tokens(policy: ResolvedPolicy) -> int:
    """Return the largest `max_tokens`: half of the window, or the policy's value if larger."""
    # clients ask for as many as large models give; a smaller window must not make that an error
    return max(policy.reply_tokens, policy.window // 2)


def _memory_id(state: ServerState, model: str, memory: str | None) -> str | None:
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


# --- answering ---------------------------------------------------------------------------------


async def _cancel_if_disconnected(
    request: Request, task: ReplyTask, work: Coroutine[Any, Any, T]
) -> T:
    """Await some work on a reply, and cancel the reply if its client goes away.

    Raises:
        ApiError: 499.
    """
    future = asyncio.ensure_future(work)
    try:
        while not future.done():
            # polled: the framework reports a disconnect only to whoever asks for it
            await asyncio.wait({future}, timeout=_DISCONNECT_POLL_SECONDS)
            if not future.done() and await request.is_disconnected():
                raise client_closed()  # noqa: TRY301  # handled as any other end
        return await future
    except BaseException:
        task.cancel(client_closed())
        raise
    finally:
        future.cancel()


async def _read_reply(task: ReplyTask, state: ServerState, start_time: float) -> Reply:
    """Read a reply to its end."""
    first_piece_seconds = 0.0
    async for piece in task.pieces():
        if piece and not first_piece_seconds:
            first_piece_seconds = time.monotonic() - start_time
    return _report(task, state, first_piece_seconds=first_piece_seconds, start_time=start_time)


async def _server_sent_events(
    envelope: _Envelope,
    task: ReplyTask,
    state: ServerState,
    *,
    start_time: float,
    with_usage: bool,
) -> AsyncIterator[str]:
    """Yield a reply as server-sent events."""
    first_piece_seconds = 0.0
    try:
        yield envelope.chunk({"role": "assistant", "content": ""})
        async for piece in task.pieces():
            if piece is None:
                yield ": still there\n\n"  # a comment: keeps proxies from closing the connection
                continue
            first_piece_seconds = first_piece_seconds or time.monotonic() - start_time
            yield envelope.chunk({"content": piece})
        reply = _report(task, state, first_piece_seconds=first_piece_seconds, start_time=start_time)
        yield envelope.chunk({}, reply=reply)
        if with_usage:
            yield envelope.usage(reply)
        yield "data: [DONE]\n\n"
    except TemploraError as error:
        yield _event(as_api_error(error).body())
    except ApiError as error:
        yield _event(error.body())
    except Exception:  # noqa: BLE001  # the status is sent: an error can only be an event
        _log.exception("a reply failed")
        yield _event(internal_error().body())
    finally:
        task.cancel(client_closed())  # after the end of the reply it does nothing


def _report(
    task: ReplyTask, state: ServerState, *, first_piece_seconds: float, start_time: float
) -> Reply:
    """Tell the observer about a finished reply, and return the reply."""
    reply = task.reply
    assert reply is not None  # noqa: S101  # pieces() sets it or raises
    state.observer.on_reply(
        reply,
        first_piece_seconds=first_piece_seconds,
        seconds=time.monotonic() - start_time,
    )
    return reply


@dataclass(frozen=True, slots=True, kw_only=True)
class _Envelope:
    """The fields that all chunks of one answer share, and the bodies made with them."""

    id: str
    model: str
    memory: str | None
    created: int

    def completion(self, reply: Reply) -> ChatCompletion:
        """Return the body of a whole answer."""
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[
                Choice(
                    message=AssistantMessage(content=reply.text),
                    finish_reason=_finish_reason(reply),
                )
            ],
            usage=usage_of(reply),
            system_fingerprint=_fingerprint(reply),
            templora=memory_use_of(self.memory, reply),
        )

    def _chunk(self, choices: list[dict[str, Any]], **more: object) -> str:
        return _event(
            {
                "id": self.id,
                "object": "chat.completion.chunk",
                "created": self.created,
                "model": self.model,
                "choices": choices,
                **more,
            }
        )

    def chunk(self, delta: dict[str, str], *, reply: Reply | None = None) -> str:
        """Return the event of a piece of text, or, with the reply, the last one."""
        reason = _finish_reason(reply) if reply else None
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        if reply is None:
            return self._chunk([choice])
        return self._chunk(
            [choice],
            system_fingerprint=_fingerprint(reply),
            templora=memory_use_of(self.memory, reply).model_dump(),
        )

    def usage(self, reply: Reply) -> str:
        """Return the event with the token counts, which OpenAI sends without choices."""
        return self._chunk([], usage=usage_of(reply).model_dump())


def _finish_reason(reply: Reply) -> Literal["stop", "length"]:
    return "length" if reply.finish_reason == "length" else "stop"


def _fingerprint(reply: Reply) -> str | None:
    return reply.revision and f"rev_{reply.revision[:12]}"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"
