"""Slots for requests: in order, with a short queue, and fairly among keys."""

import asyncio

import pytest

from templora_memory.server.concurrency import RequestLimiter
from templora_memory.server.errors import ApiError


def make_limiter(**limits):
    defaults = {"max_running": 1, "max_waiting": 1, "max_per_key": 9, "queue_seconds": 30}
    return RequestLimiter(**(defaults | limits))


def test_slots_are_given_in_order_and_the_queue_is_short():
    async def scenario():
        limiter = make_limiter()
        first = await limiter.acquire("a")
        second = asyncio.create_task(limiter.acquire("b"))
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="1 requests wait already") as caught:
            await limiter.acquire("c")
        assert (caught.value.status_code, caught.value.headers["retry-after"]) == (429, "1")
        assert (limiter.in_flight, limiter.waiting) == (2, 1)
        first.release()
        first.release()
        (await second).release()
        assert (limiter.in_flight, limiter.waiting) == (0, 0)
        (await limiter.acquire("c")).release()

    asyncio.run(scenario())


def test_one_key_cannot_take_all_slots():
    async def scenario():
        limiter = make_limiter(max_running=4, max_per_key=2)
        held = [await limiter.acquire("a"), await limiter.acquire("a")]
        with pytest.raises(ApiError, match="This key has 2 requests"):
            await limiter.acquire("a")
        (await limiter.acquire("b")).release()
        held[0].release()
        (await limiter.acquire("a")).release()

    asyncio.run(scenario())


def test_a_free_slot_goes_to_the_key_that_holds_fewest():
    async def scenario():
        limiter = make_limiter(max_running=2, max_waiting=9)
        held = [await limiter.acquire("a"), await limiter.acquire("a")]
        got = []

        async def take(name):
            async with limiter.slot(name[0]):
                got.append(name)

        waiting = [asyncio.create_task(take(name)) for name in ("a1", "a2", "b1", "c1", "b2")]
        await asyncio.sleep(0)
        held[0].release()
        await asyncio.gather(*waiting)
        held[1].release()
        assert got == ["b1", "c1", "b2", "a1", "a2"]
        assert (limiter.in_flight, limiter.waiting) == (0, 0)

    asyncio.run(scenario())


def test_one_key_never_holds_all_slots():
    async def scenario():
        limiter = make_limiter(max_running=3, max_waiting=9, max_running_per_key=2)
        held = [await limiter.acquire("a"), await limiter.acquire("a")]
        third = asyncio.create_task(limiter.acquire("a"))
        await asyncio.sleep(0.01)
        assert not third.done()
        (await limiter.acquire("b")).release()
        await asyncio.sleep(0.01)
        assert not third.done()
        held[0].release()
        (await third).release()
        held[1].release()
        assert (limiter.in_flight, limiter.waiting) == (0, 0)
        assert [await limiter.acquire(key) for key in ("a", "a", "b")]

    asyncio.run(scenario())


def test_one_key_cannot_fill_the_queue():
    async def scenario():
        limiter = make_limiter(max_waiting=3)
        held = await limiter.acquire("a")
        greedy = [asyncio.create_task(limiter.acquire("a")) for _ in range(3)]
        await asyncio.sleep(0)
        other = asyncio.create_task(limiter.acquire("b"))
        await asyncio.sleep(0.01)
        with pytest.raises(ApiError, match="3 requests wait already"):
            await greedy[2]
        with pytest.raises(ApiError, match="3 requests wait already"):
            await limiter.acquire("a")
        assert (limiter.in_flight, limiter.waiting) == (4, 3)
        held.release()
        for task in (*greedy[:2], other):
            (await task).release()
        assert (limiter.in_flight, limiter.waiting) == (0, 0)

    asyncio.run(scenario())


def test_who_waits_too_long_or_goes_away_leaves_the_queue():
    async def scenario():
        limiter = make_limiter(queue_seconds=0.01)
        held = await limiter.acquire("a")
        with pytest.raises(ApiError, match="No place became free within"):
            await limiter.acquire("b")
        gone = asyncio.create_task(limiter.acquire("b"))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert (limiter.in_flight, limiter.waiting) == (1, 0)
        held.release()
        (await limiter.acquire("c")).release()
        assert limiter.in_flight == 0

    asyncio.run(scenario())
