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


def said(client, name):
    text = client.get(f"/v1/memories/{name}/text").json()
    return [(m["role"], m["content"], m["name"]) for m in text["messages"]]


def test_every_way_that_a_front_end_ends_its_messages(make_app):
    user = {"role": "user", "content": "Who keeps bees?"}
    spoken = {"role": "assistant", "content": "It is"}
    nudge = {"role": "system", "content": "[Continue your last message.]"}
    with TestClient(make_app(), base_url="http://localhost") as client:
        for messages in (
            [nudge, user, spoken],
            [user, spoken, nudge],
            [nudge, nudge],
            [nudge],
            [spoken],
            [user, spoken, {**spoken, "content": ""}],
        ):
            answer = chat(client, model="fake:ada", messages=messages)
            assert answer.status_code == 200, (messages, answer.text)
            assert answer.json()["choices"][0]["message"]["content"]
        continued = chat(client, model="fake:eve", messages=[user, spoken]).json()
        text = continued["choices"][0]["message"]["content"]
        assert said(client, "eve")[-1] == ("assistant", "It is" + text, None)
        chat(client, model="fake:bob", messages=[user, spoken], add_generation_prompt=True)
        assert said(client, "bob")[1] == ("assistant", "It is", None)


def test_who_spoke_in_a_group_is_kept_in_the_text(make_app):
    messages = [
        {"role": "user", "content": "Hello!", "name": "Tom"},
        {"role": "assistant", "content": "Ada: I keep bees.", "name": "Ada"},
        {"role": "assistant", "content": "I do not.", "name": "Bob"},
        {"role": "user", "content": "Oh.", "name": "Tom"},
    ]
    with TestClient(make_app(), base_url="http://localhost") as client:
        chat(client, model="fake:ada", messages=messages)
        assert said(client, "ada")[:4] == [
            ("user", "Tom: Hello!", "Tom"),
            ("assistant", "Ada: I keep bees.", "Ada"),
            ("assistant", "Bob: I do not.", "Bob"),
            ("user", "Tom: Oh.", "Tom"),
        ]
