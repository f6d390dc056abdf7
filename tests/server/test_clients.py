"""The clients that people use, against a real port: they need no special treatment."""

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

from templora_memory.server import ApiKeys

pytestmark = pytest.mark.enable_socket
KEY = "templora-" + "k" * 32
BEES = "Ada keeps bees on the roof."
ASKED = [{"role": "user", "content": "Who keeps bees?"}]


@pytest.fixture
def server(start):
    server = start(keys=ApiKeys.of({KEY: "alice"}))
    with httpx.Client(
        base_url=server.url, timeout=60, headers={"authorization": f"Bearer {KEY}"}
    ) as client:
        found = client.post("/v1/memories/ada/absorb?wait=20", json={"text": BEES})
        assert found.json()["state"] == "succeeded"
    return server


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_openai_lists_memories_as_models(client):
    assert [one.id for one in client.models.list()] == ["fake", "fake:ada"]
    assert client.models.retrieve("fake:ada").owned_by == "templora"


def test_openai_answers_from_the_memory_that_the_model_names(client):
    found = client.chat.completions.create(model="fake:ada", messages=ASKED)
    assert found.choices[0].message.content.endswith(BEES)
    assert found.choices[0].finish_reason == "stop"
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.templora["absorbed_tokens"] == 6
    assert found.system_fingerprint == "rev_" + found.templora["revision"][:12]


def test_the_memory_field_names_it_too(client):
    by_field = client.chat.completions.create(
        model="fake", messages=ASKED, extra_body={"memory": "ada"}
    )
    assert by_field.choices[0].message.content.endswith(BEES)


def test_the_base_model_knows_nothing(client):
    found = client.chat.completions.create(model="fake", messages=ASKED)
    assert found.choices[0].message.content.endswith("I do not know.")
    assert found.templora == {
        "memory": None,
        "revision": None,
        "absorbed_tokens": 0,
        "omitted_messages": 0,
        "recalled": [],
        "coverage": None,
        "notes": [],
    }


def test_strength_zero_and_context_are_the_services(client):
    without = client.chat.completions.create(
        model="fake:ada", messages=ASKED, extra_body={"strength": 0}
    )
    assert "no memory" in without.choices[0].message.content
    shown = client.chat.completions.create(
        model="fake:ada", messages=ASKED, extra_body={"context": ["Eve keeps bees, who knows."]}
    )
    assert shown.choices[0].message.content.endswith("Eve keeps bees, who knows.")


def test_openai_streams_what_it_answers_whole(client):
    whole = client.chat.completions.create(model="fake:ada", messages=ASKED)
    with client.chat.completions.create(
        model="fake:ada", messages=ASKED, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    said = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert len(said) > 5
    assert "".join(said) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].templora == whole.templora


def test_stop_and_length_end_an_answer(client):
    stopped = client.chat.completions.create(model="fake:ada", messages=ASKED, stop="tokens")
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == (
        "I see 6 ",
        "stop",
    )
    short = client.chat.completions.create(model="fake:ada", messages=ASKED, max_tokens=2)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == (
        "I see ",
        "length",
    )
    large = client.chat.completions.create(
        model="fake:ada", messages=ASKED, max_completion_tokens=100_000
    )
    assert large.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("wrong", "kind", "code", "said"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "model_not_found", "use 'fake', or 'fake:ID'"),
        ({"model": "fake:a/b"}, openai.BadRequestError, "invalid_value", "looks like a path"),
        ({"messages": []}, openai.BadRequestError, "too_short", "messages"),
        ({"temperature": 101}, openai.BadRequestError, "less_than_equal", "temperature"),
        ({"n": 9}, openai.BadRequestError, "less_than_equal", "n"),
        ({"extra_body": {"memory": "eve"}}, openai.BadRequestError, "invalid_value", "name one"),
        (
            {"messages": [{"role": "user", "content": "word " * 200}]},
            openai.BadRequestError,
            "context_length_exceeded",
            "there is room for",
        ),
        (
            {"messages": [{"role": "system", "content": " "}]},
            openai.BadRequestError,
            "invalid_value",
            "nothing to answer",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_openais(client, wrong, kind, code, said, stream):
    asked = {"model": "fake:ada", "messages": ASKED} | wrong
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**asked, stream=stream)
    assert caught.value.code == code
    assert said in caught.value.body["message"]
    assert caught.value.request_id.startswith("req-")


