"""Every chat engine, plain and streamed, sync and async, over ``TempLoraMemory``."""

import asyncio

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.memory import StaticMemoryBlock
from llama_index.core.storage.chat_store.base_db import MessageStatus
from templora_memory.errors import PromptTooLong

from llama_index.memory.templora import (
    PARAMETRIC_CONTEXT_PROMPT,
    PARAMETRIC_REFINE_PROMPT,
    TempLoraLLM,
    TempLoraMemory,
)

SIZE = {"window": 1200, "reply_tokens": 64, "chunk": 48}


@pytest.fixture
def box(make_box):
    made = make_box(context=2048)
    made.open(**SIZE)
    return made


@pytest.fixture
def memory(box, counting):
    counting(TempLoraLLM(box.service).tokenizer_fn)
    return TempLoraMemory.from_defaults(box.service, "ada", token_limit=160)


@pytest.fixture(params=["simple", "context", "condense_plus_context"])
def engine(request, memory, index):
    return build(request.param, memory, index)


def build(kind, memory, index, **settings):
    retriever = index.as_retriever(similarity_top_k=2)
    if kind == "simple":
        return SimpleChatEngine.from_defaults(
            llm=memory.llm, memory=memory, system_prompt="Be brief.", **settings
        )
    if kind == "context":
        return ContextChatEngine.from_defaults(
            retriever=retriever,
            llm=memory.llm,
            memory=memory,
            system_prompt="Be brief.",
            context_template=PARAMETRIC_CONTEXT_PROMPT,
            context_refine_template=PARAMETRIC_REFINE_PROMPT,
            **settings,
        )
    return CondensePlusContextChatEngine.from_defaults(
        retriever=retriever,
        llm=memory.llm,
        memory=memory,
        system_prompt="Be brief.",
        context_prompt=PARAMETRIC_CONTEXT_PROMPT,
        context_refine_prompt=PARAMETRIC_REFINE_PROMPT,
        **settings,
    )


def texts(rows):
    return [row.content for row in rows]


def test_a_long_chat_never_overflows_and_its_past_is_known(engine, memory, box):
    for number in range(25):
        engine.chat(f"What about the marble bees at house {number}?")
    memory.wait_absorbed()
    gone = texts(memory.get_all(MessageStatus.ARCHIVED))
    assert box.learned == gone != []
    assert len(engine.chat_history) == 50
    assert box.service["ada"].status().absorbed_messages == len(gone)


def test_every_way_to_chat_keeps_the_history(engine, run):
    engine.chat("One?")
    streamed = engine.stream_chat("Two?")
    assert "".join(streamed.response_gen).strip() == str(streamed)
    run(_achat(engine))
    assert [row.content for row in engine.chat_history if row.role == "user"] == [
        "One?", "Two?", "Three?", "Four?",
    ]  # fmt: skip
    assert len(engine.chat_history) == 8
    engine.reset()
    assert engine.chat_history == []


async def _achat(engine):
    await engine.achat("Three?")
    streamed = await engine.astream_chat("Four?")
    async for _ in streamed.async_response_gen():
        pass
    await asyncio.sleep(0.05)
    if streamed.awrite_response_to_history_task is not None:
        await streamed.awrite_response_to_history_task


def test_retrieved_text_stays_in_the_prompt_and_is_never_learned(memory, index, box):
    for kind in ("context", "condense_plus_context"):
        chat = build(kind, memory, index)
        for number in range(10):
            chat.chat(f"Who built the lighthouse of Dunmore, part {number}?")
    assert any("Ivo Brand" in m.content for m in box.backend.requests[-1].messages)
    memory.wait_absorbed()
    asked = [text for text in box.learned if text.startswith("Who built")]
    assert asked
    # the fake repeats what it sees; nothing but its own answers may quote a document
    spoken = [row.content for row in memory.get_all() if row.role == "assistant"]
    assert all(text in asked or text in spoken for text in box.learned)


