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
        service.absorb("ada", "Ada keeps bees.")
        service.absorb("ada", TALK)
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
    return memory.transcript("ada"), memory.revisions("ada"), memory.status("ada").bytes


def test_a_journal_that_cannot_grow(memory, full_disk, tmp_path):
    before = state(memory)
    full_disk((tmp_path / "root" / "ada" / "journal.jsonl").stat().st_size + 100)
    with pytest.raises(StoreWriteFailed, match=FULL.format("journal")):
        memory.absorb("ada", "word " * 500)
    with pytest.raises(StoreWriteFailed):
        memory.reply("ada", [*TALK, Message("user", "word " * 300)])
    full_disk(resource.RLIM_INFINITY)
    assert state(memory) == before
    assert memory.absorb("ada", "word " * 500).tokens == 500
    assert memory.reply("ada", [*TALK, Message("user", "word " * 300)]).text


def test_a_manifest_that_cannot_be_written(memory, full_disk, tmp_path):
    before = state(memory)
    full_disk(200)
    with pytest.raises(StoreWriteFailed, match=FULL.format("manifest")):
        memory.rollback("ada", memory.revisions("ada")[0].name)
    with pytest.raises(StoreWriteFailed, match=FULL.format("manifest")):
        memory.fork("ada", "eve")
    full_disk(resource.RLIM_INFINITY)
    assert state(memory) == before
    assert memory.list() == ("ada",)
    assert [entry.name for entry in (tmp_path / "root").iterdir()] == ["ada"]


def test_an_archive_that_cannot_be_written(memory, full_disk, tmp_path):
    target = tmp_path / "ada.zip"
    memory.export("ada", target)  # so that it is noted already where the copy is
    target.write_bytes(b"old")
    full_disk(300)
    with pytest.raises(StoreWriteFailed, match=FULL.format(r"ada\.zip")):
        memory.export("ada", target)
    full_disk(resource.RLIM_INFINITY)
    assert target.read_bytes() == b"old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["ada.zip", "root"]
    memory.export("ada", target)
    full_disk(300)
    with pytest.raises(StoreWriteFailed):
        memory.import_(target, "eve")
    full_disk(resource.RLIM_INFINITY)
    assert [entry.name for entry in (tmp_path / "root").iterdir()] == ["ada"]
    assert memory.import_(target, "eve").transcript() == memory.transcript("ada")


def test_a_learner_without_space_leaves_the_text_and_the_old_revision(memory, full_disk, tmp_path):
    head = memory.head("ada")
    text = "word " * 2000
    memory._store.record_documents("ada", [Document(text)])
    full_disk((tmp_path / "root" / "ada" / "journal.jsonl").stat().st_size - 1000)
    with pytest.raises(StoreWriteFailed, match=r"new revision of 'ada'.*File too large.*free some"):
        memory.absorb("ada", text)
    full_disk(resource.RLIM_INFINITY)
    assert memory.head("ada") == head
    assert not list((tmp_path / "root").rglob(".staging*"))
    assert "File too large" in memory.status("ada").last_error
    assert memory.absorb("ada", text).tokens == 2000


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO])
def test_a_root_that_may_not_be_written(memory, monkeypatch, code, tmp_path):
    """Everything that writes says so; everything that reads goes on."""
    memory.export("ada", tmp_path / "ada.zip")
    before = state(memory)
    name = memory.revisions("ada")[0].name

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
            lambda: memory.absorb("ada", "More."),
            lambda: memory.open("eve"),
            lambda: memory.fork("ada", "eve"),
            lambda: memory.rollback("ada", name),
            lambda: memory.forget("ada"),
            lambda: memory.import_(tmp_path / "ada.zip", "eve"),
            lambda: DirectoryStore(tmp_path / "other").open(),
        ):
            with pytest.raises(StoreWriteFailed, match=r"Could not write .*No way"):
                call()
        assert state(memory) == before
        assert memory.reply("ada", TALK[:1], revision="head").text
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
        memory.absorb("eve", "Eve likes rain.")
        memory.absorb("ada", TALK)
        before = memory.transcript("ada"), memory.revisions("ada")
        fill(small_disk, spare)
        with trials.one("full tmpfs", f"{spare} bytes left"):
            with pytest.raises(StoreWriteFailed, match="full: free some space") as caught:
                memory.absorb("ada", text)
            assert str(root) in str(caught.value)
            documents = memory.transcript("ada").documents
            assert memory.revisions("ada") == before[1]
            assert "".join(d.text for d in documents).strip() in {"", text.strip()}
            assert memory.reply("ada", TALK[:1], revision="head").text
    with (  # a start while it is full
        trials.one("full tmpfs", f"{spare} bytes left, after a restart"),
        ParametricMemory(FakeBackend(), DirectoryStore(root, key=key)) as memory,
    ):
        assert memory.transcript("ada").messages == before[0].messages
        assert memory.transcript("ada").documents == documents
        assert memory.forget("eve").files
        (small_disk / "filler").unlink()
        assert memory.absorb("ada", text).revision
        held = memory.transcript("ada").documents
        assert "".join(document.text for document in held).strip() == text.strip()
    assert not [entry for entry in root.rglob(".*") if entry.is_file() or entry.is_dir()]
