"""The chat history and the classic memory, in LangChain's older chains."""

import asyncio
import gc
import logging
import threading
import warnings

import pytest
from langchain_classic.chains import (
    ConversationalRetrievalChain,
    ConversationChain,
    LLMChain,
)
from langchain_classic.memory import ConversationBufferMemory
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import ConfigurableFieldSpec
from langchain_core.runnables.history import RunnableWithMessageHistory
from templora_memory.errors import LearningFailed
from templora_memory.testing import POISON

from langchain_templora import TempLoraChatMessageHistory
from langchain_templora.classic import ParametricConversationMemory

EAGER = {"trigger": ("messages", 4), "keep": ("messages", 2)}
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::langchain_core._api.deprecation.LangChainDeprecationWarning"
    ),
    pytest.mark.filterwarnings(
        "ignore::langchain_core._api.deprecation.LangChainPendingDeprecationWarning"
    ),
]
PROMPT = ChatPromptTemplate.from_messages(
    [("system", "Facts: {context}"), MessagesPlaceholder("history"), ("human", "{question}")]
)


@pytest.fixture
def make_chain():
    """A chain over `RunnableWithMessageHistory`, and its histories by session id."""

    def make(box, *, keys=True, **settings):
        histories = {}

        def history(session_id):
            if session_id not in histories:
                options = EAGER | settings
                histories[session_id] = TempLoraChatMessageHistory(
                    box.service, session_id, **options
                )
            return histories[session_id]

        if keys:
            chain = RunnableWithMessageHistory(
                PROMPT | box.model,
                history,
                input_messages_key="question",
                history_messages_key="history",
            )
        else:
            chain = RunnableWithMessageHistory(box.model, history)
        return chain, histories

    return make


def config(session="bob"):
    return {"configurable": {"session_id": session}}


def ask(chain, number, session="bob", context="nothing"):
    given = {"question": f"Question {number} of {session}?", "context": context}
    return chain.invoke(given, config(session))


def test_the_window_stays_small_and_the_transcript_whole(box, make_chain):
    chain, histories = make_chain(box)
    answers = [ask(chain, number, context="the planted marble") for number in range(8)]
    history = histories["bob"]
    assert len(history.transcript.messages) == 16
    assert len(history.messages) == 2
    assert history.messages == history.transcript.messages[-2:]
    answer = ask(chain, 8)
    about = answer.response_metadata
    assert about["memory_id"] == "bob"
    assert about["memory_revision"] is not None
    assert answers[0].response_metadata["memory_revision"] is None
    assert [message.role for message in box.shown] == ["system", "user", "assistant", "user"]
    asked = [text for text in box.learned if text.startswith("Question")]
    assert len(asked) == len(set(asked)) >= 6
    assert "marble" not in " ".join(asked)


def test_the_revision_is_the_one_of_the_window(box, make_chain):
    chain, histories = make_chain(box)
    for number in range(4):
        ask(chain, number)
    before = histories["bob"].revision
    answer = ask(chain, 4)
    assert answer.response_metadata["memory_revision"] == before
    assert histories["bob"].revision == box.service["bob"].head().name != before


@pytest.mark.parametrize("way", ["stream", "ainvoke", "astream"])
def test_other_ways_to_run_a_chain_keep_turns_too(box, make_chain, way):
    chain, histories = make_chain(box)

    async def run(given):
        if way == "ainvoke":
            return await chain.ainvoke(given, config())
        return [part async for part in chain.astream(given, config())]

    for number in range(5):
        given = {"question": f"Question {number}?", "context": "x"}
        if way == "stream":
            list(chain.stream(given, config()))
        else:
            asyncio.run(run(given))
    assert len(histories["bob"].transcript.messages) == 10
    assert histories["bob"].revision is not None


def test_sessions_do_not_meet_and_an_empty_one_is_refused(box, make_chain):
    chain, _ = make_chain(box)
    for number in range(4):
        ask(chain, number, "bob")
        ask(chain, number, "eve")
    for name, other in (("bob", "eve"), ("eve", "bob")):
        texts = [m.content for m in box.service[name].transcript().messages]
        assert texts
        assert not any(f"of {other}?" in text for text in texts)
    with pytest.raises(ValueError, match="session_id is empty"):
        ask(chain, 0, "")
    with pytest.raises(ValueError, match="session_id"):
        chain.invoke({"question": "x", "context": "y"})


def test_a_commit_during_a_call_moves_no_window(make_box, make_chain):
    go = threading.Event()
    box = make_box(backend={"on_learn": lambda: go.wait(20)})
    chain, histories = make_chain(box, keys=False, background=True)
    for number in range(3):
        chain.invoke([HumanMessage(f"Question {number}?")], config())
    history = histories["bob"]
    assert history.revision is None
    assert len(history.messages) == 6
    go.set()
    box.service.wait()
    assert len(history.messages) == 6  # only add_messages moves it
    chain.invoke([HumanMessage("Question 3?")], config())
    contents = [message.content for message in history.transcript.messages]
    assert contents[::2] == [f"Question {number}?" for number in range(4)]
    assert len(contents) == 8
    assert history.revision is not None


