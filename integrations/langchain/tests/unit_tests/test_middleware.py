"""`ParametricMemoryMiddleware` in real agents, over the fake backend."""

import asyncio
import logging
import sqlite3
import threading
import time

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware, dynamic_prompt
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import omit_payload
from templora_memory.errors import InvalidId, LearningFailed, UnknownMemory
from templora_memory.testing import POISON

from langchain_templora.middleware import (
    ParametricMemoryMiddleware,
    aforget_thread,
    forget_thread,
    thread_memory_id,
)

EAGER = {"trigger": ("messages", 4), "keep": ("messages", 2)}


@pytest.fixture
def make_agent():
    def make(box, *, tools=(), more=(), model=None, saver=None, context_schema=None, **settings):
        own = ParametricMemoryMiddleware(box.service, **settings)
        return create_agent(
            model or box.model,
            tools=list(tools),
            system_prompt="You are Ada.",
            middleware=[own, *more],
            checkpointer=saver or InMemorySaver(),
            context_schema=context_schema,
        )

    return make


def config(thread="t"):
    return {"configurable": {"thread_id": thread}}


def say(agent, text, thread="t", **options):
    state = agent.invoke({"messages": [HumanMessage(text)]}, config(thread), **options)
    return state["messages"][-1]


def chat(agent, turns, thread="t", about="bees"):
    return [say(agent, f"Question {n} of {about}, please?", thread) for n in range(turns)]


def revision(message):
    return message.response_metadata["memory_revision"]


def names(box, memory_id="thread:t"):
    return {revision.name for revision in box.service[memory_id].revisions()}


def shown_roles(box):
    return [[message.role for message in request.messages] for request in box.backend.requests]


# --- the transcript stays, the request shrinks -----------------------------------------------


def test_the_request_stays_short_and_the_transcript_whole(box, make_agent):
    agent = make_agent(box)
    answers = chat(agent, 40)
    state = agent.get_state(config()).values["messages"]
    assert len(state) == 80
    assert [m.content for m in state[::2]] == [f"Question {n} of bees, please?" for n in range(40)]
    assert all(box.backend.count(request.messages) <= 160 for request in box.backend.requests)
    assert revision(answers[0]) is None
    assert revision(answers[-1]) in names(box)
    assert answers[-1].response_metadata["memory_id"] == "thread:t"
    assert len(box.learned) == len(set(box.learned)) > 50
    assert all(roles[:2] == ["system", "user"] for roles in shown_roles(box))
    assert "You are Ada." not in " ".join(box.learned)


def test_what_was_used_is_what_was_sent(box, make_agent):
    answer = chat(make_agent(box), 12)[-1]
    sent = box.backend.count(box.shown)
    assert answer.usage_metadata["input_tokens"] == sent < 160


@pytest.mark.parametrize("when", ["after_agent", "before_model"])
@pytest.mark.parametrize("scope", ["thread", "shared"])
def test_an_asynchronous_run_does_the_same(make_box, make_agent, when, scope):
    def run(name, asynchronous):
        box = make_box(name)
        agent = make_agent(box, when=when, scope=scope, memory_id="ada", **EAGER)

        async def talk():
            return [
                (await agent.ainvoke({"messages": [HumanMessage(f"Question {n}?")]}, config()))
                for n in range(6)
            ]

        if asynchronous:
            states = asyncio.run(talk())
        else:
            states = [
                agent.invoke({"messages": [HumanMessage(f"Question {n}?")]}, config())
                for n in range(6)
            ]
        return box.learned, [len(m) for m in shown_roles(box)], states[-1]["messages"][-1].text[:20]

    assert run("sync", asynchronous=False) == run("async", asynchronous=True)


def test_streamed_tokens_arrive(box, make_agent):
    agent = make_agent(box, **EAGER)
    chat(agent, 3)
    given = {"messages": [HumanMessage("And?")]}
    assert len(list(agent.stream(given, config(), stream_mode="messages"))) > 3


def test_learning_tells_how_far_it_is(make_box, make_agent):
    box = make_box(backend={"on_learn": lambda: time.sleep(0.3)})
    agent = make_agent(box, **EAGER)
    chat(agent, 1)
    given = {"messages": [HumanMessage("And what else is there to tell of the bees?")]}
    told = list(agent.stream(given, config(), stream_mode="custom"))
    assert {"type": "templora", "phase": "absorb", "progress": 0.0} in told


