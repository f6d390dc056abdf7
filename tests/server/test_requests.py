"""Requests in the shapes that clients send them: front ends, SDKs, and the odd ones."""

import json

import pytest
from starlette.testclient import TestClient

from templora_memory.server import ApiKeys
from templora_memory.testing import FakeBackend

USER = {"role": "user", "content": "Who keeps bees?"}
CHAT = "/v1/chat/completions"
SILLYTAVERN = {  # as its page sends them for a custom endpoint, with its own defaults
    "messages": [
        {"role": "system", "content": "Write Ada's next reply in a fictional chat."},
        {"role": "system", "content": "[Start a new Chat]"},
        {"role": "assistant", "content": "Hello, traveller."},
        USER,
    ],
    "model": "fake:ada",
    "temperature": 1,
    "max_tokens": 300,
    "stream": False,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "top_p": 1,
    "stop": [],
    "logit_bias": {},
    "seed": -1,
    "n": 1,
    "user_name": "Tom",
    "char_name": "Ada",
    "group_names": [],
}
LANGCHAIN_JS = {
    "model": "fake:ada",
    "messages": [USER],
    "temperature": 0.7,
    "top_p": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "n": 1,
    "logit_bias": None,
    "stop": None,
    "stream": False,
    "tools": None,
    "tool_choice": None,
}
OPEN_WEBUI = {
    "model": "fake:ada",
    "messages": [USER],
    "stream": False,
    "max_tokens": -1,
    "metadata": {"chat_id": "x", "features": {"web_search": False}},
    "logprobs": False,
    "top_logprobs": 0,
    "response_format": {"type": "text"},
    "parallel_tool_calls": True,
    "stop": "",
    "context": None,
    "strength": None,
}


@pytest.fixture
def client(make_app):
    with TestClient(make_app(), base_url="http://localhost") as made:
        yield made


def text_of(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("body", [SILLYTAVERN, LANGCHAIN_JS, OPEN_WEBUI])
def test_what_front_ends_send_by_default_is_answered_without_a_warning(client, body):
    answer = client.post(CHAT, json=body)
    assert text_of(answer)
    assert answer.json()["templora"]["notes"] == []
    assert "x-templora-warning" not in answer.headers


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_logprobs", 3), ("logit_bias", {"50": -100}), ("stength", 2), ("mirostat", 2),
        ("reasoning_effort", "high"),
    ],
)  # fmt: skip
def test_what_is_ignored_is_said_and_a_strict_server_refuses_it(make_app, field, value):
    body = {"model": "fake", "messages": [USER], field: value}
    with TestClient(make_app(), base_url="http://localhost") as client:
        answer = client.post(CHAT, json=body)
        assert text_of(answer)
        assert field in answer.headers["x-templora-warning"]
        assert field in answer.json()["templora"]["notes"][0]
        streamed = client.post(CHAT, json={**body, "stream": True})
        assert field in streamed.headers["x-templora-warning"]
        assert field in streamed.text
    strict = make_app(root="strict", settings={"strict": True})
    with TestClient(strict, base_url="http://localhost") as client:
        error = client.post(CHAT, json=body).json()["error"]
        assert (error["code"], error["param"]) == ("unsupported_parameter", field)


def test_parts_that_are_no_text_are_left_out_with_a_note(client):
    parts = [
        {"type": "text", "text": "Who keeps "},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "bees?"},
    ]
    body = {"model": "fake:ada", "messages": [{"role": "user", "content": parts}]}
    answer = client.post(CHAT, json=body)
    assert text_of(answer)
    assert "1 image_url" in answer.json()["templora"]["notes"][0]
    stored = client.get("/v1/memories/ada/text").json()["messages"]
    assert stored[0]["content"] == "Who keeps bees?"
    error = client.post("/v1/memories/ada/absorb", json={"messages": body["messages"]})
    assert error.status_code == 400
    assert error.json()["error"]["param"] == "messages.0.content"


