"""`ChatTempLora` over the fake backend: which memory answers, on every way in."""

import asyncio
import threading

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ContextOverflowError, OutputParserException
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, trim_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda
from pydantic import BaseModel, ValidationError
from templora_memory import ParametricMemory
from templora_memory.errors import ModelNotFound, UnknownMemory, UnknownRevision
from templora_memory.testing import FakeBackend

from langchain_templora import ChatTempLora

BETA = "ignore::langchain_core._api.beta_decorator.LangChainBetaWarning"
ADA = {"configurable": {"memory_id": "ada"}}
ASKED = "Who keeps bees?"


@pytest.fixture
def ada(box):
    box.service["ada"].absorb("Ada keeps bees on the roof.")
    box.service["eve"].absorb("Eve keeps owls in the barn.")
    return box


async def collect(chunks):
    whole = None
    async for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    return whole


def added(chunks):
    whole, *rest = chunks
    for chunk in rest:
        whole += chunk
    return whole


async def v2(model, config):
    events = [e async for e in model.astream_events(ASKED, config, version="v2")]
    return next(e["data"]["output"] for e in events if e["event"] == "on_chat_model_end")


async def v3(model, config):
    stream = await model.astream_events(ASKED, config, version="v3")
    return await stream.output


WAYS = {
    "invoke": lambda m, c: m.invoke(ASKED, c),
    "stream": lambda m, c: added(m.stream(ASKED, c)),
    "ainvoke": lambda m, c: asyncio.run(m.ainvoke(ASKED, c)),
    "astream": lambda m, c: asyncio.run(collect(m.astream(ASKED, c))),
    "batch": lambda m, c: m.batch([ASKED, "Hi"], [c, {}])[0],
    "abatch": lambda m, c: asyncio.run(m.abatch([ASKED], c))[0],
    "lcel": lambda m, c: (ChatPromptTemplate.from_template("{x}") | m).invoke({"x": ASKED}, c),
    "child": lambda m, c: RunnableLambda(m.invoke).invoke(ASKED, c),
    "with_config": lambda m, c: m.with_config(c).invoke(ASKED),
    "events v2": lambda m, c: asyncio.run(v2(m, c)),
    "events v3": lambda m, c: m.stream_events(ASKED, c, version="v3").output,
    "async events v3": lambda m, c: asyncio.run(v3(m, c)),
    "streaming": lambda m, c: m.model_copy(update={"streaming": True}).invoke(ASKED, c),
}


@pytest.mark.filterwarnings(BETA)
@pytest.mark.parametrize("way", WAYS)
def test_the_configured_memory_answers_on_every_way_in(ada, way):
    answer = WAYS[way](ada.model, ADA)
    assert "Ada keeps bees on the roof." in answer.text
    about = answer.response_metadata
    assert about["memory_id"] == "ada"
    assert about["memory_revision"] == ada.service["ada"].head().name
    assert about["absorbed_tokens"] == 6
    assert about["finish_reason"] == "stop"
    assert about["model_provider"] == "templora"
    assert answer.usage_metadata["input_tokens"] == 6
    nobody = WAYS[way](ada.model, {})
    assert "no memory" in nobody.text
    assert nobody.response_metadata["memory_revision"] is None


def generated(model, **kwargs):
    return model.generate([[HumanMessage(ASKED)]], **kwargs).generations[0][0].message


def test_generate_has_no_configuration_and_takes_the_models_own_memory(ada):
    assert generated(ada.model).response_metadata["memory_id"] is None
    assert generated(ada.model.with_memory("ada")).response_metadata["memory_id"] == "ada"
    assert generated(ada.model, memory_id="eve").response_metadata["memory_id"] == "eve"
    made = asyncio.run(ada.model.with_memory("ada").agenerate([[HumanMessage(ASKED)]]))
    assert made.generations[0][0].message.response_metadata["memory_id"] == "ada"


