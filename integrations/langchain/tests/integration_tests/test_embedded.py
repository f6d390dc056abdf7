"""The snippets of the documentation, and what only a real model can show: the embedded one.

Nothing here asks for certain words: the model's weights change from release to release.
"""

import asyncio
import runpy
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from langchain.agents import create_agent
from langchain_classic.chains import ConversationChain
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnablePassthrough
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import create_retriever_tool
from langgraph.checkpoint.sqlite import SqliteSaver
from templora_memory import Message, WithoutMemory

from langchain_templora import ChatTempLora, TempLoraChatMessageHistory
from langchain_templora.classic import ParametricConversationMemory
from langchain_templora.middleware import ParametricMemoryMiddleware

EXAMPLES = Path(__file__).parents[2] / "examples"
BIO = (
    "My name is Orla Fernwick. I am a lamp keeper and I live in Heron Cove. My pet is a lame goose "
    "called Button. I am afraid of thunder."
)
EAGER = {"trigger": ("messages", 4), "keep": ("messages", 2)}
OLD = "ignore::langchain_core._api.deprecation.LangChainDeprecationWarning"


@pytest.fixture(scope="session")
def bm25():
    sys.path.insert(0, str(EXAMPLES))
    try:
        return runpy.run_path(str(EXAMPLES / "bm25.py"))
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture
def model(tiny):
    return ChatTempLora(model="templora/tiny", memory=tiny, max_tokens=12)


@pytest.fixture(scope="session")
def orla(tiny):
    """A character whose bio is learned once for all tests."""
    tiny["char:orla"].absorb(BIO)
    return "char:orla"


def config(thread):
    return {"configurable": {"thread_id": thread}}


def test_an_agent_with_a_base_memory_and_a_retriever_as_a_tool(tiny, model, orla, bm25, tmp_path):
    retriever = bm25["BM25"].of(bm25["MANUAL"])
    tool = create_retriever_tool(retriever, "search_docs", "Search the manual.")
    path = tmp_path / "threads.sqlite"
    with closing(sqlite3.connect(path, check_same_thread=False)) as connection:
        agent = create_agent(
            model,
            tools=[tool],
            system_prompt="You are Ada.",
            checkpointer=SqliteSaver(connection),
            middleware=[ParametricMemoryMiddleware(tiny, base_memory=orla, **EAGER)],
        )
        for text in ("Hi, I am Bob.", "My dog is called Finn.", "The sea is calm.", "Who am I?"):
            state = agent.invoke({"messages": [{"role": "user", "content": text}]}, config("bob-1"))
    answer = state["messages"][-1]
    assert answer.response_metadata["memory_id"] == "thread:bob-1"
    assert answer.response_metadata["memory_revision"] == tiny["thread:bob-1"].revisions()[-2].name
    assert answer.response_metadata["absorbed_tokens"] > 0
    assert tiny["thread:bob-1"].status().origin == orla
    assert len(state["messages"]) == 8
    said = [m.content for m in tiny["thread:bob-1"].transcript().messages if m.role == "user"]
    assert said == ["Hi, I am Bob.", "My dog is called Finn.", "The sea is calm."]


def test_a_bio_in_weights_and_retrieved_text_in_the_prompt(tiny, model, orla, bm25):
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Stay in character. Facts:\n{context}"), ("human", "{question}")]
    )
    chain = (
        {
            "context": bm25["BM25"].of(bm25["MANUAL"])
            | (lambda found: "\n".join(d.page_content for d in found)),
            "question": RunnablePassthrough(),
        }
        | prompt
        | model
        | StrOutputParser()
    )
    with_memory = {"configurable": {"memory_id": orla}}
    pieces = list(chain.stream("How do I light the lamp?", with_memory))
    assert "".join(pieces)
    journal = tiny[orla].transcript()
    assert [d.text for d in journal.documents] == [BIO]
    assert not any("brass valve" in m.content for m in journal.messages[:-1])
    asked, said = "Where do you live?", "I live in Heron Cove."
    assert tiny[orla].probe(asked, said).gain > 0.2


@pytest.mark.filterwarnings(OLD)
def test_an_existing_application_changes_one_line(tiny, model):
    histories = {}
    prompt = ChatPromptTemplate.from_messages(
        [("system", "{context}"), MessagesPlaceholder("history"), ("human", "{question}")]
    )
    chain = RunnableWithMessageHistory(
        prompt | model,
        lambda session_id: histories.setdefault(
            session_id, TempLoraChatMessageHistory(tiny, session_id, **EAGER)
        ),
        input_messages_key="question",
        history_messages_key="history",
    )
    for text in ("My name is Bob.", "I like bees.", "I sail.", "What did I say first?"):
        given = {"question": text, "context": "Be kind."}
        answer = chain.invoke(given, {"configurable": {"session_id": "bob"}})
    assert answer.response_metadata["memory_revision"] is not None
    assert len(histories["bob"].transcript.messages) == 8
    assert len(histories["bob"].messages) == 2


