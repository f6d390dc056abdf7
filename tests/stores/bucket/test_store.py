"""What is special about objects: copies, segments, leftovers, forgets that were interrupted."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from templora_memory import Document, Message, ModelIdentity, ParametricMemory, Policy
from templora_memory.domain.manifest import new_manifest
from templora_memory.errors import (
    Conflict,
    StoreDamaged,
    UnknownMemory,
)
from templora_memory.stores import Key, ObjectStore
from templora_memory.stores.bucket import store as store_module
from templora_memory.stores.bucket.location import Locations
from templora_memory.stores.bucket.s3 import PreconditionFailed
from templora_memory.testing import FakeBackend

pytestmark = pytest.mark.enable_socket
BASE = ModelIdentity(name="m", revision=None, config="c", tokenizer="t", weights="w")
TALK = [Message("user", "Füße"), Message("assistant", "two\nlines"), Message("user", "c")]
URL = "s3://memories/some/where"


# --- several processes ---------------------------------------------------------------------------


WRITE = """
import sys
from templora_memory import Document, Message
from templora_memory.stores import ObjectStore
store = ObjectStore(sys.argv[1], cache=sys.argv[2]); store.open(); talk = []
for n in range(8):
    talk.append(Message('user', f'{sys.argv[3]} says {n}'))
    store.record('ada', talk)
    store.record_documents('ada', [Document(f'{sys.argv[3]} wrote {n}')])
