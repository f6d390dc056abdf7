"""A server that is told to stop, or killed, in the middle of its work."""

import contextlib
import json
import signal
import threading
import time

import httpx
import openai
import pytest

pytestmark = pytest.mark.enable_socket
TEXT = "Ada keeps bees on the roof of the old observatory. " * 8
TALK = [
    {"role": "user" if n % 2 == 0 else "assistant", "content": f"Sentence {n} of this long talk."}
    for n in range(8)
]


def learned(root, memory="ada"):
    """Every text in the newest weights of a memory, as often as it was learned."""
    manifest = json.loads((root / memory / "manifest.json").read_text())
    folder = root / memory / "revisions" / manifest["head"]
    return json.loads((folder / "adapter.json").read_text())


def finished(server, job):
    end = time.monotonic() + 60
    while True:
        found = server.client.get(f"/v1/jobs/{job['id']}?wait=20").json()
        if found["state"] not in {"queued", "running"}:
            return found
        assert time.monotonic() < end, found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("asked", [{"text": TEXT}, {"messages": TALK}], ids=["text", "messages"])
def test_an_absorb_goes_on_after_the_server_was_stopped(spawn, tmp_path, number, asked):
    server = spawn("0", "3600" if number == signal.SIGKILL else "0.2")
    job = server.client.post("/v1/memories/ada/absorb", json=asked).json()
    assert job["state"] in {"queued", "running"}
    waiting = server.client.post("/v1/memories/ada/absorb", json={"text": "Eve sails."}).json()
    code = server.end(number)
    assert code == -number
    again = spawn()
    for one in (job, waiting):
        ended = finished(again, one)
        assert (ended["state"], ended["resumed"]) == ("succeeded", True)
    texts = learned(tmp_path / "root")
    expected = [TEXT] if "text" in asked else [one["content"] for one in TALK]
    assert sorted(texts) == sorted([*expected, "Eve sails."])
    told = again.client.get("/v1/memories/ada/text").json()
    assert len(told["documents"]) + len(told["messages"]) == len(texts)
    again.end(signal.SIGTERM)
    assert list((tmp_path / "root" / ".jobs").iterdir()) == []
    last = spawn()
    assert last.client.get("/v1/jobs").json()["data"] == []
    assert sorted(learned(tmp_path / "root")) == sorted(texts)


def test_a_job_of_a_dead_server_is_taken_over_by_the_one_that_is_asked(spawn, tmp_path):
    dying, other = spawn("0", "3600"), spawn()
    job = dying.client.post("/v1/memories/ada/absorb", json={"text": TEXT}).json()
    asked = other.client.get(f"/v1/jobs/{job['id']}")
    assert (asked.status_code, asked.json()["error"]["code"]) == (503, "job_elsewhere")
    dying.end(signal.SIGKILL)
    ended = finished(other, job)
    assert (ended["state"], ended["resumed"]) == ("succeeded", True)
    assert learned(tmp_path / "root") == [TEXT]


def test_what_was_cancelled_rolled_back_or_forgotten_does_not_come_back(spawn):
    server = spawn("0", "0.5")
    for memory in ("a", "b", "c"):
        server.client.post(f"/v1/memories/{memory}/absorb?wait=30", json={"text": "First."})
    heads = {m: server.client.get(f"/v1/memories/{m}").json()["head"] for m in "abc"}
    jobs = [
        server.client.post(f"/v1/memories/{m}/absorb", json={"text": TEXT}).json() for m in "abc"
    ]
    server.client.delete(f"/v1/jobs/{jobs[0]['id']}?wait=30")
    server.client.post("/v1/memories/b/rollback", json={"revision": heads["b"]})
    server.client.delete("/v1/memories/c")
    time.sleep(2)  # the note of the cancelled one is removed within a second or so
    server.end(signal.SIGKILL)
    again = spawn()
    assert again.client.get("/v1/jobs").json()["data"] == []
    assert [m["head"] for m in again.client.get("/v1/memories").json()["data"]] == [
        heads["a"], heads["b"],
    ]  # fmt: skip


def test_a_conversation_that_was_edited_meanwhile_is_not_learned_in_its_place(spawn, tmp_path):
    server = spawn("0", "3600")
    server.client.post("/v1/memories/ada/absorb", json={"messages": TALK})
    edited = [{"role": "user", "content": "Something else entirely."}]
    server.client.post("/v1/memories/ada/absorb", json={"messages": edited})
    server.end(signal.SIGKILL)
    again = spawn()
    (job,) = again.client.get("/v1/jobs").json()["data"]
    assert finished(again, job)["state"] == "succeeded"
    assert learned(tmp_path / "root") == ["Something else entirely."]


class Reader:
    """A client in a thread that reads a stream to whatever end."""

    def __init__(self, url):
        self.said, self.error = [], None
        self._url = url
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        asked = [{"role": "user", "content": "Who keeps bees?"}]
        with openai.OpenAI(base_url=f"{self._url}/v1", api_key="none", max_retries=0) as client:
            try:
                with client.chat.completions.create(
                    model="fake:ada", messages=asked, stream=True
                ) as stream:
                    for chunk in stream:
                        self.said.append(chunk.choices[0].delta.content or "")
            except (openai.APIError, httpx.HTTPError) as error:
                self.error = error

    def wait_for_words(self):
        end = time.monotonic() + 30
        while len(self.said) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_replies_under_way_are_finished_before_the_server_ends(spawn):
    server = spawn("0.1")
    reader = Reader(server.url)
    reader.wait_for_words()
    assert server.end(signal.SIGTERM) == -signal.SIGTERM
    reader.thread.join(30)
    assert reader.error is None
    assert "".join(reader.said).endswith("I do not know.")
    told = spawn().client.get("/v1/memories/ada/text").json()["messages"]
    assert told[-1]["content"] == "".join(reader.said)


def test_replies_that_take_longer_than_the_grace_end_with_an_error(spawn):
    server = spawn("0.5", "0", "0.5")
    reader = Reader(server.url)
    reader.wait_for_words()
    assert server.end(signal.SIGTERM) == -signal.SIGTERM
    reader.thread.join(30)
    assert "shutting down" in str(reader.error)
    told = spawn().client.get("/v1/memories/ada/text").json()["messages"]
    assert [one["content"] for one in told] == ["Who keeps bees?"]


def test_a_killed_server_breaks_the_stream_and_loses_no_text(spawn):
    server = spawn("0.2")
    reader = Reader(server.url)
    reader.wait_for_words()
    server.end(signal.SIGKILL)
    reader.thread.join(30)
    assert isinstance(reader.error, (openai.APIError, httpx.HTTPError))
    told = spawn().client.get("/v1/memories/ada/text").json()["messages"]
    assert [one["content"] for one in told] == ["Who keeps bees?"]


def test_a_stopping_server_is_not_ready_and_takes_nothing_new(spawn):
    server = spawn("0.3")
    with httpx.Client(base_url=server.url, timeout=60) as kept:
        assert kept.get("/readyz").json() == {"status": "ready"}
        reader = Reader(server.url)
        reader.wait_for_words()
        ending = threading.Thread(target=server.end, args=(signal.SIGTERM,))
        ending.start()
        time.sleep(0.5)
        with contextlib.suppress(httpx.HTTPError):  # or the port is closed already
            for path in ("/readyz", "/v1/models"):
                assert kept.get(path).status_code == 503
        ending.join(30)
        reader.thread.join(30)
    assert reader.error is None
    assert not server.running
