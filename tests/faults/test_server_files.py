"""One bit of a server's own files is another one: its keys, and the notes of jobs under way."""

import json
from contextlib import suppress

import pytest

from templora_memory import Message, ParametricMemory, Policy
from templora_memory.errors import InvalidSetting
from templora_memory.server.api_keys import ApiKeys, add_key
from templora_memory.server.job_registry import JobRegistry
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

TALK = [
    Message("user" if n % 2 == 0 else "assistant", f"zanzibar number {n} of this conversation")
    for n in range(6)
]


def flipped(body, place, bit):
    return body[:place] + bytes([body[place] ^ 1 << bit]) + body[place + 1 :]


def test_a_bit_flips_in_the_keys(trials, tmp_path):
    """Each of them: a key may open nothing any more, or the file be refused; never another's."""
    path = tmp_path / "keys.json"
    keys = {name: add_key(path, name) for name in ("aa", "ca", "ea")}  # one bit from each other
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            path.write_bytes(flipped(whole, place, bit))
            told = f"byte {place}, bit {bit}"
            with trials.one("bit flip in API keys", told), suppress(InvalidSetting):
                known = ApiKeys.load(path)
                for name, key in keys.items():
                    assert known.namespace(key) not in set(keys) - {name}


@pytest.mark.parametrize("kind", ["messages", "documents", "rebuild"])
def test_a_bit_flips_in_the_note_of_a_job(kind, trials, rng, places, tmp_path):
    """The server starts, no text is lost, and the note is worked off or put away."""
    with ParametricMemory(
        FakeBackend(), DirectoryStore(tmp_path / "root"), Policy(window=64, chunk=16)
    ) as service:
        service["ada"].absorb(TALK)
        told = service["ada"].transcript().messages
        registry = JobRegistry(tmp_path / "jobs", service, max_jobs=4)
        note = {
            "id": f"job-{'0' * 24}", "kind": kind, "memory": "ada", "created": 1795623215.5,
            "after": None, "messages": len(TALK), "digest": "5e" * 32,
        }  # fmt: skip
        whole = json.dumps(note).encode()
        for _ in range(places):
            place, bit = rng.randrange(len(whole)), rng.randrange(8)
            path = tmp_path / "jobs" / f"{note['id']}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(flipped(whole, place, bit))
            with trials.one("bit flip in the note of a job", f"{kind}, byte {place}, bit {bit}"):
                registry = JobRegistry(tmp_path / "jobs", service, max_jobs=4)
                try:
                    registry.resume()
                except Exception as error:  # noqa: BLE001  # any of them would stop the server
                    trials.unclear_error(error)
                service.wait()
                registry.close()
                registry.release_locks()
                assert service["ada"].transcript().messages == told
            for left in path.parent.iterdir():
                left.unlink()


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory": "ada@"}, {"memory": 5}, {"after": "0"}, {"after": -1}, {"messages": True},
        {"messages": None}, {"kind": "else"}, {"kind": []}, {"created": "now"}, {"digest": 5},
        {"created": float("nan")}, {"id": f"job-{'1' * 24}"}, {"more": 1},
    ],
)  # fmt: skip
def test_a_note_that_no_server_writes_is_put_away(wrong, tmp_path, caplog):
    with ParametricMemory(FakeBackend(), DirectoryStore(tmp_path / "root")) as service:
        service["ada"].absorb(TALK)
        note = {
            "id": f"job-{'0' * 24}", "kind": "messages", "memory": "ada", "created": 1795623215.5,
            "after": None, "messages": len(TALK), "digest": "5e" * 32,
        }  # fmt: skip
        path = tmp_path / "jobs" / f"{note['id']}.json"
        path.parent.mkdir()
        path.write_text(json.dumps(note | wrong))
        assert JobRegistry(path.parent, service, max_jobs=4).resume() == 0
    assert list(path.parent.iterdir()) == []
    assert f"{path} is damaged" in caplog.text