"""


def test_real_processes_lose_nothing(store, s3_environment, tmp_path):
    (tmp_path / "write.py").write_text(WRITE)
    command = [sys.executable, str(tmp_path / "write.py"), URL]
    running = [
        subprocess.Popen([*command, str(tmp_path / who), who], env={**os.environ, **s3_environment})
        for who in ("p1", "p2")
    ]
    assert [process.wait(120) for process in running] == [0, 0]
    journal, manifest = store.journal("ada"), store.manifest("ada")
    assert len(journal.documents) == 16
    for who in ("p1", "p2"):
        talk = [Message("user", f"{who} says {n}") for n in range(8)]
        assert journal.messages(manifest.chain(talk)[-1]) == tuple(talk)


# --- forgetting ----------------------------------------------------------------------------------


def test_no_byte_of_a_planted_sentence_is_left(bucket, s3, keys, tmp_path):
    def holds(word):
        objects = [s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys()]
        files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        return any(word in content for content in (*objects, *files))

    planted = "The zanzibar marble is under the quince."
    policy = Policy(window=64, reply_tokens=16, chunk=8)
    store = ObjectStore(URL, cache=tmp_path / "a")
    with ParametricMemory(FakeBackend(), store, policy) as service:
        service["eve"].absorb("Eve likes rain.")
        service["ada"].absorb(planted)
        history = [Message("user", planted), Message("assistant", f"Yes. {planted}")] * 6
        service["ada"].reply([*history, Message("user", "Where?")])
        service["ada"].fork("ada@bob")
        service["ada@bob"].absorb(planted + " Really.")
        service["ada"].rebuild()
        service.wait()
        assert holds(b"zanzibar")
        receipt = service["ada"].forget()
        assert receipt.bytes > 0
        assert not holds(b"zanzibar")
        assert not holds(b"quince")
        assert service.list() == ("eve",)
        assert holds(b"rain")


def test_another_machine_drops_its_copies_when_it_looks(store, machine, tmp_path):
    other = machine("b")
    other.folder("ada", store.manifest("ada").revisions[0])
    assert list((tmp_path / "b").rglob("*.safetensors"))
    store.delete("ada")
    assert other.ids() == ()
    assert list((tmp_path / "b").iterdir()) == []


def test_the_receipt_lists_objects_and_copies(store, keys):
    before = {key.removeprefix("some/where/") for key in keys()}
    paths = {file.path for file in store.delete("ada")}
    assert before <= paths
    assert all(path.startswith("cache/ada/") for path in paths - before)
    assert keys() == []


def test_an_interrupted_forget_is_finished(store, machine, keys, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Locations, "clear", die)
        with pytest.raises(KeyboardInterrupt):
            store.delete("ada")
    other = machine("b")
    assert (other.manifest("ada"), other.ids()) == (None, ())
    with pytest.raises(UnknownMemory):
        other.record("ada", TALK)
    with pytest.raises(Conflict):
        other.create(new_manifest("ada", BASE, created=2.0, ttl=None))
    assert keys()
    monkeypatch.setattr(store_module, "ORPHAN_SECONDS", -1.0)
    machine("c")
    assert keys() == []


def test_a_damaged_memory_can_be_forgotten(store, s3, bucket, keys):
    s3.put_object(Bucket=bucket, Key="some/where/ada.json", Body=b"{" * 300)
    with pytest.raises(StoreDamaged, match=r"ada\.json"):
        store.manifest("ada")
    assert store.ids() == ("ada",)
    store.delete("ada")
    assert keys() == []


def test_a_manifest_that_points_elsewhere_is_damaged(store, machine, s3, bucket):
    make = new_manifest("eve", BASE, created=1.0, ttl=None)
    store.create(make)
    key = "some/where/ada.json"
    ada = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    for wrong in (
        {"place": f"../{'ab' * 16}"},
        {"place": f"eve/{'ab' * 16}"},
        {"place": "ada/.."},
        {"commits": {"0" * 64: "../../eve"}},
        {"commits": ["0" * 64]},
        {"commits": {}},
    ):
        s3.put_object(Bucket=bucket, Key=key, Body=json.dumps({**ada, **wrong}))
        with pytest.raises(StoreDamaged, match=r"ada\.json in .* is damaged"):
            machine("a").manifest("ada")
    store.delete("ada")
    assert store.manifest("eve") == make


def test_a_line_written_while_the_memory_is_forgotten_does_not_stay(store, machine, keys):
    other = machine("b")
    other.journal("ada")
    stored = other._load("ada")
    real = other._open_journal(stored.location, stored.manifest)
    put = real.append

    def forget_first(lines):
        real.append = put
        store.delete("ada")
        real._last_etag, real._last_body = None, b""  # as if it began a new segment in that moment
        return put(lines)

    real.append = forget_first
    with pytest.raises(UnknownMemory, match="forgotten meanwhile"):
        other.record("ada", [*TALK, Message("user", "d")])
    assert keys() == []


def test_a_memory_made_again_is_another_one(store, machine):
    other = machine("b")
    old = other.manifest("ada")
    assert other.journal("ada").tip != old.first
    store.delete("ada")
    store.create(replace(old, created=5.0, revisions=(), head=None))
    assert other.journal("ada").tip == old.first
    with pytest.raises(Conflict, match="made again"):
        other.replace(old, epoch=old.epoch)


# --- leftovers -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("store")
def test_a_killed_creation_is_swept(machine, keys, s3, bucket, monkeypatch):
    before = keys()
    token = "ab" * 16
    s3.put_object(Bucket=bucket, Key=f"some/where/eve/{token}/journal/00000000.jsonl", Body=b"x")
    s3.put_object(Bucket=bucket, Key=f"some/where/ada/{token}/journal/00000000.jsonl", Body=b"x")
    machine("b")
    assert len(keys()) == len(before) + 2  # too young: its maker may be alive
    monkeypatch.setattr(store_module, "ORPHAN_SECONDS", -1.0)
    machine("c")
    assert keys() == before


def test_a_killed_commit_is_no_hindrance_and_goes_with_a_later_one(
    store, keys, monkeypatch, commit
):
    manifest = store.manifest("ada")
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "_swap", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            commit(store, manifest, "1" * 64, b"orphan")
    assert sum("/revisions/" in key for key in keys()) == 2
    monkeypatch.setattr(store_module, "ORPHAN_SECONDS", -1.0)
    commit(store, manifest, "1" * 64)
    assert sum("/revisions/" in key for key in keys()) == 2
    assert len(store.manifest("ada").revisions) == 2


@pytest.mark.usefixtures("store")
def test_keys_of_others_are_left_alone(machine, s3, bucket, keys, monkeypatch):
    namespace = f"some/where/.namespaces/{'ab' * 16}/eve.json"  # its name is like that of a place
    others = ("notes.txt", "some/where/notes.txt", "some/where/ada/notes", "some/where/b/c/d")
    for key in (*others, namespace):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    before = keys()
    monkeypatch.setattr(store_module, "ORPHAN_SECONDS", -1.0)
    assert machine("b").ids() == ("ada",)
    assert keys() == before


# --- names ---------------------------------------------------------------------------------------


def test_long_ids_and_strange_ones(machine):
    store = machine()
    names = ("x" * 256, "Ä/b".replace("/", " "), "con", "a.json", "ada@bob")
    for name in names:
        store.create(new_manifest(name, BASE, created=1.0, ttl=None))
        store.record(name, TALK)
    assert machine("b").ids() == tuple(sorted(names))
    for name in names:
        assert store.manifest(name).id == name
        store.delete(name)
    assert store.ids() == ()


def test_two_creators_make_one_memory(machine):
    stores, made = [machine(name) for name in "abcd"], []

    def create(store):
        try:
            store.create(new_manifest("eve", BASE, created=1.0, ttl=None))
            made.append(store)
        except Conflict:
            pass

    threads = [threading.Thread(target=create, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    json.dumps(stores[0].manifest("eve").as_json())


@pytest.mark.parametrize("encryption", [None, Key(b"k" * 32)], ids=["plain", "encrypted"])
def test_a_server_keeps_its_memories_in_a_bucket(encryption, tmp_path, keys, s3, bucket):
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from starlette.testclient import TestClient  # noqa: PLC0415  # an extra

    from templora_memory.server import ApiKeys, create_app  # noqa: PLC0415

    known = ApiKeys.of({"a-key-of-alice-1": "alice", "a-key-of-bob-0001": "bob"})
    alice, bob = (
        {"authorization": f"Bearer {key}"} for key in ("a-key-of-alice-1", "a-key-of-bob-0001")
    )
    app = create_app(
        FakeBackend(), tmp_path / "root", keys=known, objects=URL, encryption=encryption
    )
    with TestClient(app) as client:
        path = "/v1/memories/ada"
        job = client.post(f"{path}/absorb?wait=30", json={"text": "Ada sails."}, headers=alice)
        assert job.json()["state"] == "succeeded"
        assert (
            client.get(f"{path}/text", headers=alice).json()["documents"][0]["text"] == "Ada sails."
        )
        assert client.get(path, headers=bob).status_code == 404
        assert any(key.startswith("some/where/.namespaces/alice/ada/") for key in keys())
        contents = [s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys()]
        contents += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        assert any(b"Ada sails" in content for content in contents) == (encryption is None)
        assert client.delete(path, headers=alice).status_code == 200
        assert keys() == []


# --- removing texts ------------------------------------------------------------------------------


class Dying:
    """A bucket whose calls all fail from the n-th write on, as for a process that is killed."""

    class Killed(BaseException):
        pass

    writes = ("put", "upload", "copy", "remove", "erase", "remove_version")

    def __init__(self, bucket, number):
        self._bucket, self._left = bucket, number

    def __getattr__(self, name):
        value = getattr(self._bucket, name)
        if not callable(value):
            return value

        def call(*args, **options):
            self._left -= name in self.writes
            if self._left <= 0:
                raise self.Killed
            return value(*args, **options)

        return call


def without_second(store):
    """Remove the second message, and learn nothing again: the arguments of an amend."""
    manifest, journal = store.manifest("ada"), store.journal("ada")
    fresh = replace(manifest, epoch=manifest.epoch + 1, edits=1)
    return fresh, {
        "epoch": manifest.epoch,
        "edits": {journal.path(journal.tip)[1]: None},
        "staged": {},
    }


def test_a_removal_that_dies_at_any_write_has_happened_or_not(machine, store, monkeypatch):
    monkeypatch.setattr(store_module, "SEAL_SECONDS", 0.0)
    fresh, asked = without_second(store)
    old, new = list(TALK), [TALK[0], TALK[2]]
    number, said = 0, old
    while said == old:
        number += 1
        dying = machine(f"dying{number}")
        dying._bucket = dying._locations._bucket = dying._transfer._bucket = Dying(
            dying._bucket, number
        )
        asked["epoch"] = store.manifest("ada").epoch
        with pytest.raises(Dying.Killed):
            dying.amend(replace(fresh, epoch=asked["epoch"] + 1), **asked)
        journal, manifest = store.journal("ada"), store.manifest("ada")
        said = list(journal.messages(journal.tip))
        assert (said, manifest.edits) in [(old, 0), (new, 1)]
        assert store.folder("ada", manifest.newest).is_dir()
        # whoever tells it something, a seal does not stop them
        store.record_documents("ada", [Document(f"Number {number}.")])
    assert number > 3
    assert len(store.journal("ada").documents) == number


def test_a_removal_whose_answer_was_lost_has_happened(store, monkeypatch):
    put = store._bucket.put

    def put_and_lose(key, body, *, replacing):
        etag = put(key, body, replacing=replacing)
        if key == "ada.json":
            raise PreconditionFailed(key)
        return etag

    monkeypatch.setattr(store._bucket, "put", put_and_lose)
    fresh, asked = without_second(store)
    store.amend(fresh, **asked)
    monkeypatch.undo()
    journal = store.journal("ada")
    assert journal.messages(journal.tip) == (TALK[0], TALK[2])
    assert store.folder("ada", store.manifest("ada").newest).is_dir()


def test_a_removal_leaves_no_object_of_before(store, keys):
    before = set(keys())
    fresh, asked = without_second(store)
    _, files = store.amend(fresh, **asked)
    assert before & set(keys()) == {f"{URL.removeprefix('s3://memories/')}/ada.json"}
    assert len(files) == len(before) - 1
