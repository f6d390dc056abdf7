"""A disk that is full, or may not be written: one clear error, and nothing is lost."""

import errno
import os
import resource
import shutil
import signal
import subprocess

import pytest

from templora_memory import Document, Message, ParametricMemory
from templora_memory.errors import StoreWriteFailed
from templora_memory.fs import files
from templora_memory.stores import DirectoryStore, Key
from templora_memory.stores.directory import store
from templora_memory.testing import FakeBackend

TALK = [Message("user", "hello"), Message("assistant", "there")]
FULL = r"Could not write .*{}.*the disk or quota is full: free some space.*Nothing was lost"


@pytest.fixture
def memory(tmp_path):
    with ParametricMemory(FakeBackend(), DirectoryStore(tmp_path / "root")) as service:
        service["ada"].absorb("Ada keeps bees.")
        service["ada"].absorb(TALK)
        yield service


@pytest.fixture
def full_disk():
    """No file may grow beyond so many bytes; the kernel then refuses writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def state(memory):
    return memory["ada"].transcript(), memory["ada"].revisions(), memory["ada"].status().bytes


def test_a_journal_that_cannot_grow(memory, full_disk, tmp_path):
    before = state(memory)
    full_disk((tmp_path / "root" / "ada" / "journal.jsonl").stat().st_size + 100)
    with pytest.raises(StoreWriteFailed, match=FULL.format("journal")):
        memory["ada"].absorb("word " * 500)
    with pytest.raises(StoreWriteFailed):
        memory["ada"].reply([*TALK, Message("user", "word " * 300)])
    full_disk(resource.RLIM_INFINITY)
    assert state(memory) == before
    assert memory["ada"].absorb("word " * 500).tokens == 500
    assert memory["ada"].reply([*TALK, Message("user", "word " * 300)]).text


def test_a_manifest_that_cannot_be_written(memory, full_disk, tmp_path):
    before = state(memory)
    full_disk(200)
    with pytest.raises(StoreWriteFailed, match=FULL.format("manifest")):
        memory["ada"].rollback(memory["ada"].revisions()[0].name)
    with pytest.raises(StoreWriteFailed, match=FULL.format("manifest")):
        memory["ada"].fork("eve")
    full_disk(resource.RLIM_INFINITY)
    assert state(memory) == before
    assert memory.list() == ("ada",)
    assert [entry.name for entry in (tmp_path / "root").iterdir()] == ["ada"]


def test_an_archive_that_cannot_be_written(memory, full_disk, tmp_path):
    target = tmp_path / "ada.zip"
    memory["ada"].export(target)  # so that it is noted already where the copy is
    target.write_bytes(b"old")
    full_disk(300)
    with pytest.raises(StoreWriteFailed, match=FULL.format(r"ada\.zip")):
        memory["ada"].export(target)
    full_disk(resource.RLIM_INFINITY)
    assert target.read_bytes() == b"old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["ada.zip", "root"]
    memory["ada"].export(target)
    full_disk(300)
    with pytest.raises(StoreWriteFailed):
        memory.import_(target, "eve")
    full_disk(resource.RLIM_INFINITY)
    assert [entry.name for entry in (tmp_path / "root").iterdir()] == ["ada"]
    assert memory.import_(target, "eve").transcript() == memory["ada"].transcript()


def test_a_learner_without_space_leaves_the_text_and_the_old_revision(memory, full_disk, tmp_path):
    head = memory["ada"].head()
    text = "word " * 2000
    memory._store.record_documents("ada", [Document(text)])
    full_disk((tmp_path / "root" / "ada" / "journal.jsonl").stat().st_size - 1000)
    with pytest.raises(StoreWriteFailed, match=r"File too large.*free some"):
        memory["ada"].absorb(text)
    full_disk(resource.RLIM_INFINITY)
    assert memory["ada"].head() == head
    assert not list((tmp_path / "root").rglob(".staging*"))
    assert "File too large" in memory["ada"].status().last_error
    assert memory["ada"].absorb(text).tokens == 2000


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO])
def test_a_root_that_may_not_be_written(memory, monkeypatch, code, tmp_path):
    """Everything that writes says so; everything that reads goes on."""
    memory["ada"].export(tmp_path / "ada.zip")
    before = state(memory)
    name = memory["ada"].revisions()[0].name

    def refuse(*_, **__):
        raise OSError(code, "No way", "x")

    with monkeypatch.context() as patch:
        for where, what in (
            (files.os, "write"),
            (files.os, "ftruncate"),
            (files.Path, "mkdir"),
            (store.Path, "rename"),
        ):
            patch.setattr(where, what, refuse)
        for call in (
            lambda: memory["ada"].absorb("More."),
            lambda: memory.open("eve"),
            lambda: memory["ada"].fork("eve"),
            lambda: memory["ada"].rollback(name),
            memory["ada"].forget,
            lambda: memory.import_(tmp_path / "ada.zip", "eve"),
            lambda: DirectoryStore(tmp_path / "other").open(),
        ):
            with pytest.raises(StoreWriteFailed, match=r"Could not write .*No way"):
                call()
        assert state(memory) == before
        assert memory["ada"].reply(TALK[:1], revision="head").text
    assert state(memory) == before
    assert memory.list() == ("ada",)


# --- a real disk that is full --------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB."""
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root and `mount`")
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "small", place]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"this system mounts no tmpfs: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk, spare):
    """Take all room but so many bytes."""
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(b"x" * max(0, free - spare))


@pytest.mark.parametrize("key", [None, Key(b"k" * 32)], ids=["plain", "encrypted"])
@pytest.mark.parametrize("spare", [0, 4096, 8192, 16384, 32768])
def test_a_small_file_system_is_full(small_disk, spare, key, trials):
    """Whatever still fits: an error says the disk is full, nothing is lost, a forget makes room."""
    root, text = small_disk / "root", "word " * 8000
    with ParametricMemory(FakeBackend(), DirectoryStore(root, key=key)) as memory:
        memory["eve"].absorb("Eve likes rain.")
        memory["ada"].absorb(TALK)
        before = memory["ada"].transcript(), memory["ada"].revisions()
        fill(small_disk, spare)
        with trials.one("full tmpfs", f"{spare} bytes left"):
            with pytest.raises(StoreWriteFailed, match="full: free some space") as caught:
                memory["ada"].absorb(text)
            assert str(root) in str(caught.value)
            documents = memory["ada"].transcript().documents
            assert memory["ada"].revisions() == before[1]
            assert "".join(d.text for d in documents).strip() in {"", text.strip()}
            assert memory["ada"].reply(TALK[:1], revision="head").text
    with (  # a start while it is full
        trials.one("full tmpfs", f"{spare} bytes left, after a restart"),
        ParametricMemory(FakeBackend(), DirectoryStore(root, key=key)) as memory,
    ):
        assert memory["ada"].transcript().messages == before[0].messages
        assert memory["ada"].transcript().documents == documents
        assert memory["eve"].forget().files
        (small_disk / "filler").unlink()
        assert memory["ada"].absorb(text).revision
        held = memory["ada"].transcript().documents
        assert "".join(document.text for document in held).strip() == text.strip()
    assert not [entry for entry in root.rglob(".*") if entry.is_file() or entry.is_dir()]
