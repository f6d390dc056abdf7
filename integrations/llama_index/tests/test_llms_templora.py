"""`TempLoraLLM`: what reaches the model, what comes back, and that nothing blocks."""

import asyncio
import copy
import json
import pickle
import threading
import time

import pytest
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel
from templora_memory import WithoutMemory
from templora_memory.errors import InvalidId, InvalidSetting, PromptTooLong, UnknownRevision

from llama_index.memory.templora import TempLoraLLM

BIO = "Ada keeps bees on the roof."


@pytest.fixture
def llm(service):
    return TempLoraLLM(service, "ada")


@pytest.fixture
def asked(user):
    return [user("Who keeps bees?")]


def test_it_is_a_language_model(llm):
    bases = [base.__name__ for base in TempLoraLLM.__mro__]
    assert BaseLLM.__name__ in bases
    assert CustomLLM.__name__ in bases
    assert llm.class_name() == "TempLoraLLM"
    assert llm.to_dict()["session_id"] == "ada"


def test_metadata_come_from_the_service(service):
    told = TempLoraLLM(service).metadata
    assert (told.context_window, told.num_output) == (96, 24)
    assert (told.is_chat_model, told.model_name) == (True, "fake")
    told = TempLoraLLM(service, context_window=50, max_new_tokens=10).metadata
    assert (told.context_window, told.num_output) == (50, 10)
    assert TempLoraLLM(service, context_window=5000).metadata.context_window == 96


def test_every_way_to_ask_gives_the_same_answer(llm, service, asked, run):
    service["ada"].absorb(BIO)
    said = llm.chat(asked).message.content
    assert BIO in said
    assert llm.complete("Who keeps bees?").text == said
    assert [piece.message.content for piece in llm.stream_chat(asked)][-1] == said
    assert "".join(piece.delta for piece in llm.stream_complete("Who keeps bees?")) == said

    async def ways():
        yield (await llm.achat(asked)).message.content
        yield (await llm.acomplete("Who keeps bees?")).text
        yield "".join([piece.delta async for piece in await llm.astream_chat(asked)])
        texts = [piece.text async for piece in await llm.astream_complete("Who keeps bees?")]
        yield texts[-1]

    async def every():
        return [way async for way in ways()]

    assert run(every()) == [said] * 4


def test_the_memory_of_the_session_answers_and_of_no_other(llm, service, asked):
    service["ada"].absorb(BIO)
    base = llm.for_session(None).chat(asked).message.content
    assert BIO in llm.chat(asked).message.content
    assert base == llm.for_session("eve").chat(asked).message.content
    assert (
        base == service.without_memory.reply([{"role": "user", "content": "Who keeps bees?"}]).text
    )
    assert BIO in llm.for_session(None).chat(asked, session_id="ada").message.content
    assert llm.chat(asked, strength=0).message.content == base


def test_concurrent_sessions_answer_as_one_after_the_other(llm, service, user, run):
    names = ["ada", "eve", None]
    for name in names[:2]:
        service[name].absorb(f"{name} keeps bees and owls.")
    asked = [user("Who keeps bees and owls?")]
    models = [llm.for_session(name) for name in names] * 4
    one_by_one = [model.chat(asked).message.content for model in models]

    async def together():
        answers = await asyncio.gather(*(model.achat(asked) for model in models))
        return [answer.message.content for answer in answers]

    assert run(together()) == one_by_one
    assert len(set(one_by_one)) == 3


def test_nothing_of_a_prompt_is_learned_or_journalled(llm, box, user):
    llm.chat([ChatMessage(role="system", content="retrieved marble"), user("Hi marble?")])
    assert box.service.list() == ()
    assert box.on_disk("marble") == []