def test_several_answers(client):
    body = {"model": "fake", "messages": [USER], "n": 3, "temperature": 1, "seed": 1}
    answer = client.post(CHAT, json=body).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] > 3
    chunks = events(
        client.post(CHAT, json={**body, "stream": True, "stream_options": {"include_usage": True}})
    )
    assert chunks[-1]["usage"] == answer["usage"]
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    for index, choice in enumerate(answer["choices"]):
        own = [c for c in choices if c["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        said = "".join(c["delta"].get("content", "") for c in own)
        assert said == choice["message"]["content"]
        assert own[-1]["finish_reason"] == choice["finish_reason"]


def test_sampler_fields_reach_the_backend(make_app):
    backend = FakeBackend()
    fields = {"min_p": 0.1, "frequency_penalty": 0.5, "presence_penalty": -0.5}
    with TestClient(make_app(backend), base_url="http://localhost") as client:
        for path, told in (
            (CHAT, {"messages": [USER]}),
            ("/v1/completions", {"prompt": "Hi"}),
            ("/v1/responses", {"input": "Hi"}),
        ):
            answer = client.post(path, json={"model": "fake", **told, **fields})
            assert answer.json()["templora"]["notes"] == []
            sampling = backend.requests[-1].sampling
            assert {name: getattr(sampling, name) for name in fields} == fields
        wrong = {"model": "fake", "messages": [USER], "frequency_penalty": 3}
        assert client.post(CHAT, json=wrong).json()["error"]["param"] == "frequency_penalty"


def test_log_probabilities_come_with_the_text_that_they_belong_to(client):
    body = {"model": "fake", "messages": [USER], "logprobs": True, "top_logprobs": 2}
    whole = client.post(CHAT, json=body).json()["choices"][0]
    tokens = whole["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == whole["message"]["content"]
    assert bytes(tokens[0]["bytes"]).decode() == tokens[0]["token"]
    assert [len(token["top_logprobs"]) for token in tokens] == [2] * len(tokens)
    streamed = events(client.post(CHAT, json={**body, "stream": True}))
    choices = [chunk["choices"][0] for chunk in streamed]
    for choice in choices:
        told = choice["logprobs"]["content"] if choice["logprobs"] else []
        assert "".join(t["token"] for t in told) == choice["delta"].get("content", "")
    told = [t for choice in choices if choice["logprobs"] for t in choice["logprobs"]["content"]]
    assert told == tokens
    plain = client.post(CHAT, json={"model": "fake", "messages": [USER]}).json()["choices"][0]
    assert plain["logprobs"] is None


def test_an_answer_follows_a_schema(client):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    for form in (
        {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        {"type": "json_object"},
    ):
        body = {"model": "fake", "messages": [USER], "response_format": form}
        assert isinstance(json.loads(text_of(client.post(CHAT, json=body))), dict)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"stop": 5}, "stop"),
        ({"model": None}, "model"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
    ],
)
def test_errors_name_the_field_as_it_was_written(client, change, param):
    answer = client.post(CHAT, json={"model": "fake", "messages": [USER], **change})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def events(answer):
    return [
        json.loads(line[6:])
        for line in answer.text.splitlines()
        if line.startswith("data: ") and line != "data: [DONE]"
    ]


def test_a_completion_is_a_prompt_that_is_not_kept(client):
    client.post("/v1/memories/ada/absorb?wait=60", json={"text": "Ada keeps bees."})
    body = {"model": "fake:ada", "prompt": "Who keeps bees?", "max_tokens": 40}
    whole = client.post("/v1/completions", json=body).json()
    assert whole["choices"][0]["text"].endswith("Ada keeps bees.")
    streamed = client.post("/v1/completions", json={**body, "stream": True})
    assert streamed.text.endswith("data: [DONE]\n\n")
    pieces = [chunk["choices"][0]["text"] for chunk in events(streamed)]
    assert "".join(pieces) == whole["choices"][0]["text"]
    assert client.get("/v1/memories/ada").json()["messages"] == 0
    for wrong in ({"echo": True}, {"suffix": "x"}, {"prompt": ["a", "b"]}, {"n": 9}):
        assert client.post("/v1/completions", json={**body, **wrong}).status_code == 400


def test_completions_have_log_probabilities_in_the_older_form(client):
    body = {"model": "fake", "prompt": "Who keeps bees?", "logprobs": 2, "n": 2}
    whole = client.post("/v1/completions", json=body).json()["choices"]
    assert [choice["index"] for choice in whole] == [0, 1]
    told, text = whole[0]["logprobs"], whole[0]["text"]
    for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
        assert text[offset:].startswith(token)
    assert [len(top) for top in told["top_logprobs"]] == [2] * len(told["tokens"])
    chunks = events(client.post("/v1/completions", json={**body, "stream": True}))
    second = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == 1]
    assert "".join(choice["text"] for choice in second) == text
    plain = client.post("/v1/completions", json={**body, "logprobs": False}).json()
    assert plain["choices"][0]["logprobs"] is None
    parts = [choice["logprobs"] for choice in second if choice["logprobs"]]
    for name, values in told.items():
        assert [value for part in parts for value in part[name]] == values


