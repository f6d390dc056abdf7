"""The parts that all requests of one server share: memories, keys, limits and threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, TypeVar
from weakref import WeakSet

from fastapi import Depends, Request

from templora_memory.server.api_keys import ApiKeys
from templora_memory.server.concurrency import RequestLimiter
from templora_memory.server.errors import ApiError
from templora_memory.server.metrics import Observer
from templora_memory.server.reply_task import ReplyTask, StreamOpener
from templora_memory.server.settings import ServerSettings
from templora_memory.server.tenants import Tenant, Tenants

T = TypeVar("T")
_FILE_THREADS = 16


def shutting_down() -> ApiError:
    """Return the error that a server gives while it stops."""
    return ApiError(
        503, "The server is shutting down: send this again.", code="shutting_down", retry_after=5
    )


class ServerState:
    """Everything that the requests of one server share; also the owner of its thread pools.

    Belongs to the event loop's thread; only `tenants` is used on other threads.

    Args:
        tenants: the memories, by namespace.
        keys: API keys; None: no key is needed.
        settings: limits.
        observer: receives counts and times of requests and replies.
    """

    def __init__(
        self,
        tenants: Tenants,
        keys: ApiKeys | None,
        settings: ServerSettings,
        observer: Observer,
    ) -> None:
        self.tenants = tenants
        self.keys = keys
        self.settings = settings
        self.observer = observer
        self.draining = False
        self.start_time = int(time.time())
        self.reply_limiter = RequestLimiter(
            max_running=settings.max_running,
            max_waiting=settings.max_waiting,
            max_per_key=settings.max_per_key,
            queue_seconds=settings.queue_seconds,
            max_running_per_key=None if keys is None else max(1, settings.max_running * 3 // 4),
        )
        # looking and forgetting must work while all replies are busy: a limit of their own
        self.file_limiter = RequestLimiter(
            max_running=_FILE_THREADS,
            max_waiting=settings.max_waiting,
            max_per_key=settings.max_per_key,
            queue_seconds=settings.queue_seconds,
        )
        # as many threads as slots: work that holds a slot never waits in a pool's queue
        self._reply_threads = ThreadPoolExecutor(
            settings.max_running, thread_name_prefix="templora-reply"
        )
        self._file_threads = ThreadPoolExecutor(_FILE_THREADS, thread_name_prefix="templora-files")
        self.reply_tasks: WeakSet[ReplyTask] = WeakSet()

    @property
    def model_name(self) -> str:
        """The name by which clients call the base model."""
        return self.settings.name or self.tenants.base.name

    async def start_reply(self, tenant: Tenant, open_stream: StreamOpener) -> ReplyTask:
        """Start a reply on a thread once it has a slot.

        Raises:
            ApiError: 429, 503.
        """
        slot = await self.reply_limiter.acquire(tenant.key)
        if self.draining:
            slot.release()
            raise shutting_down()
        task = ReplyTask(
            open_stream,
            self._reply_threads,
            timeout=self.settings.reply_seconds,
            on_done=slot.release,
        )
        self.reply_tasks.add(task)
        return task

    async def run_model_work(self, tenant: Tenant, work: Callable[..., T], *args: object) -> T:
        """Run a function that needs the model, on a reply thread.

        It waits for a slot first.

        Raises:
            ApiError: 429.
        """
        async with self.reply_limiter.slot(tenant.key):
            return await self._run_in(self._reply_threads, work, *args)

    async def run_file_work(self, tenant: Tenant, work: Callable[..., T], *args: object) -> T:
        """Run a function that uses files or waits for absorbs, on a file thread.

        It waits for a slot first.

        Raises:
            ApiError: 429.
        """
        async with self.file_limiter.slot(tenant.key):
            return await self._run_in(self._file_threads, work, *args)

    @staticmethod
    async def _run_in(pool: ThreadPoolExecutor, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, partial(work, *args))

    def drain(self) -> None:
        """Take no new work; replies under way go on."""
        self.draining = True

    def cancel_replies(self) -> None:
        """End the replies that are still under way, each with the error of a server that stops."""
        for task in list(self.reply_tasks):
            task.cancel(shutting_down())

    async def close(self) -> None:
        """Stop everything; returns once no thread works any more."""
        self.drain()
        self.cancel_replies()
        await asyncio.to_thread(self.tenants.close)
        for pool in (self._reply_threads, self._file_threads):
            await asyncio.to_thread(pool.shutdown)


def get_state(request: Request) -> ServerState:
    """Return the state of the server that received a request."""
    state: ServerState = request.app.state.server
    return state


def get_tenant(request: Request) -> Tenant:
    """Return the tenant of a request; `RequestGuard` has checked its key."""
    return get_state(request).tenants[request.state.namespace]


StateDep = Annotated[ServerState, Depends(get_state)]
TenantDep = Annotated[Tenant, Depends(get_tenant)]
