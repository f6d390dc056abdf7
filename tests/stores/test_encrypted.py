"""What is special about an encrypted root: keys, tampering, plain copies, what a forget removes."""

import errno
import gc
import json
import os
import pickle
import secrets
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from templora_memory import Document, Message, ModelIdentity, ParametricMemory, Policy, Revision
from templora_memory.domain.manifest import new_manifest
from templora_memory.errors import InvalidSetting, StoreDamaged, StoreWriteFailed, UnknownRevision
from templora_memory.stores import DirectoryStore, Key, decrypted_cache, encryption
from templora_memory.testing import FakeBackend

BASE = ModelIdentity(name="m", revision=None, config="c", tokenizer="t", weights="w")
TALK = [Message("user", "zanzibar, Füße"), Message("assistant", "two\nlines"), Message("user", "c")]
SECRET = bytes(range(32))
ADAPTER = "adapter_model.safetensors"


@pytest.fixture
def root(tmp_path, copies):  # noqa: ARG001  # they must be elsewhere
    return tmp_path / "root"


@pytest.fixture
def store(root):
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


def commit(store, manifest, name, content, keep=4):
    revision = Revision(
        name=name, parent=None, dialogue=manifest.first, messages=0, documents=("d",),
        tokens=1, created=2.0, files=(),
    )  # fmt: skip
    with store.stage(manifest.id) as folder:
        (folder / ADAPTER).write_bytes(content)
        return store.commit(manifest, revision, folder, keep=keep)


def head(store):
    return store.manifest("ada").revisions[-1]


def texts(store, name="ada"):
    journal = store.journal(name)
    return [message.content for message in journal.messages(journal.tip)]


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
    assert len({line for line in lines if line}) == 2 * len(TALK)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 200])
def test_files_of_any_size_come_back(store, size, monkeypatch):
    monkeypatch.setattr(encryption, "_PIECE", 64)
    content = secrets.token_bytes(size)
    commit(store, store.manifest("ada"), "1" * 64, content)
    assert (store.folder("ada", head(store)) / ADAPTER).read_bytes() == content


def test_a_service_keeps_its_promises_and_leaves_nothing(root, copies, tmp_path):
    policy = Policy(window=64, reply_tokens=16, chunk=8)
    told = "The zanzibar marble is under the quince."
    with ParametricMemory(FakeBackend(), opened(root), policy) as memory:
        memory.absorb("ada", told)
        history = [Message("user", told), Message("assistant", f"Yes. {told}")] * 6
        assert memory.reply("ada", [*history, Message("user", "Where?")]).text
        memory.fork("ada", "copy")
        memory.rebuild("copy")
        memory.rollback("ada", memory.revisions("ada")[0].name)
        memory.export("ada", tmp_path / "ada.zip")
        again = memory.import_(tmp_path / "ada.zip", "again")
        assert again.transcript() == memory.transcript("ada")
        assert memory.search("ada", "quince")
        assert holding(root) == []
        assert holding(copies)
        for name in memory.list():
            memory.forget(name)
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
    ("wrong", "said"),
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
def test_a_lost_or_damaged_key_is_named_and_restoring_it_is_enough(store, root, wrong, said):
    path = root / "ada" / "key.json"
    whole = path.read_bytes()
    if wrong is None:
        path.unlink()
    else:
        path.write_bytes(
            wrong if isinstance(wrong, bytes) else json.dumps(wrong(json.loads(whole))).encode()
        )
    with closing(ParametricMemory(FakeBackend(), opened(root))) as service:  # others can be used
        service.absorb("eve", "Eve likes rain.")
    with pytest.raises(StoreDamaged, match=rf"key\.json.*{said}"):
        opened(root).journal("ada")
    path.write_bytes(whole)
    assert texts(opened(root)) == texts(store)


def test_a_memory_whose_key_is_damaged_can_be_forgotten(store, root):
    (root / "ada" / "key.json").write_bytes(b"")
    assert {file.path for file in store.delete("ada")} >= {"ada/key.json", "ada/journal.jsonl"}
    assert files(root) == []


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_key_has_32_bytes(length):
    with pytest.raises(InvalidSetting, match=f"has 32 bytes, not {length}: make one with python"):
        Key(b"k" * length)


@pytest.mark.parametrize("text", ["", "password", "ab" * 31, "ab" * 33, "xy" * 32, "a b" * 22])
def test_what_is_no_key_is_refused_without_repeating_it(tmp_path, text):
    (tmp_path / "key").write_text(text)
    with pytest.raises(InvalidSetting, match=r"key file .*64 hexadecimal digits are needed") as got:
        Key.load(tmp_path / "key")
    assert not text or text not in str(got.value)


