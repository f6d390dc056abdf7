"""What is special about an encrypted root: keys, tampering, plain copies, what a forget removes."""

import errno
import json
import secrets
from contextlib import closing
from dataclasses import replace

import pytest

from templora_memory import Document, Message, ParametricMemory, Policy
from templora_memory.domain.manifest import new_manifest
from templora_memory.errors import InvalidSetting, StoreDamaged, StoreWriteFailed
from templora_memory.stores import (
    DirectoryStore,
    Key,
    encryption,
)
from templora_memory.testing import FakeBackend
from tests.stores.encrypted import ADAPTER, BASE, SECRET, TALK, head, texts


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


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def holding(folder, word=b"zanzibar"):
    return [path for path in files(folder) if word in path.read_bytes()]


# --- what lies on the disk ---------------------------------------------------------------------


def test_nothing_but_names_can_be_read_under_the_root(store, root):
    store.record_documents("ada", [Document("A zanzibar document.", author="zanzibar author")])
    shown = {path.relative_to(root / "ada").as_posix() for path in files(root)}
    assert shown == {
        "manifest.json", "journal.jsonl", "lock", "key.json", f"revisions/{'0' * 64}/{ADAPTER}",
    }  # fmt: skip
    for word in (
        b"zanzibar",
        b"Zanzibar",
        b"lines",
        b"salt",
        b"digest",
        SECRET,
        SECRET.hex().encode(),
    ):
        assert holding(root, word) == []
    assert holding(root, b"AES-256-GCM") == [root / "ada" / "key.json"]


def test_the_same_text_looks_different_every_time(store, root):
    store.create(new_manifest("eve", BASE, created=1.0, ttl=None))
    store.record("eve", TALK)
    lines = (root / "ada" / "journal.jsonl").read_bytes().split(b"\n")
    lines += (root / "eve" / "journal.jsonl").read_bytes().split(b"\n")
    lines = [line for line in lines if line]
    assert len(set(lines)) == len(lines) > 2 * len(TALK)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 200])
def test_files_of_any_size_come_back(store, size, monkeypatch, commit):
    monkeypatch.setattr(encryption, "_CHUNK_BYTES", 64)
    content = secrets.token_bytes(size)
    commit(store, store.manifest("ada"), "1" * 64, content)
    assert (store.folder("ada", head(store)) / ADAPTER).read_bytes() == content


def test_a_service_keeps_its_promises_and_leaves_nothing(root, copies, tmp_path):
    policy = Policy(window=64, reply_tokens=16, chunk=8)
    planted = "The zanzibar marble is under the quince."
    with ParametricMemory(FakeBackend(), opened(root), policy) as memory:
        memory["ada"].absorb(planted)
        history = [Message("user", planted), Message("assistant", f"Yes. {planted}")] * 6
        assert memory["ada"].reply([*history, Message("user", "Where?")]).text
        memory["ada"].fork("copy")
        memory["copy"].rebuild()
        memory["ada"].rollback(memory["ada"].revisions()[0].name)
        memory["ada"].export(tmp_path / "ada.zip")
        again = memory.import_(tmp_path / "ada.zip", "again")
        assert again.transcript() == memory["ada"].transcript()
        assert memory["ada"].search("quince")
        assert holding(root) == []
        assert holding(copies)
        for name in memory.list():
            memory[name].forget()
        assert files(root) == []
        assert holding(copies) == []
    assert holding(tmp_path, b"AES-256-GCM") == []


# --- keys --------------------------------------------------------------------------------------


def test_another_key_is_refused_and_nothing_is_lost(store, root):
    before = {path: path.read_bytes() for path in files(root)}
    with pytest.raises(InvalidSetting, match=r"ada is encrypted with the key .*give the other one"):
        opened(root, b"x" * 32)
    other = DirectoryStore(root, key=Key(b"x" * 32))
    for call in (other.manifest, other.journal, other.size, lambda name: other.record(name, TALK)):
        with pytest.raises(InvalidSetting, match="give the other one"):
            call("ada")
    assert {path: path.read_bytes() for path in files(root)} == before
    assert texts(opened(root)) == texts(store)


@pytest.mark.usefixtures("store")
def test_a_root_that_is_encrypted_asks_for_the_key(root):
    with pytest.raises(InvalidSetting, match=r"is encrypted: give the key .*ENCRYPTION_KEY_FILE"):
        opened(root, None)
    with pytest.raises(InvalidSetting, match="is encrypted"):
        ParametricMemory(FakeBackend(), DirectoryStore(root)).load()