def test_a_wrong_key_is_an_authentication_error(server):
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="valid API key"),
    ):
        client.models.list()


def test_a_long_conversation_is_learned_as_it_goes(client):
    history = []
    for number in range(12):
        history.append({"role": "user", "content": f"What about house number {number} in town?"})
        found = client.chat.completions.create(
            model="fake:eve", messages=history, max_tokens=12, stream=bool(number % 2)
        )
        if number % 2:
            with found as stream:
                said = "".join(c.choices[0].delta.content or "" for c in stream)
        else:
            assert found.usage.prompt_tokens <= 96 - 12
            said = found.choices[0].message.content
        history.append({"role": "assistant", "content": said})
    history.append({"role": "user", "content": "And now?"})
    last = client.chat.completions.create(model="fake:eve", messages=history, max_tokens=12)
    assert last.templora["absorbed_tokens"] > 50


def test_langchain_answers_and_streams(server):
    chat = ChatOpenAI(model="fake:ada", base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    assert chat.invoke("Who keeps bees?").content.endswith(BEES)
    pieces = list(chat.stream("Who keeps bees?"))
    assert len(pieces) > 5
    assert "".join(piece.content for piece in pieces).endswith(BEES)


def test_llama_index_answers_and_streams(server):
    llm = OpenAILike(
        model="fake:ada",
        api_base=f"{server.url}/v1",
        api_key=KEY,
        is_chat_model=True,
        context_window=96,
        max_retries=0,
    )
    question = [ChatMessage(role="user", content="Who keeps bees?")]
    assert llm.chat(question).message.content.endswith(BEES)
    pieces = list(llm.stream_chat(question))
    assert len(pieces) > 5
    assert pieces[-1].message.content.endswith(BEES)


PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
LOOK = {"name": "look", "description": "Look.", "parameters": PLACE, "strict": True}


def test_openai_calls_tools_and_goes_on_from_their_results(client):
    tools = [{"type": "function", "function": LOOK}]
    asked = {"model": "fake", "messages": ASKED, "tools": tools, "tool_choice": "required"}
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("look", '{"place": "word"}')
    with client.chat.completions.stream(**asked) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed.function.arguments == call.function.arguments
    result = {"role": "tool", "tool_call_id": call.id, "content": "Eve keeps bees."}
    after = client.chat.completions.create(
        model="fake", messages=[*ASKED, whole.message, result], tools=tools
    )
    assert after.choices[0].message.content


def test_openai_calls_tools_in_responses(client):
    asked = {"model": "fake", "tools": [{"type": "function", **LOOK}], "tool_choice": "required"}
    whole = client.responses.create(input="Who?", **asked)
    (call,) = whole.output
    assert (call.type, call.name, call.arguments) == ("function_call", "look", '{"place": "word"}')
    with client.responses.stream(input="Who?", **asked) as stream:
        (streamed,) = stream.get_final_response().output
    assert streamed.arguments == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Eve."}
    history = [{"role": "user", "content": "Who?"}, call, result]
    after = client.responses.create(model="fake", input=history, tools=asked["tools"])
    assert after.output_text


def test_openai_reads_log_probabilities_and_several_streamed_answers(client):
    asked = {"model": "fake:ada", "messages": ASKED, "logprobs": True, "top_logprobs": 2, "n": 2}
    with client.chat.completions.stream(**asked) as stream:
        first, second = stream.get_final_completion().choices
    assert first.message.content == second.message.content
    for choice in (first, second):
        tokens = choice.logprobs.content
        assert "".join(token.token for token in tokens) == choice.message.content
        assert len(tokens[0].top_logprobs) == 2