def test_a_key_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InvalidSetting, match=r"missing' cannot be read: No such file.*Make one"):
        Key.load(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(SECRET + b"\xff")
    with pytest.raises(InvalidSetting, match="binary' does not hold a key"):
        Key.load(tmp_path / "binary")


def test_keys_come_from_the_environment_or_a_file(tmp_path, monkeypatch):
    for name in (encryption.VARIABLE, encryption.FILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    assert Key.from_environment() is None
    (tmp_path / "key").write_text(f"{SECRET.hex().upper()}\n")
    monkeypatch.setenv(encryption.FILE_VARIABLE, str(tmp_path / "key"))
    assert Key.from_environment().mark == Key(SECRET).mark
    monkeypatch.setenv(encryption.VARIABLE, SECRET.hex())
    with pytest.raises(InvalidSetting, match="Both TEMPLORA_ENCRYPTION_KEY and"):
        Key.from_environment()
    monkeypatch.delenv(encryption.FILE_VARIABLE)
    assert Key.from_environment().mark == Key(SECRET).mark != Key(b"x" * 32).mark
    monkeypatch.setenv(encryption.VARIABLE, "short")
    with pytest.raises(InvalidSetting, match="TEMPLORA_ENCRYPTION_KEY does not hold a key"):
        Key.from_environment()


def test_a_key_shows_nothing_of_itself_and_travels_to_other_processes():
    key = Key(SECRET)
    assert SECRET.hex()[:8] not in repr(key) + repr(key._seal)
    assert repr(pickle.loads(pickle.dumps(key))) == repr(key)  # noqa: S301  # our own


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(InvalidSetting, match=r"pip install 'templora-memory\[encryption\]'"):
        Key(SECRET)


GOLDEN = {
    "key.json": """{
 "format": 1,
 "cipher": "AES-256-GCM",
 "master": "88d2e1d23be55d4d",
 "key": "AgICAgICAgICAgICmikYurjYMFrKhKP5MnjbEh3orm2VVXnwQ1/QAnZqSMOVkVrkAjp993vdcm/Pljlt"
}""",
    "line": b"AwMDAwMDAwMDAwMDg0N/85HgFVON3pIOvDtZoqZTpF5XcGk75o9D40LXOpI=\n",
    "whole": "04040404040404040404040494dcbf5e4e3ca986de62861ddc1690fe1253",
    "pieces": "05050505050505050505050576c788520ac640b38254c683171af1c7d3b83b60bb5607",
}


def test_what_the_first_version_wrote_opens_and_is_written_again(tmp_path, monkeypatch):
    """Whoever changes the format must still read this one."""
    seal = Key(SECRET).open_seal(GOLDEN["key.json"].encode(), "ada")
    assert seal.open_line(GOLDEN["line"], 7) == b'{"kind": "tip"}\n'
    assert seal.open(bytes.fromhex(GOLDEN["whole"]), "manifest.json") == b"{}"
    (tmp_path / "file").write_bytes(bytes.fromhex(GOLDEN["pieces"]))
    assert list(seal.open_file(tmp_path / "file", "name/file")) == [b"weights"]
    numbers = iter(range(1, 9))
    monkeypatch.setattr(encryption.os, "urandom", lambda count: bytes([next(numbers)]) * count)
    again, key = Key(SECRET).make_seal()
    assert key.decode() == GOLDEN["key.json"]
    assert again.close_line(b'{"kind": "tip"}\n', 7) == GOLDEN["line"]
    assert again.close(b"{}", "manifest.json").hex() == GOLDEN["whole"]
    pieces = again.close_pieces(iter([b"weights"]), "name/file")
    assert b"".join(pieces).hex() == GOLDEN["pieces"]


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


def test_what_lies_in_another_place_does_not_open(store, root):
    """Lines in another order, a revision under another name, a file of another memory."""
    path = root / "ada" / "journal.jsonl"
    whole = path.read_bytes()
    first, second, third, _ = whole.split(b"\n")
    for lines in ([second, first, third], [first, third], [first, first, second, third]):
        path.write_bytes(b"\n".join([*lines, b""]))
        with pytest.raises(StoreDamaged, match="damaged at byte"):
            opened(root).journal("ada")
    path.write_bytes(whole)
    one = store.manifest("ada").revisions[0]
    two = commit(store, store.manifest("ada"), "1" * 64, b"ZANZIBAR WEIGHTS").revisions[1]
    a, b = (root / "ada" / "revisions" / revision.name / ADAPTER for revision in (one, two))
    kept = a.read_bytes()
    a.write_bytes(b.read_bytes())
    with pytest.raises(StoreDamaged, match=r"was changed, or written with another key.*rebuild"):
        opened(root).folder("ada", one)
    a.write_bytes(kept)
    store.create(new_manifest("eve", BASE, created=1.0, ttl=None))
    manifest = root / "eve" / "manifest.json"
    manifest.write_bytes((root / "ada" / "manifest.json").read_bytes())
    with pytest.raises(StoreDamaged, match="was changed, or written with another key"):
        opened(root).manifest("eve")


@pytest.mark.parametrize("cut", [1, 64 + 28, 2 * (64 + 28)])
def test_a_file_that_was_cut_is_noticed(store, root, cut, monkeypatch):
    monkeypatch.setattr(encryption, "_PIECE", 64)
    commit(store, store.manifest("ada"), "1" * 64, secrets.token_bytes(256))
    path = root / "ada" / "revisions" / ("1" * 64) / ADAPTER
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(StoreDamaged, match="rebuild"):
        opened(root).folder("ada", head(store))


def test_pieces_open_in_their_order_only_and_all_of_them(tmp_path, monkeypatch):
    """Also where each of them is whole."""
    monkeypatch.setattr(encryption, "_PIECE", 8)
    seal, path = encryption.Sealed(SECRET), tmp_path / "file"
    one, two, three = seal.close_pieces(iter([b"12345678", b"abcdefgh", b"the end"]), "name")
    path.write_bytes(one + two + three)
    assert b"".join(seal.open_file(path, "name")) == b"12345678abcdefghthe end"
    for body in (one + two, one, two + one + three, one + two + two + three, one + three, three):
        path.write_bytes(body)
        with pytest.raises(ValueError, match="it was changed"):
            list(seal.open_file(path, "name"))
    path.write_bytes(one + two + three)
    with pytest.raises(ValueError, match="it was changed"):
        list(seal.open_file(path, "another name"))


def test_a_torn_last_line_is_left_out_and_written_over(store, root):
    path = root / "ada" / "journal.jsonl"
    path.write_bytes(path.read_bytes() + b"c29tZXRoaW5n")
    other = opened(root)
    assert texts(other) == texts(store)
    other.record("ada", [*TALK, Message("assistant", "d")])
    assert texts(opened(root))[-1] == "d"


# --- plain copies ------------------------------------------------------------------------------


def test_copies_are_for_their_owner_only_and_go_with_the_store(store, copies):
    folder = store.folder("ada", head(store))
    assert (folder / ADAPTER).read_bytes() == b"zanzibar weights"
    assert folder == store.folder("ada", head(store))
    with store.stage("ada"):
        assert {path.stat().st_mode & 0o077 for path in copies.rglob("*")} == {0}
    store._copies = None  # the last one who knew them
    assert list(copies.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_leaves_the_copies_of_its_parent_alone(store, copies):
    folder = store.folder("ada", head(store))
    child = os.fork()
    if not child:
        store._copies = None
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert (folder / ADAPTER).read_bytes() == b"zanzibar weights"
    opened(store.root)  # sweeps what nobody holds
    assert (folder / ADAPTER).read_bytes() == b"zanzibar weights"
    store._copies = None
    assert list(copies.iterdir()) == []


def test_a_spoiled_copy_is_made_again(store):
    path = store.folder("ada", head(store)) / ADAPTER
    path.write_bytes(b"ZANZIBAR WEIGHTS")
    assert (store.folder("ada", head(store)) / ADAPTER).read_bytes() == b"zanzibar weights"
    path.unlink()
    assert (store.folder("ada", head(store)) / ADAPTER).read_bytes() == b"zanzibar weights"


def test_copies_of_what_was_retired_or_forgotten_go_in_every_process(store, root, copies):
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


def test_idle_copies_go_when_another_is_made(store, monkeypatch, copies):
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


def test_a_revision_that_is_retired_while_it_is_copied_leaves_no_copy(store, copies, monkeypatch):
    revision = head(store)
    real = store._copies.make

    def late(target, fill):
        real(target, fill)
        commit(store, store.manifest("ada"), "1" * 64, b"other", keep=1)

    monkeypatch.setattr(store._copies, "make", late)
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


def test_a_commit_that_fails_while_it_is_encrypted_leaves_nothing(store, root, monkeypatch):
    before = sorted((root / "ada").rglob("*"))

    def broken(self, pieces, what):  # noqa: ARG001
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(encryption.Sealed, "close_pieces", broken)
    with pytest.raises(StoreWriteFailed, match="disk or quota is full"):
        commit(store, store.manifest("ada"), "1" * 64, b"other weights")
    assert sorted((root / "ada").rglob("*")) == before


def test_what_is_damaged_names_the_memory_to_rebuild(store, root):
    path = root / "ada" / "revisions" / ("0" * 64) / ADAPTER
    path.write_bytes(path.read_bytes()[:-1])
    known = head(store)
    said = r"adapter_model\.safetensors is not what was written .*rebuild\('ada'\)"
    with pytest.raises(StoreDamaged, match=said):
        opened(root).folder("ada", known)
    with pytest.raises(StoreDamaged, match=said):
        store.create(replace(store.manifest("ada"), id="bob", epoch=0), source="ada")
    with pytest.raises(StoreDamaged, match=said):
        opened(root).export("ada", root.parent / "ada.zip")
