"""From the core's blocking streams to asyncio, one short-lived thread a stream.

Not through the event loop's thread pool: that has few places, and an answer may wait for others.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable

from templora_memory import Reply, ReplyStream


async def pieces(start: Callable[[], ReplyStream]) -> AsyncGenerator[str | Reply, None]:
    """Pieces of text as they come, then the `Reply`.

    `start` runs on the thread too, because it may learn before it answers. Whatever goes wrong
    there is raised here. A consumer that goes away, or is cancelled, stops the model.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[str | Reply | BaseException] = asyncio.Queue()
    gone = threading.Event()
    opened: list[ReplyStream] = []

    def put(item: str | Reply | BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(arrived.put_nowait, item)

    def run() -> None:
        try:
            with start() as stream:
                opened.append(stream)
                if gone.is_set():
                    return
                for piece in stream:
                    put(piece)
                put(stream.reply)
        except BaseException as error:  # noqa: BLE001  # raised on the consumer's side
            put(error)

    threading.Thread(target=run, name="templora-stream", daemon=True).start()
    try:
        while True:
            item = await arrived.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            if isinstance(item, Reply):
                return
    finally:
        gone.set()
        for stream in opened:
            stream.close()
