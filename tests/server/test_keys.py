"""Keys: what one of them sees, nobody else learns of."""

import pytest
from starlette.testclient import TestClient

from templora_memory.server import ApiKeys

ALICE, BOB = "alice-" + "a" * 32, "bob-" + "b" * 32
WORDS = "Zanzibar is the password of alice."
NEVER = "neverwas"  # as many letters as the memory there is


def auth(key):
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def app(make_app):
    return make_app(keys=ApiKeys.of({ALICE: "alice", BOB: "bob"}))


@pytest.fixture
def client(app):
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.fixture
def job(client):
    found = client.post(
        "/v1/memories/treasure/absorb?wait=30", json={"text": WORDS}, headers=auth(ALICE)
    ).json()
    assert found["state"] == "succeeded"
    return found


BODIES = {
    "absorb": {"text": "Mine."},
    "probe": {"question": "What?", "answer": "Zanzibar"},
    "fork": {"target": "copy"},
    "rollback": {"revision": "head"},
    "remove": {"ids": ["f" * 16]},
    "correct": {"text": "Mine."},
}


def calls(app, name):
    """Every operation about one memory, from the schema, so that none is forgotten."""
    for path, operations in app.openapi()["paths"].items():
        if "{memory_id}" in path:
            verb = path.rpartition("/")[2]
            for method in operations:
                yield method.upper(), path.replace("{memory_id}", name), BODIES.get(verb)


@pytest.mark.usefixtures("job")
def test_every_operation_answers_as_if_the_memory_of_another_key_did_not_exist(app, client):
    seen = []
    for (method, path, body), (_, elsewhere, _) in zip(
        calls(app, "treasure"), calls(app, NEVER), strict=True
    ):
        if path.endswith("/absorb"):
            continue  # makes a memory of its own, below
        found = client.request(method, path, json=body, headers=auth(BOB))
        never = client.request(method, elsewhere, json=body, headers=auth(BOB))
        assert found.status_code == never.status_code == 404
        assert found.text.replace("treasure", NEVER) == never.text
        assert "treasure" not in found.text
        seen.append(method)
    assert len(seen) >= 8


@pytest.mark.usefixtures("job")
def test_names_that_are_taken_by_another_key_are_free(client):
    for path, body in (
        ("/v1/memories", {"id": "treasure"}),
        ("/v1/memories/treasure/absorb?wait=30", {"text": "Mine."}),
    ):
        assert client.post(path, json=body, headers=auth(BOB)).is_success
    told = client.get("/v1/memories/treasure/text", headers=auth(BOB)).json()
    assert [one["text"] for one in told["documents"]] == ["Mine."]
    kept = client.get("/v1/memories/treasure/text", headers=auth(ALICE)).json()
    assert [one["text"] for one in kept["documents"]] == [WORDS]


def test_lists_hold_the_own_memories_only(client, job):
    assert client.get("/v1/memories", headers=auth(BOB)).json()["data"] == []
    assert client.get("/v1/jobs", headers=auth(BOB)).json()["data"] == []
    models = client.get("/v1/models", headers=auth(BOB)).json()["data"]
    assert [one["id"] for one in models] == ["fake"]
    for path in (
        f"/v1/jobs/{job['id']}",
        f"/v1/jobs/{job['id']}/events",
        "/v1/models/fake:treasure",
    ):
        assert client.get(path, headers=auth(BOB)).status_code == 404
    assert client.delete(f"/v1/jobs/{job['id']}", headers=auth(BOB)).status_code == 404


@pytest.mark.usefixtures("job")
def test_chat_under_the_same_name_is_another_memory(client):
    asked = {
        "model": "fake:treasure",
        "messages": [{"role": "user", "content": "What is the password of alice?"}],
    }
    mine = client.post("/v1/chat/completions", json=asked, headers=auth(ALICE))
    theirs = client.post("/v1/chat/completions", json=asked, headers=auth(BOB))
    assert "Zanzibar" in mine.text
    assert "Zanzibar" not in theirs.text
    assert theirs.json()["templora"]["absorbed_tokens"] == 0
    pinned = {**asked, "revision": mine.json()["templora"]["revision"]}
    client.delete("/v1/memories/treasure", headers=auth(BOB))
    assert client.post("/v1/chat/completions", json=pinned, headers=auth(BOB)).status_code == 404


@pytest.mark.usefixtures("job")
def test_a_base_or_a_forget_by_user_reaches_the_own_memories_only(client):
    client.post("/v1/memories", json={"id": "treasure@carl"}, headers=auth(ALICE))
    wrong = client.post("/v1/memories", json={"id": "x", "base": "treasure"}, headers=auth(BOB))
    assert wrong.status_code == 404
    assert client.delete("/v1/memories?user=carl", headers=auth(BOB)).status_code == 404
    kept = client.get("/v1/memories", headers=auth(ALICE)).json()["data"]
    assert [one["id"] for one in kept] == ["treasure", "treasure@carl"]


@pytest.mark.usefixtures("job")
def test_nothing_works_without_a_key_but_health_and_schema(app, client):
    for path, operations in app.openapi()["paths"].items():
        for method in operations:
            for headers in ({}, auth("wrong"), {"authorization": f"Basic {ALICE}"}, auth("")):
                found = client.request(
                    method.upper(), path.replace("{memory_id}", "treasure"), headers=headers
                )
                assert found.status_code == (200 if path in {"/healthz", "/readyz"} else 401)
                assert "treasure" not in found.text
    assert client.get("/openapi.json").is_success
