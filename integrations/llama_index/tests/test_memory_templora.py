"""`TempLoraMemory`: what leaves the window is learned once, and stays in the prompt until then."""

import asyncio
import copy
import pickle
import threading
import time
import warnings

import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.memory import Memory, StaticMemoryBlock
from llama_index.core.memory.types import BaseMemory
from llama_index.core.schema import Document, TextNode
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from templora_memory.errors import InvalidId, InvalidText, LearningFailed, UnknownMemory
from templora_memory.testing import POISON

from llama_index.memory.templora import TempLoraLLM, TempLoraMemory
from llama_index.memory.templora._messages import prompt_messages
from llama_index.memory.templora._tokens import Budget

ARCHIVED = MessageStatus.ARCHIVED


@pytest.fixture
def make(service):
    def build(session_id="ada", **settings):
        settings = {"rag_token_reserve": 0} | settings
        return TempLoraMemory.from_defaults(service, session_id, **settings)

    return build


@pytest.fixture
def memory(make):
    return make()


def put(memory, rows):
    for row in rows:
        memory.put(row)


def texts(rows):
    return [row.content for row in rows]


def prompt(memory):
    """Every text that the model can know of now: in the prompt, or learned."""
    return texts(memory.get())


def test_it_is_a_memory(memory):
    bases = [base.__name__ for base in TempLoraMemory.__mro__]
    assert BaseMemory.__name__ in bases
    assert Memory.__name__ in bases
    assert memory.class_name() == "TempLoraMemory"


def test_a_session_is_made_up_where_none_is_named(service):
    one, two = TempLoraMemory.from_defaults(service), TempLoraMemory.from_defaults(service)
    assert one.session_id != two.session_id
    assert one.llm.session_id == one.session_id


# --- learning what leaves ------------------------------------------------------------------------


def test_what_left_the_window_is_learned_once_and_in_order(memory, box, talk):
    whole = talk(30)
    put(memory, whole)
    memory.wait_absorbed()
    gone = texts(memory.get_all(ARCHIVED))
    assert box.learned == gone == texts(whole)[: len(gone)]
    assert len(gone) > 50
    assert prompt(memory) == texts(whole)[len(gone) :]
    status = memory.status()
    assert (status.learned, status.pending, status.last_error) == (len(gone), 0, None)


def test_the_model_answers_with_what_was_learned(memory, box, talk, user):
    put(memory, talk(30))
    memory.wait_absorbed()
    assert (
        "Answer 3 is bees" in memory.llm.chat([user("Answer 3 is what number 3?")]).message.content
    )
    (request,) = box.backend.requests
    assert request.adapter is not None


def test_nothing_is_missing_from_the_prompt_until_it_is_learned(make_box, talk):
    go = threading.Event()
    box = make_box(on_learn=go.wait)
    memory = TempLoraMemory.from_defaults(
        box.open(window=400), "ada", token_limit=160, token_flush_size=30
    )
    whole = talk(9)
    for number, row in enumerate(whole, start=1):
        memory.put(row)
        assert prompt(memory) == texts(whole[:number])
    assert memory.status().pending > 0
    go.set()
    memory.wait_absorbed()
    assert memory.status().pending == 0
    assert prompt(memory) == texts(whole)[memory.status().learned :]


def test_where_turns_that_wait_do_not_fit_the_prompt_waits_for_them(make_box, talk):
    box = make_box(on_learn=lambda: time.sleep(0.02))
    memory = TempLoraMemory.from_defaults(box.open(), "ada", rag_token_reserve=0)
    for row in talk(25):
        memory.put(row)
        shown = [{"role": m.role.value, "content": m.content} for m in memory.get()]
        assert sum(2 + len(m["content"].split()) for m in shown) <= memory.token_limit
    assert memory.status().last_error is None


