"""What every request of one server shares: its memories, its limits, its threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, TypeVar
from weakref import WeakSet

from fastapi import Depends, Request

from templora_memory.server.api_keys import Keys
from templora_memory.server.concurrency import Gate
from templora_memory.server.errors import ApiError
from templora_memory.server.metrics import Observer
from templora_memory.server.reply_task import Answer
from templora_memory.server.settings import ServerSettings
from templora_memory.server.tenants import Tenant, Tenants
from templora_memory.service.streams import ReplyStream

T = TypeVar("T")
_FILES = 16


def stopping() -> ApiError:
    return ApiError(
        503, "The server is shutting down: send this again.", code="shutting_down", retry_after=5
    )


class Runtime:
    """One server's shared parts; on the event loop's thread, but for `tenants`.

    Args:
        tenants: the memories.
        keys: None: nobody needs one.
        settings: limits.
        observer: is told about requests and replies.
    """

    def __init__(
        self,
        tenants: Tenants,
        keys: Keys | None,
        settings: ServerSettings,
        observer: Observer,
    ) -> None:
        self.tenants = tenants
        self.keys = keys
        self.settings = settings
        self.observer = observer
        self.draining = False
        self.started = int(time.time())
        self.replies = Gate(
            running=settings.running,
            waiting=settings.waiting,
            per_key=settings.per_key,
            seconds=settings.queue_seconds,
        )
        self.files = Gate(
            running=_FILES,
            waiting=settings.waiting,
            per_key=settings.per_key,
            seconds=settings.queue_seconds,
        )
        self._replying = ThreadPoolExecutor(settings.running, thread_name_prefix="templora-reply")
        self._filing = ThreadPoolExecutor(_FILES, thread_name_prefix="templora-files")
        self.answers: WeakSet[Answer] = WeakSet()

    @property
    def name(self) -> str:
        """What clients call the base model."""
        return self.settings.name or self.tenants.base.name

    async def answer(self, tenant: Tenant, begin: Callable[[], ReplyStream]) -> Answer:
        """Start a reply once there is a place for it.

        Raises:
            ApiError: 429, 503.
        """
        place = await self.replies.enter(tenant.key)
        if self.draining:
            place.leave()
            raise stopping()
        answer = Answer(
            begin,
            self._replying,
            seconds=self.settings.reply_seconds,
            ended=place.leave,
        )
        self.answers.add(answer)
        return answer

    async def compute(self, tenant: Tenant, work: Callable[..., T], *args: object) -> T:
        """Run what needs the model, on a thread, once there is a place for it."""
        async with self.replies.place(tenant.key):
            return await self._on_thread(self._replying, work, *args)

    async def file(self, tenant: Tenant, work: Callable[..., T], *args: object) -> T:
        """Run what reads and writes files or waits for absorbs, on a thread."""
        async with self.files.place(tenant.key):
            return await self._on_thread(self._filing, work, *args)

    @staticmethod
    async def _on_thread(pool: ThreadPoolExecutor, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, partial(work, *args))

    def drain(self) -> None:
        """Take no new work; replies under way go on."""
        self.draining = True

    def cut_off(self) -> None:
        """End the replies that are still under way, each with a clean error."""
        for answer in list(self.answers):
            answer.give_up(stopping())

    async def close(self) -> None:
        """Stop everything; returns once no thread works any more."""
        self.drain()
        self.cut_off()
        await asyncio.to_thread(self.tenants.close)
        for pool in (self._replying, self._filing):
            await asyncio.to_thread(pool.shutdown)


def runtime(request: Request) -> Runtime:
    found: Runtime = request.app.state.runtime
    return found


def tenant(request: Request) -> Tenant:
    """Whose request this is; the guard has checked the key."""
    return runtime(request).tenants[request.state.namespace]


TheRuntime = Annotated[Runtime, Depends(runtime)]
TheTenant = Annotated[Tenant, Depends(tenant)]
