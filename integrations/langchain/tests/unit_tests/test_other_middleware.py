"""The memory beside middleware that edits requests or trims the state, in either order."""

import logging

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ClearToolUsesEdit,
    ContextEditingMiddleware,
    ModelFallbackMiddleware,
    before_model,
)
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from pydantic import Field
from templora_memory.errors import LearningFailed

from langchain_templora.middleware import ParametricMemoryMiddleware, forget_thread

CONFIG = {"configurable": {"thread_id": "t"}}
EAGER = {"trigger": ("messages", 4), "keep": ("messages", 2)}


@tool
def look(query: str) -> str:
    """Look it up."""
    return f"found a very long tool output about {query} " * 6


def last(state):
    return [m for m in state["messages"] if isinstance(m, AIMessage)][-1]


def used(message):
    return message.response_metadata["memory_revision"], message.usage_metadata["input_tokens"]


def users(box, memory_id="thread:t"):
    messages = box.service[memory_id].transcript().messages
    return [message.content for message in messages if message.role == "user"]


def trim_to(count):
    @before_model
    def trim(state, runtime):
        messages = state["messages"]
        if len(messages) <= count:
            return None
        return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), *messages[-count:]]}

    return trim


# --- edits of the request alone ------------------------------------------------------------------


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("window", [200, 4000])
def test_cleared_tool_results_leave_the_memory_on_and_teach_nothing_twice(
    make_box, tool_box, outside, window
):
    box = make_box("edited", kind=type(tool_box.backend), window=window, backend={"context": 4096})
    own = ParametricMemoryMiddleware(box.service, trigger=("messages", 8), keep=("messages", 2))
    edit = ContextEditingMiddleware(
        edits=[ClearToolUsesEdit(trigger=60, keep=1)],
        token_count_method="approximate",  # noqa: S106  # LangChain's word, not a secret
    )
    agent = create_agent(
        box.model,
        [look],
        middleware=[edit, own] if outside else [own, edit],
        checkpointer=InMemorySaver(),
    )
    answers = [
        last(agent.invoke({"messages": [HumanMessage(f"Question {n} about bees?")]}, CONFIG))
        for n in range(9)
    ]
    assert all(revision for revision, _ in map(used, answers[4:]))
    assert len({tokens for _, tokens in map(used, answers[4:])}) == 1  # it does not grow
    asked = [text for text in box.learned if text.startswith("Question")]
    assert len(asked) == len(set(asked)) >= 6


def test_a_rewritten_beginning_is_told_once(box, caplog):
    class Rewrite(AgentMiddleware):
        def wrap_model_call(self, request, handler):
            fresh = [HumanMessage(f"About this: {m.text}") for m in request.messages]
            return handler(request.override(messages=fresh))

    saver = InMemorySaver()
    own = ParametricMemoryMiddleware(box.service, **EAGER)
    plain = create_agent(box.model, [], middleware=[own], checkpointer=saver)
    for number in range(4):
        plain.invoke({"messages": [HumanMessage(f"Fact {number}")]}, CONFIG)
    rewriting = create_agent(box.model, [], middleware=[Rewrite(), own], checkpointer=saver)
    with caplog.at_level(logging.WARNING, logger="langchain_templora"):
        for number in range(2):
            answer = last(rewriting.invoke({"messages": [HumanMessage(f"More {number}")]}, CONFIG))
            assert used(answer)[0] is None
    assert caplog.text.count("rewritten the beginning") == 1


class Hosted(FakeListChatModel):
    """Another provider's model, which knows nothing of memories."""

    seen: list[tuple[int, dict[str, object]]] = Field(default_factory=list)

    def _call(self, messages, stop=None, run_manager=None, **kwargs):
        self.seen.append((len(messages), kwargs))
        return "I stand in."