def test_the_nearest_of_several_ids_wins(ada):
    def asked(model, config=None, **kwargs):
        return model.invoke(ASKED, config, **kwargs).response_metadata["memory_id"]

    own = ada.model.with_memory("own")
    session = {"configurable": {"session_id": "bob"}}
    both = {"configurable": {"session_id": "bob", "memory_id": "ada"}}
    assert asked(own) == "own"
    assert asked(own, session) == "bob"
    assert asked(own, both) == "ada"
    assert asked(own, both, memory_id="eve") == "eve"
    assert asked(own, both, memory_id=None) is None
    assert asked(own.bind(memory_id="eve"), both) == "eve"
    assert asked(own, {"configurable": {"thread_id": "t"}}) == "own"
    assert asked(ada.model, {"configurable": {"thread_id": "t"}}) is None
    assert asked(ada.model, {"memory_id": "ada"}) == "ada"  # LangChain moves unknown keys
    assert asked(own.model_copy(update={"memory_id": "ada"})) == "ada"
    other = own.model_copy(update={"memory_id_keys": ("user",)})
    assert asked(other, {"configurable": {"user": "eve", "memory_id": "ada"}}) == "eve"


@pytest.mark.parametrize("wrong", ["", "  ", 5, ["ada"]])
def test_an_id_that_is_none_is_refused_and_shared_by_nobody(ada, wrong):
    for call in (
        lambda: ada.model.invoke(ASKED, {"configurable": {"memory_id": wrong}}),
        lambda: ada.model.invoke(ASKED, {"configurable": {"session_id": wrong}}),
        lambda: ada.model.invoke(ASKED, memory_id=wrong),
        lambda: ada.model.with_memory(wrong),
        lambda: list(ada.model.stream(ASKED, memory_id=wrong)),
    ):
        with pytest.raises(ValueError, match=r"memory_id is .*not empty.*None for the base"):
            call()
    with pytest.raises(ValidationError, match="memory_id"):
        ChatTempLora(memory=ada.service, memory_id=wrong)
    with pytest.raises(ValueError, match="looks like a path"):
        ada.model.invoke(ASKED, memory_id="../ada")
    assert ada.service.list() == ("ada", "eve")


def test_the_service_survives_configurable_fields_and_copies(ada):
    field = ConfigurableField(id="memory_id")
    model = ada.model.configurable_fields(memory_id=field)
    answer = model.invoke(ASKED, ADA)
    assert answer.response_metadata["memory_id"] == "ada"
    assert ada.model.with_memory("eve").memory is ada.service
    assert ada.model.model_copy(deep=True).memory is ada.service


def test_the_memory_id_shows_in_a_chains_configuration(ada):
    chain = ChatPromptTemplate.from_template("{x}") | ada.model
    fields = chain.config_schema().model_json_schema()["$defs"]["Configurable"]["properties"]
    assert "memory_id" in fields


# --- pinned revisions and the cache ----------------------------------------------------------


def test_a_pinned_revision_answers_verbatim_and_learns_nothing(ada, talk):
    first = ada.service["ada"].head().name
    ada.service["ada"].absorb("Ada sails on Sundays.")
    for revision, expected in (
        ("head", ada.service["ada"].head().name),
        (first, first),
        ("base", None),
    ):
        model = ada.model.with_memory("ada", revision=revision)
        answer = model.invoke(talk(3))
        assert answer.response_metadata["memory_revision"] == expected
        assert answer.response_metadata["memory_id"] == "ada"
        assert len(ada.shown) == 7
    assert ada.service["ada"].status().message_count == 0
    assert ada.model.with_memory("new", "head").invoke(ASKED).text.count("no memory") == 1
    with pytest.raises(UnknownRevision, match="has no revision 'f00"):
        ada.model.invoke(ASKED, memory_id="ada", memory_revision="f00")
    with pytest.raises(UnknownMemory, match="no memory 'zoe'"):
        ada.model.invoke(ASKED, memory_id="zoe", memory_revision="f" * 64)


