"""A reply on its way to the client: whole or as server-sent events, in any of the interfaces."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from templora_memory.domain.results import Reply
from templora_memory.errors import TemploraError
from templora_memory.server.errors import ApiError, as_api_error, internal_error
from templora_memory.server.reply_task import ReplyPiece, ReplyTask, StreamOpener
from templora_memory.server.schemas import (
    ChatRequest,
    CompletionRequest,
    LenientRequest,
    RequestNote,
    usage_of,
)
from templora_memory.server.state import ServerState
from templora_memory.server.tenants import Tenant

_DISCONNECT_POLL_SECONDS = 0.25
_log = logging.getLogger("templora_memory.server")
T = TypeVar("T")
DONE = "data: [DONE]\n\n"
"""The event that ends a stream of OpenAI's."""
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
"""What a route that can stream adds to its description."""
WARNING_HEADER = "x-templora-warning"
"""The header that says what of a request was ignored."""


class ReplyEvents(Protocol):
    """The events of one interface around the text of a reply."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on what of the request was ignored."""

    def begin(self) -> Iterator[str]:
        """Yield what comes before the text."""

    def piece(self, index: int, piece: ReplyPiece) -> Iterator[str]:
        """Yield a piece of the text of an answer; `index` counts the answers to one request."""

    def end(self, index: int, reply: Reply) -> Iterator[str]:
        """Yield what comes after the text of an answer."""

    def last(self, replies: Sequence[Reply]) -> Iterator[str]:
        """Yield what comes after all answers."""

    def failure(self, error: ApiError) -> Iterator[str]:
        """Yield an error in place of the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceEvents:
    """The fields that all events of one answer in choices share, OpenAI's older two interfaces."""

    kind: ClassVar[str]
    """Their `object`."""
    prefix: ClassVar[str]
    """What their ids begin with."""

    id: str
    model: str
    memory: str | None
    created: int
    notes: tuple[str, ...]
    with_usage: bool

    @classmethod
    def of(
        cls,
        asked: ChatRequest | CompletionRequest,
        memory: str | None,
        notes: tuple[str, ...],
        **more: Any,
    ) -> Self:
        """Return the events of the answer to a request, which begins now."""
        options = asked.stream_options
        return cls(
            id=f"{cls.prefix}-{secrets.token_hex(12)}",
            model=asked.model,
            memory=memory,
            created=int(time.time()),
            notes=notes,
            with_usage=options is not None and options.include_usage,
            **more,
        )

    def choices(self, *choices: dict[str, Any], **more: object) -> str:
        """Return an event with these choices."""
        return event(
            {
                "id": self.id,
                "object": self.kind,
                "created": self.created,
                "model": self.model,
                "choices": list(choices),
                **more,
            }
        )

    def last(self, replies: Sequence[Reply]) -> Iterator[str]:
        """Yield what ends a stream; the token counts come without choices, as OpenAI's."""
        if self.with_usage:
            yield self.choices(usage=usage_of(*replies).model_dump())
        yield DONE

    def failure(self, error: ApiError) -> Iterator[str]:
        """Yield the event of an error."""
        yield event(error.body())


def check_ignored(
    body: LenientRequest,
    state: ServerState,
    response: Response,
    more: Sequence[RequestNote] = (),
) -> tuple[str, ...]:
    """Return notes on what of a request is ignored; the response gets them as a header.

    `more` are those that the body alone does not tell.

    Raises:
        ApiError: 400, the server is strict.
    """
    notes = [*body.notes(), *more]
    if notes and state.settings.strict:
        raise ApiError(400, notes[0].text, code="unsupported_parameter", param=notes[0].param)
    texts = tuple(note.text for note in notes)
    if texts:
        response.headers[WARNING_HEADER] = _as_header(texts)
    return texts


def _as_header(texts: tuple[str, ...]) -> str:
    return " ".join(texts).encode("ascii", "replace").decode()[:1024]


def client_closed() -> ApiError:
    """Return the error of a request whose client went away; nobody reads it, but the log has it."""
    return ApiError(499, "The client closed the connection.", code="client_closed_request")


async def whole_answers(
    request: Request, state: ServerState, tenant: Tenant, openers: Sequence[StreamOpener]
) -> list[Reply]:
    """Generate replies to their ends, all at once; a client that goes away cancels them.

    Raises:
        ApiError: 429, 499, 503, 504.
        TemploraError: as `Memory.stream`.
    """
    start_time = time.monotonic()
    tasks = await _start_replies(request, state, tenant, openers)
    reading = asyncio.gather(*(_read_reply(task, state, start_time) for task in tasks))
    return await _cancel_if_disconnected(request, tasks, reading)


async def stream_answers(
    request: Request,
    state: ServerState,
    tenant: Tenant,
    openers: Sequence[StreamOpener],
    events: ReplyEvents,
) -> StreamingResponse:
    """Return the response that streams replies, all at once.

    Raises:
        ApiError, TemploraError: as `whole_answers`, as long as there is no status yet.
    """
    start_time = time.monotonic()
    # before the status is sent: most errors, such as a prompt that is too long, come here
    tasks = await _start_replies(request, state, tenant, openers)
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    if events.notes:
        headers[WARNING_HEADER] = _as_header(events.notes)
    return StreamingResponse(
        _server_sent_events(events, tasks, state, start_time),
        media_type="text/event-stream",
        headers=headers,
    )


