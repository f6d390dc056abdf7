"""The part of OpenAI's interface that chat clients use: models and chat completions.

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
from templora_memory.server.reply_task import Answer
from templora_memory.server.schemas import (
    AnswerMessage,
    ChatRequest,
    Choice,
    Completion,
    ModelCard,
    ModelList,
    memory_use,
    usage,
)
from templora_memory.server.state import Runtime, TheRuntime, TheTenant
from templora_memory.server.tenants import Tenant
from templora_memory.service.streams import ReplyStream

router = APIRouter(prefix="/v1", tags=["chat"])
_LOOK_SECONDS = 0.25
_log = logging.getLogger("templora_memory.server")
T = TypeVar("T")


def gone() -> ApiError:
    return ApiError(499, "The client closed the connection.", code="client_closed_request")


@router.get("/models", summary="The base model, and every memory as a model")
async def models(runtime: TheRuntime, tenant: TheTenant) -> ModelList:
    ids = await runtime.file(tenant, tenant.service.list)
    names = (runtime.name, *(f"{runtime.name}:{memory_id}" for memory_id in ids))
    return ModelList(data=[_card(runtime, name) for name in names])


@router.get("/models/{model:path}", summary="One model")
async def model(runtime: TheRuntime, tenant: TheTenant, model: str) -> ModelCard:
    memory_id = _named(runtime, model, None)
    if memory_id is not None and not await runtime.file(tenant, tenant.exists, memory_id):
        raise _no_model(runtime, model)
    return _card(runtime, model)


def _card(runtime: Runtime, name: str) -> ModelCard:
    return ModelCard(id=name, created=runtime.started)


@router.post(
    "/chat/completions",
    response_model=Completion,
    summary="Answer a conversation",
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def chat(
    request: Request, asked: ChatRequest, runtime: TheRuntime, tenant: TheTenant
) -> Completion | StreamingResponse:
    """The memory is made if it does not exist.

    What it has absorbed of the conversation stays out of the prompt; the newest exchange is never
    learned. With `stream` the answer comes as server-sent events that end with `[DONE]`; an error
    after the first of them is an event `{"error": ...}`.
    """
    memory_id = _named(runtime, asked.model, asked.memory)
    call = _Call(
        id=f"chatcmpl-{secrets.token_hex(12)}",
        model=asked.model,
        memory=memory_id,
        created=int(time.time()),
    )
    began = time.monotonic()
    answer = await runtime.answer(tenant, _begin(asked, memory_id, tenant))
    await _unless_gone(request, answer, answer.begun())
    if not asked.stream:
        reply = await _unless_gone(request, answer, _whole(answer, runtime, began))
        return call.completion(reply)
    wanted = asked.stream_options is not None and asked.stream_options.include_usage
    return StreamingResponse(
        _events(call, answer, runtime, began=began, with_usage=wanted),
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


def _begin(asked: ChatRequest, memory_id: str | None, tenant: Tenant) -> Callable[[], ReplyStream]:
    """What starts the reply, on the thread that computes it."""
    service = tenant.service
    sampling = Sampling(
        temperature=asked.temperature or 0.0,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        top_k=asked.top_k or 0,
        repetition_penalty=asked.repetition_penalty or 1.0,
        seed=asked.seed,
        stop=asked.stops,
    )
    most = asked.max_completion_tokens or asked.max_tokens
    return partial(
        service.stream,
        memory_id,
        [message.as_message() for message in asked.messages],
        context=tuple(asked.context),
        strength=asked.strength,
        sampling=sampling,
        max_tokens=None if most is None else min(most, _room(service.policy)),
        revision=asked.revision,
        recall_tokens=asked.recall_tokens,
    )


def _room(policy: ResolvedPolicy) -> int:
    """Most tokens of a reply: half of the window, or what the policy gives it if that is more.

    Clients ask for as many as large models give; a smaller window must not make that an error.
    """
    return max(policy.reply_tokens, policy.window // 2)


def _named(runtime: Runtime, model: str, memory: str | None) -> str | None:
    """The memory that a request means; None: the base model.

    Raises:
        ApiError: 404, another model; 400, two memories.
        InvalidId.
    """
    base, mark, named = model.partition(f"{runtime.name}:")
    if model != runtime.name and (base or not mark):
        raise _no_model(runtime, model)
    given = [str(parse_id(one)) for one in (named, memory) if one]
    if len(set(given)) > 1:
        raise ApiError(
            400,
            f"The model names the memory {given[0]!r} and the field memory {given[1]!r}: name one.",
            code="invalid_value",
            param="memory",
        )
    return given[0] if given else None


def _no_model(runtime: Runtime, model: str) -> ApiError:
    return ApiError(
        404,
        f"There is no model {model[:80]!r}: use {runtime.name!r}, or {runtime.name + ':ID'!r} for "
        "a memory.",
        code="model_not_found",
        param="model",
    )


# --- answering ---------------------------------------------------------------------------------


async def _unless_gone(request: Request, answer: Answer, work: Coroutine[Any, Any, T]) -> T:
    """Await something of an answer, and give the answer up when its client has gone.

    Raises:
        ApiError: 499, for the log; nobody reads it.
    """
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_LOOK_SECONDS)
            if not task.done() and await request.is_disconnected():
                raise gone()  # noqa: TRY301  # handled as any other end
        return await task
    except BaseException:
        answer.give_up(gone())
        raise
    finally:
        task.cancel()


async def _whole(answer: Answer, runtime: Runtime, began: float) -> Reply:
    """The reply, read to its end."""
    first = 0.0
    async for piece in answer.pieces():
        if piece and not first:
            first = time.monotonic() - began
    return _noted(answer, runtime, first=first, began=began)


async def _events(
    call: _Call, answer: Answer, runtime: Runtime, *, began: float, with_usage: bool
) -> AsyncIterator[str]:
    """The reply as server-sent events."""
    first = 0.0
    try:
        yield call.chunk({"role": "assistant", "content": ""})
        async for piece in answer.pieces():
            if piece is None:
                yield ": still there\n\n"  # a comment: keeps proxies from closing the connection
                continue
            first = first or time.monotonic() - began
            yield call.chunk({"content": piece})
        reply = _noted(answer, runtime, first=first, began=began)
        yield call.chunk({}, reply=reply)
        if with_usage:
            yield call.usage(reply)
        yield "data: [DONE]\n\n"
    except TemploraError as error:
        yield _event(as_api_error(error).body())
    except ApiError as error:
        yield _event(error.body())
    except Exception:  # noqa: BLE001  # the status is sent: an error can only be an event
        _log.exception("a reply failed")
        yield _event(internal_error().body())
    finally:
        answer.give_up(gone())


def _noted(answer: Answer, runtime: Runtime, *, first: float, began: float) -> Reply:
    reply = answer.reply
    assert reply is not None  # noqa: S101  # pieces() sets it or raises
    runtime.observer.reply(reply, first=first, seconds=time.monotonic() - began)
    return reply


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """What all parts of one answer share."""

    id: str
    model: str
    memory: str | None
    created: int

    def completion(self, reply: Reply) -> Completion:
        return Completion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[Choice(message=AnswerMessage(content=reply.text), finish_reason=_why(reply))],
            usage=usage(reply),
            system_fingerprint=_fingerprint(reply),
            templora=memory_use(self.memory, reply),
        )

    def _frame(self, choices: list[dict[str, Any]], **more: object) -> str:
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
        """A piece, or, with the reply, the end."""
        reason = _why(reply) if reply else None
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        if reply is None:
            return self._frame([choice])
        return self._frame(
            [choice],
            system_fingerprint=_fingerprint(reply),
            templora=memory_use(self.memory, reply).model_dump(),
        )

    def usage(self, reply: Reply) -> str:
        return self._frame([], usage=usage(reply).model_dump())


def _why(reply: Reply) -> Literal["stop", "length"]:
    return "length" if reply.finish_reason == "length" else "stop"


def _fingerprint(reply: Reply) -> str | None:
    return reply.revision and f"rev_{reply.revision[:12]}"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"
