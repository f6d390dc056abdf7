"""Many clients at once on few threads: no error, no lost message, nobody else's words."""

import threading

import httpx
import pytest

CLIENTS, MEMORIES, ROUNDS = 32, 64, 4


class Client:
    """Talks with two memories of its own, and teaches them."""

    def __init__(self, url, number):
        self._url = url
        self.names = [f"m{index}" for index in range(number, MEMORIES, CLIENTS)]
        self.histories = {name: [] for name in self.names}
        self.taught = {name: [] for name in self.names}
        self.errors = []

    def run(self):
        with httpx.Client(base_url=self._url, timeout=300) as client:
            for round_ in range(ROUNDS):
                for name in self.names:
                    self._teach(client, name, round_)
                    self._talk(client, name, round_)

    def _teach(self, client, name, round_):
        text = f"Text {round_} that {name} alone was told."
        found = client.post(f"/v1/memories/{name}/absorb", json={"text": text})
        if found.status_code != 202:
            self.errors.append(found.text)
        self.taught[name].append(text)

    def _talk(self, client, name, round_):
        history = self.histories[name]
        history.append({"role": "user", "content": f"What was {name} told in round {round_}?"})
        asked = {"model": f"fake:{name}", "messages": history, "max_tokens": 24}
        found = client.post("/v1/chat/completions", json=asked)
        if found.status_code != 200:
            self.errors.append(found.text)
            return
        said = found.json()["choices"][0]["message"]["content"]
        others = [f"m{n}" for n in range(MEMORIES) if f"m{n}" != name]
        if any(f" {other} " in said for other in others):
            self.errors.append(f"{name} says {said!r}")
        history.append({"role": "assistant", "content": said})


@pytest.mark.slow
@pytest.mark.enable_socket
def test_many_clients_lose_nothing(start):
    server = start(
        settings={"max_running": 4, "max_waiting": CLIENTS, "queue_seconds": 300.0, "max_jobs": 500}
    )
    clients = [Client(server.url, number) for number in range(CLIENTS)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(500)
    assert [error for client in clients for error in client.errors] == []
    with httpx.Client(base_url=server.url, timeout=300) as reader:
        for client in clients:
            for name in client.names:
                told = reader.get(f"/v1/memories/{name}/text").json()
                assert [one["text"] for one in told["documents"]] == client.taught[name]
                assert [m["content"] for m in told["messages"]] == [
                    m["content"] for m in client.histories[name]
                ]
        jobs = [
            reader.get(f"/v1/jobs/{one['id']}?wait=60").json()
            for one in reader.get("/v1/jobs").json()["data"]
        ]
    assert {job["state"] for job in jobs} == {"succeeded"}
    assert len(jobs) == MEMORIES * ROUNDS
    assert server.app.state.server.reply_limiter.in_flight == 0
