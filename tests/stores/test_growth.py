"""What grows with a memory, and what must not."""

import json
from dataclasses import replace

import pytest

from templora_memory import Document, Learning, ParametricMemory, Policy
from templora_memory.domain.manifest import FORMAT_WITH_LISTS, ModelIdentity, new_manifest
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

BASE = ModelIdentity(name="m", revision=None, config="c", tokenizer="t", weights="w")


class CountingStore(DirectoryStore):
    """Counts the manifests that it reads."""

    read = 0

    def _read_manifest(self, folder):
        self.read += 1
        return super()._read_manifest(folder)


def service(store):
    policy = Policy(window=96, reply_tokens=24, chunk=16, learning=Learning(replay=0.0))
    return ParametricMemory(FakeBackend(), store, policy)


def test_opening_a_root_reads_none_of_its_memories(tmp_path):
    store = DirectoryStore(tmp_path)
    store.open()
    for number in range(20):
        store.create(new_manifest(f"m{number}", BASE, created=1.0, ttl=None))
    counting = CountingStore(tmp_path)
    with ParametricMemory(FakeBackend(), counting) as memory:
        assert len(memory.list()) == 20
        assert counting.read == 0
        memory["m3"].status()
        assert counting.read > 0


def test_of_a_root_only_memories_that_expire_are_read(tmp_path):
    store = DirectoryStore(tmp_path)
    store.open()
    for number in range(20):
        ttl = 5.0 if number == 7 else None
        store.create(new_manifest(f"m{number}", BASE, created=1.0, ttl=ttl))
    assert store.expiring() == ("m7",)
    (tmp_path / "m7" / "expires").unlink()  # as in the format before: marked at its next use
    again = DirectoryStore(tmp_path)
    assert again.manifest("m7").ttl == 5.0
    assert again.expiring() == ("m7",)


@pytest.fixture
def old(tmp_path):
    """A memory whose manifest holds its lists of documents, and whose journal does not."""
    with service(DirectoryStore(tmp_path)) as memory:
        ada = memory.open("ada")
        for text in ("Ada keeps bees.", "Ben keeps goats.", "Cat keeps quiet."):
            ada.absorb(text)
        revisions = ada.revisions()
    folder = tmp_path / "ada"
    manifest = DirectoryStore(tmp_path).manifest("ada")
    (folder / "manifest.json").write_text(json.dumps(manifest.as_json()), encoding="utf-8")
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["kind"] != "learned"]
    (folder / "journal.jsonl").write_bytes(b"".join(kept))
    return revisions


def test_a_memory_of_the_format_before_is_read_and_goes_on(old, tmp_path):
    path = tmp_path / "ada" / "manifest.json"
    assert json.loads(path.read_bytes())["format"] == FORMAT_WITH_LISTS
    before = path.read_bytes()
    with service(DirectoryStore(tmp_path)) as memory:
        assert memory["ada"].revisions() == old
        assert path.read_bytes() == before  # looking changes nothing
        memory["ada"].absorb("Dan keeps sheep.")
        memory["ada"].rollback(old[1].name)
        memory["ada"].fork("eve")
    assert json.loads(path.read_bytes())["format"] == FORMAT_WITH_LISTS + 1
    with service(DirectoryStore(tmp_path)) as memory:
        assert memory["ada"].revisions() == old[:2]
        assert memory["eve"].revisions() == old[:2]


def test_an_exported_memory_of_the_format_before_is_imported(old, tmp_path):
    store = DirectoryStore(tmp_path)
    store.export("ada", tmp_path / "ada.zip")
    other = DirectoryStore(tmp_path / "other")
    other.open()
    assert other.import_(tmp_path / "ada.zip", None).revisions == old
    assert DirectoryStore(tmp_path / "other").manifest("ada").revisions == old


def test_a_crash_between_list_and_manifest_loses_nothing(old, tmp_path, monkeypatch):
    class KilledError(BaseException):
        pass

    def kill(*_, **__):
        raise KilledError

    store = DirectoryStore(tmp_path)
    manifest = store.manifest("ada")
    with monkeypatch.context() as patch:
        patch.setattr("templora_memory.domain.manifest.Manifest.as_json", kill)
        with pytest.raises(KilledError):
            store.replace(replace(manifest, epoch=manifest.epoch + 1), epoch=manifest.epoch)
    again = DirectoryStore(tmp_path)
    assert again.manifest("ada") == manifest
    again.replace(replace(manifest, epoch=manifest.epoch + 1), epoch=manifest.epoch)
    assert DirectoryStore(tmp_path).manifest("ada").revisions == old


def test_an_absorb_writes_as_much_after_many_documents_as_after_few(tmp_path):
    with service(DirectoryStore(tmp_path)) as memory:
        ada = memory.open("ada")
        sizes = []
        for number in range(60):
            ada.absorb(Document(f"Fact number {number:03d} is true."))
            sizes.append((tmp_path / "ada" / "manifest.json").stat().st_size)
    assert max(sizes[10:]) <= max(sizes[5:10]) + 64
