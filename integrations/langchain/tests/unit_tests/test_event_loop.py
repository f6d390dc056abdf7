"""Asynchronous calls leave the event loop free: no file is touched on it."""

import asyncio
import builtins
import os
import sys

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from langchain_templora import TempLoraChatMessageHistory
from langchain_templora.middleware import ParametricMemoryMiddleware, aforget_thread

EAGER = {"trigger": ("messages", 4), "keep": ("messages", 2)}


@pytest.fixture
def touched(monkeypatch):
    """Names of our functions that touched a file while a loop ran in their thread."""
    found = []

    def watched(real):
        def call(*args, **kwargs):
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return real(*args, **kwargs)
            frame = sys._getframe(1)
            while frame is not None:
                if "templora" in frame.f_globals.get("__name__", ""):
                    found.append(f"{real.__name__} in {frame.f_code.co_qualname}")
                    break
                frame = frame.f_back
            return real(*args, **kwargs)

        return call

    for module, name in (
        (builtins, "open"),
        *((os, name) for name in ("stat", "open", "listdir", "scandir", "mkdir", "replace")),
    ):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    return found


async def test_a_model_an_agent_and_a_history_touch_no_file_on_the_loop(box, touched):
    model = box.model.with_memory("ada")
    for _ in range(2):
        await model.ainvoke("Who keeps " + "bees " * 90)
        assert [chunk async for chunk in model.astream("Who?")]
    await model.agenerate([[HumanMessage("Who?")]])
    own = ParametricMemoryMiddleware(box.service, **EAGER)
    agent = create_agent(box.model, [], middleware=[own], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}
    for number in range(5):
        await agent.ainvoke({"messages": [HumanMessage(f"Fact {number}")]}, config)
    history = TempLoraChatMessageHistory(box.service, "bob", **EAGER)
    for _ in range(3):
        await history.aadd_messages([HumanMessage("Hi"), *(await history.aget_messages())[-1:]])
    assert box.learned
    await history.aclear()
    await aforget_thread(box.service, agent.checkpointer, "t")
    assert touched == []


async def test_the_watch_sees_what_is_done_on_the_loop(box, touched):
    box.service["ada"].absorb("Ada keeps bees.")
    assert touched