def test_a_response_is_a_conversation_that_is_kept(client):
    parts = [{"type": "input_text", "text": "Who keeps bees?"}]
    for number, given in enumerate(
        ("Who keeps bees?", [USER], [{"type": "message", "role": "user", "content": parts}])
    ):
        body = {"model": f"fake:m{number}", "input": given, "instructions": "Be brief."}
        whole = client.post("/v1/responses", json=body).json()
        assert (whole["object"], whole["status"]) == ("response", "completed")
        text = whole["output"][0]["content"][0]["text"]
        stored = client.get(f"/v1/memories/m{number}/text").json()["messages"]
        assert [m["content"] for m in stored] == ["Who keeps bees?", text]
    streamed = events(client.post("/v1/responses", json={**body, "stream": True}))
    assert [e["sequence_number"] for e in streamed] == list(range(len(streamed)))
    deltas = [e["delta"] for e in streamed if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == text
    assert (streamed[0]["type"], streamed[-1]["type"]) == (
        "response.created",
        "response.completed",
    )
    later = client.post("/v1/responses", json={**body, "previous_response_id": "resp_1"})
    assert later.json()["error"]["param"] == "previous_response_id"


def test_a_response_that_fails_says_so(client):
    body = {"model": "fake:ada", "input": "word " * 200}
    assert client.post("/v1/responses", json=body).status_code == 400
    cut = client.post("/v1/responses", json={**body, "input": "Hi", "max_output_tokens": 1}).json()
    assert cut["status"] == "incomplete"
    assert cut["incomplete_details"] == {"reason": "max_output_tokens"}


def test_tokens_are_counted(client):
    assert client.post("/tokenize", json={"prompt": "a b c"}).json()["count"] > 2
    count = client.post("/tokenize", json={"model": "fake", "messages": [USER]}).json()
    assert count["count"] > 2
    assert count["max_model_len"] == 96
    for wrong in ({}, {"prompt": "a", "messages": [USER]}, {"prompt": "a" * 300_000}):
        assert client.post("/tokenize", json=wrong).status_code == 400


def test_what_clients_ask_first(client):
    assert client.get("/health").status_code == 200
    head = client.head("/v1/models")
    assert (head.status_code, head.content) == (200, b"")
    assert client.get("/v1/models/fake:nobody").status_code == 404
    embeddings = client.post("/v1/embeddings", json={"model": "fake", "input": "x"})
    assert embeddings.status_code == 404
    assert "no embeddings" in embeddings.json()["error"]["message"]


def test_a_body_that_is_not_json_is_refused_by_its_type(client):
    body = json.dumps({"model": "fake", "messages": [USER]})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        refused = client.post(CHAT, content=body, headers={"content-type": kind})
        assert refused.status_code == 415
        assert "application/json" in refused.json()["error"]["message"]
    kind = {"content-type": "application/json; charset=utf-8"}
    assert client.post(CHAT, content=body, headers=kind).status_code == 200


def test_a_key_may_come_as_other_services_have_it(make_app):
    key = "templora-" + "k" * 32
    with TestClient(make_app(keys=ApiKeys.of({key: "a"})), base_url="http://localhost") as client:
        assert client.get("/v1/models", headers={"x-api-key": key}).status_code == 200
        for wrong in ({"x-api-key": "x"}, {"x-api-key": ""}, {"authorization": f"Basic {key}"}):
            assert client.get("/v1/models", headers=wrong).status_code == 401
        both = {"authorization": "Bearer wrong", "x-api-key": key}
        assert client.get("/v1/models", headers=both).status_code == 401
