"""Tools over HTTP: what the model is told, and calls in OpenAI's form."""

import json

import pytest
from starlette.testclient import TestClient

from templora_memory.testing import FakeBackend
from templora_memory.tool_calls import format_call

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "What is the weather in Salt Harbour?"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}},
            "required": ["place"],
        },
    },
}
CALL = format_call("weather", {"place": "Salt Harbour"})


class Scripted(FakeBackend):
    """A fake that answers as the test says, in pieces, and whose template knows tools or not."""

    def __init__(self, answer="", *, template=True):
        super().__init__(context=4096)
        self.answer = answer
        self.template = template

    def tools_text(self, tools):
        names = " ".join(tool["function"]["name"] for tool in tools)
        return f"TOOLS: {names}" if self.template else None

    def stream(self, request):
        stream = super().stream(request)
        if self.answer and request.sampling.schema is None:
            shown = self.count(request.messages)
            return self._stream(self.answer, request.sampling, shown, request.max_tokens)
        return stream


@pytest.fixture
def serve(make_app):
    clients = []

    def make(backend, **options):
        client = TestClient(make_app(backend, **options), base_url="http://localhost")
        clients.append(client.__enter__())
        return clients[-1]

    yield make
    for client in clients:
        client.__exit__(None, None, None)


def ask(client, **more):
    body = {"model": "fake:ada", "messages": [USER], "tools": [WEATHER], **more}
    answer = client.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0] if not more.get("stream") else answer


def shown(backend):
    return [(m.role, m.content) for m in backend.requests[-1].messages]


def deltas(answer):
    chunks = [json.loads(x[6:]) for x in answer.text.splitlines() if x.startswith("data: {")]
    return [chunk["choices"][0] for chunk in chunks]


def test_a_call_comes_in_openais_form(serve):
    backend = Scripted(f"I look it up. {CALL}")
    choice = ask(serve(backend))
    assert shown(backend)[0] == ("system", "TOOLS: weather")
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "I look it up. "
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "weather")
    assert json.loads(call["function"]["arguments"]) == {"place": "Salt Harbour"}
    assert call["id"]


def test_a_streamed_answer_has_the_same_calls(serve):
    client = serve(Scripted(f"I look.\n{CALL}\n{CALL}"))
    choices = deltas(ask(client, stream=True))
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert text.strip() == "I look."
    calls = [c for choice in choices for c in choice["delta"].get("tool_calls", ())]
    assert [call["index"] for call in calls] == [0, 1]
    assert len({call["id"] for call in calls}) == 2
    assert json.loads(calls[1]["function"]["arguments"]) == {"place": "Salt Harbour"}
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_an_answer_that_only_calls_has_no_text(serve):
    assert ask(serve(Scripted(CALL)))["message"]["content"] is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        "It rains.",
        "<tool_call>{oops}</tool_call>",
        '<tool_call>{"name": "fly"}</tool_call> done',
        '<tool_call>{"name": "weather", "argu',
    ],
)
def test_what_is_no_call_stays_text(serve, answer, stream):
    client = serve(Scripted(answer))
    if stream:
        choices = deltas(ask(client, stream=True))
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        reason = choices[-1]["finish_reason"]
    else:
        choice = ask(client)
        text, reason = choice["message"]["content"], choice["finish_reason"]
        assert choice["message"]["tool_calls"] is None
    assert (text, reason) == (answer, "stop")


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_forced_call_follows_the_schema_of_its_tool(serve, choice):
    backend = Scripted(template=False)
    client = serve(backend)
    answer = ask(client, tool_choice=choice, max_tokens=20)
    assert json.loads(answer["message"]["tool_calls"][0]["function"]["arguments"]) == {
        "place": "word"
    }
    schema = json.loads(backend.requests[-1].sampling.schema)
    assert schema["properties"]["name"] == {"const": "weather"}
    streamed = deltas(ask(client, tool_choice=choice, stream=True))
    assert streamed[-1]["finish_reason"] == "tool_calls"
    assert not any(c["delta"].get("content") for c in streamed)


def test_without_tools_in_the_template_they_are_described_and_the_answer_says_so(serve):
    backend = Scripted(template=False)
    client = serve(backend)
    body = {"model": "fake", "messages": [USER], "tools": [WEATHER]}
    answer = client.post(CHAT, json=body)
    assert "chat template" in answer.headers["x-templora-warning"]
    assert '"name": "weather"' in shown(backend)[0][1]
    strict = serve(Scripted(template=False), root="strict", settings={"strict": True})
    assert strict.post(CHAT, json=body).json()["error"]["param"] == "tools"
    knowing = serve(Scripted(), root="knowing")
    assert knowing.post(CHAT, json=body).json()["templora"]["notes"] == []


