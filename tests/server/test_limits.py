"""Who is sent away, when, and with which words."""

import asyncio
import json
import socket
import threading
import time

import httpx
import pytest
from starlette.testclient import TestClient

from templora_memory.errors import InvalidSetting
from templora_memory.server import Keys, ServerSettings, serve
from templora_memory.server.concurrency import Gate
from templora_memory.server.errors import ApiError
from templora_memory.testing import FakeBackend

ASKED = {"model": "fake", "messages": [{"role": "user", "content": "Who keeps bees?"}]}
MEMORY = {**ASKED, "model": "fake:ada"}


def chat(client, **more):
    return client.post("/v1/chat/completions", json={**ASKED, **more})


def busy(client, count, **more):
    """So many replies in threads; returns what they got once they are done."""
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(chat(client, **more))) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    return threads, found


def until(check):
    end = time.monotonic() + 30
    while not check():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- the gate ------------------------------------------------------------------------------------


def gate(**limits):
    return Gate(**({"running": 1, "waiting": 1, "per_key": 9, "seconds": 30} | limits))


def test_places_are_given_in_order_and_the_queue_is_short():
    async def scenario():
        door = gate()
        first = await door.enter("a")
        second = asyncio.create_task(door.enter("b"))
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="1 requests wait already") as caught:
            await door.enter("c")
        assert (caught.value.status_code, caught.value.headers["retry-after"]) == (429, "1")
        assert (door.held, door.waiting) == (2, 1)
        first.leave()
        first.leave()
        (await second).leave()
        assert (door.held, door.waiting) == (0, 0)
        (await door.enter("c")).leave()

    asyncio.run(scenario())


def test_one_key_cannot_take_all_places():
    async def scenario():
        door = gate(running=4, per_key=2)
        held = [await door.enter("a"), await door.enter("a")]
        with pytest.raises(ApiError, match="This key has 2 requests"):
            await door.enter("a")
        (await door.enter("b")).leave()
        held[0].leave()
        (await door.enter("a")).leave()

    asyncio.run(scenario())


def test_who_waits_too_long_or_goes_away_leaves_the_queue():
    async def scenario():
        door = gate(seconds=0.01)
        held = await door.enter("a")
        with pytest.raises(ApiError, match="No place became free within"):
            await door.enter("b")
        gone = asyncio.create_task(door.enter("b"))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert (door.held, door.waiting) == (1, 0)
        held.leave()
        (await door.enter("c")).leave()
        assert door.held == 0

    asyncio.run(scenario())


# --- over HTTP -----------------------------------------------------------------------------------


def test_a_full_server_says_so_and_serves_again(make_app, slow):
    backend = slow(pause=30)
    app = make_app(backend, settings={"running": 1, "waiting": 1})
    with TestClient(app, base_url="http://localhost") as client:
        threads, found = busy(client, 2)
        until(lambda: app.state.runtime.replies.held == 2)
        refused = chat(client)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert client.get("/v1/memories").is_success  # looking needs no place of a reply
        backend.go_on.set()
        for thread in threads:
            thread.join(30)
        assert [one.status_code for one in found] == [200, 200]
        assert chat(client).is_success
        assert app.state.runtime.replies.held == 0