def test_include_decides_what_is_learned(box, make_agent):
    def only_people(message):
        return message.text.split("[")[0] if isinstance(message, HumanMessage) else None

    agent = make_agent(box, include=only_people, **EAGER)
    for number in range(5):
        say(agent, f"Question {number}? [secret context]")
    assert box.learned
    assert all(text == "" or text.startswith("Question") for text in box.learned)
    assert "secret" not in " ".join(box.learned)
    assert len(box.shown) < 9


# --- prefixes --------------------------------------------------------------------------------


def test_a_fork_gets_the_revision_of_its_own_past(make_box, make_agent):
    box = make_box(keep_revisions=20)
    agent = make_agent(box, **EAGER)
    chat(agent, 8)
    names = {r.messages: r.name for r in box.service["thread:t"].revisions()}
    assert set(names) == {2, 4, 6, 8, 10, 12, 14}
    past = {
        len(s.values.get("messages", ())): s.config
        for s in agent.get_state_history(config())
        if not s.next
    }
    for length in (6, 2):
        state = agent.invoke({"messages": [HumanMessage("A fork?")]}, past[length])
        assert len(state["messages"]) == length + 2
        assert revision(state["messages"][-1]) == names[length]


def test_an_edited_beginning_falls_back_to_the_base_model(box, make_agent):
    agent = make_agent(box, **EAGER)
    chat(agent, 4)
    first = agent.get_state(config()).values["messages"][0]
    agent.update_state(config(), {"messages": [HumanMessage("Edited.", id=first.id)]})
    answer = say(agent, "And now?")
    assert revision(answer) is None
    assert box.shown[1].content == "Edited."


def test_a_whole_list_sent_by_a_client_without_state_is_learned_once(box):
    own = ParametricMemoryMiddleware(box.service, memory_id="ada", **EAGER)
    agent = create_agent(box.model, tools=[], middleware=[own])
    history = [HumanMessage("One?"), AIMessage("1"), HumanMessage("Two?"), AIMessage("2")]
    history.append(HumanMessage("Three?"))
    for _ in range(3):
        agent.invoke({"messages": [m.model_copy() for m in history]})
    assert box.learned == ["One?", "1", "Two?", "2"]
    assert [message.content for message in box.shown] == ["Three?"]


# --- failures --------------------------------------------------------------------------------


def test_text_that_cannot_be_learned_stays_in_the_prompt(box, make_agent, caplog):
    agent = make_agent(box, **EAGER)
    with caplog.at_level(logging.WARNING, "langchain_templora"):
        say(agent, f"This is {POISON}")
        answers = chat(agent, 2)
    assert "stays in the prompt: The loss became NaN" in caplog.text
    assert revision(answers[-1]) is None
    assert POISON in box.shown[1].content
    assert len(agent.get_state(config()).values["messages"]) == 6


def test_a_failed_learning_is_raised_if_asked_for(box, make_agent):
    agent = make_agent(box, on_error="raise", **EAGER)
    say(agent, f"This is {POISON}")
    with pytest.raises(LearningFailed, match="NaN"):
        chat(agent, 2)


def test_a_run_that_failed_is_made_up_for_once(make_box, make_agent, tool_box):
    failing = [True]

    def search(query: str) -> str:
        """Search."""
        if failing[0]:
            raise RuntimeError("the tool broke")
        return "found"

    box = make_box("tools", kind=type(tool_box.backend), window=600)
    agent = make_agent(box, tools=[search], **EAGER)
    with pytest.raises(RuntimeError, match="the tool broke"):
        say(agent, "One?")
    assert box.learned == []
    failing[0] = False
    for text in ("Two?", "Three?", "Four?"):
        say(agent, text)
    said = [text for text in box.learned if text in {"One?", "Two?", "Three?", "Four?"}]
    assert said[:2] == ["One?", "Two?"]
    assert len(said) == len(set(said))


