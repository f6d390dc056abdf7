"""Errors in OpenAI's form, which tell a caller nothing about this machine."""

import pytest
from starlette.testclient import TestClient


@pytest.fixture
def client(make_app):
    with TestClient(make_app(), base_url="http://localhost") as client:
        yield client


def test_a_damaged_memory_is_listed_and_its_path_kept_secret(client, tmp_path):
    job = client.post("/v1/memories/ada/absorb?wait=30", json={"text": "Ada keeps bees."})
    assert job.status_code == 202, job.text
    (tmp_path / "root" / "ada" / "manifest.json").write_text("{}")
    listed = client.get("/v1/memories").json()["data"]
    assert [(one["id"], one["object"]) for one in listed] == [("ada", "memory.damaged")]
    shown = client.get("/v1/memories/ada")
    assert (shown.status_code, shown.json()["error"]["code"]) == (500, "memory_damaged")
    assert str(tmp_path) not in shown.text


def test_text_that_is_no_unicode_is_refused(client):
    for body in (b'{"text": "\\ud800"}', b'{"\\ud800": 1}', b"{", b'{"text": NaN}', b"\xff"):
        found = client.post(
            "/v1/memories/ada/absorb", content=body, headers={"content-type": "application/json"}
        )
        assert found.status_code == 400
        assert found.json()["error"]["type"] == "invalid_request_error"