def test_concurrent_puts_are_learned_once_and_in_order(memory, box, talk, run):
    whole = talk(24)

    async def together():
        for begin in range(0, len(whole), 6):
            await asyncio.gather(*(memory.aput(row) for row in whole[begin : begin + 6]))

    run(together())
    memory.wait_absorbed()
    gone = texts(memory.get_all(ARCHIVED))
    assert box.learned == gone
    assert sorted(texts(memory.get_all())) == sorted(texts(whole))
    assert whole[-2].content not in gone or whole[-1].content not in gone


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), LearningFailed("NaN")])
def test_a_failing_learner_ends_no_chat_and_loses_nothing(make_box, talk, error):
    broken = threading.Event()
    broken.set()

    def fail():
        if broken.is_set():
            raise error

    box = make_box(on_learn=fail)
    memory = TempLoraMemory.from_defaults(box.open(window=400), "ada", token_limit=120)
    whole = talk(7)
    put(memory, whole)
    assert prompt(memory) == texts(whole)
    with pytest.raises(type(error)):
        memory.wait_absorbed()
    assert str(error) in memory.status().last_error
    broken.clear()
    put(memory, talk(6, start=7))
    memory.wait_absorbed()
    gone = texts(memory.get_all(ARCHIVED))
    assert box.learned == gone != []
    assert memory.status().last_error is None


def test_turns_that_can_never_be_learned_leave_the_prompt_at_last(memory, talk, user, caplog):
    put(memory, [user(f"{POISON} one"), *talk(12)])
    rows = prompt(memory)
    assert f"{POISON} one" not in rows
    assert "do not fit the prompt" in caplog.text
    assert f"{POISON} one" in texts(memory.get_all())
    assert "LearningFailed" in memory.status().last_error


def test_a_transcript_sent_again_each_turn_is_learned_once(memory, box, talk):
    whole = talk(12)
    for end in range(2, len(whole) + 1, 2):
        memory.set(whole[: end - 2])
        put(memory, whole[end - 2 : end])
        memory.get()
    memory.wait_absorbed()
    assert len(box.learned) == len(set(box.learned)) > 12
    assert box.learned == texts(whole)[: len(box.learned)]
    assert prompt(memory)[-1] == whole[-1].content


def test_an_edited_transcript_falls_back_and_nothing_stale_answers(memory, box, talk, user):
    whole = talk(12)
    put(memory, whole)
    memory.wait_absorbed()
    before = memory.status()
    memory.set([*whole[:2], user("What about owls?")])
    status = memory.status()
    assert status.revision is None
    assert "bees at house 9" not in memory.llm.chat([user("bees at house 9?")]).message.content
    assert prompt(memory) == [*texts(whole[:2]), "What about owls?"]
    edited = [*whole[: before.learned - 2], *talk(6, about="cats")]
    memory.set(edited)
    memory.wait_absorbed()
    gone = texts(memory.get_all(ARCHIVED))
    assert memory.status().learned == len(gone)
    assert box.learned[-2:] == gone[-2:]
    assert prompt(memory) == texts(edited)[len(gone) :]


def test_a_shortened_transcript_is_learned_up_to_its_end(memory, talk):
    whole = talk(40)
    put(memory, whole)
    memory.wait_absorbed()
    memory.set(whole[:14])  # no revision that old is left
    memory.wait_absorbed()
    gone = texts(memory.get_all(ARCHIVED))
    assert memory.status().learned == len(gone) > 0
    assert prompt(memory) == texts(whole[:14])[len(gone) :]


def test_repeated_turns_are_all_learned(memory, box):
    turn = [ChatMessage(role="user", content="ok"), ChatMessage(role="assistant", content="ok")]
    put(memory, turn * 20)
    memory.wait_absorbed()
    gone = memory.get_all(ARCHIVED)
    assert box.learned == ["ok"] * len(gone)
    assert len(gone) >= 8


def test_a_system_message_in_the_transcript_stays_and_is_never_learned(memory, box, talk):
    put(memory, [ChatMessage(role="system", content="Speak like a sailor."), *talk(12)])
    memory.wait_absorbed()
    assert prompt(memory)[0] == "Speak like a sailor."
    assert box.learned
    assert "sailor" not in " ".join(box.learned)
    assert box.on_disk("sailor") == []


