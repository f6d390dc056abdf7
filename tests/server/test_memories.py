"""The verbs of a memory over HTTP."""

import json
import threading

import pytest
from starlette.testclient import TestClient

from templora_memory.testing import GARBAGE, POISON

BEES = "Ada keeps bees on the roof."
TALK = [
    {"role": "user" if n % 2 == 0 else "assistant", "content": f"Sentence {n} of this talk."}
    for n in range(6)
]


@pytest.fixture
def client(make_app):
    with TestClient(make_app(), base_url="http://localhost") as client:
        yield client


def absorb(client, memory="ada", **asked):
    found = client.post(f"/v1/memories/{memory}/absorb?wait=30", json=asked or {"text": BEES})
    assert found.status_code == 202, found.text
    return found.json()


def test_a_memory_is_made_once(client):
    made = client.post("/v1/memories", json={"id": "ada"})
    assert (made.status_code, made.json()["head"]) == (201, None)
    again = client.post("/v1/memories", json={"id": "ada"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
    assert client.get("/v1/memories/ada").json()["history"] == []


def test_a_memory_may_start_from_another(client):
    absorb(client)
    made = client.post("/v1/memories", json={"id": "eve", "base": "ada"}).json()
    assert (made["origin"], made["absorbed_documents"]) == ("ada", 1)


def test_absorbing_gives_a_job_with_progress_and_a_receipt(client):
    job = absorb(client, text="word " * 40)
    assert (job["state"], job["kind"], job["memory"], job["resumed"]) == (
        "succeeded", "documents", "ada", False,
    )  # fmt: skip
    assert job["progress"]["chunk"] == job["progress"]["chunks"] == job["report"]["chunks"] == 3
    assert job["report"]["tokens"] == 40
    assert client.get(f"/v1/jobs/{job['id']}").json() == job
    assert [one["id"] for one in client.get("/v1/jobs?memory=ada").json()["data"]] == [job["id"]]
    assert client.get("/v1/jobs?memory=eve").json()["data"] == []
    assert absorb(client, text="word " * 40)["report"]["tokens"] == 0


def test_documents_and_messages_are_learned_too(client):
    absorb(client, documents=[{"text": BEES, "title": "Bio"}, {"text": "Eve sails."}])
    absorb(client, messages=TALK[:4])
    last = absorb(client, messages=TALK[4:], after=4)
    assert last["kind"] == "messages"
    told = client.get("/v1/memories/ada/text").json()
    assert [one["text"] for one in told["documents"]] == [BEES, "Eve sails."]
    assert [one["content"] for one in told["messages"]] == [one["content"] for one in TALK]
    shown = client.get("/v1/memories/ada").json()
    assert (shown["absorbed_documents"], shown["absorbed_messages"]) == (2, 6)
    assert [one["messages"] for one in shown["history"]] == [0, 4, 6]


def test_what_a_tool_was_told_is_never_learned(client):
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "secret"}}
    absorb(
        client,
        messages=[
            TALK[0],
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "secret too", "tool_call_id": "1"},
            {"role": "assistant", "content": [{"type": "text", "text": "Done."}]},
        ],
    )
    asked = {"messages": [{"role": "user", "content": "secret too Done?"}], "answer": "secret"}
    unknown = client.post("/v1/memories/ada/probe", json={**asked, "answer": "zebra"}).json()
    assert client.post("/v1/memories/ada/probe", json=asked).json()["tokens"] == 1
    assert unknown["gain"] == 0
    probe = {"question": "What?", "answer": "secret"}
    assert client.post("/v1/memories/ada/probe", json=probe).json()["gain"] == 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "Give one of text, documents and messages, not none."),
        ({"text": "a", "documents": [{"text": "b"}]}, "not text, documents."),
        ({"text": "  "}, "A document is empty"),
        ({"text": "a", "after": 2}, "after is for messages"),
        ({"messages": [{"role": "system", "content": "a"}]}, "only system messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text"),
        ({"txt": "a"}, "txt: Extra inputs are not permitted."),
    ],
)
def test_unusable_text_is_refused_and_makes_no_memory_of_text(client, asked, said):
    found = client.post("/v1/memories/ada/absorb", json=asked)
    assert found.status_code == 400
    assert said in found.json()["error"]["message"]
    assert client.get("/v1/jobs").json()["data"] == []


def test_a_failed_absorb_says_why_and_keeps_the_text(client):
    job = absorb(client, text=f"{POISON} text")
    assert (job["state"], job["error"]["code"]) == ("failed", "learning_failed")
    assert "NaN" in job["error"]["message"]
    assert "NaN" in client.get("/v1/memories/ada").json()["last_error"]
    assert absorb(client, text=f"{GARBAGE} text")["error"]["code"] == "learning_failed"
    assert len(client.get("/v1/memories/ada/text").json()["documents"]) == 2