def test_several_system_messages_become_one(llm, box, user):
    def message(role, text):
        return ChatMessage(role=role, content=text)

    llm.chat([message("system", "One."), user("Hi?"), message("developer", "Two."), user("So?")])
    (request,) = box.backend.requests
    assert [(m.role, m.content) for m in request.messages] == [
        ("system", "One.\n\nTwo."), ("user", "Hi?"), ("user", "So?"),
    ]  # fmt: skip


def test_a_system_prompt_goes_before_completions_and_predictions(service, box):
    llm = TempLoraLLM(service, system_prompt="Be short.")
    llm.complete("Hi?")
    llm.predict(PromptTemplate("Hi?"))
    for request in box.backend.requests:
        assert [m.content for m in request.messages] == ["Be short.", "Hi?"]


def test_prompts_of_ones_own_are_sent_as_a_question(service, box, user):
    llm = TempLoraLLM(
        service,
        messages_to_prompt=lambda messages: " | ".join(m.content for m in messages),
        completion_to_prompt=lambda prompt: f"<{prompt}>",
    )
    llm.chat([user("a"), user("b")])
    llm.complete("c")
    llm.complete("d", formatted=True)
    assert [r.messages[0].content for r in box.backend.requests] == ["a | b", "<c>", "d"]


def test_options_of_a_call_are_honoured(service, box, asked):
    llm = TempLoraLLM(service, generate_kwargs={"temperature": 0.5, "top_k": 7})
    llm.chat(asked, max_new_tokens=3, temperature=0.9, top_p=0.8, seed=4, stop=["x", "y"])
    llm.complete("Hi?", max_tokens=5, do_sample=False, stop="z", repetition_penalty=1.2)
    llm.complete("Hi?")
    first, second, third = box.backend.requests
    assert first.max_tokens == 3
    sampling = first.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.9, 7, 0.8)
    assert (sampling.seed, sampling.stop) == (4, ("x", "y"))
    assert (second.max_tokens, second.sampling.temperature) == (5, 0.0)
    assert (second.sampling.stop, second.sampling.repetition_penalty) == (("z",), 1.2)
    assert (third.max_tokens, third.sampling.temperature) == (24, 0.5)
    assert len(llm.chat(asked, max_new_tokens=2).message.content.split()) == 2


def test_unusable_options_are_refused(service, asked):
    with pytest.raises(ValueError, match=r"Unknown options \['temprature'\]: use \["):
        TempLoraLLM(service, generate_kwargs={"temprature": 1})
    llm = TempLoraLLM(service)
    with pytest.raises(ValueError, match="Unknown options"):
        llm.chat(asked, tempurature=1)
    with pytest.raises(ValueError, match="tool_choice is 'x'"):
        llm.chat(asked, tool_choice="x")
    with pytest.raises(InvalidSetting, match="temperature is -1"):
        llm.chat(asked, temperature=-1)
    with pytest.raises(ValueError, match="give the texts instead"):
        TempLoraLLM(service, stopping_ids=[2])
    with pytest.raises(TypeError, match="give the ParametricMemory service"):
        TempLoraLLM("Qwen/Qwen3-0.6B")
    with pytest.raises(InvalidId, match="looks like a path"):
        TempLoraLLM(service, "../ada").chat(asked)
    service["ada"].absorb(BIO)
    with pytest.raises(UnknownRevision):
        TempLoraLLM(service, "ada").chat(asked, revision="f" * 64)


def test_a_prompt_that_does_not_fit_says_what_to_do(llm, user):
    with pytest.raises(PromptTooLong, match="there is room for 72") as caught:
        llm.chat([user("word " * 80)])
    assert any("Settings.tokenizer" in note for note in caught.value.__notes__)


def test_blocks_that_are_no_text_are_left_out_with_a_note(llm, box, user):
    picture = ChatMessage(role="user", blocks=[TextBlock(text="Look"), ImageBlock(image=b"x")])
    llm.chat([picture, ChatMessage(role="assistant", content="Nice."), user("never mind")])
    assert box.backend.requests[-1].messages[0].content == "Look\n[image left out]"


