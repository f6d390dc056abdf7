"""Replies that end early: too slow, given up by the client, or of a memory that is forgotten."""

import json
import socket

import httpx
import pytest
from starlette.testclient import TestClient

ASKED = {"model": "fake", "messages": [{"role": "user", "content": "Who keeps bees?"}]}
MEMORY = {**ASKED, "model": "fake:ada"}


def chat(client, **more):
    return client.post("/v1/chat/completions", json={**ASKED, **more})


def test_a_reply_that_takes_too_long_ends(make_app, slow, until):
    backend = slow(pause=30)
    app = make_app(backend, settings={"reply_seconds": 0.2})
    with TestClient(app, base_url="http://localhost") as client:
        late = chat(client)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        streamed = chat(client, stream=True)
        assert streamed.status_code == 200
        assert '"code":"timeout"' in streamed.text
        assert "[DONE]" not in streamed.text
        assert backend.closed.is_set()
        backend.go_on.set()
        until(lambda: app.state.server.reply_limiter.in_flight == 0)


@pytest.mark.enable_socket
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_the_model(start, slow, stream, until):
    backend = slow(pause=120)
    server = start(backend)
    body = json.dumps({**MEMORY, "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as line:
        line.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        until(lambda: backend.words)
    assert backend.closed.wait(60)
    backend.go_on.set()
    until(lambda: server.app.state.server.reply_limiter.in_flight == 0)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        told = client.get("/v1/memories/ada/text").json()["messages"]
    assert [one["role"] for one in told] == ["user"]  # a broken answer is not part of the talk


@pytest.mark.enable_socket
def test_a_client_that_goes_away_frees_its_place_while_something_is_learned_for_it(
    start, slow, until
):
    backend = slow(learning=120)
    server = start(backend)
    roles = ["user", "assistant"] * 10
    talk = [{"role": role, "content": f"Message {n} has words."} for n, role in enumerate(roles)]
    body = json.dumps({**MEMORY, "messages": [*talk, ASKED["messages"][0]]}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as line:
        line.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        assert backend.learns.wait(60)
        assert server.app.state.server.reply_limiter.in_flight == 1
    until(lambda: server.app.state.server.reply_limiter.in_flight == 0)
    assert not backend.go_on.is_set()
    backend.go_on.set()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        until(lambda: client.get("/v1/memories/ada").json()["absorbed_messages"])
    assert not backend.requests


@pytest.mark.enable_socket
def test_forgetting_a_memory_ends_its_replies_cleanly(start, slow, until):
    backend = slow(pause=120)
    server = start(backend)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        with client.stream("POST", "/v1/chat/completions", json={**MEMORY, "stream": True}) as said:
            until(lambda: backend.words)
            assert httpx.delete(f"{server.url}/v1/memories/ada", timeout=60).is_success
            backend.go_on.set()
            text = said.read().decode()
        assert '"code":"cancelled"' in text
        assert "[DONE]" not in text
        assert client.get("/v1/memories").json()["data"] == []
