"""One writer: who was declared dead and wakes up changes nothing, and no text is lost."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from templora_memory import Document, Message, ModelIdentity, ParametricMemory, Policy, Revision
from templora_memory.domain.manifest import new_manifest
from templora_memory.errors import Conflict, UnknownMemory
from templora_memory.ports import fence
from templora_memory.stores import KEY_VARIABLE, DirectoryStore, Key, ObjectStore
from templora_memory.testing import FakeBackend

pytestmark = pytest.mark.enable_socket
HERE = Path(__file__).parent
BASE = ModelIdentity(name="m", revision=None, config="c", tokenizer="t", weights="w")


@pytest.fixture(params=["folder", "bucket", "encrypted bucket"])
def where(request, tmp_path, monkeypatch):
    """Where the memories are: a folder, or a bucket."""
    if request.param.startswith("encrypted"):
        monkeypatch.setenv(KEY_VARIABLE, "5e" * 32)  # for child processes too
    if request.param == "folder":
        return str(tmp_path / "root")
    return f"s3://{request.getfixturevalue('bucket')}/root"


@pytest.fixture
def machine(where, tmp_path, request):
    def make(name):
        if where.startswith("s3:"):
            options = {"key": Key.from_environment(), "client": request.getfixturevalue("s3")}
            store = ObjectStore(where, cache=tmp_path / name, **options)
        else:
            store = DirectoryStore(where)
        store.open()
        return store

    return make


class Writer:
    """`writer.py`, which can be stopped as a machine that hangs."""

    def __init__(self, where, cache):
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "writer.py"), where, cache],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )

    def hear(self, word):
        assert self.process.stdout.readline().strip() == word

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture
def writer(where, tmp_path):
    started = []

    def start():
        started.append(Writer(where, str(tmp_path / "writer")))
        started[-1].hear("staged")
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate(timeout=30)


def commit(store, digit):
    manifest = store.manifest("ada")
    revision = Revision(
        name=digit * 64, parent=None, dialogue=manifest.first, messages=0, documents=(),
        tokens=1, created=2.0, files=(),
    )  # fmt: skip
    with store.stage("ada") as folder:
        (folder / "adapter_model.safetensors").write_bytes(b"fresh weights")
        return store.commit(manifest, revision, folder, keep=4)


def test_a_writer_stopped_across_a_take_over_cannot_commit(machine, writer):
    store = machine("b")
    store.create(new_manifest("ada", BASE, created=1.0, ttl=None))
    old = writer()
    old.process.send_signal(signal.SIGSTOP)
    assert fence(store, "ada") == 1
    made = commit(store, "b")
    old.go_on()
    old.process.send_signal(signal.SIGCONT)
    old.hear("conflict")
    old.hear("done")
    for place in (store, machine("c")):
        assert place.manifest("ada") == made
        folder = place.folder("ada", made.newest)
        assert (folder / "adapter_model.safetensors").read_bytes() == b"fresh weights"


def test_no_text_of_either_writer_is_lost_in_a_take_over(machine, writer):
    store = machine("b")
    manifest = new_manifest("ada", BASE, created=1.0, ttl=None)
    store.create(manifest)
    old = writer()
    old.process.send_signal(signal.SIGSTOP)
    fence(store, "ada")
    mine = [Message("user", f"taker says {number}") for number in range(3)]
    store.record("ada", mine)
    store.record_documents("ada", [Document("The taker wrote this.")])
    old.go_on()
    old.process.send_signal(signal.SIGCONT)
    old.hear("conflict")
    old.hear("done")
    theirs = [Message("user", f"writer says {number}") for number in range(4)]
    for place in (store, machine("c")):
        journal = place.journal("ada")
        for talk in (mine, theirs):
            assert journal.messages(manifest.chain(talk)[-1]) == tuple(talk)
        assert [journal.document(d).text for d in journal.documents] == ["The taker wrote this."]


def test_fencing_alone_is_enough(machine):
    one, two = machine("a"), machine("b")
    one.create(new_manifest("ada", BASE, created=1.0, ttl=None))
    stale = one.manifest("ada")
    fence(two, "ada")
    with pytest.raises(Conflict, match="another writer"):
        one.replace(stale, epoch=stale.epoch)
    with pytest.raises(UnknownMemory, match="take over"):
        fence(two, "eve")


def test_an_owner_that_was_replaced_while_it_learned_learns_nothing_twice(machine):
    hold, learning = threading.Event(), threading.Event()

    def wait_once():
        if not learning.is_set():
            learning.set()
            hold.wait(60)

    policy = Policy(window=96, reply_tokens=24, chunk=16)
    slow = FakeBackend(on_learn=wait_once)
    with (
        ParametricMemory(slow, machine("a"), policy) as owner,
        ParametricMemory(FakeBackend(), machine("b"), policy) as taker,
    ):
        job = owner["ada"].absorb("Ada keeps bees.", wait=False)
        assert learning.wait(60)
        fence(taker._store, "ada")
        taker["ada"].resume().wait()
        taker["ada"].absorb("Ada sails.")
        hold.set()
        job.wait()
        assert owner["ada"].head() == taker["ada"].head()
        (folder,) = [taker["ada"].adapter()]
        assert (folder / "adapter.json").read_text() == '["Ada keeps bees.", "Ada sails."]'


class Disturbed:
    """A store into which others write between reading and swapping."""

    def __init__(self, store, times):
        self._store = store
        self._times = times

    def manifest(self, memory_id):
        return self._store.manifest(memory_id)

    def replace(self, manifest, *, epoch):
        if self._times:
            self._times -= 1
            self._store.replace(replace(manifest, epoch=epoch + 1), epoch=epoch)
            raise Conflict("Another one was faster.")
        self._store.replace(manifest, epoch=epoch)


@pytest.mark.parametrize("times", [1, 7])
def test_a_fence_is_tried_again_while_others_write(machine, times):
    store = machine("a")
    store.create(new_manifest("ada", BASE, created=1.0, ttl=None))
    assert fence(Disturbed(store, times), "ada") == times + 1
    assert store.manifest("ada").epoch == times + 1


def test_a_fence_gives_up_where_others_write_all_the_time(machine):
    store = machine("a")
    store.create(new_manifest("ada", BASE, created=1.0, ttl=None))
    with pytest.raises(Conflict, match="faster"):
        fence(Disturbed(store, 8), "ada")
