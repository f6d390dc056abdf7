"""`ParametricChatStore`: full transcripts, and a memory of their older part for each key."""

import copy
import json
import pickle
import threading

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.storage.chat_store import BaseChatStore, SimpleChatStore
from templora_memory.errors import InvalidId, LearningFailed

from llama_index.memory.templora import ParametricChatStore, TempLoraLLM


@pytest.fixture
def store(service):
    return ParametricChatStore(service, window_tokens=70)


def texts(rows):
    return [row.content for row in rows]


def add(store, key, rows):
    for row in rows:
        store.add_message(key, row)


def test_it_is_a_chat_store(store):
    assert BaseChatStore.__name__ in [base.__name__ for base in ParametricChatStore.__mro__]
    assert store.class_name() == "ParametricChatStore"


def test_the_transcript_stays_whole_and_its_older_part_is_learned(store, box, talk):
    whole = talk(20)
    add(store, "ada", whole)
    store.wait_absorbed()
    assert texts(store.get_messages("ada")) == texts(whole)
    assert box.learned == texts(whole)[: len(box.learned)]
    assert len(box.learned) > 30
    assert store.status("ada").learned == len(box.learned)


def test_what_a_buffer_no_longer_shows_is_learned_already(box, talk):
    store = ParametricChatStore(box.service, window_tokens=50)
    memory = ChatMemoryBuffer.from_defaults(
        chat_store=store,
        chat_store_key="ada",
        token_limit=50,
        tokenizer_fn=TempLoraLLM(box.service).tokenizer_fn,
    )
    for row in talk(25):
        memory.put(row)
        seen = {*texts(memory.get()), *box.learned}
        assert seen >= set(texts(memory.get_all()))
    engine = SimpleChatEngine.from_defaults(llm=store.llm("ada"), memory=memory)
    assert "bees at house 3" in str(engine.chat("What about bees at house 3?"))
    engine.reset()
    assert (box.service.list(), store.get_keys()) == ((), [])
    assert box.on_disk("bees") == []


def test_the_newest_exchange_is_never_learned(store, box, user):
    store.add_message("ada", user("word " * 100))
    store.add_message("ada", ChatMessage(role="assistant", content="answer " * 100))
    store.wait_absorbed()
    assert box.learned == []


def test_a_plain_model_of_the_same_session_answers_with_it_too(store, service, talk, user):
    add(store, "ada", talk(12))
    store.wait_absorbed()
    asked = [user("What about bees at house 3?")]
    assert "house 3" in TempLoraLLM(service, "ada").chat(asked).message.content


def test_messages_can_be_set_inserted_and_deleted(store, talk, user):
    rows = talk(2)
    store.set_messages("ada", rows)
    store.add_message("ada", user("first"), 0)
    store.add_message("ada", user("second"), idx=1)
    assert texts(store.get_messages("ada")) == ["first", "second", *texts(rows)]
    assert store.delete_message("ada", 1).content == "second"
    assert store.delete_message("ada", -5).content == "first"
    assert store.delete_message("ada", 4) is None
    assert store.delete_message("ada", -5) is None
    assert store.delete_last_message("ada").content == rows[-1].content
    assert store.get_keys() == ["ada"]
    assert texts(store.delete_messages("ada")) == texts(rows[:-1])


def test_what_is_not_there_is_none_or_empty(store):
    assert store.get_messages("eve") == []
    assert store.delete_messages("eve") is None
    assert store.delete_message("eve", 0) is None
    assert store.delete_last_message("eve") is None
    assert store.get_keys() == []


def test_every_method_has_an_async_twin(store, talk, run):
    rows = talk(12)

    async def go():
        await store.aset_messages("ada", rows[:2])
        for row in rows[2:]:
            await store.async_add_message("ada", row)
        assert texts(await store.aget_messages("ada")) == texts(rows)
        assert (await store.adelete_last_message("ada")).content == rows[-1].content
        assert (await store.adelete_message("ada", 0)).content == rows[0].content
        assert await store.aget_keys() == ["ada"]
        return await store.adelete_messages("ada")

    assert texts(run(go())) == texts(rows[1:-1])


def test_callers_get_and_give_copies(store, user):
    row = user("one")
    store.add_message("ada", row)
    row.blocks[0].text = "changed"
    store.get_messages("ada")[0].blocks[0].text = "changed"
    assert texts(store.get_messages("ada")) == ["one"]


def test_a_deleted_message_is_answered_with_no_more(store, box, talk, user):
    whole = talk(12)
    add(store, "ada", whole)
    store.wait_absorbed()
    store.set_messages("ada", [*whole[:2], user("Hello?")])
    asked = [user("bees at house 3?")]
    assert "house 3" not in store.llm("ada").chat(asked).message.content
    add(store, "ada", talk(12, about="owls"))
    store.wait_absorbed()
    assert "Question 11 about bees at house 11?" not in str(
        [c for r in box.backend.learned[-1:] for c in r.before]
    )


