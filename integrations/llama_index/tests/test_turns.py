import asyncio

from llama_index.memory.templora._turns import Turns


def test_whoever_came_first_goes_first(run):
    turns, order = Turns(), []

    async def take(name):
        async with turns.mine():
            order.append(f"{name} begins")
            await asyncio.sleep(0.01)
            order.append(f"{name} ends")

    async def take_all():
        await asyncio.gather(*(take(name) for name in "abc"))

    run(take_all())
    assert order == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]