def test_tool_rows_and_traces_are_never_learned(memory, box, talk):
    trace = (
        "Thought: I need a tool.\nAction: look\nAction Input: {}\nObservation: secret marble\n"
        "Thought: I can answer now.\nAnswer: It is warm."
    )
    passed_on = ChatMessage(
        role="assistant", content="secret stone", additional_kwargs={"tool_call_id": "1"}
    )
    put(memory, [
        ChatMessage(role="user", content="How warm is it?"),
        ChatMessage(role="tool", content="secret tool words"),
        ChatMessage(role="assistant", content=trace),
        ChatMessage(role="user", content="And the stone?"),
        passed_on,
        ChatMessage(role="assistant", content="Thought: secret x\nAnswer: secret x"),
        ChatMessage(role="assistant", content='Yes. <tool_call>{"secret": 1}</tool_call>'),
        *talk(12),
    ])  # fmt: skip
    memory.wait_absorbed()
    assert box.learned[:4] == ["How warm is it?", "It is warm.", "And the stone?", "Yes. "]
    assert box.on_disk("secret") == []


def test_only_the_roles_asked_for_are_learned(make, box, talk):
    memory = make(absorb_roles=("user",))
    put(memory, talk(14))
    memory.wait_absorbed()
    assert box.learned
    assert all(text.startswith("Question") for text in box.learned)
    with pytest.raises(ValueError, match=r"absorb_roles is \('tool',\): use one or both"):
        make("eve", absorb_roles=("tool",))


def test_the_text_to_learn_can_be_chosen(make, box, talk):
    memory = make(message_to_text=lambda row: row.content.upper() if "3" in row.content else None)
    put(memory, talk(14))
    memory.wait_absorbed()
    assert box.learned[0] == "QUESTION 3 ABOUT BEES AT HOUSE 3?"


def test_of_pictures_only_the_text_is_learned(memory, box, talk):
    picture = ChatMessage(
        role="user", blocks=[TextBlock(text="Look at my dog Rex."), ImageBlock(image=b"x")]
    )
    put(memory, [picture, *talk(12)])
    memory.wait_absorbed()
    assert box.learned[0] == "Look at my dog Rex."


def test_braces_are_learned_as_they_were_typed(memory, box, talk, user):
    put(memory, [user("Use {context_str} and {query_str}!"), *talk(12)])
    memory.wait_absorbed()
    assert box.learned[0] == "Use {context_str} and {query_str}!"


def test_stored_rows_stay_as_they_were_given(memory, talk):
    whole = talk(12)
    put(memory, whole)
    memory.wait_absorbed()
    assert all(row.additional_kwargs == {} for row in [*memory.get_all(), *memory.get(), *whole])


def test_getting_twice_gives_the_same_and_changes_nothing(memory, talk):
    put(memory, talk(6))
    memory.wait_absorbed()
    first = memory.get()
    for row in first:
        row.blocks[0].text = "changed"
    assert "changed" not in texts(memory.get())
    assert texts(memory.get()) == texts(memory.get())


def test_blocking_learns_before_a_put_returns(make, talk):
    memory = make(absorb="blocking")
    put(memory, talk(12))
    status = memory.status()
    assert (status.pending, status.learning) == (0, False)
    assert status.learned > 0


def test_manual_learns_only_when_asked(make, box, talk, user):
    memory = make(absorb="manual", token_limit=70)
    whole = talk(3)
    put(memory, whole)
    assert box.learned == []
    put(memory, [user("And now?")])
    assert prompt(memory)[-1] == "And now?"
    memory.absorb_now()
    assert box.learned == texts(whole)
    assert prompt(memory) == ["And now?"]
    memory.absorb_now()
    assert box.learned == texts(whole)


def test_other_blocks_get_what_leaves_too(make, talk):
    static = StaticMemoryBlock(name="facts", static_content="Be brief.", priority=0)
    memory = make(memory_blocks=[static])
    put(memory, talk(12))
    memory.wait_absorbed()
    shown = memory.get()
    assert shown[0].role == "system"
    assert "Be brief." in shown[0].content
    assert memory.status().pending == 0


# --- forgetting ----------------------------------------------------------------------------------