def test_a_failing_learner_loses_nothing(make_box, talk):
    broken = threading.Event()
    broken.set()

    def fail():
        if broken.is_set():
            raise LearningFailed("NaN")

    box = make_box(on_learn=fail)
    store = ParametricChatStore(box.open(), window_tokens=70)
    whole = talk(10)
    add(store, "ada", whole)
    with pytest.raises(LearningFailed):
        store.wait_absorbed()
    assert "NaN" in store.status("ada").last_error
    broken.clear()
    add(store, "ada", talk(4, start=10))
    store.wait_absorbed()
    assert box.learned == texts(store.get_messages("ada"))[: len(box.learned)] != []


def test_another_store_may_keep_the_transcripts(service, box, talk):
    inner = SimpleChatStore()
    inner.set_messages("ada", talk(12))
    store = ParametricChatStore(service, inner, window_tokens=70)
    add(store, "ada", talk(2, start=12))
    store.wait_absorbed()
    assert len(inner.get_messages("ada")) == 28
    assert box.learned == texts(inner.get_messages("ada"))[: len(box.learned)] != []


def test_the_window_follows_from_the_model(make_box, talk):
    box = make_box(context=4096)
    store = ParametricChatStore(box.open(window=4096, reply_tokens=128, chunk=None))
    store.set_messages("ada", talk(500))
    store.wait_absorbed()
    left = len(store.get_messages("ada")) - len(box.learned)
    assert 1200 <= left * 8.5 <= 4096 - 128 - 1024  # tokens


# --- files ---------------------------------------------------------------------------------------


def test_transcripts_persist_readably_and_are_learned_once(
    store, service, box, talk, user, tmp_path
):
    path = tmp_path / "deep" / "chat.json"
    add(store, "ada", talk(12))
    store.add_message("ada", user("Grüße, 你好"))
    store.wait_absorbed()
    learned = list(box.learned)
    store.persist(str(path))
    store.persist(str(path))
    assert "Grüße, 你好" in path.read_text(encoding="utf-8")
    again = ParametricChatStore.from_persist_path(str(path), memory=service, window_tokens=70)
    assert texts(again.get_messages("ada")) == texts(store.get_messages("ada"))
    add(again, "ada", talk(12, about="owls"))
    again.wait_absorbed()
    assert box.learned[: len(learned)] == learned
    assert len(box.learned) == len(set(box.learned)) > len(learned)


def test_a_missing_file_is_an_empty_store(service, tmp_path):
    path = str(tmp_path / "none.json")
    assert ParametricChatStore.from_persist_path(path, memory=service).get_keys() == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"store": {}}',
        '{"format": 9, "class_name": "ParametricChatStore", "store": {}}',
        '{"format": 1, "class_name": "SimpleChatStore", "store": {}}',
        '{"format": 1, "class_name": "ParametricChatStore", "store": {"a": [{"role": "boss"}]}}',
        '{"format": 1, "class_name": "ParametricChatStore", "store": []}',
    ],
)
def test_a_damaged_file_is_refused(service, tmp_path, text):
    path = tmp_path / "chat.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"(?s)holds no transcripts .* Restore it from a copy"):
        ParametricChatStore.from_persist_path(str(path), memory=service)


def test_a_buffer_is_restored_with_the_living_store(store, user):
    memory = ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key="ada")
    memory.put(user("Grüße"))
    stored = json.loads(json.dumps(memory.to_dict()))
    again = ChatMemoryBuffer.from_dict(stored)
    assert again.chat_store is store
    assert texts(again.get()) == ["Grüße"]
    assert ChatMemoryBuffer.from_string(memory.to_string()).chat_store is store
    with pytest.raises(LookupError, match="does not live in this process"):
        ParametricChatStore.from_dict({"handle": "gone"})


def test_copying_keeps_one_store_and_pickling_is_refused(store, user):
    assert copy.deepcopy(store) is store
    with pytest.raises(TypeError, match="use persist and from_persist_path"):
        pickle.dumps(store)
    store.add_message("ada", user("still here"))
    assert texts(store.get_messages("ada")) == ["still here"]


def test_bad_settings_and_keys_are_refused(service, store, user):
    with pytest.raises(ValueError, match="window_tokens is 0"):
        ParametricChatStore(service, window_tokens=0)
    with pytest.raises(TypeError, match="give the ParametricMemory service"):
        ParametricChatStore("memories")
    with pytest.raises(InvalidId):
        store.add_message("../ada", user("hi"))
