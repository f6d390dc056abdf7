"""Several replicas: each memory has one, and none of them is needed."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

pytest.importorskip("ray", reason="the extra ray is not installed: pip install '.[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.enable_socket]
HERE = Path(__file__).parent
TEXT = "Ada keeps bees on the roof of the old observatory. " * 4


class Cluster:
    """`ray_program.py` and the processes that Ray starts for it."""

    def __init__(self, root, learning):
        self.root = root
        self._mark = f"TEMPLORA_TEST={secrets.token_hex(8)}"
        name, _, value = self._mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "ray_program.py"), str(root), learning],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, name: value},
        )
        self.url = self.hear(r"http://127\.0\.0\.1:\d+")
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def hear(self, pattern):
        said = []
        for line in self.process.stdout:
            said.append(line)
            if found := re.search(pattern, line):
                return found[0]
        raise AssertionError("".join(said))

    def replicas(self):
        """Process ids of the replicas."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                title = (entry / "cmdline").read_bytes()
                if (
                    b"ServeReplica:templora:Replica" in title
                    and self._mark.encode() in (entry / "environ").read_bytes()
                ):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def scale(self, count):
        self.process.stdin.write(f"replicas {count}\n")
        self.process.stdin.flush()
        self.hear(f"replicas {count}")

    def back(self):
        """Wait until what was killed is replaced and answers."""
        end = time.monotonic() + 60
        while len(self.replicas()) < 2 or self.client.get("/readyz").status_code != 200:
            assert time.monotonic() < end, "no replacement"
            time.sleep(0.2)

    def learned(self, memory):
        manifest = json.loads((self.root / memory / "manifest.json").read_text())
        folder = self.root / memory / "revisions" / manifest["head"]
        return json.loads((folder / "adapter.json").read_text())

    def replica_of(self, memory):
        return self.client.get(f"/v1/memories/{memory}/text").headers["x-templora-replica"]

    def stop(self):
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("ray") / "root", "0.3")
    yield made
    made.stop()
    assert made.replicas() == []