@pytest.mark.parametrize("revision", [None, "head"])
def test_a_cache_never_serves_an_older_memory(ada, revision):
    model = ada.model.with_memory("ada", revision).model_copy(update={"cache": InMemoryCache()})
    before = model.invoke(ASKED)
    asked = len(ada.backend.requests)
    assert model.invoke(ASKED).text == before.text
    assert len(ada.backend.requests) == asked
    ada.service["ada"].absorb("Who keeps bees? Zoe keeps bees now.")
    after = model.invoke(ASKED)
    assert len(ada.backend.requests) == asked + 1
    assert after.response_metadata["memory_revision"] != before.response_metadata["memory_revision"]
    assert model.with_memory("eve").invoke(ASKED).text != after.text
    assert model.invoke(ASKED, strength=0.0).text != after.text


# --- whole conversations ---------------------------------------------------------------------


def test_a_resent_conversation_is_learned_once_and_stays_out_of_the_prompt(box, talk):
    model = box.model.with_memory("ada")
    for _ in range(3):  # LangGraph gives messages without an id a new one at every call
        answer = model.invoke([SystemMessage("Be kind."), *talk(20)])
        box.service.wait()
    assert len(box.learned) == len(set(box.learned)) > 10
    used = answer.usage_metadata["input_tokens"]
    assert used == box.backend.count(box.shown) <= 160
    assert box.shown[0].content == "Be kind."
    assert "Be kind." not in " ".join(box.learned)


def test_an_edited_conversation_gets_no_stale_memory(box, talk):
    model = box.model.with_memory("ada")
    model.invoke(talk(20))
    box.service.wait()
    edited = [HumanMessage("Something else?"), *talk(3)[1:]]
    answer = model.invoke(edited)
    assert answer.response_metadata["memory_revision"] is None
    assert len(box.shown) == len(edited)


def test_a_prompt_of_one_message_is_never_learned(box):
    model = box.model.with_memory("ada")
    with pytest.raises(ContextOverflowError, match="there is room for 160 tokens"):
        model.invoke("word " * 5000)
    model.invoke("word " * 150)
    box.service.wait()
    assert box.learned == []


# --- sampling, tokens, options ---------------------------------------------------------------


def test_stop_texts_of_the_call_come_before_those_of_the_model(ada):
    assert ada.model.invoke(ASKED, stop=[" tokens"]).text == "I see 6"
    model = ada.model.model_copy(update={"stop": [" see"]})
    assert model.invoke(ASKED).text == "I"
    assert model.invoke(ASKED, stop=[" tokens"]).text == "I see 6"
    chain = ada.model.bind(stop=[" tokens"]) | StrOutputParser()
    assert "".join(chain.stream(ASKED)) == "I see 6"


def test_settings_reach_the_backend_and_calls_override_them(ada):
    model = ChatTempLora(
        model="fake", memory=ada.service, temperature=0.5, top_p=0.9, seed=3, max_tokens=5, top_k=7
    )
    answer = model.invoke(ASKED, temperature=1.5)
    request = ada.backend.requests[-1]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (1.5, 0.9, 7)
    assert (sampling.seed, request.max_tokens) == (3, 5)
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.usage_metadata["output_tokens"] == 5
    params = model._get_ls_params(stop=["x"], model="other")
    assert params["ls_model_name"] == "other"
    assert (params["ls_temperature"], params["ls_max_tokens"]) == (0.5, 5)


def test_unknown_options_and_other_models_are_refused(ada):
    with pytest.raises(ValueError, match=r"unsupported arguments \['topp'\]: ChatTempLora takes"):
        ada.model.invoke(ASKED, topp=1)
    with pytest.raises(ValueError, match="runs 'fake', not 'gpt-9'"):
        ada.model.invoke(ASKED, model="gpt-9")
    with pytest.raises(ValueError, match="temperature is -1"):
        ada.model.invoke(ASKED, temperature=-1)
    with pytest.raises(ValidationError, match="instance of ParametricMemory"):
        ChatTempLora(memory=ada.service["ada"])


