"""Texts one by one over HTTP: listed, removed, corrected and pinned."""

import json
from dataclasses import asdict

import pytest
from starlette.testclient import TestClient

from templora_memory.server import ApiKeys
from templora_memory.server.job_registry import JobRecord

BEES = "Ada keeps bees on the roof."
ALICE, BOB = "alice-" + "a" * 32, "bob-" + "b" * 32
SECRET = "The code is zanzibar."  # noqa: S105  # of the story


ASKED = {"model": "fake:ada", "messages": [{"role": "user", "content": "Who keeps bees?"}]}


@pytest.fixture
def client(make_app):
    app = make_app()
    with TestClient(app, base_url="http://localhost") as client:
        told(app)
        yield client


def told(app):
    """Tell it three texts, each in a revision of its own."""
    for text in (BEES, SECRET, "Ada moved to Leeds."):
        app.state.server.tenants[None].service["ada"].absorb(text)


def texts(client, memory="ada", **asked):
    found = client.get(f"/v1/memories/{memory}/texts", params=asked)
    assert found.status_code == 200, found.text
    return found.json()


def remove(client, ids, **asked):
    return client.post("/v1/memories/ada/texts/remove?wait=30", json={"ids": ids, **asked})


def test_texts_are_listed_in_pages_and_found_by_words(client):
    page = texts(client, limit=2)
    assert [text["text"] for text in page["data"]] == [BEES, SECRET]
    assert (page["total"], page["next_offset"]) == (3, 2)
    assert texts(client, offset=2)["next_offset"] is None
    (found,) = texts(client, query="bee")["data"]
    assert (found["kind"], found["state"], found["pinned"]) == ("document", "learned", False)
    assert client.get("/v1/memories/eve/texts").status_code == 404
    assert client.get("/v1/memories/ada/texts?limit=0").status_code == 400


def test_a_text_is_removed_as_a_job_with_a_receipt(client, tmp_path):
    name = texts(client)["data"][1]["id"]
    ask = [{"question": "What is the code?", "answer": "zanzibar"}]
    job = remove(client, [name], ask=ask).json()
    assert (job["state"], job["kind"]) == ("succeeded", "remove")
    receipt = job["receipt"]
    assert receipt["ids"] == [name]
    assert receipt["relearned"] == job["report"]
    assert len(receipt["revisions"]) == 2
    assert [change["over_base"] for change in receipt["changes"]] == [1.0, 1.0]
    assert "exports" not in receipt  # paths of the server
    assert [text["text"] for text in texts(client)["data"]] == [BEES, "Ada moved to Leeds."]
    kept = [p for p in tmp_path.rglob("*") if p.is_file() and b"zanzibar" in p.read_bytes()]
    assert kept == []
    assert "zanzibar" not in json.dumps(client.get("/v1/jobs").json())
    again = remove(client, [name])
    assert (again.status_code, again.json()["error"]["code"]) == (404, "text_not_found")


def test_a_text_is_corrected(client):
    name = texts(client)["data"][1]["id"]
    url = f"/v1/memories/ada/texts/{name[:8]}/correct?wait=30"
    job = client.post(url, json={"text": "The code is marble."}).json()
    assert (job["state"], job["kind"], job["receipt"]["ids"]) == ("succeeded", "correct", [name])
    assert texts(client)["data"][1] | {"time": 0} == {
        "id": name, "object": "memory.text", "text": "The code is marble.", "kind": "document",
        "speaker": None, "role": None, "title": None, "continues": False, "time": 0,
        "state": "learned", "pinned": False,
    }  # fmt: skip
    assert client.post(url, json={"text": ""}).status_code == 400
    assert client.post(url, json={"text": " "}).json()["error"]["code"] == "invalid_value"


def test_a_pin_can_be_set_and_taken_off_again_and_again(client):
    name = texts(client)["data"][0]["id"]
    url = f"/v1/memories/ada/texts/{name}/pin"
    assert [client.put(url).status_code for _ in range(2)] == [204, 204]
    assert texts(client)["data"][0]["pinned"]
    assert [client.delete(url).status_code for _ in range(2)] == [204, 204]
    assert not texts(client)["data"][0]["pinned"]
    assert client.put("/v1/memories/ada/texts/ffffffffffff/pin").status_code == 404


def test_an_answer_says_which_passages_it_was_shown(client):
    asked = {**ASKED, "recall_tokens": 24}
    body = client.post("/v1/chat/completions", json=asked).json()
    (passage,) = body["templora"]["recalled"]
    assert passage["text"] == BEES
    streamed = client.post("/v1/chat/completions", json={**asked, "stream": True}).text
    assert json.dumps(BEES) in streamed
    assert remove(client, [passage["source"]]).json()["state"] == "succeeded"
    assert BEES not in [text["text"] for text in texts(client)["data"]]
    body = client.post("/v1/chat/completions", json=ASKED).json()
    assert body["templora"]["recalled"] == []


def test_ids_that_are_none_are_refused(make_app):
    with TestClient(make_app(), base_url="http://localhost") as client:
        for ids in ([], [""], "abc", [5], ["x" * 65], None):
            assert remove(client, ids).status_code == 400
        assert remove(client, ["f" * 16]).status_code == 404


def test_the_same_removal_asked_twice_is_one_job(make_app, slow):
    backend = slow(learning=0.0)
    app = make_app(backend)
    with TestClient(app, base_url="http://localhost") as client:
        told(app)
        backend.learning = 30.0
        name = texts(client)["data"][1]["id"]
        url = "/v1/memories/ada/texts/remove"
        one, two = (client.post(url, json={"ids": [name]}).json() for _ in range(2))
        assert one["id"] == two["id"]
        backend.go_on.set()
        assert client.get(f"/v1/jobs/{one['id']}?wait=30").json()["state"] == "succeeded"


def test_a_key_sees_and_removes_its_own_texts_alone(make_app):
    app = make_app(keys=ApiKeys.of({ALICE: "alice", BOB: "bob"}))
    mine, other = ({"authorization": f"Bearer {key}"} for key in (ALICE, BOB))
    with TestClient(app, base_url="http://localhost") as client:
        for name, text in (("alice", BEES), ("bob", SECRET)):
            app.state.server.tenants[name].service["ada"].absorb(text)
        (text,) = client.get("/v1/memories/ada/texts", headers=mine).json()["data"]
        assert text["text"] == BEES
        url = "/v1/memories/ada/texts/remove?wait=30"
        assert client.post(url, json={"ids": [text["id"]]}, headers=other).status_code == 404
        assert client.post(url, json={"ids": [text["id"]]}, headers=mine).status_code == 202
        (left,) = client.get("/v1/memories/ada/texts", headers=other).json()["data"]
        assert left["text"] == SECRET


def test_an_interrupted_removal_goes_on_at_the_next_start(make_app, tmp_path, client):
    name = texts(client)["data"][1]["id"]
    removal, correction = (
        JobRecord(id=f"job-{digit * 24}", kind=kind, memory="ada", created=1.0, ids=(name,))
        for digit, kind in (("0", "remove"), ("1", "correct"))
    )
    folder = next(tmp_path.rglob(".jobs"))
    for record in (removal, correction):
        (folder / f"{record.id}.json").write_text(json.dumps(asdict(record)))
    with TestClient(make_app(), base_url="http://localhost") as second:
        job = second.get(f"/v1/jobs/{removal.id}?wait=30").json()
        assert (job["state"], job["resumed"]) == ("succeeded", True)
        assert second.get(f"/v1/jobs/{correction.id}").status_code == 404
        assert SECRET not in [text["text"] for text in texts(second)["data"]]
