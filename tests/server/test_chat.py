"""The routes of OpenAI's interface; `test_clients.py` tries them with real clients."""

from starlette.testclient import TestClient

ASKED = {"model": "fake", "messages": [{"role": "user", "content": "Who keeps bees?"}]}


def chat(client, **more):
    return client.post("/v1/chat/completions", json={**ASKED, **more})


def test_the_server_may_call_the_model_something_else(make_app):
    with TestClient(make_app(settings={"name": "gpt-4o"}), base_url="http://localhost") as client:
        assert chat(client, model="gpt-4o:ada").json()["templora"]["memory"] == "ada"
        assert chat(client, model="fake").status_code == 404