def test_tokens_are_counted_by_the_model_without_a_network(ada, talk):
    assert ada.model.get_num_tokens("four words of text") == 4
    messages = talk(2)
    history = ada.model._call(messages, None, {}).history
    assert ada.model.get_num_tokens_from_messages(messages) == ada.backend.count(history)

    def search(query: str) -> str:
        """Search."""

    assert ada.model.get_num_tokens_from_messages(messages, tools=[search]) > 30
    kept = trim_messages(messages, max_tokens=30, token_counter=ada.model, start_on="human")
    assert 0 < ada.model.get_num_tokens_from_messages(kept) <= 30
    with pytest.raises(NotImplementedError, match="FakeBackend tells no token ids"):
        ada.model.get_token_ids("x")


def test_a_model_loads_only_when_it_is_needed(tmp_path):
    model = ChatTempLora(model=str(tmp_path / "nothing"), root=str(tmp_path / "memories"))
    assert "not loaded" in repr(model.memory)
    assert model.with_memory("ada").memory is model.memory
    with pytest.raises(ModelNotFound, match="nothing"):
        model.invoke("x")


# --- tools and structured output -------------------------------------------------------------


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def search(query: str) -> str:
    """Search the manual."""
    return query


def test_a_bound_tool_is_described_and_its_call_is_read(tool_box):
    model = tool_box.model.with_memory("ada").bind_tools([search])
    for answer in (model.invoke("Bees?"), added(model.stream("Bees?"))):
        (call,) = answer.tool_calls
        assert (call["name"], call["args"]) == ("search", {"query": "bees"})
        assert call["id"].startswith("call_")
        assert answer.text.strip() == "I look."
    history = [
        HumanMessage("Bees?"),
        answer,
        {"role": "tool", "content": "Hive.", "tool_call_id": "1"},
    ]
    model.invoke(history)
    roles = [message.role for message in tool_box.shown]
    assert roles == ["system", "user", "assistant", "call", "tool"]
    assert "<tools>" in tool_box.shown[0].content


@pytest.mark.parametrize("choice", ["any", "search", True])
def test_a_forced_call_is_valid_whatever_the_model(ada, choice):
    model = ada.model.bind_tools([search], tool_choice=choice)
    (call,) = model.invoke("Hello").tool_calls
    assert call["args"] == {"query": "word"}
    (streamed,) = added(model.stream("Hello")).tool_calls
    assert streamed["args"] == call["args"]


def test_a_forced_call_that_was_cut_off_is_invalid_and_says_so(ada):
    model = ada.model.model_copy(update={"max_tokens": 2})
    answer = model.bind_tools([search], tool_choice="any").invoke("Hello")
    assert answer.tool_calls == []
    assert len(answer.invalid_tool_calls) == 1
    with pytest.raises(OutputParserException, match="allow more max_tokens"):
        model.with_structured_output(Person).invoke("Hello")
    with pytest.raises(OutputParserException, match="allow more max_tokens"):
        model.with_structured_output(Person, method="json_schema").invoke("Hello")
    raw = model.with_structured_output(Person, method="json_schema", include_raw=True)
    found = raw.invoke("Hello")
    assert found["parsed"] is None
    assert isinstance(found["parsing_error"], OutputParserException)


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output_has_the_form_of_its_schema(ada, method):
    person = ada.model.with_structured_output(Person, method=method).invoke("Hello")
    assert person == Person(name="word", age=0)
    schema = {**Person.model_json_schema(), "description": "A person."}
    plain = ada.model.with_structured_output(schema, method=method, strict=True)
    assert plain.invoke("Hello") == {"name": "word", "age": 0}
    both = ada.model.with_structured_output(Person, method=method, include_raw=True)
    found = both.invoke("Hello")
    assert found["parsed"] == person
    assert isinstance(found["raw"], AIMessage)