def test_reset_forgets_transcript_and_weights(memory, box, talk, user):
    put(memory, talk(20))
    memory.wait_absorbed()
    asked = [user("Question 3 about bees at house 3?")]
    base = memory.llm.for_session(None).chat(asked).message.content
    assert memory.llm.chat(asked).message.content != base
    memory.reset()
    assert box.service.list() == ()
    assert box.on_disk("bees") == []
    assert memory.get_all() == []
    assert memory.llm.chat(asked).message.content == base
    put(memory, talk(12, about="owls"))
    memory.wait_absorbed()
    assert "owls" in memory.llm.chat([user("What about owls?")]).message.content
    assert memory.status().last_error is None


def test_reset_while_learning_forgets_all_the_same(make_box, talk):
    go = threading.Event()
    box = make_box(on_learn=lambda: go.wait(5))
    memory = TempLoraMemory.from_defaults(box.open(window=400), "ada", token_limit=120)
    put(memory, talk(8))
    threading.Timer(0.1, go.set).start()
    memory.reset()
    assert box.service.list() == ()
    assert memory.status().last_error is None


def test_resetting_the_window_keeps_what_was_learned(memory, talk, user, run):
    put(memory, talk(20))
    memory.wait_absorbed()
    learned = memory.status().learned
    run(memory.areset(MessageStatus.ACTIVE))
    assert memory.get() == []
    assert memory.status().learned == learned
    assert "house 3" in memory.llm.chat([user("bees at house 3?")]).message.content


def test_what_was_learned_may_outlive_a_reset(make, box, talk, user):
    memory = make(forget_on_reset=False)
    put(memory, talk(12))
    memory.wait_absorbed()
    known = len(box.learned)
    memory.reset()
    assert memory.get_all() == []
    assert "house 3" in memory.llm.chat([user("bees at house 3?")]).message.content
    put(memory, talk(12, about="owls"))
    memory.wait_absorbed()
    assert "owls" in box.learned[known]
    said = memory.llm.chat([user("bees at house 3?")]).message.content
    assert "bees at house 3" in said


def test_what_one_session_learned_no_other_knows(make, talk, user):
    ada, eve = make("ada"), make("eve")
    put(ada, talk(14))
    ada.wait_absorbed()
    asked = [user("bees at house 3?")]
    base = ada.llm.for_session(None).chat(asked).message.content
    assert eve.llm.chat(asked).message.content == base != ada.llm.chat(asked).message.content


# --- documents and characters --------------------------------------------------------------------


def test_documents_nodes_and_texts_are_learned_by_name(make, box, user):
    memory = make("character:elara")
    docs = [Document(text="Elara keeps owls."), TextNode(text="Elara fears fog."), "She sings."]
    job = memory.absorb_documents(docs)
    memory.wait_absorbed()
    assert job.wait().tokens == 8
    assert box.learned == ["Elara keeps owls.", "Elara fears fog.", "She sings."]
    assert (
        "Elara fears fog." in memory.llm.chat([user("What does Elara fear, fog?")]).message.content
    )


def test_documents_without_text_are_refused(memory):
    with pytest.raises(ValueError, match="list of documents is empty"):
        memory.absorb_documents([])
    with pytest.raises(InvalidText, match="document is empty"):
        memory.absorb_documents([Document(text=" ")])
    with pytest.raises(TypeError, match="A int is no document"):
        memory.absorb_documents([5])


