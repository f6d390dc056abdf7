"""Jobs of a namespace: how many there may be."""

from starlette.testclient import TestClient


def test_too_many_absorbs_are_refused(make_app, slow):
    backend = slow(learning=30)
    with TestClient(
        make_app(backend, settings={"max_jobs": 2}), base_url="http://localhost"
    ) as client:
        for memory in ("a", "b"):
            url = f"/v1/memories/{memory}/absorb"
            assert client.post(url, json={"text": "word"}).status_code == 202
        refused = client.post("/v1/memories/c/absorb", json={"text": "word"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_jobs")
        assert client.get("/v1/memories/c").status_code == 404
        backend.go_on.set()
