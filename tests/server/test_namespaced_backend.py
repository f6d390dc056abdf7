"""One backend behind two keys: nothing that is cached for one is used for the other."""

from starlette.testclient import TestClient

from templora_memory.server import ApiKeys

ALICE, BOB = "alice-" + "a" * 32, "bob-" + "b" * 32
WORDS = "Zanzibar is the password of alice."


def auth(key):
    return {"authorization": f"Bearer {key}"}


def test_caches_of_two_keys_are_never_shared(make_app):
    app = make_app(keys=ApiKeys.of({ALICE: "alice", BOB: "bob"}))
    with TestClient(app, base_url="http://localhost") as client:
        job = client.post(
            "/v1/memories/treasure/absorb?wait=30", json={"text": WORDS}, headers=auth(ALICE)
        )
        assert job.json()["state"] == "succeeded"
        file = client.get("/v1/memories/treasure/export", headers=auth(ALICE)).content
        kind = {"content-type": "application/octet-stream", **auth(BOB)}
        assert client.post("/v1/memories/import", content=file, headers=kind).status_code == 201
        asked = {"model": "fake:treasure", "messages": [{"role": "user", "content": "What?"}]}
        for key in (ALICE, BOB):
            assert client.post("/v1/chat/completions", json=asked, headers=auth(key)).is_success
        backend = app.state.server.tenants["alice"].service.backend
        versions = [request.adapter.version for request in backend._backend.requests]
    assert [version.partition("/")[0] for version in versions] == ["alice", "bob"]