def test_a_conversation_starts_from_a_character_and_leaves_it_alone(make, box, talk, user):
    make("character:elara").absorb_documents(["Elara keeps owls."]).wait()
    chat = make("ada", base="character:elara")
    asked = [user("Who keeps owls, Elara?")]
    assert "Elara keeps owls." in chat.llm.chat(asked).message.content
    put(chat, talk(12))
    chat.wait_absorbed()
    assert "Elara keeps owls." in chat.llm.chat(asked).message.content
    chat.reset()
    assert "Elara keeps owls." in chat.llm.chat(asked).message.content
    assert box.service["character:elara"].head() is not None
    with pytest.raises(UnknownMemory, match="There is no memory 'nobody'"):
        make("eve", base="nobody")


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1024, 4096, 32768])
def test_limits_leave_room_for_an_answer_and_for_retrieved_text(make_box, window):
    service = make_box(context=window).open(window=window, reply_tokens=window // 8, chunk=None)
    memory = TempLoraMemory.from_defaults(service)
    room = window - window // 8 - memory.token_limit
    assert room >= window // 4
    assert room >= 704  # LlamaIndex itself keeps 500 free
    assert memory.token_limit > window // 8
    history = memory.token_limit * memory.chat_history_token_ratio
    assert history + memory.token_flush_size <= memory.token_limit


@pytest.mark.parametrize("limit", [500, 8000])
def test_turns_leave_in_chunks_of_a_fixed_share(make_box, talk, limit, run):
    service = make_box(context=16384).open(window=16384, reply_tokens=64, chunk=None)
    memory = TempLoraMemory.from_defaults(service, token_limit=limit, absorb="manual")
    assert memory.token_flush_size == int(limit * 0.3)
    words = "word " * (limit // 50)

    async def leave():  # in one loop: that is most of the time
        sizes, before = [], 0
        for row in talk(40):
            row.blocks[0].text += words
            await memory.aput(row)
            now = len(await memory.aget_all(ARCHIVED))
            if now != before:
                sizes.append(now - before)
                before = now
        return sizes

    sizes = run(leave())
    assert len(sizes) >= 2
    assert max(sizes) - min(sizes) <= 4
    assert sizes[0] < 20


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rag_token_reserve": 70}, "No room is left for the conversation: a window of 96"),
        ({"token_limit": 90}, "token_limit is 90: it must be between 1 and 72"),
        ({"token_limit": 0}, "token_limit is 0"),
        ({"chat_history_token_ratio": 1.0}, "chat_history_token_ratio is 1.0"),
        ({"tokenlimit": 5}, r"Unknown settings \['tokenlimit'\]"),
    ],
)
def test_limits_without_room_are_refused(make, settings, says):
    with pytest.raises(ValueError, match=says):
        make(**settings)


def test_the_template_counts_too(memory, user):
    assert memory._estimate_token_count(user("one two three")) == 3 + 2
    assert memory._estimate_token_count("one two three") == 3
    assert memory._estimate_token_count([user("a"), user("b")]) == 6


def test_a_service_is_needed(service):
    with pytest.raises(ValueError, match="pass it the memory"):
        TempLoraMemory.from_defaults(chat_history=[], token_limit=100)
    llm = TempLoraLLM(service, "ada", generate_kwargs={"seed": 3})
    memory = TempLoraMemory.from_defaults(llm=llm)
    assert (memory.session_id, memory.llm.generate_kwargs) == ("ada", {"seed": 3})


def test_another_session_in_the_model_warns(service):
    with pytest.warns(UserWarning, match="is of session 'eve' and the memory of 'ada'"):
        TempLoraMemory.from_defaults(service, "ada", llm=TempLoraLLM(service, "eve"))


@pytest.mark.parametrize("name", ["../ada", "a@b@c", " ada", "a\x00b"])
def test_a_session_that_cannot_be_an_id_is_refused(make, name):
    with pytest.raises(InvalidId):
        make(name)


# --- copies and stores ---------------------------------------------------------------------------


def test_copying_and_pickling_keep_one_memory(memory, talk):
    put(memory, talk(4))
    for twin in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):  # noqa: S301
        assert twin is memory
    assert len(memory.get_all()) == 8
    assert memory.tokenizer_fn("a b") and memory.memory_blocks  # noqa: PT018


def test_a_handle_finds_the_living_memory(make):
    memory = make("a session of this test alone")
    handle = memory.to_dict()
    assert handle["class_name"] == "TempLoraMemory"
    assert TempLoraMemory.from_dict(handle) is memory
    assert TempLoraMemory.from_dict(handle | {"handle": "gone"}) is memory
    with pytest.raises(LookupError, match="There are 0 services with a memory of session 'no'"):
        TempLoraMemory.from_dict({"session_id": "no", "handle": "gone"})
    with pytest.raises(LookupError, match="Not a stored TempLoraMemory"):
        TempLoraMemory.from_dict({"session_id": 5})