def test_tools_that_may_not_be_called_are_not_shown(serve):
    backend = Scripted(CALL)
    choice = ask(serve(backend), tool_choice="none")
    assert shown(backend) == [("user", USER["content"])]
    assert choice["message"]["content"] == CALL


def test_one_call_at_a_time(serve):
    client = serve(Scripted(f"{CALL}\n{CALL}"))
    assert len(ask(client)["message"]["tool_calls"]) == 2
    assert len(ask(client, parallel_tool_calls=False)["message"]["tool_calls"]) == 1


def test_calls_and_results_in_a_history_are_shown_and_kept_and_never_learned(serve):
    backend = Scripted(CALL)
    client = serve(backend)
    message = ask(client)["message"]
    backend.answer = "It rains."
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "rain"}
    ask(client, messages=[USER, message, result])
    assert shown(backend)[1:] == [("user", USER["content"]), ("call", CALL), ("tool", "rain")]
    kept = client.get("/v1/memories/ada/text").json()["messages"]
    assert [m["role"] for m in kept] == ["user", "call", "tool", "assistant"]
    assert not backend.learned


RESPONSE_TOOL = {"type": "function", "strict": True, **WEATHER["function"]}


def respond(client, **more):
    body = {"model": "fake:ada", "input": USER["content"], "tools": [RESPONSE_TOOL], **more}
    answer = client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    return answer


def test_a_response_has_calls_as_items(serve):
    backend = Scripted(f"I look. {CALL}")
    client = serve(backend)
    body = respond(client).json()
    message, call = body["output"]
    assert message["content"][0]["text"] == "I look. "
    assert (call["type"], call["name"], call["status"]) == ("function_call", "weather", "completed")
    assert json.loads(call["arguments"]) == {"place": "Salt Harbour"}
    lines = respond(client, stream=True).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    done = [e for e in events if e["type"] == "response.output_item.done"]
    assert [e["item"]["type"] for e in done] == ["message", "function_call"]
    assert [e["output_index"] for e in done] == [0, 1]
    final = events[-1]["response"]
    assert [item["type"] for item in final["output"]] == ["message", "function_call"]
    (given,) = (e for e in events if e["type"] == "response.function_call_arguments.done")
    assert given["item_id"] == done[1]["item"]["id"]


def test_a_response_goes_on_from_the_result_of_a_call(serve):
    backend = Scripted(CALL)
    client = serve(backend)
    (call,) = respond(client).json()["output"]
    backend.answer = "It rains."
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    body = respond(client, input=[USER, call, result]).json()
    assert body["output"][0]["content"][0]["text"] == "It rains."
    assert shown(backend)[1:] == [("user", USER["content"]), ("call", CALL), ("tool", "rain")]


def test_a_response_can_be_forced_to_call(serve):
    backend = Scripted(template=False)
    client = serve(backend)
    for choice in ("required", {"type": "function", "name": "weather"}):
        body = respond(client, tool_choice=choice).json()
        assert [item["type"] for item in body["output"]] == ["function_call"]
    assert "chat template" in body["templora"]["notes"][0]


@pytest.mark.parametrize(
    ("arguments", "shown_as"),
    [
        ('{"place": "Rome"}', '{"place": "Rome"}'),
        ({"place": "Rome"}, '{"place": "Rome"}'),
        ("", "{}"),
        ("Rome", '"Rome"'),
        ("[1]", '"[1]"'),
    ],
)
def test_arguments_of_a_history_are_shown_however_a_client_writes_them(serve, arguments, shown_as):
    backend = Scripted("Dry.")
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    said = {"role": "assistant", "content": "I look.", "tool_calls": [call]}
    ask(serve(backend), messages=[USER, said, {"role": "tool", "content": "dry"}])
    role, content = shown(backend)[2]
    assert role == "call"
    assert content.startswith("I look.\n<tool_call>")
    assert f'"arguments": {shown_as}}}' in content


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "fly"}}}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": "often"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "1"}]}]},
         "messages.1.tool_calls.0.function"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(serve, more, param):
    body = {"model": "fake", "messages": [USER], "tools": [WEATHER], **more}
    answer = serve(Scripted()).post(CHAT, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