def test_a_job_can_be_followed_and_cancelled(make_app, slow):
    backend = slow(learning=30)
    with TestClient(make_app(backend), base_url="http://localhost") as client:
        job = client.post("/v1/memories/ada/absorb", json={"text": "word " * 40}).json()
        assert backend.learns.wait(30)
        after = client.post("/v1/memories/ada/absorb", json={"text": "later"}).json()
        assert after["state"] == "queued"
        told = []

        def follow():
            with client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
                told.extend(json.loads(line[6:]) for line in events.iter_lines() if line)

        reader = threading.Thread(target=follow)
        reader.start()
        cancelled = client.delete(f"/v1/jobs/{job['id']}?wait=0").json()
        assert (cancelled["state"], cancelled["progress"]) == ("running", None)  # between steps
        client.delete(f"/v1/jobs/{after['id']}?wait=0")
        backend.go_on.set()
        reader.join(30)
        ended = client.get(f"/v1/jobs/{job['id']}?wait=30").json()
        assert (ended["state"], ended["error"]["code"]) == ("cancelled", "cancelled")
        assert told[-1] == ended
        assert client.get(f"/v1/jobs/{after['id']}?wait=30").json()["state"] == "cancelled"
        assert client.get("/v1/memories/ada").json()["documents"] == 2


def test_probing_measures_with_and_without(client):
    absorb(client)
    asked = {"question": "Who?", "answer": "Ada keeps bees"}
    found = client.post("/v1/memories/ada/probe", json=asked).json()
    assert found["gain"] > 1
    assert found["recalled"] == 1
    same = client.post("/v1/memories/ada/probe", json={**asked, "strength": 0}).json()
    assert same["gain"] == 0
    both = client.post("/v1/memories/ada/probe", json={**asked, "messages": TALK[:1]})
    assert both.json()["error"]["message"] == "Give a question or messages, one of the two."


def test_forks_go_their_own_ways_and_rollback_goes_back(client):
    absorb(client)
    first = client.get("/v1/memories/ada").json()["head"]
    absorb(client, text="Eve sails to Orkney.")
    made = client.post("/v1/memories/ada/fork", json={"target": "eve", "revision": first[:8]})
    assert (made.status_code, made.json()["absorbed_documents"]) == (201, 1)
    taken = client.post("/v1/memories/ada/fork", json={"target": "eve"})
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "conflict")
    assert (
        client.post("/v1/memories/ada/rollback", json={"revision": first}).json()["head"] == first
    )
    gone = client.post("/v1/memories/ada/rollback", json={"revision": "f" * 64})
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "revision_not_found")


def test_rebuilding_learns_everything_again(client):
    absorb(client)
    before = client.get("/v1/memories/ada").json()["head"]
    job = client.post("/v1/memories/ada/rebuild?wait=30").json()
    assert (job["state"], job["kind"], job["report"]["tokens"]) == ("succeeded", "rebuild", 6)
    assert client.get("/v1/memories/ada").json()["head"] != before


def test_an_exported_memory_can_be_imported(client, tmp_path):
    absorb(client)
    file = client.get("/v1/memories/ada/export")
    assert file.headers["content-length"] == str(len(file.content))
    kind = {"content-type": "application/octet-stream"}
    made = client.post("/v1/memories/import?memory_id=eve", content=file.content, headers=kind)
    assert (made.status_code, made.json()["absorbed_documents"]) == (201, 1)
    again = client.post("/v1/memories/import", content=file.content, headers=kind)
    assert again.json()["error"]["code"] == "conflict"
    torn = client.post("/v1/memories/import", content=file.content[:-99], headers=kind)
    assert (torn.status_code, torn.json()["error"]["code"]) == (400, "damaged_file")
    assert str(tmp_path) not in torn.text
    assert client.post("/v1/memories/import", content=b"x").status_code == 415
    assert list((tmp_path / "root" / ".transfer").iterdir()) == []


def test_forgetting_leaves_nothing_but_a_receipt(client, tmp_path):
    for memory in ("ada", "ada@bob", "eve@bob", "eve"):
        absorb(client, memory)
    receipt = client.delete("/v1/memories/ada").json()
    assert receipt["ids"] == ["ada", "ada@bob"]
    assert receipt["bytes"] == sum(one["bytes"] for one in receipt["files"]) > 0
    assert client.delete("/v1/memories?user=bob").json()["ids"] == ["eve@bob"]
    assert client.delete("/v1/memories/ada").json()["error"]["code"] == "memory_not_found"
    assert {job["memory"] for job in client.get("/v1/jobs").json()["data"]} == {"eve"}
    client.delete("/v1/memories/eve")
    left = [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
    assert left == []


def test_lists_come_in_pages(client):
    for number in range(5):
        client.post("/v1/memories", json={"id": f"m{number}"})
    first = client.get("/v1/memories?limit=3").json()
    assert ([one["id"] for one in first["data"]], first["has_more"]) == (["m0", "m1", "m2"], True)
    rest = client.get("/v1/memories?limit=3&after=m2").json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (["m3", "m4"], False)


def test_ids_may_have_spaces_colons_and_any_letters(client):
    name = "Zoë: the 2nd@bob"
    absorb(client, name)
    assert client.get(f"/v1/memories/{name}").json()["id"] == name
    found = client.post(
        "/v1/chat/completions",
        json={"model": f"fake:{name}", "messages": [{"role": "user", "content": "Who has bees?"}]},
    )
    assert found.json()["templora"]["memory"] == name
    assert client.get(f"/v1/models/fake:{name}").json()["id"] == f"fake:{name}"


@pytest.mark.parametrize("name", ["..", "a@b@c", "\u200bada", "a" * 257, " ada"])
def test_ids_that_are_none_are_refused(client, name):
    found = client.post(f"/v1/memories/{name.replace('.', '%2e')}/absorb", json={"text": BEES})
    assert found.status_code in {400, 404}
    assert client.post("/v1/memories", json={"id": name}).status_code == 400
    assert client.get("/v1/memories").json()["data"] == []