def test_a_fallback_gets_the_conversation_whole_and_no_memory(box, caplog):
    hosted = Hosted(responses=["x"])
    own = ParametricMemoryMiddleware(box.service, **EAGER)
    agent = create_agent(
        box.model,
        [],
        middleware=[ModelFallbackMiddleware(hosted), own],
        checkpointer=InMemorySaver(),
    )
    for number in range(4):
        agent.invoke({"messages": [HumanMessage(f"Fact {number}")]}, CONFIG)
    assert box.learned
    stream, box.backend.stream = box.backend.stream, None  # the local model fails
    for number in (4, 5):
        state = agent.invoke({"messages": [HumanMessage(f"Fact {number}")]}, CONFIG)
    assert last(state).text == "I stand in."
    assert [(count, settings) for count, settings in hosted.seen] == [(9, {}), (11, {})]
    assert caplog.text.count("it gets the conversation whole") == 1
    box.backend.stream = stream
    state = agent.invoke({"messages": [HumanMessage("Fact 6")]}, CONFIG)
    assert used(last(state))[0]


# --- the state itself is trimmed -----------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_what_is_trimmed_from_the_state_is_remembered(box, first, count):
    own = ParametricMemoryMiddleware(box.service, **EAGER)
    middleware = [trim_to(count), own] if first else [own, trim_to(count)]
    agent = create_agent(box.model, [], middleware=middleware, checkpointer=InMemorySaver())
    told = [f"I keep {n} bees in house {n}" for n in range(12)]
    for text in told:
        state = agent.invoke({"messages": [HumanMessage(text)]}, CONFIG)
    assert len(state["messages"]) <= count + 1
    revision, tokens = used(last(state))
    assert revision in {known.name for known in box.service["thread:t"].revisions()}
    assert tokens < 100  # all twelve turns have about 360
    learned = users(box)
    assert learned == told[: len(learned)]
    assert len(learned) >= len(told) - 3
    asked = [text for text in box.learned if text.startswith("I keep")]
    assert len(asked) == len(set(asked))


def test_a_trimmed_thread_goes_on_after_a_restart(make_box):
    saver, told = InMemorySaver(), [f"I keep {n} bees in house {n}" for n in range(12)]
    for half in (told[:6], told[6:]):
        box = make_box("same")
        own = ParametricMemoryMiddleware(box.service, **EAGER)
        agent = create_agent(box.model, [], middleware=[trim_to(5), own], checkpointer=saver)
        for text in half:
            state = agent.invoke({"messages": [HumanMessage(text)]}, CONFIG)
            box.service.wait()
        assert used(last(state))[0]
        learned = users(box)
        box.service.close()
    assert learned == told[: len(learned)]
    assert len(learned) >= 9


def test_a_forgotten_thread_does_not_come_back_when_its_rest_is_trimmed(box):
    saver = InMemorySaver()
    own = ParametricMemoryMiddleware(box.service, **EAGER)
    agent = create_agent(box.model, [], middleware=[trim_to(3), own], checkpointer=saver)
    for number in range(6):
        state = agent.invoke({"messages": [HumanMessage(f"Secret {number}")]}, CONFIG)
    assert "Secret 0" in users(box)
    forget_thread(box.service, saver, "t")
    rest = [*state["messages"][-2:], HumanMessage("Other, then?")]
    agent.invoke({"messages": rest}, CONFIG)
    for number in range(6):
        agent.invoke({"messages": [HumanMessage(f"Other {number}")]}, CONFIG)
    assert "Secret 0" not in users(box)


def test_what_was_trimmed_and_could_not_be_learned_stays_in_the_prompt(make_box, caplog):
    broken = [True]

    def fail():
        if broken[0]:
            raise LearningFailed("The loss became NaN.")

    box = make_box("failing", backend={"on_learn": fail}, window=240)
    own = ParametricMemoryMiddleware(box.service, **EAGER)
    agent = create_agent(box.model, [], middleware=[trim_to(3), own], checkpointer=InMemorySaver())
    told = [f"I keep {n} bees in house {n}" for n in range(9)]
    for text in told[:4]:
        agent.invoke({"messages": [HumanMessage(text)]}, CONFIG)
    assert [m.content for m in box.shown if m.role == "user"] == told[:4]
    for text in told[4:]:
        agent.invoke({"messages": [HumanMessage(text)]}, CONFIG)
    assert "left out of it for now" in caplog.text  # the oldest, where the window is full
    assert box.backend.count(box.shown) <= 200
    assert [m.content for m in box.shown if m.role == "user"][-2:] == told[-2:]
    broken[0] = False
    agent.invoke({"messages": [HumanMessage("And now?")]}, CONFIG)
    assert users(box)[:6] == told[:6]
    assert "I keep 0 bees" not in str(box.shown)