def test_a_history_goes_on_from_its_transcript(box, make_chain):
    kept = InMemoryChatMessageHistory()
    first = TempLoraChatMessageHistory(box.service, "bob", transcript=kept, **EAGER)
    for number in range(4):
        first.add_messages([HumanMessage(f"Question {number}?"), AIMessage(f"Answer {number}.")])
    again = TempLoraChatMessageHistory(box.service, "bob", transcript=kept, **EAGER)
    assert again.messages == first.messages
    assert again.revision == first.revision is not None
    kept.messages[0] = HumanMessage("Edited.")
    edited = TempLoraChatMessageHistory(box.service, "bob", transcript=kept, **EAGER)
    assert edited.revision is None
    assert edited.window_revision == "base"
    assert edited.messages == kept.messages


def test_clearing_forgets_everything(box, make_chain):
    chain, histories = make_chain(box)
    for number in range(4):
        ask(chain, number)
    histories["bob"].clear()
    assert box.service.list() == ()
    assert list(box.root.iterdir()) == []
    assert histories["bob"].messages == []
    assert ask(chain, 0).response_metadata["memory_revision"] is None
    asyncio.run(histories["bob"].aclear())
    assert histories["bob"].messages == []


def test_text_that_cannot_be_learned_stays_in_the_window(box, caplog):
    turns = [
        [HumanMessage(f"This is {POISON}"), AIMessage("Oh.")],
        [HumanMessage("And?"), AIMessage("Well.")],
    ]
    history = TempLoraChatMessageHistory(box.service, "bob", **EAGER)
    with caplog.at_level(logging.WARNING, "langchain_templora"):
        for turn in turns:
            history.add_messages(turn)
    assert len(history.messages) == 4
    assert "stays in the prompt" in caplog.text
    strict = TempLoraChatMessageHistory(box.service, "eve", on_error="raise", **EAGER)
    strict.add_messages(turns[0])
    with pytest.raises(LearningFailed):
        strict.add_messages(turns[1])
    assert len(strict.messages) == 4


def test_bad_messages_are_refused_before_they_are_kept(box):
    history = TempLoraChatMessageHistory(box.service, "bob")
    with pytest.raises(ValueError, match=r"Message 0: .*role 'narrator'"):
        history.add_messages([ChatMessage("x", role="narrator")])
    assert history.messages == []
    for wrong in ("", None, 5):
        with pytest.raises(ValueError, match="memory_id is"):
            TempLoraChatMessageHistory(box.service, wrong)


def test_making_a_history_warns_of_nothing(box):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TempLoraChatMessageHistory(box.service, "bob").add_user_message("Hi")


# --- classic chains --------------------------------------------------------------------------


def adapter(box):
    found = box.backend.requests[-1].adapter
    return None if found is None else found.version.split("/")[0]


def test_a_conversation_chain_answers_with_the_models_own_memory(box):
    model = box.model.with_memory("bob", revision="head")
    chain = ConversationChain(
        llm=model, memory=ParametricConversationMemory.of(box.service, "bob", **EAGER)
    )
    for number in range(5):
        chain.invoke({"input": f"Question {number}?"})
    assert adapter(box) == "bob"
    shown = box.shown[-1].content
    assert "Question 4?" in shown
    assert "Question 0?" not in shown
    chain.memory.clear()
    assert box.service.list() == ()
    chain.invoke({"input": "Who are you?"})
    assert adapter(box) is None


def test_a_stock_buffer_memory_takes_the_history_as_it_is(box):
    history = TempLoraChatMessageHistory(box.service, "bob", **EAGER)
    memory = ConversationBufferMemory(chat_memory=history, return_messages=True)
    chain = ConversationChain(llm=box.model.with_memory("bob", "head"), memory=memory)
    for number in range(4):
        chain.invoke({"input": f"Question {number}?"})
    assert len(memory.load_memory_variables({})["history"]) == 2
    assert len(history.transcript.messages) == 8


def test_settings_of_both_kinds_reach_the_classic_memory(box):
    memory = ParametricConversationMemory.of(
        box.service, "bob", memory_key="past", human_prefix="Bob", keep=("messages", 3)
    )
    memory.save_context({"input": "Hi"}, {"output": "Hello"})
    assert memory.load_memory_variables({}) == {"past": "Bob: Hi\nAI: Hello"}
    assert memory.memory_variables == ["past"]