async def _start_replies(
    request: Request, state: ServerState, tenant: Tenant, openers: Sequence[StreamOpener]
) -> list[ReplyTask]:
    """Start replies and wait until all have begun; if one cannot, none goes on."""
    tasks: list[ReplyTask] = []

    async def start() -> None:
        for opener in openers:
            # one by one: if a later one gets no slot, those before it are cancelled
            tasks.append(await state.start_reply(tenant, opener))  # noqa: PERF401
        for task in tasks:
            await task.wait_started()

    await _cancel_if_disconnected(request, tasks, start())
    return tasks


async def _cancel_if_disconnected(
    request: Request, tasks: Sequence[ReplyTask], work: Coroutine[Any, Any, T] | asyncio.Future[T]
) -> T:
    """Await some work on replies, and cancel the replies if their client goes away.

    Raises:
        ApiError: 499.
    """
    future = asyncio.ensure_future(work)
    # whoever leaves first does not read how it ended; asyncio would complain about that
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        while not future.done():
            # polled: the framework reports a disconnect only to whoever asks for it
            await asyncio.wait({future}, timeout=_DISCONNECT_POLL_SECONDS)
            if not future.done() and await request.is_disconnected():
                raise client_closed()  # noqa: TRY301  # handled as any other end
        return await future
    except BaseException:
        _cancel(tasks)
        raise
    finally:
        future.cancel()


def _cancel(tasks: Sequence[ReplyTask]) -> None:
    for task in tasks:
        task.cancel(client_closed())  # after the end of a reply it does nothing


async def _read_reply(task: ReplyTask, state: ServerState, start_time: float) -> Reply:
    """Read a reply to its end."""
    first_piece_seconds = 0.0
    async for piece in task.pieces():
        if piece and not first_piece_seconds:
            first_piece_seconds = time.monotonic() - start_time
    return _report(task, state, first_piece_seconds=first_piece_seconds, start_time=start_time)


async def _server_sent_events(
    events: ReplyEvents, tasks: Sequence[ReplyTask], state: ServerState, start_time: float
) -> AsyncIterator[str]:
    """Yield replies as server-sent events, or the error that ended one of them."""
    try:
        async for line in _events_of_replies(events, tasks, state, start_time):
            yield line
    except TemploraError as error:
        failure = as_api_error(error)
    except ApiError as error:
        failure = error
    except Exception:  # noqa: BLE001  # the status is sent: an error can only be an event
        _log.exception("a reply failed")
        failure = internal_error()
    else:
        return
    finally:
        _cancel(tasks)
    for line in events.failure(failure):
        yield line


async def _events_of_replies(
    events: ReplyEvents, tasks: Sequence[ReplyTask], state: ServerState, start_time: float
) -> AsyncIterator[str]:
    first_piece_seconds = [0.0] * len(tasks)
    replies: list[Reply] = []
    for line in events.begin():
        yield line
    async with aclosing(_merged(tasks)) as arriving:
        async for index, item in arriving:
            if item is None:
                yield ": still there\n\n"  # a comment: keeps proxies from closing the connection
            elif isinstance(item, Reply):
                seconds = first_piece_seconds[index]
                replies.append(
                    _report(tasks[index], state, first_piece_seconds=seconds, start_time=start_time)
                )
                for line in events.end(index, item):
                    yield line
            else:
                if not first_piece_seconds[index]:
                    first_piece_seconds[index] = time.monotonic() - start_time
                for line in events.piece(index, item):
                    yield line
    for line in events.last(replies):
        yield line


async def _merged(
    tasks: Sequence[ReplyTask],
) -> AsyncGenerator[tuple[int, ReplyPiece | Reply | None]]:
    """Yield the pieces of several replies as they come, each with its number, and each reply.

    None stands for a while without any.
    """
    streams = [task.pieces() for task in tasks]
    waiting: dict[asyncio.Future[ReplyPiece | Reply | None], int] = {}
    try:
        for index in range(len(tasks)):
            waiting[_next_piece(streams[index])] = index
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                index = waiting.pop(future)
                try:
                    piece = future.result()
                except StopAsyncIteration:
                    reply = tasks[index].reply
                    assert reply is not None  # noqa: S101  # pieces() sets it or raises
                    yield index, reply
                else:
                    waiting[_next_piece(streams[index])] = index
                    yield index, piece
    finally:
        for future in waiting:
            future.cancel()


def _next_piece(pieces: AsyncIterator[ReplyPiece | None]) -> asyncio.Future[Any]:
    future = asyncio.ensure_future(anext(pieces))
    # several may fail at once, and the first error ends the loop that reads them
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


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


def finish_reason(reply: Reply) -> Literal["stop", "length"]:
    """Return why a reply ended, in OpenAI's words."""
    return "length" if reply.finish_reason == "length" else "stop"


def event(body: dict[str, Any], kind: str | None = None) -> str:
    """Return a server-sent event."""
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n" if kind else f"data: {data}\n\n"