def test_too_many_absorbs_are_refused(make_app, slow):
    backend = slow(learning=30)
    with TestClient(make_app(backend, settings={"jobs": 2}), base_url="http://localhost") as client:
        for memory in ("a", "b"):
            url = f"/v1/memories/{memory}/absorb"
            assert client.post(url, json={"text": "word"}).status_code == 202
        refused = client.post("/v1/memories/c/absorb", json={"text": "word"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_jobs")
        assert client.get("/v1/memories/c").status_code == 404
        backend.go_on.set()


def test_large_bodies_are_refused_with_and_without_a_length(make_app):
    with TestClient(
        make_app(settings={"body_bytes": 1000, "import_bytes": 2000}), base_url="http://localhost"
    ) as client:
        url, large = "/v1/memories/ada/absorb", b'{"text": "' + b"a" * 2000 + b'"}'
        json_type = {"content-type": "application/json"}
        for body in (large, iter([large[:500], large[500:]])):
            refused = client.post(url, content=body, headers=json_type)
            assert (refused.status_code, refused.json()["error"]["code"]) == (
                413, "request_too_large",
            )  # fmt: skip
            assert "1,000 bytes" in refused.json()["error"]["message"]
        kind = {"content-type": "application/octet-stream"}
        for size, status in ((1500, 400), (2500, 413)):
            found = client.post("/v1/memories/import", content=b"a" * size, headers=kind)
            assert found.status_code == status


@pytest.mark.enable_socket
def test_a_body_that_does_not_come_is_not_waited_for(start):
    server = start(settings={"body_seconds": 0.1})
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as line:
        line.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
        )
        assert line.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_reply_that_takes_too_long_ends(make_app, slow):
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
        until(lambda: app.state.runtime.replies.held == 0)


@pytest.mark.enable_socket
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_the_model(start, slow, stream):
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
    until(lambda: server.app.state.runtime.replies.held == 0)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        told = client.get("/v1/memories/ada/text").json()["messages"]
    assert [one["role"] for one in told] == ["user"]  # a broken answer is not part of the talk


@pytest.mark.enable_socket
def test_forgetting_a_memory_ends_its_replies_cleanly(start, slow):
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


# --- who may come near ---------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.com"])  # noqa: S104
def test_without_a_key_nothing_but_this_machine_is_served(tmp_path, host):
    with pytest.raises(InvalidSetting, match="no API key: make one"):
        serve(FakeBackend(), tmp_path, host=host)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "evil.example"}, "host_not_allowed"),
        ({"host": "localhost.evil.example:80"}, "host_not_allowed"),
        ({"host": "[evil"}, "host_not_allowed"),
        ({"origin": "https://evil.example"}, "origin_not_allowed"),
        ({"origin": "null"}, "origin_not_allowed"),
    ],
)
def test_web_pages_cannot_reach_a_server_without_keys(make_app, headers, code):
    with TestClient(make_app(), base_url="http://localhost") as client:
        found = client.get("/v1/memories", headers=headers)
        assert (found.status_code, found.json()["error"]["code"]) == (403, code)
        for host in ("127.0.0.1:8000", "[::1]:8000", "localhost", "LOCALHOST:1"):
            assert client.get("/v1/memories", headers={"host": host}).is_success


def test_only_named_pages_may_call(make_app):
    page = "https://game.example"
    with TestClient(make_app(settings={"origins": (page,)}), base_url="http://localhost") as client:
        asked = {"origin": page, "access-control-request-method": "POST"}
        assert client.options("/v1/chat/completions", headers=asked).is_success
        found = client.get("/v1/models", headers={"origin": page})
        assert found.headers["access-control-allow-origin"] == page
        other = client.get("/v1/models", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        assert other.status_code == 403
    with TestClient(make_app(root="other"), base_url="http://localhost") as client:
        assert client.options("/v1/models", headers=asked).status_code == 403


def test_with_keys_any_host_name_is_served(make_app):
    key = "templora-" + "k" * 32
    with TestClient(make_app(keys=Keys.of({key: "a"})), base_url="http://far.example") as client:
        found = client.get("/v1/models", headers={"authorization": f"bearer {key}"})
        assert found.is_success


@pytest.mark.parametrize(
    "wrong",
    [
        {"running": 0}, {"waiting": -1}, {"jobs": True}, {"body_bytes": 1.5}, {"name": " "},
        {"reply_seconds": 0}, {"queue_seconds": float("nan")}, {"grace_seconds": -1},
        {"reply_seconds": "1"}, {"origins": ("*",)},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InvalidSetting, match=next(iter(wrong))):
        ServerSettings(**wrong)


def test_the_server_may_call_the_model_something_else(make_app):
    with TestClient(make_app(settings={"name": "gpt-4o"}), base_url="http://localhost") as client:
        assert chat(client, model="gpt-4o:ada").json()["templora"]["memory"] == "ada"
        assert chat(client, model="fake").status_code == 404