def test_learning_in_the_background_leaves_the_text_until_it_is_committed(make_box, make_agent):
    go = threading.Event()
    box = make_box(backend={"on_learn": lambda: go.wait(20)})
    agent = make_agent(box, background=True, **EAGER)
    answers = chat(agent, 4)
    assert all(revision(answer) is None for answer in answers)
    assert len(box.shown) == 8
    go.set()
    box.service.wait()
    answer = say(agent, "And now?")
    assert revision(answer) is not None
    assert len(box.shown) == 8


def test_turns_are_learned_before_a_call_that_would_not_fit(box, make_agent):
    agent = make_agent(box, trigger=("messages", 1000))
    for number in range(6):
        answer = say(agent, f"Number {number}: " + "word " * 40)
    assert revision(answer) is not None
    assert all(box.backend.count(request.messages) <= 160 for request in box.backend.requests)


# --- tools and retrieved text ----------------------------------------------------------------


def test_tool_text_is_never_learned_and_calls_keep_their_results(make_box, make_agent, tool_box):
    box = make_box("tools", kind=type(tool_box.backend), window=400, reply_tokens=60)

    def search(query: str) -> str:
        """Search the manual."""
        return f"the planted marble of {query} " * 3

    agent = make_agent(box, tools=[search], trigger=("tokens", 100), keep=("messages", 4))
    for number in range(12):
        state = agent.invoke({"messages": [HumanMessage(f"What is {number}, please?")]}, config())
    assert len(state["messages"]) == 48
    assert box.learned
    weights = " ".join(box.backend._texts(box.backend.requests[-1].adapter))
    assert "What is 0, please?" in weights
    for never in ("marble", "tool_call", "search", "You are Ada."):
        assert never not in weights
    for roles in shown_roles(box):
        assert roles[:2] == ["system", "user"]
        assert all(roles[i - 1] == "call" for i, role in enumerate(roles) if role == "tool")
    assert max(len(roles) for roles in shown_roles(box)) < 25


def test_text_that_a_dynamic_prompt_retrieves_is_never_learned(make_box, make_agent):
    box = make_box(window=300)

    @dynamic_prompt
    def retrieved(request):
        return "Facts: the planted marble."

    agent = make_agent(box, more=[retrieved], **EAGER)
    for number in range(6):
        say(agent, f"Tell me about number {number}?")
    assert "Facts: the planted marble." in box.shown[0].content
    human = [text for text in box.learned if text.startswith("Tell")]
    assert len(human) >= 3
    assert "marble" not in " ".join(human)


# --- whose memory ----------------------------------------------------------------------------


def test_threads_have_memories_of_their_own(box, make_agent):
    agent = make_agent(box, **EAGER)
    chat(agent, 4, "one", "bees")
    chat(agent, 4, "two", "owls")
    assert box.service.list() == ("thread:one", "thread:two")
    texts = [t.content for t in box.service["thread:two"].transcript().messages]
    assert not any("bees" in text for text in texts)


def test_thread_ids_of_every_kind_make_different_memories(box):
    ids = ["a", "a@b", "a/b", "a b", "a%20b", "ä", " a", "thread:a", 7, "問い合わせ" * 30]
    ids += ["x" * 400, "x" * 399 + "y", thread_memory_id("x" * 400).removeprefix("thread:")]
    names = [thread_memory_id(thread) for thread in ids]
    assert len(set(names)) == len(ids)
    for name in names:
        box.service.open(name)
    assert len(box.service.list()) == len(ids)
    assert thread_memory_id(7) == thread_memory_id("7")
    for nothing in ("", None, True, 1.5):
        with pytest.raises(ValueError, match="thread_id is"):
            thread_memory_id(nothing)


@pytest.mark.parametrize("thread", [0, 12, "問い合わせ" * 40])
def test_a_thread_may_have_a_number_or_a_long_name_for_its_id(box, make_agent, thread):
    agent = make_agent(box, **EAGER)
    chat(agent, 4, thread)
    assert box.service.list() == (thread_memory_id(thread),)
    assert forget_thread(box.service, agent.checkpointer, thread).files
    assert agent.get_state(config(thread)).values == {}