def test_wrong_ways_to_ask_for_structure_are_refused(ada):
    with pytest.raises(ValueError, match="method='yaml'"):
        ada.model.with_structured_output(Person, method="yaml")
    with pytest.raises(OutputParserException, match="no complete JSON of the schema"):
        ada.model.with_structured_output(Person, method="json_mode").invoke("Hello")  # only {}
    with pytest.raises(ValueError, match="'fly'"):
        ada.model.bind_tools([search], tool_choice="fly")
    form = {"type": "json_schema", "json_schema": {"schema": Person.model_json_schema()}}
    with pytest.raises(ValueError, match="do not go together"):
        ada.model.bind_tools([search], response_format=form).invoke("Hello")
    with pytest.raises(ValueError, match="response_format is 'json'"):
        ada.model.invoke("Hello", response_format="json")


# --- streams ---------------------------------------------------------------------------------


def test_64_streams_at_once_over_8_memories_equal_the_answers_one_by_one(make_box):
    box = make_box()
    names = [f"memory {number}" for number in range(8)]
    for name in names:
        box.service[name].absorb(f"The keeper of {name} sings.")
    config = [{"configurable": {"memory_id": name}} for name in names]
    asked = [f"Who is the keeper, {number}?" for number in range(8)]
    pinned = box.model.bind(memory_revision="head")
    expected = [[pinned.invoke(text, c).text for text in asked] for c in config]

    async def everything():
        streams = [collect(pinned.astream(text, c)) for c in config for text in asked]
        return await asyncio.wait_for(asyncio.gather(*streams), 60)

    found = [answer.text for answer in asyncio.run(everything())]
    assert found == [text for row in expected for text in row]
    assert len({row[0] for row in expected}) == 8


class Slow(FakeBackend):
    """A fake that speaks without end until its stream is closed."""

    def __init__(self):
        super().__init__()
        self.closed = threading.Event()

    def stream(self, request):
        made = super().stream(request)
        if "endless" not in request.messages[-1].content:
            return made
        made._words = ("again ",) * 1_000_000
        close = made.close

        def closed():
            close()
            self.closed.set()

        made.close = closed
        return made


def test_an_abandoned_stream_is_closed_and_the_next_call_answers(make_box):
    box = make_box(kind=Slow)
    stream = box.model.stream("endless")
    next(stream)
    stream.close()
    assert box.backend.closed.wait(10)
    assert box.model.invoke("Hi").text


@pytest.mark.parametrize("way", ["aclose", "break", "cancel astream", "cancel ainvoke"])
def test_an_abandoned_async_stream_is_closed(make_box, way):
    box = make_box(kind=Slow)

    async def abandon():
        if way == "cancel ainvoke":
            task = asyncio.create_task(box.model.ainvoke("endless"))
            await asyncio.sleep(0.2)
            task.cancel()
        elif way == "cancel astream":
            task = asyncio.create_task(collect(box.model.astream("endless")))
            await asyncio.sleep(0.2)
            task.cancel()
        else:
            stream = box.model.astream("endless")
            async for _ in stream:
                break
            if way == "aclose":
                await stream.aclose()
        await asyncio.to_thread(box.backend.closed.wait, 10)
        return (await box.model.ainvoke("Hi")).text

    assert asyncio.run(abandon())
    assert box.backend.closed.is_set()


class Broken(FakeBackend):
    """A fake whose answers to some questions break in the middle."""

    def stream(self, request):
        made = super().stream(request)
        if "break" in request.messages[-1].content:
            count = iter(range(3))

            def check():
                if next(count) == 2:
                    raise RuntimeError("the model broke")

            made._check = check
        return made


def test_an_error_in_the_model_reaches_whoever_asked_and_nobody_else(make_box):
    box = make_box(kind=Broken)
    with pytest.raises(RuntimeError, match="the model broke"):
        box.model.invoke("break")
    with pytest.raises(RuntimeError, match="the model broke"):
        list(box.model.stream("break"))

    async def together():
        return await asyncio.gather(
            box.model.ainvoke("break"),
            collect(box.model.astream("break")),
            box.model.ainvoke("Hi"),
            return_exceptions=True,
        )

    first, second, third = asyncio.run(asyncio.wait_for(together(), 30))
    assert [type(first), type(second)] == [RuntimeError, RuntimeError]
    assert third.text
    assert box.model.invoke("Hi").text


