"""Jobs of a namespace: how many there may be."""

from starlette.testclient import TestClient


def test_a_job_says_what_it_does(make_app, slow):
    backend = slow(learning=30)
    with TestClient(make_app(backend), base_url="http://localhost") as client:
        url = "/v1/memories/a/absorb"
        first = client.post(url, json={"text": "word " * 40}).json()["id"]
        assert backend.learns.wait(30)
        second = client.post(url, json={"text": "another"}).json()
        assert second["phase"] == {"name": "queued", "step": 0, "steps": 0}
        running = client.get(f"/v1/jobs/{first}").json()["phase"]
        assert running == {"name": "learning", "step": 0, "steps": 0}
        backend.go_on.set()
        ended = client.get(f"/v1/jobs/{first}?wait=30").json()
        assert ended["phase"]["name"] == "ended"


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