def test_tool_calls_and_results_reach_the_prompt_as_text(llm, box, user):
    call = ToolCallBlock(tool_name="find", tool_kwargs={"word": "bee"})
    llm.chat([
        user("Find bees."),
        ChatMessage(role="assistant", blocks=[call]),
        ChatMessage(role="tool", content="two bees"),
    ])  # fmt: skip
    (request,) = box.backend.requests
    assert request.messages[1].role == "call"
    assert '{"name": "find", "arguments": {"word": "bee"}}' in request.messages[1].content
    assert (request.messages[2].role, request.messages[2].content) == ("tool", "two bees")


def test_responses_hold_counts_and_no_tensors(llm, asked):
    response = llm.chat(asked)
    assert response.raw["finish_reason"] == "stop"
    assert response.additional_kwargs == {
        "prompt_tokens": response.raw["prompt_tokens"],
        "completion_tokens": response.raw["completion_tokens"],
        "total_tokens": response.raw["prompt_tokens"] + response.raw["completion_tokens"],
    }
    assert all(
        value is None or isinstance(value, (str, int, float, list, tuple))
        for value in response.raw.values()
    )


# --- the event loop, cancelling, errors ----------------------------------------------------------


async def _ticks(work):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.002)
            ticks += 1

    ticker = asyncio.create_task(tick())
    await work
    ticker.cancel()
    return ticks


def test_the_event_loop_goes_on_while_the_model_works(llm, box, asked, run):
    async def stream():
        async for _ in await llm.astream_chat(asked):
            pass

    for work in (lambda: llm.achat(asked), lambda: llm.acomplete("Hi?"), stream):
        box.backend.script = ["one two three four"]
        box.backend.before_word = lambda: time.sleep(0.02)
        assert run(_ticks(work())) >= 8


def test_an_error_in_the_model_reaches_every_caller(llm, box, asked, run):
    def fail():
        raise RuntimeError("out of memory")

    async def astream():
        return [piece async for piece in await llm.astream_chat(asked)]

    ways = (
        lambda: llm.chat(asked),
        lambda: list(llm.stream_chat(asked)),
        lambda: run(llm.achat(asked)),
        lambda: run(astream()),
    )
    for way in ways:
        box.backend.script, box.backend.before_word = ["one two"], fail
        with pytest.raises(RuntimeError, match="out of memory"):
            way()
    assert llm.chat(asked).message.content.startswith("I see")


def test_an_abandoned_stream_stops_the_model_and_the_next_call_works(
    llm, box, asked, run, monkeypatch
):
    streams = []
    whole = WithoutMemory.stream

    def watched(*args, **kwargs):
        streams.append(whole(*args, **kwargs))
        return streams[-1]

    monkeypatch.setattr(WithoutMemory, "stream", watched)
    pieces = llm.stream_chat(asked)
    next(pieces)
    pieces.close()
    del pieces

    async def cancelled():
        box.backend.script, box.backend.before_word = ["a b c d"], lambda: time.sleep(0.05)
        task = asyncio.create_task(llm.achat(asked))
        await asyncio.sleep(0.08)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancelled())
    assert streams
    for stream in streams:
        assert stream.reply.finish_reason == "cancelled"
    assert llm.chat(asked).message.content.startswith("I see")


def test_a_revision_that_retires_between_asking_and_answering_is_asked_for_again(service, asked):
    service["ada"].absorb(BIO)
    names = iter(["f" * 64, service["ada"].head().name])
    answers = []

    class Late(TempLoraLLM):
        def _revision(self, session_id):
            answers.append(session_id)
            return next(names)

    assert BIO in Late(service, "ada").chat(asked).message.content
    assert answers == ["ada", "ada"]


# --- events, copies ------------------------------------------------------------------------------


class _Seen(BaseEventHandler):
    events: list

    @classmethod
    def class_name(cls):
        return "Seen"

    def handle(self, event, **_):
        self.events.append(event.class_name())


