"""Copies on a machine of what lies in a bucket."""

from dataclasses import replace

import pytest

from templora_memory.stores.bucket.s3 import Bucket

pytestmark = pytest.mark.enable_socket


def test_a_corrupted_copy_is_fetched_again(store):
    (revision,) = store.manifest("ada").revisions
    path = store.folder("ada", revision) / "adapter_model.safetensors"
    path.write_bytes(b"WEIGHTS")
    assert (store.folder("ada", revision) / path.name).read_bytes() == b"weights"
    path.unlink()
    assert (store.folder("ada", revision) / path.name).read_bytes() == b"weights"


def test_a_committed_revision_is_not_fetched_by_who_made_it(store, monkeypatch):
    monkeypatch.setattr(Bucket, "download", None)
    (revision,) = store.manifest("ada").revisions
    assert (store.folder("ada", revision) / "adapter_model.safetensors").is_file()


def test_copies_of_retired_revisions_go(store, machine, tmp_path, commit):
    other = machine("b")
    first = store.manifest("ada")
    other.folder("ada", first.revisions[0])
    second = commit(store, first, "1" * 64, b"second")
    store.replace(replace(second, revisions=second.revisions[1:], epoch=9), epoch=second.epoch)
    other.folder("ada", second.revisions[1])
    for name in "ab":
        contents = {p.read_bytes() for p in (tmp_path / name).rglob("*.safetensors")}
        assert contents == {b"second"}


def test_copies_are_for_their_owner_only(store, machine, tmp_path):
    other = machine("b")
    other.folder("ada", store.manifest("ada").revisions[0])
    with other.stage("ada"):
        modes = {path.stat().st_mode & 0o077 for path in tmp_path.rglob("*")}
    assert modes == {0}


def test_work_of_a_killed_process_is_cleared_and_that_of_a_living_one_is_not(
    store, machine, tmp_path
):
    dead = tmp_path / "a" / "ada" / ".work-1"
    dead.mkdir()
    (dead / "x.json").write_text("{}")
    with store.stage("ada") as folder:
        machine("a")
        assert folder.exists()
    assert not dead.exists()
