"""The routes of OpenAI's interface; `test_clients.py` tries them with real clients."""

from starlette.testclient import TestClient

ASKED = {"model": "fake", "messages": [{"role": "user", "content": "Who keeps bees?"}]}


def chat(client, **more):
    return client.post("/v1/chat/completions", json={**ASKED, **more})


def test_the_server_may_call_the_model_something_else(make_app):
    with TestClient(make_app(settings={"name": "gpt-4o"}), base_url="http://localhost") as client:
        assert chat(client, model="gpt-4o:ada").json()["templora"]["memory"] == "ada"
        assert chat(client, model="fake").status_code == 404


def test_a_sliding_window_goes_on_from_what_the_memory_holds(make_app):
    talk = [
        {"role": role, "content": f"{role} says word{number} and some more words here"}
        for number in range(20)
        for role in ("user", "assistant")
    ]
    with TestClient(make_app(), base_url="http://localhost") as client:
        for begin in (0, 2, 6):
            messages = [*talk[begin : begin + 20], ASKED["messages"][0]]
            answer = chat(client, model="fake:ada", messages=messages).json()
            assert answer["templora"]["omitted_messages"] == begin
        text = client.get("/v1/memories/ada/text").json()
    assert [{"role": m["role"], "content": m["content"]} for m in text["messages"][:-2]] == talk[
        :26
    ]