def ended(cluster, job):
    """The job once it has ended, asked for as a patient client does."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = cluster.client.get(f"/v1/jobs/{job}?wait=10")
        if found.status_code == 503:
            time.sleep(0.5)
            continue
        if found.status_code == 404 or found.json()["state"] not in {"queued", "running"}:
            return found
    raise AssertionError(found.text)


def test_every_request_of_a_memory_reaches_one_replica(cluster):
    names = [f"m{number}" for number in range(12)]
    seen = {name: set() for name in names}

    def use(name):
        client = cluster.client
        job = client.post(f"/v1/memories/{name}/absorb", json={"text": f"{name} keeps bees."})
        asked = {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 8}
        found = [
            job,
            client.get(f"/v1/jobs/{job.json()['id']}?wait=30"),
            client.post("/v1/chat/completions", json={"model": f"fake:{name}", **asked}),
            client.post("/v1/chat/completions", json={"model": "fake", "memory": name, **asked}),
            client.get(f"/v1/memories/{name}"),
            client.get(f"/v1/jobs?memory={name}"),
        ]
        assert [one.status_code for one in found] == [202, 200, 200, 200, 200, 200]
        seen[name] |= {one.headers["x-templora-replica"] for one in found}

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, names * 2))
    assert {len(one) for one in seen.values()} == {1}
    assert len(set.union(*seen.values())) == 2
    assert [cluster.learned(name) for name in names] == [[f"{name} keeps bees."] for name in names]


def test_the_openai_client_streams_through_the_ingress(cluster):
    asked = [{"role": "user", "content": "Who keeps bees?"}]
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as client:
        with client.chat.completions.create(
            model="fake:streamed", messages=asked, stream=True
        ) as stream:
            said = [chunk.choices[0].delta.content or "" for chunk in stream]
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="other:ada", messages=asked)
        assert "fake:streamed" in [model.id for model in client.models.list()]
    assert len(said) > 3
    assert "".join(said).startswith("I see")
    told = cluster.client.get("/v1/memories/streamed/text").json()["messages"]
    assert [one["content"] for one in told] == ["Who keeps bees?", "".join(said)]


def test_a_body_that_is_too_large_stops_at_the_ingress(cluster):
    found = cluster.client.post("/v1/chat/completions", content=b"x" * (9 << 20))
    assert found.status_code == 413


def test_a_stream_of_a_killed_replica_ends_with_an_error_and_loses_no_text(cluster):
    asked = {"messages": [{"role": "user", "content": "Speak slowly."}], "model": "fake:cut"}
    events, before = [], cluster.replicas()
    with cluster.client.stream(
        "POST", "/v1/chat/completions", json={**asked, "stream": True}
    ) as got:
        for line in got.iter_lines():
            if line.startswith("data: "):
                events.append(line.removeprefix("data: "))
            if len(events) == 3:  # whichever of them it is
                for one in before:
                    os.kill(one, signal.SIGKILL)
    assert json.loads(events[-1])["error"]["code"] == "replica_lost"
    assert "[DONE]" not in events
    cluster.back()
    told = cluster.client.get("/v1/memories/cut/text").json()["messages"]
    assert [one["content"] for one in told] == ["Speak slowly."]
    asked["messages"][0]["content"] = "Speak."
    assert cluster.client.post("/v1/chat/completions", json=asked).status_code == 200


def test_scaling_while_a_memory_is_taught_loses_nothing_and_learns_nothing_twice(cluster):
    texts = [f"Note {number}: Ada keeps {number} bees." for number in range(16)]
    jobs, owners = [], set()

    def teach():
        for text in texts:
            found = cluster.client.post("/v1/memories/scaled/absorb", json={"text": text})
            assert found.status_code == 202, found.text
            jobs.append(found.json()["id"])
            owners.add(found.headers["x-templora-replica"])
            time.sleep(0.6)

    with ThreadPoolExecutor(1) as pool:
        teaching = pool.submit(teach)
        for count in (3, 1, 2):
            cluster.scale(count)
        teaching.result(60)
    for job in jobs:
        ended(cluster, job)
    for text in texts:  # those whose replica went away with them: nothing is learned twice
        again = cluster.client.post("/v1/memories/scaled/absorb?wait=30", json={"text": text})
        assert again.json()["state"] == "succeeded"
    assert sorted(cluster.learned("scaled")) == sorted(texts)
    told = cluster.client.get("/v1/memories/scaled/text").json()["documents"]
    assert [one["text"] for one in told] == texts
    assert len(owners) > 1, "the memory never moved"


def test_a_killed_replica_loses_nothing_and_requests_go_on(cluster):
    names = [f"k{number}" for number in range(6)]
    jobs = {
        name: cluster.client.post(f"/v1/memories/{name}/absorb", json={"text": TEXT}).json()["id"]
        for name in names
    }
    owners = {name: cluster.replica_of(name) for name in names}
    before = cluster.replicas()
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    for name in names:  # at once, also those of the dead one
        asked = {"messages": [{"role": "user", "content": "Who?"}], "model": f"fake:{name}"}
        assert cluster.client.post("/v1/chat/completions", json=asked).status_code == 200
    for name, job in jobs.items():
        ended(cluster, job)
        again = cluster.client.post(f"/v1/memories/{name}/absorb?wait=30", json={"text": TEXT})
        assert again.json()["state"] == "succeeded"
    for name in names:
        assert cluster.learned(name) == [TEXT]
        told = cluster.client.get(f"/v1/memories/{name}/text").json()
        assert [one["text"] for one in told["documents"]] == [TEXT]
        assert [one["content"] for one in told["messages"]][:1] == ["Who?"]
    assert len(set(owners.values())) == 2
    cluster.back()