def test_there_is_one_system_message_and_it_comes_first(memory, index, box):
    memory.memory_blocks.append(StaticMemoryBlock(static_content="Ada likes tea."))
    for kind in ("simple", "context", "condense_plus_context"):
        build(kind, memory, index).chat("Who am I?")
    for request in box.backend.requests:
        roles = [message.role for message in request.messages]
        assert roles.count("system") <= 1
        assert "system" not in roles[1:]
    said = box.backend.requests[-1].messages[0].content
    assert "Ada likes tea." in said
    assert "Be brief." in said


def test_the_model_is_asked_as_a_chat_model(memory, index, box):
    build("context", memory, index).chat("Who built the lighthouse?")
    roles = [message.role for message in box.backend.requests[-1].messages]
    assert roles == ["system", "user"]


def test_the_prompts_leave_room_for_what_is_remembered():
    for prompt in (PARAMETRIC_CONTEXT_PROMPT, PARAMETRIC_REFINE_PROMPT):
        assert "don't know" not in prompt
        assert "remember" in prompt
    assert "{context_str}" in PARAMETRIC_CONTEXT_PROMPT
    assert {"{context_msg}", "{existing_answer}"} <= set(PARAMETRIC_REFINE_PROMPT.split())


def test_an_empty_memory_is_kept_and_not_replaced(memory, index):
    assert bool(memory)
    for kind in ("simple", "context", "condense_plus_context"):
        assert build(kind, memory, index)._memory is memory
    chat = index.as_chat_engine(
        chat_mode="best", llm=memory.llm, memory=memory, context_prompt=PARAMETRIC_CONTEXT_PROMPT
    )
    assert chat._memory is memory


def test_an_engine_cannot_make_the_memory_itself(memory):
    with pytest.raises(ValueError, match="pass it the memory"):
        SimpleChatEngine.from_defaults(llm=memory.llm, memory_cls=TempLoraMemory)


def test_a_history_sent_along_each_turn_is_learned_once(memory, index, box):
    chat, history = build("context", memory, index), []
    for number in range(14):
        asked = f"What about house {number} and its bees?"
        said = str(chat.chat(asked, chat_history=history))
        history += [
            ChatMessage(role="user", content=asked),
            ChatMessage(role="assistant", content=said),
        ]
    memory.wait_absorbed()
    assert box.learned == texts(history)[: len(box.learned)] != []


def test_an_error_surfaces_and_the_chat_goes_on(engine, memory):
    engine.chat("One?")
    with pytest.raises(PromptTooLong):
        engine._llm.chat([ChatMessage(role="user", content="word " * 1300)])
    engine.chat("Two?")
    assert [row.content for row in memory.get_all() if row.role == "user"] == ["One?", "Two?"]


def test_query_engines_answer_with_the_memory_too(memory, index, box):
    memory.absorb_documents(["Ada keeps the marble key under the stone."]).wait()
    index.as_query_engine(llm=memory.llm).query("Where is the marble key?")
    assert box.backend.requests[-1].adapter is not None


def test_stock_limits_leave_no_room_and_ours_do(box, index, counting):
    """A window of stock size ends in "Chunk size ... is not positive" within a few turns."""
    counting(TempLoraLLM(box.service).tokenizer_fn)
    memory = TempLoraMemory.from_defaults(box.service, "eve")
    chat = build("context", memory, index)
    for number in range(12):
        chat.chat(f"What about the marble bees at house {number}, " + "please " * 30 + "?")
    assert len(memory.get_all()) == 24


def test_a_small_window_packs_with_another_response_mode(make_box, index, counting):
    llm = TempLoraLLM(make_box(context=600).open(window=600, reply_tokens=50))
    counting(llm.tokenizer_fn)
    with pytest.raises(ValueError, match=r"Chunk size -\d+ is not positive"):
        index.as_query_engine(llm=llm).query("Where is the marble key?")
    engine = index.as_query_engine(llm=llm, response_mode="simple_summarize")
    assert str(engine.query("Where is the marble key?"))
