"""`ParametricMemoryBlock` in a stock ``Memory``, beside other blocks."""

import pickle

import pytest
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.memory import BaseMemoryBlock, Memory, StaticMemoryBlock
from llama_index.core.storage.chat_store.base_db import MessageStatus
from templora_memory.errors import InvalidText, LearningFailed
from templora_memory.testing import POISON

from llama_index.memory.templora import ParametricMemoryBlock, TempLoraLLM


def texts(rows):
    return [row.content for row in rows]


@pytest.fixture
def block(service):
    return ParametricMemoryBlock(service)


@pytest.fixture
def memory(service, block):
    return Memory.from_defaults(
        session_id="ada",
        token_limit=70,
        token_flush_size=20,
        memory_blocks=[block],
        tokenizer_fn=TempLoraLLM(service).tokenizer_fn,
    )


def put(memory, rows):
    for row in rows:
        memory.put(row)


def test_it_is_a_block(block):
    assert BaseMemoryBlock.__name__ in [base.__name__ for base in ParametricMemoryBlock.__mro__]
    assert (block.name, block.priority, block.last_error) == ("ParametricMemory", 0, None)


def test_what_a_memory_evicts_is_learned(memory, block, box, talk, user):
    whole = talk(20)
    put(memory, whole)
    block.wait()
    gone = texts(memory.get_all(MessageStatus.ARCHIVED))
    assert box.learned == gone == texts(whole)[: len(gone)]
    assert texts(memory.get()) == texts(whole)[len(gone) :]
    said = TempLoraLLM(box.service, "ada").chat([user("bees at house 3?")]).message.content
    assert "house 3" in said


def test_sessions_learn_apart(block, box, talk, run):
    async def go():
        await block.aput(talk(2), session_id="ada")
        await block.aput(talk(2, about="owls"), session_id="eve")
        with pytest.raises(ValueError, match="needs a session_id"):
            await block.aput(talk(1))

    run(go())
    block.wait()
    assert [m.content for m in box.service["eve"].transcript().messages] == texts(
        talk(2, about="owls")
    )
    assert box.service["ada"].status().absorbed_messages == 4


def test_pending_turns_come_back_as_copies(service, talk, run):
    block = ParametricMemoryBlock(service, absorb_mode="manual")
    whole = talk(3)
    run(block.aput(whole, session_id="ada"))
    shown = run(block.aget([], session_id="ada"))
    assert texts(shown) == texts(whole)
    shown[0].blocks[0].text = "changed"
    assert texts(run(block.aget([], session_id="ada"))) == texts(whole)
    assert all(row.additional_kwargs == {} for row in [*whole, *shown])
    assert run(block.aget([])) == []
    block.absorb_now("ada")
    assert run(block.aget([], session_id="ada")) == []


def test_a_failure_does_not_raise_and_the_text_stays(service, block, user, run):
    run(block.aput([user(f"{POISON} one")], session_id="ada"))
    block.wait()
    assert isinstance(block.last_error, LearningFailed)
    assert "LearningFailed" in block.status("ada").last_error
    assert texts(run(block.aget(session_id="ada"))) == [f"{POISON} one"]
    with pytest.raises(LearningFailed):
        block.absorb_now("ada")
    assert service["ada"].transcript().messages[0].content == f"{POISON} one"


def test_an_id_that_cannot_be_one_is_noted_and_loses_nothing(block, talk, run):
    run(block.aput(talk(1), session_id="../ada"))
    assert "looks like a path" in str(block.last_error)


def test_too_many_pending_turns_lose_the_oldest(service, talk, run):
    block = ParametricMemoryBlock(service, absorb_mode="manual", priority=1)
    rows = talk(4)
    kept = run(block.atruncate(rows, 20))
    assert texts(kept) == texts(rows[4:])
    assert run(block.atruncate(rows, 1000)) is None


class RecordingBlock(BaseMemoryBlock[str]):
    """A block that writes into what it is given, as others do."""

    name: str = "recorder"
    seen: list

    async def _aget(self, messages=None, **_):  # noqa: ARG002
        return f"{len(self.seen)} seen"

    async def _aput(self, messages):
        for message in messages:
            self.seen.append(message.content)
            message.additional_kwargs["mark"] = "x"
            message.blocks[0].text = "changed"


def test_it_composes_with_other_blocks(service, box, talk):
    other = RecordingBlock(seen=[], priority=1)
    block = ParametricMemoryBlock(service)
    memory = Memory.from_defaults(
        session_id="ada",
        token_limit=200,
        token_flush_size=40,
        memory_blocks=[block, StaticMemoryBlock(static_content="Be brief."), other],
        tokenizer_fn=TempLoraLLM(service).tokenizer_fn,
    )
    put(memory, talk(20))
    block.wait()
    gone = texts(memory.get_all(MessageStatus.ARCHIVED))
    assert box.learned == gone != []
    assert other.seen == gone
    assert "Be brief." in memory.get()[0].content


def test_forgetting_a_session(service, block, talk, run):
    run(block.aput(talk(2), session_id="ada"))
    block.wait()
    run(block.aforget("ada"))
    run(block.aforget("ada"))
    assert service.list() == ()


def test_sync_tells_the_whole_transcript(block, box, talk):
    whole = talk(6)
    block.sync("ada", whole[:4], whole[4:])
    block.sync("ada", whole[:4], whole[4:])
    block.sync("ada", whole[:8], whole[8:])
    block.wait()
    assert box.learned == texts(whole[:8])


def test_events_tell_when_learning_begins_and_ends(block, talk, user, run):
    class Seen(BaseEventHandler):
        events: list

        @classmethod
        def class_name(cls):
            return "Seen"

        def handle(self, event, **_):
            if event.class_name().startswith("Parametric"):
                self.events.append(event)

    handler = Seen(events=[])
    get_dispatcher().add_event_handler(handler)
    run(block.aput(talk(2), session_id="ada"))
    block.wait()
    run(block.aput([user(POISON)], session_id="ada"))
    block.wait()
    get_dispatcher().event_handlers.remove(handler)
    begun, ended, again, failed = handler.events
    assert (begun.class_name(), begun.n_messages) == ("ParametricAbsorbStartEvent", 4)
    assert (ended.session_id, ended.error, ended.seconds >= 0) == ("ada", None, True)
    assert (again.n_messages, "LearningFailed" in failed.error) == (1, True)


def test_bad_settings_are_refused(service):
    with pytest.raises(TypeError, match="give the ParametricMemory service"):
        ParametricMemoryBlock("memories")
    with pytest.raises(ValueError, match="absorb_mode"):
        ParametricMemoryBlock(service, absorb_mode="sometimes")
    with pytest.raises(ValueError, match="never learned"):
        ParametricMemoryBlock(service, absorb_roles=("system",))
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(ParametricMemoryBlock(service))
    assert issubclass(InvalidText, ValueError)