def test_a_root_that_is_not_encrypted_takes_no_key(root):
    plain = opened(root, None)
    plain.create(new_manifest("ada", BASE, created=1.0, ttl=None))
    with pytest.raises(InvalidSetting, match="is not encrypted, and a key was given: leave out"):
        opened(root)
    assert plain.ids() == ("ada",)


def test_folders_of_others_do_not_matter(root):
    (root / "page").mkdir(parents=True)
    (root / "page" / "manifest.json").write_text('{"name": "a web page"}')
    assert opened(root).ids() == ("page",)  # its name is one; nothing else is
    with pytest.raises(StoreDamaged, match=r"key\.json is missing"):
        opened(root).manifest("page")


@pytest.mark.parametrize(
    ("wrong", "error_text"),
    [
        (None, "is missing"),
        (b"", "damaged"),
        (b"[]", "damaged"),
        (b"{}", "damaged"),
        (lambda key: {**key, "key": key["key"][:-4]}, "damaged"),
        (lambda key: {**key, "key": "?"}, "damaged"),
        (lambda key: {**key, "key": key["key"][::-1].lstrip("=")}, "damaged"),
        (lambda key: {**key, "format": 2}, "format 2"),
    ],
)
def test_a_lost_or_damaged_key_is_named_and_restoring_it_is_enough(store, root, wrong, error_text):
    path = root / "ada" / "key.json"
    whole = path.read_bytes()
    if wrong is None:
        path.unlink()
    else:
        path.write_bytes(
            wrong if isinstance(wrong, bytes) else json.dumps(wrong(json.loads(whole))).encode()
        )
    with closing(ParametricMemory(FakeBackend(), opened(root))) as service:  # others can be used
        service["eve"].absorb("Eve likes rain.")
    with pytest.raises(StoreDamaged, match=rf"key\.json.*{error_text}"):
        opened(root).journal("ada")
    path.write_bytes(whole)
    assert texts(opened(root)) == texts(store)


def test_a_memory_whose_key_is_damaged_can_be_forgotten(store, root):
    (root / "ada" / "key.json").write_bytes(b"")
    assert {file.path for file in store.delete("ada")} >= {"ada/key.json", "ada/journal.jsonl"}
    assert files(root) == []