def test_one_memory_a_user_over_many_threads(box, make_agent):
    agent = make_agent(box, memory_id="user:bob", scope="shared", **EAGER)
    chat(agent, 4, "one", "bees")
    head = box.service["user:bob"].head()
    first = say(agent, "A new thread?", "two")
    assert revision(first) == head.name
    assert [m.role for m in box.shown] == ["system", "user"]
    chat(agent, 4, "two", "owls")
    texts = " ".join(box.backend._texts(box.backend.requests[-1].adapter))
    assert "bees" in texts
    assert "owls" in texts
    head = box.service["user:bob"].head()
    assert revision(say(agent, "Back again?", "one")) == head.name
    assert len(box.shown) <= 6
    assert len(box.learned) == len(set(box.learned))


def test_two_threads_may_teach_one_memory_at_the_same_time(box, make_agent):
    agent = make_agent(box, memory_id="user:bob", scope="shared", **EAGER)

    async def thread(name):
        for number in range(5):
            message = HumanMessage(f"Question {number} in {name}?")
            await agent.ainvoke({"messages": [message]}, config(name))

    async def both():
        await asyncio.gather(*(thread(name) for name in ("one", "two", "three")))

    asyncio.run(asyncio.wait_for(both(), 60))
    say(agent, "And now?", "one")
    texts = box.backend._texts(box.backend.requests[-1].adapter)
    asked = [text for text in texts if text.startswith("Question")]
    for name in ("one", "two", "three"):
        assert sum(f"in {name}?" in text for text in asked) >= 3
    assert len(asked) == len(set(asked))


def test_the_memory_id_may_come_from_state_and_context(box, make_agent):
    agent = make_agent(
        box,
        memory_id=lambda state, runtime: runtime.context and f"user:{runtime.context['user']}",
        context_schema=dict,
        **EAGER,
    )
    answer = say(agent, "Hi?", context={"user": "bob"})
    assert answer.response_metadata["memory_id"] == "user:bob"
    assert say(agent, "Hi?").response_metadata["memory_id"] is None
    wrong = make_agent(box, memory_id=lambda state, runtime: "")
    with pytest.raises(ValueError, match="function returned ''"):
        say(wrong, "Hi?")


def test_two_memories_in_one_agent_the_first_answers_both_learn(box):
    mine = ParametricMemoryMiddleware(box.service, memory_id="user:bob", scope="shared", **EAGER)
    thread = ParametricMemoryMiddleware(box.service, **EAGER)
    assert mine.name != thread.name
    agent = create_agent(
        box.model, tools=[], middleware=[thread, mine], checkpointer=InMemorySaver()
    )
    answer = chat(agent, 5)[-1]
    assert answer.response_metadata["memory_id"] == "thread:t"
    assert revision(answer) in names(box)
    assert box.service["user:bob"].head().messages >= 4
    assert len(box.shown) <= 4


def test_new_memories_start_from_a_base_memory(box, make_agent):
    box.service["char:ada"].absorb("Ada keeps bees on the roof.")
    agent = make_agent(box, base_memory="char:ada", **EAGER)
    assert "Ada keeps bees on the roof." in say(agent, "Who keeps bees?").text
    answer = chat(agent, 4)[-1]
    texts = " ".join(box.backend._texts(box.backend.requests[-1].adapter))
    assert "roof" in texts
    assert "Question 0" in texts
    assert box.service["thread:t"].status().origin == "char:ada"
    assert revision(answer) in names(box)
    missing = make_agent(box, base_memory="char:nobody")
    with pytest.raises(UnknownMemory, match="char:nobody"):
        say(missing, "Hi?", "other")


def test_without_a_thread_there_is_no_memory_to_name(box):
    agent = create_agent(box.model, tools=[], middleware=[ParametricMemoryMiddleware(box.service)])
    with pytest.raises(ValueError, match=r"no thread id .*checkpointer"):
        agent.invoke({"messages": [HumanMessage("Hi?")]})


def test_with_memory_survives_an_agent_with_tools_and_bind_does_not(tool_box):
    def search(query: str) -> str:
        """Search."""
        return "found"

    def asked(model, tools):
        state = create_agent(model, tools=tools).invoke({"messages": [HumanMessage("Bees?")]})
        return state["messages"][-1].response_metadata["memory_id"]

    for tools in ([], [search]):
        assert asked(tool_box.model.with_memory("ada"), tools) == "ada"
    assert asked(tool_box.model.bind(memory_id="ada"), []) == "ada"
    assert asked(tool_box.model.bind(memory_id="ada"), [search]) is None


