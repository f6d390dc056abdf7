"""The guard before the application: sizes and speed of bodies, hosts and origins."""

import socket

import pytest
from starlette.testclient import TestClient

from templora_memory.server import ApiKeys


def test_large_bodies_are_refused_with_and_without_a_length(make_app):
    with TestClient(
        make_app(settings={"max_body_bytes": 1000, "max_import_bytes": 2000}),
        base_url="http://localhost",
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


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "evil.example"}, "host_not_allowed"),
        ({"host": "localhost.evil.example:80"}, "host_not_allowed"),
        ({"host": "[evil"}, "host_not_allowed"),
        ({"host": "[::1"}, "host_not_allowed"),
        ({"host": "::1"}, "host_not_allowed"),
        ({"host": "a@127.0.0.1"}, "host_not_allowed"),
        ({"host": "127.0.0.1:80:80"}, "host_not_allowed"),
        ({"sec-fetch-site": "cross-site"}, "origin_not_allowed"),
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
        asked["access-control-request-headers"] = "x-stainless-lang,x-stainless-os,x-own"
        allowed = client.options("/v1/chat/completions", headers=asked)
        assert "x-stainless-lang" in allowed.headers["access-control-allow-headers"]
        found = client.get("/v1/models", headers={"origin": page, "sec-fetch-site": "cross-site"})
        assert found.headers["access-control-allow-origin"] == page
        other = client.get("/v1/models", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        assert other.status_code == 403
    with TestClient(make_app(root="other"), base_url="http://localhost") as client:
        assert client.options("/v1/models", headers=asked).status_code == 403


def test_with_keys_any_host_name_is_served(make_app):
    key = "templora-" + "k" * 32
    with TestClient(make_app(keys=ApiKeys.of({key: "a"})), base_url="http://far.example") as client:
        found = client.get("/v1/models", headers={"authorization": f"bearer {key}"})
        assert found.is_success