# --- tampering ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["manifest.json", "journal.jsonl", f"revisions/{'0' * 64}/{ADAPTER}"]
)
def test_every_changed_byte_is_noticed(store, root, name):
    path = root / "ada" / name
    whole = path.read_bytes()
    revision = head(store)
    step = max(1, len(whole) // 40)
    for place in [*range(0, len(whole) - 1, step), len(whole) - 2]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        other = DirectoryStore(root, key=Key(SECRET))
        with pytest.raises(StoreDamaged, match=path.name):
            (other.journal("ada"), other.manifest("ada"), other.folder("ada", revision))
    path.write_bytes(whole)
    assert texts(opened(root)) == texts(store)


def test_what_lies_in_another_place_does_not_open(store, root, commit):
    """Lines in another order, a revision under another name, a file of another memory."""
    path = root / "ada" / "journal.jsonl"
    whole = path.read_bytes()
    first, second, third, *_ = whole.split(b"\n")
    for lines in ([second, first, third], [first, third], [first, first, second, third]):
        path.write_bytes(b"\n".join([*lines, b""]))
        with pytest.raises(StoreDamaged, match="damaged at byte"):
            opened(root).journal("ada")
    path.write_bytes(whole)
    one = store.manifest("ada").revisions[0]
    two = commit(store, store.manifest("ada"), "1" * 64, b"ZANZIBAR WEIGHTS").revisions[1]
    a, b = (root / "ada" / "revisions" / revision.name / ADAPTER for revision in (one, two))
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    with pytest.raises(StoreDamaged, match=r"was changed, or written with another key.*rebuild"):
        opened(root).folder("ada", one)
    a.write_bytes(content)
    store.create(new_manifest("eve", BASE, created=1.0, ttl=None))
    manifest = root / "eve" / "manifest.json"
    manifest.write_bytes((root / "ada" / "manifest.json").read_bytes())
    with pytest.raises(StoreDamaged, match="was changed, or written with another key"):
        opened(root).manifest("eve")


@pytest.mark.parametrize("cut", [1, 64 + 28, 2 * (64 + 28)])
def test_a_file_that_was_cut_is_noticed(store, root, cut, monkeypatch, commit):
    monkeypatch.setattr(encryption, "_CHUNK_BYTES", 64)
    commit(store, store.manifest("ada"), "1" * 64, secrets.token_bytes(256))
    path = root / "ada" / "revisions" / ("1" * 64) / ADAPTER
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(StoreDamaged, match="rebuild"):
        opened(root).folder("ada", head(store))


def test_a_torn_last_line_is_left_out_and_written_over(store, root):
    path = root / "ada" / "journal.jsonl"
    path.write_bytes(path.read_bytes() + b"c29tZXRoaW5n")
    other = opened(root)
    assert texts(other) == texts(store)
    other.record("ada", [*TALK, Message("assistant", "d")])
    assert texts(opened(root))[-1] == "d"


# --- forks and files ---------------------------------------------------------------------------


def test_a_fork_has_a_key_of_its_own(store, root, copies):
    store.create(replace(store.manifest("ada"), id="eve", epoch=0), source="ada", journal=True)
    keys = [json.loads((root / name / "key.json").read_bytes())["key"] for name in ("ada", "eve")]
    assert keys[0] != keys[1]
    store.delete("ada")
    other = opened(root)
    assert texts(other, "eve") == [message.content for message in TALK]
    assert holding(other.folder("eve", other.manifest("eve").revisions[0]))
    assert holding(root) == []
    assert len(holding(copies)) == 1


def test_an_exported_file_is_plain_and_can_be_imported_anywhere(store, root, copies, tmp_path):
    store.export("ada", tmp_path / "ada.zip")
    assert b"zanzibar" in (tmp_path / "ada.zip").read_bytes()
    plain = opened(tmp_path / "plain", None)
    plain.import_(tmp_path / "ada.zip", None)
    assert texts(plain) == texts(store)
    plain.export("ada", tmp_path / "again.zip")
    other = opened(root, SECRET)
    assert other.import_(tmp_path / "again.zip", "eve").id == "eve"
    assert texts(other, "eve") == texts(store)
    assert holding(root) == []
    left = [path for path in holding(copies) if "eve" in str(path)]
    assert left == []


def test_a_damaged_journal_is_not_copied(store, root, tmp_path):
    path = root / "ada" / "journal.jsonl"
    path.write_bytes(b"AAAA" + path.read_bytes()[4:])
    with pytest.raises(StoreDamaged, match="damaged at byte 0"):
        store.create(replace(store.manifest("ada"), id="eve"), source="ada", journal=True)
    with pytest.raises(StoreDamaged, match="damaged at byte 0"):
        store.export("ada", tmp_path / "ada.zip")
    assert store.ids() == ("ada",)
    assert not (tmp_path / "ada.zip").exists()


def test_what_a_forget_leaves_in_a_backup_cannot_be_read_without_the_key_file(
    store, root, tmp_path
):
    """A backup of everything but ``key.json``, laid back after the forget."""
    saved = {path.relative_to(root): path.read_bytes() for path in files(root)}
    store.delete("ada")
    for name, content in saved.items():
        if name.name != "key.json":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
    with pytest.raises(StoreDamaged, match=r"key\.json is missing"):
        opened(root).journal("ada")
    opened(tmp_path / "other")
    store.create(new_manifest("eve", BASE, created=1.0, ttl=None))
    (root / "ada" / "key.json").write_bytes((root / "eve" / "key.json").read_bytes())
    with pytest.raises(StoreDamaged, match="written with another key"):
        opened(root).journal("ada")


def test_a_commit_that_fails_while_it_is_encrypted_leaves_nothing(store, root, monkeypatch, commit):
    before = sorted((root / "ada").rglob("*"))

    def broken(self, chunks, associated_data):  # noqa: ARG001
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(encryption.AesGcmCipher, "encrypt_chunks", broken)
    with pytest.raises(StoreWriteFailed, match="disk or quota is full"):
        commit(store, store.manifest("ada"), "1" * 64, b"other weights")
    assert sorted((root / "ada").rglob("*")) == before


def test_what_is_damaged_names_the_memory_to_rebuild(store, root):
    path = root / "ada" / "revisions" / ("0" * 64) / ADAPTER
    path.write_bytes(path.read_bytes()[:-1])
    known = head(store)
    error_text = r"adapter_model\.safetensors is not what was written .*memory 'ada'.*\(rebuild\)"
    with pytest.raises(StoreDamaged, match=error_text):
        opened(root).folder("ada", known)
    with pytest.raises(StoreDamaged, match=error_text):
        store.create(replace(store.manifest("ada"), id="bob", epoch=0), source="ada")
    with pytest.raises(StoreDamaged, match=error_text):
        opened(root).export("ada", root.parent / "ada.zip")