class _ListStore(AsyncDBChatStore):
    """The least that LlamaIndex asks of a transcript store; hands out its own objects."""

    rows: dict[str, list] = {}  # noqa: RUF012  # a pydantic field, copied for each object

    async def get_messages(self, key, status=MessageStatus.ACTIVE, limit=None, offset=None):
        found = [m for s, m in self.rows.get(key, []) if status in {None, s}]
        return found[offset or 0 :][:limit]

    async def count_messages(self, key, status=MessageStatus.ACTIVE):
        return len(await self.get_messages(key, status))

    async def add_message(self, key, message, status=MessageStatus.ACTIVE):
        await self.add_messages(key, [message], status)

    async def add_messages(self, key, messages, status=MessageStatus.ACTIVE):
        self.rows.setdefault(key, []).extend((status, m) for m in messages)

    async def set_messages(self, key, messages, status=MessageStatus.ACTIVE):
        self.rows[key] = [(status, m) for m in messages]

    async def delete_message(self, key, idx):
        return self.rows[key].pop(idx)[1]

    async def delete_messages(self, key, status=None):
        self.rows[key] = [(s, m) for s, m in self.rows.get(key, []) if status not in {None, s}]

    async def delete_oldest_messages(self, key, n):
        raise NotImplementedError

    async def archive_oldest_messages(self, key, n):
        gone = []
        for place, (status, row) in enumerate(self.rows[key]):
            if status is MessageStatus.ACTIVE and len(gone) < n:
                self.rows[key][place] = (ARCHIVED, row)
                gone.append(row)
        return gone

    async def get_keys(self):
        return list(self.rows)


def test_any_transcript_store_will_do(make, box, talk):
    memory = make(chat_store=_ListStore())
    put(memory, talk(14))
    memory.wait_absorbed()
    assert box.learned == texts(memory.get_all(ARCHIVED))
    for row in memory.get():
        row.blocks[0].text = "changed"
    assert "changed" not in texts(memory.get_all())


def test_an_empty_list_of_messages_is_fine(memory):
    memory.put_messages([])
    memory.set([])
    assert memory.get() == []


def test_it_works_across_loops_and_inside_a_running_one(memory, talk, run):
    whole = talk(10)
    run(memory.aput_messages(whole[:6]))
    put(memory, whole[6:12])

    async def inside():
        put(memory, whole[12:])
        return memory.get()

    shown = run(inside())
    memory.wait_absorbed()
    assert shown[-1].content == whole[-1].content
    assert memory.status().learned == len(memory.get_all(ARCHIVED)) > 0


def test_a_blocked_loop_does_not_hang_on_an_eviction(memory, talk, run):
    async def go():
        async with memory._turns.mine():
            memory.put(talk(1)[0])  # blocks this very loop

    begun = time.monotonic()
    run(go())
    assert time.monotonic() - begun < 60
    assert len(memory.get_all()) == 1


# --- going on ------------------------------------------------------------------------------------


def test_a_lasting_transcript_goes_on_where_it_was(service, box, talk, tmp_path):
    def make():
        store = SQLAlchemyChatStore("t", f"sqlite+aiosqlite:///{tmp_path}/chat.db")
        return TempLoraMemory.from_defaults(service, "ada", rag_token_reserve=0, chat_store=store)

    whole = talk(24)
    put(make(), whole[:20])
    put(make(), whole[20:32])
    memory = make()
    put(memory, whole[32:])
    memory.wait_absorbed()
    gone = texts(memory.get_all(ARCHIVED))
    assert box.learned == gone == texts(whole)[: len(gone)]
    assert prompt(memory) == texts(whole)[len(gone) :]


def test_a_new_transcript_begins_on_top_of_what_is_known(make, box, talk, user):
    put(first := make(), talk(12))
    first.wait_absorbed()
    known = len(box.learned)
    second = make()  # its transcript is new: the default one lives in memory only
    assert "house 3" in second.llm.chat([user("bees at house 3?")]).message.content
    put(second, talk(12, about="owls"))
    second.wait_absorbed()
    assert "owls" in box.learned[known]
    assert "bees at house 3" in second.llm.chat([user("bees at house 3?")]).message.content