@pytest.mark.filterwarnings(OLD)
def test_a_classic_chain(tiny, model):
    memory = ParametricConversationMemory.of(tiny, "classic", **EAGER)
    chain = ConversationChain(llm=model.with_memory("classic", "head"), memory=memory)
    for text in ("My name is Bob.", "I like bees.", "I sail."):
        assert chain.invoke({"input": text})["response"] is not None
    assert tiny["classic"].head().messages == 4


def test_streams_at_once_equal_the_answers_one_by_one(tiny, model):
    names = [f"keeper {number}" for number in range(4)]
    for name in names:
        tiny[name].absorb([Message("user", "Who are you?"), Message("assistant", f"I am {name}.")])
    pinned = model.bind(memory_revision="head")
    jobs = [(name, f"What is {number}?") for name in names for number in range(4)]

    def settings(name):
        return {"configurable": {"memory_id": name}}

    async def one(name, text):
        return "".join([c.text async for c in pinned.astream(text, settings(name))])

    async def together():
        return await asyncio.wait_for(asyncio.gather(*(one(*job) for job in jobs)), 300)

    expected = [pinned.invoke(text, settings(name)).text for name, text in jobs]
    assert asyncio.run(together()) == expected


def test_learning_one_memory_changes_no_answer_of_another(tiny, model, orla):
    pinned = model.with_memory(orla, "head")
    before = pinned.invoke("Where do you live?").text
    other = [Message("user", "Where is the kite?"), Message("assistant", "In the red box.")] * 20
    job = tiny["someone else"].absorb(other, wait=False)
    during = [pinned.invoke("Where do you live?").text]
    while not job.done:
        during.append(pinned.invoke("Where do you live?").text)
    assert set(during) == {before}
    assert job.wait().tokens > 200
    assert pinned.invoke("Where do you live?").text == before


def test_an_abandoned_stream_frees_the_model(tiny, model, monkeypatch):
    seen = []
    start = WithoutMemory.stream

    def watched(*args, **kwargs):
        seen.append(start(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(WithoutMemory, "stream", watched)
    # no model ends such a story before the consumer is gone, however slow that one is
    story = {"type": "object", "properties": {"story": {"type": "string", "minLength": 3000}}}
    form = {"type": "json_schema", "json_schema": {"schema": {**story, "required": ["story"]}}}
    long = model.model_copy(update={"max_tokens": 900}).bind(response_format=form)
    stream = long.stream("Tell me a long story.")
    next(stream)
    stream.close()

    async def leave():
        async for _ in long.astream("Tell me a long story."):
            break

    asyncio.run(leave())
    assert model.invoke("Hi").usage_metadata["output_tokens"] <= 12
    assert [s.reply.finish_reason for s in seen[:2]] == ["cancelled"] * 2
    assert all(s.reply.completion_tokens < 800 for s in seen[:2])


def test_a_forced_call_is_valid_on_a_model_that_knows_no_tools(model):
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    forced = model.model_copy(update={"max_tokens": 120})
    answer = forced.bind_tools([add], tool_choice="any").invoke("Add 3 and 4.")
    (call,) = answer.tool_calls
    assert call["name"] == "add"
    assert {type(value) for value in call["args"].values()} == {int}


def test_tokens_are_the_models_own(tiny, model):
    text = "Bees on the roof: 蜂."
    ids = model.get_token_ids(text)
    assert len(ids) == model.get_num_tokens(text) > 3
    answer = model.invoke([HumanMessage(text)])
    assert answer.usage_metadata["input_tokens"] == model.get_num_tokens_from_messages(
        [HumanMessage(text)]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rag_chain", "rag_agent"])
def test_an_example_runs_and_learns_nothing_retrieved(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.rstrip().endswith(": 0")


@pytest.mark.slow
def test_the_long_conversation_runs(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    argv = ["long_conversation.py", "--turns", "12", "--window", "256", "--reply", "4"]
    monkeypatch.setattr(sys, "argv", argv)
    runpy.run_path(str(EXAMPLES / "long_conversation.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert "| model calls | 12 |" in out
    assert "what was told, nats per token" in out
    assert "files, 1 with what was told; after forgetting the thread: " in out
    assert out.rstrip().endswith(" 0 with what was told")