@pytest.fixture
def seen():
    handler, dispatcher = _Seen(events=[]), get_dispatcher()
    dispatcher.add_event_handler(handler)
    yield handler.events
    dispatcher.event_handlers.remove(handler)


def test_each_call_sends_its_events_once(llm, asked, seen, run):
    llm.chat(asked)
    assert [name for name in seen if "Chat" in name] == ["LLMChatStartEvent", "LLMChatEndEvent"]
    seen.clear()
    run(llm.acomplete("Hi?"))
    assert seen == ["LLMCompletionStartEvent", "LLMCompletionEndEvent"]
    seen.clear()
    pieces = len(list(llm.stream_chat(asked)))
    assert seen.count("LLMChatInProgressEvent") == pieces
    assert seen.count("LLMChatEndEvent") == 1


def test_copies_share_the_service_and_pickling_leaves_the_object_alone(service, asked):
    llm = TempLoraLLM(service, "ada", messages_to_prompt=lambda messages: messages[0].content)
    twin = copy.deepcopy(llm)
    assert (twin.service, twin.session_id) == (service, "ada")
    assert copy.copy(llm).service is service
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(llm)
    assert llm.chat(asked).message.content == twin.chat(asked).message.content


def test_another_session_costs_nothing(service):
    llm = TempLoraLLM(service, "ada", generate_kwargs={"seed": 3})
    for number in range(1000):
        assert llm.for_session(f"s{number}").service is service
    assert (llm.session_id, threading.active_count() < 20) == ("ada", True)


def test_the_tokenizer_counts_as_the_model_does(service):
    assert len(TempLoraLLM(service).tokenizer_fn("one two three")) == 3


# --- structured output ---------------------------------------------------------------------------


class Guest(BaseModel):
    """Somebody who comes."""

    name: str
    age: int
    pets: list[str]


WHO = PromptTemplate("Who is {x}?")


@pytest.fixture(params=[False, True], ids=["plain", "function calling"])
def structured(service, request):
    return TempLoraLLM(service, is_function_calling_model=request.param)


def check_held(box):
    held = json.loads(box.backend.requests[-1].sampling.schema)
    assert held["properties"]["name"] == {"type": "string", "maxLength": 24}
    assert held["additionalProperties"] is False
    assert "Who is Bob?" in box.backend.requests[-1].messages[-1].content


def test_structured_answers_follow_the_schema(structured, box, run):
    guest = Guest(name="word", age=0, pets=[])
    assert structured.structured_predict(Guest, WHO, x="Bob") == guest
    check_held(box)
    assert run(structured.astructured_predict(Guest, WHO, x="Bob")) == guest
    check_held(box)
    assert structured.as_structured_llm(Guest).complete("Who is Bob?").raw == guest
    check_held(box)


def test_structured_answers_stream(structured, box, run):
    guest = Guest(name="word", age=0, pets=[])
    *_, last = structured.stream_structured_predict(Guest, WHO, x="Bob")
    assert last == guest
    check_held(box)

    async def go():
        stream = await structured.astream_structured_predict(Guest, WHO, x="Bob")
        return [part async for part in stream]

    assert run(go())[-1] == guest


def test_a_schema_and_an_answer_that_is_cut_off(service, box):
    llm = TempLoraLLM(service)
    said = llm.chat([ChatMessage("Who?")], schema={"type": "object", "properties": {}})
    assert said.message.content == "{}"
    box.backend.script = ['{"name": "Bo']
    with pytest.raises(ValueError, match=r"(?i)json"):
        llm.structured_predict(Guest, WHO, x="Bob")
    tools = [{"type": "function", "function": {"name": "look"}}]
    with pytest.raises(ValueError, match="offer the schema as a tool"):
        llm.chat([ChatMessage("Who?")], schema={"type": "object"}, tools=tools)