def test_the_newest_messages_of_a_known_conversation_are_not_learned_twice(make, box, talk):
    whole = talk(24)
    put(first := make(), whole[:24])
    first.wait_absorbed()
    learned = len(box.learned)
    put(make(chat_history=whole[learned - 6 : 24]), whole[24:])
    box.service.wait()
    assert len(box.learned) == len(set(box.learned)) > learned


def test_two_objects_of_one_session_share_what_is_learned(service, box, talk, tmp_path):
    store = SQLAlchemyChatStore("t", f"sqlite+aiosqlite:///{tmp_path}/chat.db")
    one, two = (
        TempLoraMemory.from_defaults(service, "ada", rag_token_reserve=0, chat_store=store)
        for _ in range(2)
    )
    for number, row in enumerate(talk(20)):
        (one if number % 4 < 2 else two).put(row)
    one.wait_absorbed()
    two.wait_absorbed()
    assert len(box.learned) == len(set(box.learned)) > 20
    assert texts(one.get()) == texts(two.get())


def test_budgets_of_small_windows_are_explained():
    with pytest.raises(ValueError, match="Lower one of these, or take a larger window"):
        Budget.of(window=32, reply=24, ratio=0.7)
    assert Budget.of(window=1000, reply=100, ratio=0.9).flush == int(
        0.1 * Budget.of(window=1000, reply=100, ratio=0.9).history
    )


def test_tool_calls_count_as_they_are_sent(make_box, user):
    box = make_box(context=4096)
    service = box.open(window=600, reply_tokens=60)
    memory = TempLoraMemory.from_defaults(service, "ada", rag_token_reserve=0)
    arguments = {"payload": "word " * 150}
    for number in range(4):
        call = ToolCallBlock(tool_call_id="1", tool_name="look", tool_kwargs=arguments)
        rows = [
            user(f"question {number}"),
            ChatMessage(role="assistant", blocks=[call]),
            ChatMessage(role="tool", content="r", additional_kwargs={"tool_call_id": "1"}),
            ChatMessage(role="assistant", content=f"answer {number}"),
        ]
        for row in rows:
            memory.put(row)
    memory.put(user("and now?"))
    shown = memory.get()
    sent = box.backend.count(prompt_messages(shown))
    assert sent <= memory._estimate_token_count(shown)
    assert sent <= memory.token_limit
    assert memory.llm.chat(shown).message.content


def test_a_window_too_small_for_retrieving_engines_is_told(caplog):
    settings = {"window": 600, "reply": 50, "ratio": 0.7}
    Budget.of(**settings)
    assert "600 tokens is too small for LlamaIndex's retrieving engines" in caplog.text
    caplog.clear()
    Budget.of(**settings, retrieval=0)
    Budget.of(**settings | {"window": 1024})
    assert caplog.text == ""


def test_a_language_model_of_another_session_says_so_once(box, talk):
    service = box.open(window=400)
    memory = TempLoraMemory.from_defaults(service, "ada")
    memory.put_messages(talk(2))
    stranger, base = TempLoraLLM(service, "eve"), TempLoraLLM(service)
    with pytest.warns(UserWarning, match=r"shows the conversation of session 'ada'.*of 'eve'"):
        stranger.chat(memory.get())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stranger.chat(memory.get())
        base.chat(memory.get())
        memory.llm.chat(memory.get())
        TempLoraLLM(service, "eve").chat(memory.get()[:2])  # that may be chance
        eve = TempLoraMemory.from_defaults(service, "eve")
        eve.set(talk(2))
        TempLoraLLM(service, "eve").chat(memory.get())  # both say the same


def test_little_room_for_the_conversation_is_told(caplog):
    settings = {"window": 1024, "ratio": 0.7}
    assert Budget.of(reply=256, **settings).history == 32
    assert "only 32 of 1024 tokens are left for the conversation" in caplog.text
    caplog.clear()
    assert Budget.of(reply=64, **settings).history > 200
    assert Budget.of(reply=256, history=32, **settings).history == 32  # as it was asked for
    assert caplog.text == ""