# --- beside other middleware and models ------------------------------------------------------


def test_beside_summarisation_it_warns_once_and_uses_no_stale_memory(make_box, make_agent):
    box = make_box(keep_revisions=20)
    summary = SummarizationMiddleware(
        FakeListChatModel(responses=["A summary."]), trigger=("messages", 6), keep=("messages", 2)
    )
    agent = make_agent(box, more=[summary], **EAGER)
    with pytest.warns(UserWarning, match="Use one of the two") as warned:
        answers = chat(agent, 12)
    assert len([w for w in warned if w.category is UserWarning]) == 1
    body = agent.get_state(config()).values["messages"]
    newest = {r.name: r.messages for r in box.service["thread:t"].revisions()}
    assert newest.get(revision(answers[-1]), 0) < len(body)


def test_models_that_cannot_answer_with_a_memory_are_refused(box, make_box, make_agent):
    with pytest.raises(TypeError, match="FakeListChatModel cannot answer with a memory"):
        say(make_agent(box, model=FakeListChatModel(responses=["x"])), "Hi?")
    other = make_box("elsewhere")
    with pytest.raises(ValueError, match="another memory service"):
        say(make_agent(box, model=other.model), "Hi?")


def test_other_models_get_the_settings_that_are_made_for_them(box, make_agent):
    seen = []

    class Adapters(FakeListChatModel):
        def _call(self, messages, stop=None, run_manager=None, **kwargs):
            seen.append((len(messages), kwargs))
            return "Fine."

    def settings(memory_id, revision):
        return {"model": f"{memory_id}-{revision[:6]}" if revision else "base"}

    agent = make_agent(box, model=Adapters(responses=["x"]), settings=settings, **EAGER)
    chat(agent, 4)
    assert seen[0] == (2, {"model": "base"})
    size, kwargs = seen[-1]
    assert size < 8
    assert kwargs["model"].startswith("thread:t-")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"when": "never"}, "when is 'never'"),
        ({"scope": "all"}, "scope is 'all'"),
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
        ({"memory_id": ""}, "memory_id is empty"),
        ({"keep": ("words", 3)}, "is no size"),
    ],
)
def test_wrong_settings_are_refused(box, wrong, says):
    with pytest.raises(ValueError, match=says):
        ParametricMemoryMiddleware(box.service, **wrong)


def test_an_id_that_the_core_refuses_is_an_error(box, make_agent):
    with pytest.raises(InvalidId, match="looks like a path"):
        say(make_agent(box, memory_id="../ada"), "Hi?")


def test_traces_get_no_payload():
    assert ParametricMemoryMiddleware.trace_policy.process_inputs is omit_payload


# --- forgetting ------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_forgetting_a_thread_removes_checkpoints_and_memory(make_box, make_agent, asynchronous):
    box, saver = make_box(), InMemorySaver()
    agent = make_agent(box, saver=saver, **EAGER)
    chat(agent, 4)
    chat(agent, 4, "other")

    def forget():
        if asynchronous:
            return asyncio.run(aforget_thread(box.service, saver, "t"))
        return forget_thread(box.service, saver, "t")

    receipt = forget()
    assert receipt.ids == ("thread:t",)
    assert receipt.files
    assert box.service.list() == ("thread:other",)
    assert saver.get_tuple(config()) is None
    assert revision(say(agent, "Who are you?")) is None
    assert forget().ids == ()


def test_an_agent_goes_on_after_a_restart(make_box, make_agent, tmp_path):
    path = tmp_path / "threads.sqlite"
    seen = []
    for number in range(2):
        box = make_box("one root")
        connection = sqlite3.connect(path, check_same_thread=False)
        agent = make_agent(box, saver=SqliteSaver(connection), **EAGER)
        seen += [revision(answer) for answer in chat(agent, 4, about=f"run {number}")]
        box.service.close()
        connection.close()
    assert seen[0] is None
    assert seen[4] is not None
    assert len(box.learned) == len(set(box.learned))
