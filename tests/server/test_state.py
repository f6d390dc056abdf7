"""A server whose replies are all busy."""

import threading

from starlette.testclient import TestClient

ASKED = {"model": "fake", "messages": [{"role": "user", "content": "Who keeps bees?"}]}


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


def test_a_full_server_says_so_and_serves_again(make_app, slow, until):
    backend = slow(pause=30)
    app = make_app(backend, settings={"max_running": 1, "max_waiting": 1})
    with TestClient(app, base_url="http://localhost") as client:
        threads, found = busy(client, 2)
        until(lambda: app.state.server.reply_limiter.in_flight == 2)
        refused = chat(client)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert client.get("/v1/memories").is_success  # looking needs no place of a reply
        backend.go_on.set()
        for thread in threads:
            thread.join(30)
        assert [one.status_code for one in found] == [200, 200]
        assert chat(client).is_success
        assert app.state.server.reply_limiter.in_flight == 0
