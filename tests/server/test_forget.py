"""Planted words sent to a server, also one that is killed: none is left, in files or in its log.

Counted for `python -m tools.trust`.
"""

import signal
import threading
import time

import httpx
import pytest

pytestmark = pytest.mark.enable_socket
PLANTED = ("heliotrope-4711", "marigold-0815", "oleander-31", "wisteria-64", "zinnia-2001")
ARCHIVE = "application/octet-stream"


def found_in(root):
    every = b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())
    return {word for word in PLANTED if word.encode() in every}


def upload_slowly(server, content):
    """An upload that never ends by itself."""

    def pieces():
        yield content
        while True:
            time.sleep(0.2)
            yield b"."

    with pytest.raises(httpx.HTTPError):
        httpx.post(
            f"{server.url}/v1/memories/import",
            params={"memory_id": "eve"},
            headers={"content-type": ARCHIVE},
            content=pieces(),
            timeout=30,
        )


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_nothing_that_was_planted_is_left(spawn, tmp_path, record_property):
    root = tmp_path / "root"
    server = spawn()
    client = server.client
    client.post("/v1/memories/ada/absorb?wait=20", json={"text": f"Bees {PLANTED[0]}."})
    client.post("/v1/memories/ada/absorb?wait=20", json={"text": f"NaN! {PLANTED[1]}."})
    asked = [{"role": "user", "content": f"What of {PLANTED[2]}?"}]
    client.post("/v1/chat/completions", json={"model": "fake:ada", "messages": asked})
    client.post("/v1/chat/completions", json={"model": "fake:ada", "messages": PLANTED[3]})
    export = client.get("/v1/memories/ada/export")
    assert export.status_code == 200
    content = b"PK" + PLANTED[4].encode() * 4000
    sender = threading.Thread(target=upload_slowly, args=(server, content))
    sender.start()
    until(lambda: PLANTED[4] in found_in(root))
    server.end(signal.SIGKILL)
    sender.join()
    assert found_in(root) == set(PLANTED) - {PLANTED[3]}  # what was refused is not kept

    again = spawn()
    assert PLANTED[4] not in found_in(root)
    receipt = again.client.delete("/v1/memories/ada").json()
    assert receipt["files"]
    assert receipt["forks"] == []
    found = found_in(root)
    again.end(signal.SIGTERM)
    said = "".join(server.output) + "".join(again.output)
    found |= {word for word in PLANTED if word in said}
    record_property(
        "trust",
        {"suite": "forget", "kind": "planted words sent to a server", "tried": len(PLANTED),
         "found": len(found)},
    )  # fmt: skip
    assert found == set()


def test_a_forget_clears_what_another_killed_server_left_and_nothing_that_is_on_its_way(
    spawn, tmp_path
):
    root = tmp_path / "root"
    first, second = spawn(), spawn()
    first.client.post("/v1/memories/ada/absorb?wait=20", json={"text": "Bees."})
    senders = []
    for server, word in ((first, PLANTED[0]), (second, PLANTED[1])):
        content = b"PK" + word.encode() * 4000
        senders.append(threading.Thread(target=upload_slowly, args=(server, content)))
        senders[-1].start()
        until(lambda word=word: word in found_in(root))
    second.end(signal.SIGKILL)
    senders[1].join()
    assert first.client.delete("/v1/memories/ada").status_code == 200
    assert found_in(root) == {PLANTED[0]}
    first.end(signal.SIGKILL)
    senders[0].join()


def test_a_damaged_note_of_a_job_does_not_stop_the_server(spawn, tmp_path):
    server = spawn("0", "3600")
    server.client.post("/v1/memories/ada/absorb", json={"text": "Bees."})
    server.end(signal.SIGKILL)
    (note,) = (tmp_path / "root" / ".jobs").glob("job-*.json")
    note.write_bytes(note.read_bytes()[:-9])
    again = spawn()
    assert again.client.get("/v1/jobs").json()["data"] == []
    assert not note.exists()
    told = again.client.get("/v1/memories/ada/text").json()
    assert [one["text"] for one in told["documents"]] == ["Bees."]
