"""Plain copies of encrypted revisions: who sees them, and when they go."""

import gc
import os
import subprocess
import sys

import pytest

from templora_memory import Message, ModelIdentity
from templora_memory.domain.manifest import new_manifest
from templora_memory.errors import StoreWriteFailed, UnknownRevision
from templora_memory.stores import (
    DirectoryStore,
    Key,
    decrypted_cache,
)

BASE = ModelIdentity(name="m", revision=None, config="c", tokenizer="t", weights="w")
TALK = [Message("user", "zanzibar, Füße"), Message("assistant", "two\nlines"), Message("user", "c")]
SECRET = bytes(range(32))
ADAPTER = "adapter_model.safetensors"


@pytest.fixture
def root(tmp_path, copies):  # noqa: ARG001  # they must be elsewhere
    return tmp_path / "root"


@pytest.fixture
def store(root, commit):
    """It holds `ada`, with a conversation and a revision."""
    made = opened(root)
    manifest = new_manifest("ada", BASE, created=1.0, ttl=None)
    made.create(manifest)
    made.record("ada", TALK)
    commit(made, manifest, "0" * 64, b"zanzibar weights")
    return made


def opened(root, secret=SECRET):
    made = DirectoryStore(root, key=secret and Key(secret))
    made.open()
    return made


def head(store):
    return store.manifest("ada").revisions[-1]


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def holding(folder, word=b"zanzibar"):
    return [path for path in files(folder) if word in path.read_bytes()]


def test_copies_are_for_their_owner_only_and_go_with_the_store(store, copies):
    folder = store.folder("ada", head(store))
    assert (folder / ADAPTER).read_bytes() == b"zanzibar weights"
    assert folder == store.folder("ada", head(store))
    with store.stage("ada"):
        assert {path.stat().st_mode & 0o077 for path in copies.rglob("*")} == {0}
    store._decrypted = None  # the last one who knew them
    assert list(copies.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_leaves_the_copies_of_its_parent_alone(store, copies):
    folder = store.folder("ada", head(store))
    child = os.fork()
    if not child:
        store._decrypted = None
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert (folder / ADAPTER).read_bytes() == b"zanzibar weights"
    opened(store.root)  # sweeps what nobody holds
    assert (folder / ADAPTER).read_bytes() == b"zanzibar weights"
    store._decrypted = None
    assert list(copies.iterdir()) == []


def test_a_corrupted_copy_is_made_again(store):
    path = store.folder("ada", head(store)) / ADAPTER
    path.write_bytes(b"ZANZIBAR WEIGHTS")
    assert (store.folder("ada", head(store)) / ADAPTER).read_bytes() == b"zanzibar weights"
    path.unlink()
    assert (store.folder("ada", head(store)) / ADAPTER).read_bytes() == b"zanzibar weights"


def test_copies_of_what_was_retired_or_forgotten_go_in_every_process(store, root, copies, commit):
    other = opened(root)
    revision = head(store)
    for one in (store, other):
        one.folder("ada", revision)
    assert len(holding(copies)) == 2
    commit(store, store.manifest("ada"), "1" * 64, b"zanzibar too", keep=1)
    assert holding(copies) == []
    for one in (store, other):
        one.folder("ada", head(one))
    receipt = {file.path for file in store.delete("ada")}
    assert holding(copies) == []
    assert not list(copies.rglob("ada"))  # an empty folder would still say who there was
    assert sum(path.endswith(f"{'1' * 64}/{ADAPTER}") for path in receipt) == 3
    assert "ada/key.json" in receipt


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has one user")
def test_copies_of_another_user_are_left_alone(store, root, copies, monkeypatch):
    store.folder("ada", head(store))
    with monkeypatch.context() as patch:
        patch.setattr(decrypted_cache.os, "getuid", lambda: -1)
        opened(root)
        store.delete("ada")
    assert len(holding(copies)) == 1


def test_idle_copies_go_when_another_is_made(store, monkeypatch, copies, commit):
    first = head(store)
    store.folder("ada", first)
    monkeypatch.setattr(decrypted_cache, "IDLE_SECONDS", -1.0)
    commit(store, store.manifest("ada"), "1" * 64, b"other weights")
    store.folder("ada", head(store))
    assert holding(copies) == []
    assert (store.folder("ada", first) / ADAPTER).read_bytes() == b"zanzibar weights"


KILLED = """
import os, sys
from pathlib import Path
from templora_memory.stores import DirectoryStore, Key, decrypted_cache
decrypted_cache.SHARED = Path(sys.argv[2])
store = DirectoryStore(sys.argv[1], key=Key(bytes(range(32)))); store.open()
store.folder("ada", store.manifest("ada").revisions[0])
os.kill(os.getpid(), 9)
"""


def test_copies_of_killed_processes_are_swept_and_no_others(store, root, copies):
    store.folder("ada", head(store))
    subprocess.run([sys.executable, "-c", KILLED, str(root), str(copies)], check=False)
    assert len(holding(copies)) == 2
    opened(root)
    assert len(holding(copies)) == 1
    assert holding(store.folder("ada", head(store)))


def test_copies_of_memories_that_are_no_more_are_swept(store, root, copies):
    store.folder("ada", head(store))
    (root / "ada").rename(root / ".forgotten-by-one-who-was-killed")
    opened(root)
    assert holding(copies) == []


def test_a_revision_that_is_retired_while_it_is_copied_leaves_no_copy(
    store, copies, monkeypatch, commit
):
    revision = head(store)
    real = store._decrypted.make

    def late(target, fill):
        real(target, fill)
        commit(store, store.manifest("ada"), "1" * 64, b"other", keep=1)

    monkeypatch.setattr(store._decrypted, "make", late)
    with pytest.raises(UnknownRevision, match="retired"):
        store.folder("ada", revision)
    assert holding(copies) == []


def test_no_room_for_a_copy_is_said(store, copies, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(decrypted_cache.Path, "rename", refuse)
        patch.setattr("templora_memory.fs.files._write_all", refuse)
        with pytest.raises(StoreWriteFailed, match=r"shared.*free some space"):
            store.folder("ada", head(store))
    assert holding(copies) == []
    assert holding(store.folder("ada", head(store)))


def test_without_shared_memory_the_folder_for_temporary_files_is_used(root, tmp_path, monkeypatch):
    monkeypatch.setattr(decrypted_cache, "SHARED", tmp_path / "missing")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = opened(root)
    store.create(new_manifest("ada", BASE, created=1.0, ttl=None))
    with store.stage("ada") as folder:
        assert folder.is_relative_to(tmp_path)
        assert not folder.is_relative_to(root)