def test_a_classic_chain_does_not_pass_its_configuration_on(box):
    box.service["ada"].absorb("Ada keeps bees.")
    chain = LLMChain(llm=box.model, prompt=PromptTemplate.from_template("{x}"))
    chain.invoke({"x": "Who?"}, {"configurable": {"memory_id": "ada"}})
    assert adapter(box) is None
    own = LLMChain(llm=box.model.with_memory("ada"), prompt=PromptTemplate.from_template("{x}"))
    own.invoke({"x": "Who?"})
    assert adapter(box) == "ada"


class Marble(BaseRetriever):
    def _get_relevant_documents(self, query, *, run_manager):
        return [Document("the planted marble")]


def test_questions_that_a_chain_asks_by_itself_teach_nothing(make_box):
    box = make_box(window=400)
    memory = ParametricConversationMemory.of(
        box.service, "bob", memory_key="chat_history", return_messages=True, output_key="answer",
        **EAGER,
    )  # fmt: skip
    chain = ConversationalRetrievalChain.from_llm(
        box.model.with_memory("bob", "head"), Marble(), memory=memory, return_source_documents=True
    )
    for number in range(4):
        found = chain.invoke({"question": f"Question {number}?"})
    assert found["source_documents"]
    asked = [text for text in box.learned if text.startswith("Question")]
    assert asked == ["Question 0?", "Question 1?", "Question 2?"]
    assert all("rephrase" not in text and "standalone" not in text for text in asked)


def test_retrieved_text_in_a_human_turn_is_not_learned_where_the_clean_turn_comes_back(box):
    model, clean = box.model.with_memory("ada"), []
    for number in range(12):
        question = f"Question {number} about the house?"
        templated = HumanMessage(f"Context: the planted marble. {question}")
        answer = model.invoke([*clean, templated])
        box.service.wait()
        clean += [HumanMessage(question), AIMessage(answer.text)]
    asked = [text for text in box.learned if text.endswith("house?")]
    assert len(asked) > 3
    assert not any("marble" in text for text in asked)


def keyed_chain(box, memory_id_of):
    """A chain whose histories go by a user and a conversation."""
    histories = {}

    def history(user_id, conversation_id):
        memory_id = memory_id_of(user_id, conversation_id)
        return histories.setdefault(
            memory_id, TempLoraChatMessageHistory(box.service, memory_id, **EAGER)
        )

    specs = [
        ConfigurableFieldSpec(id=key, annotation=str, default="", is_shared=True)
        for key in ("user_id", "conversation_id")
    ]
    chain = RunnableWithMessageHistory(
        PROMPT | box.model,
        history,
        input_messages_key="question",
        history_messages_key="history",
        history_factory_config=specs,
    )
    return chain, histories


def test_a_history_that_goes_by_other_keys_says_which_memory_answers(box):
    chain, histories = keyed_chain(box, lambda user, conversation: f"{user}:{conversation}")
    keys = {"configurable": {"user_id": "bob", "conversation_id": "1"}}
    for number in range(8):
        answer = chain.invoke({"question": f"Question {number}?", "context": "none"}, keys)
    assert answer.response_metadata["memory_id"] == "bob:1"
    assert answer.response_metadata["memory_revision"]
    assert box.service.list() == ("bob:1",)
    histories["bob:1"].clear()
    assert box.service.list() == ()


def test_a_history_with_another_id_than_the_session_leaves_one_memory_and_no_rest(box):
    history = TempLoraChatMessageHistory(box.service, "chat:x", **EAGER)
    chain = RunnableWithMessageHistory(
        PROMPT | box.model,
        lambda session_id: history,
        input_messages_key="question",
        history_messages_key="history",
    )
    for number in range(8):
        ask(chain, number, "x")
    assert box.service.list() == ("chat:x",)
    history.clear()
    assert box.service.list() == ()


def test_another_memory_than_the_historys_is_refused(box):
    history = TempLoraChatMessageHistory(box.service, "bob", **EAGER)
    configured = {"configurable": {"message_history": history}}
    with pytest.raises(ValueError, match="memory 'bob', and the memory_id of the model is 'ada'"):
        box.model.with_memory("ada").invoke("Hello", configured)


# --- a stream that its reader leaves -------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_left_early_says_that_the_turn_is_not_stored(
    box, make_chain, caplog, asynchronous
):
    chain, histories = make_chain(box)
    asked = {"question": "Question 0 of bob?", "context": "nothing"}

    async def leave():
        stream = chain.astream(asked, config())
        async for _ in stream:
            break
        await stream.aclose()
        gc.collect()
        await asyncio.sleep(0.1)  # what is inside is closed by the loop, a little later

    if asynchronous:
        asyncio.run(leave())
    else:
        stream = chain.stream(asked, config())
        next(stream)
        stream.close()
    gc.collect()
    assert histories["bob"].messages == []
    assert "the reader left the answer of TempLoraChatMessageHistory('bob')" in caplog.text
    caplog.clear()
    assert [*chain.stream(asked, config())]
    assert len(histories["bob"].messages) == 2
    assert caplog.text == ""