class Seen(BaseCallbackHandler):
    def __init__(self):
        self.tokens, self.starts = [], []

    def on_chat_model_start(self, serialized, messages, **kwargs):
        self.starts.append(kwargs)

    def on_llm_new_token(self, token, **kwargs):
        self.tokens.append(token)


def test_callbacks_see_each_piece_once_and_the_memory_among_the_parameters(ada):
    seen = Seen()
    answer = added(ada.model.stream(ASKED, {**ADA, "callbacks": [seen]}))
    assert "".join(seen.tokens) == answer.text
    params = seen.starts[0]["invocation_params"]
    assert params["memory_id"] == "ada"
    assert params["memory_head"] == ada.service["ada"].head().name
    assert seen.starts[0]["metadata"]["ls_provider"] == "templora"


def test_a_closed_service_says_so(box):
    box.model.invoke("Hi")
    box.service.close()
    with pytest.raises(RuntimeError, match="closed"):
        box.model.invoke("Hi")


def test_two_models_over_one_service_share_it(ada):
    other = ChatTempLora.from_model_id("fake", memory=ada.service, memory_id="ada")
    assert isinstance(other.memory, ParametricMemory)
    assert "roof" in other.invoke(ASKED).text


@pytest.mark.parametrize("wrong", [{"tempurature": 1}, {"max_tokens": 3, "max_new_tokens": 4}])
def test_arguments_that_mean_nothing_are_refused_at_construction(ada, wrong):
    with pytest.raises(ValueError, match=next(reversed(wrong))):
        ChatTempLora(model="fake", memory=ada.service, **wrong)


def test_standard_parameters_of_servers_are_taken_without_use(ada):
    model = ChatTempLora(model="fake", memory=ada.service, timeout=5, max_retries=2, api_key="k")
    assert not hasattr(model, "timeout")


def test_arguments_of_the_service_are_taken_or_refused(ada, tmp_path):
    made = ChatTempLora(root=str(tmp_path), policy="reference", device="cpu", max_new_tokens=5)
    assert made.max_tokens == 5
    assert made.memory is not None
    with pytest.raises(ValueError, match=r"device.*belong to the service"):
        ChatTempLora(model="fake", memory=ada.service, device="cpu")


# --- its profile ---------------------------------------------------------------------------------


def test_the_profile_tells_the_window_and_loads_nothing_before(box):
    model = box.model
    assert "not loaded" in repr(box.service)
    assert "max_input_tokens" in model.profile
    assert "max_input_tokens" not in dict(model.profile)
    assert model.profile.get("tool_calling") is True
    assert model.profile.get("image_tokens") is None
    assert "not loaded" in repr(box.service)
    assert model.profile.get("max_input_tokens") == 160
    assert model.profile["max_output_tokens"] == 40
    assert dict(model.profile)["max_input_tokens"] == 160
    with pytest.raises(KeyError, match="image_tokens"):
        model.profile["image_tokens"]
    assert ChatTempLora(memory=box.service, max_tokens=10).profile["max_input_tokens"] == 190
    assert ChatTempLora(memory=box.service, profile={"max_input_tokens": 5}).profile == {
        "max_input_tokens": 5
    }


def test_limits_of_other_middleware_may_be_fractions_of_the_window(make_box):
    box = make_box("wide", backend={"context": 2000}, window=2000)
    middleware = SummarizationMiddleware(box.model, trigger=("fraction", 0.5), keep=("messages", 2))
    agent = create_agent(box.model, [], middleware=[middleware])
    said = [HumanMessage("bees " * 300), AIMessage("owls " * 900), HumanMessage("And now?")]
    assert "summary" in agent.invoke({"messages": said})["messages"][0].text
