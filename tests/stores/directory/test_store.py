"""What is special about folders on a disk: modes, locks, damage, leftovers, several processes."""

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest

from templora_memory import Document, Message, ModelIdentity, ParametricMemory, Policy, Revision
from templora_memory.domain.manifest import new_manifest
from templora_memory.errors import (
    Conflict,
    StoreDamaged,
    StoreError,
    StoreWriteFailed,
    UnknownMemory,
    UnknownRevision,
)
from templora_memory.fs.locks import hold
from templora_memory.stores import DirectoryStore
from templora_memory.stores.directory import store as store_module
from templora_memory.testing import FakeBackend

BASE = ModelIdentity(name="m", revision=None, config="c", tokenizer="t", weights="w")
TALK = [Message("user", "Füße"), Message("assistant", "two\nlines"), Message("user", "c")]


def left(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.usefixtures("ada")
def test_everything_is_for_its_owner_only(store):
    with store.stage("ada") as staged:
        (staged / "x.json").write_text("{}")
        for path in [store.root, *store.root.rglob("*")]:
            mode = stat.S_IMODE(path.stat().st_mode)
            inside = staged in path.parents  # written by a learner, protected by its folder
            assert mode == (0o700 if path.is_dir() else 0o600) or inside, path


@pytest.mark.usefixtures("ada")
def test_the_layout_is_the_documented_one(store):
    assert left(store.root) == [
        "ada",
        "ada/journal.jsonl",
        "ada/lock",
        "ada/manifest.json",
        "ada/revisions",
        f"ada/revisions/{'0' * 64}",
        f"ada/revisions/{'0' * 64}/adapter_model.safetensors",
    ]


def test_a_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreWriteFailed, match="give a folder"):
        DirectoryStore(tmp_path / "file").open()


# --- several processes ---------------------------------------------------------------------------


def _write(root, who, count):
    store = DirectoryStore(root)
    store.open()
    talk = []
    for number in range(count):
        talk.append(Message("user", f"{who} says {number}"))
        store.record("ada", talk)
        store.record_documents("ada", [Document(f"{who} wrote {number}")])


def _commit_until(root, who, count, commit):
    store = DirectoryStore(root)
    store.open()
    for number in range(count):
        while True:
            try:
                commit(store, store.manifest("ada"), f"{who}{number:063d}", str(who).encode())
            except Conflict:
                continue
            break


@pytest.mark.parametrize("work", ["text", "revisions"])
@pytest.mark.usefixtures("ada")
def test_two_stores_write_to_one_root(store, work, commit):
    if work == "text":
        run = threading.Thread(target=_write, args=(store.root, "p0", 20))
        run.start()
        _write(store.root, "p1", 20)
        run.join()
        journal = store.journal("ada")
        assert len(journal.documents) == 41
    else:
        run = threading.Thread(target=_commit_until, args=(store.root, 1, 10, commit))
        run.start()
        _commit_until(store.root, 2, 10, commit)
        run.join()
        assert store.manifest("ada").epoch == 21
        for revision in store.manifest("ada").revisions:
            assert store.folder("ada", revision).is_dir()


@pytest.mark.usefixtures("ada")
def test_real_processes_lose_nothing(store, tmp_path):
    script = tmp_path / "write.py"
    script.write_text(
        "import sys\n"
        "from templora_memory import Document, Message\n"
        "from templora_memory.stores import DirectoryStore\n"
        "store = DirectoryStore(sys.argv[1]); store.open(); talk = []\n"
        "for n in range(15):\n"
        "    talk.append(Message('user', f'{sys.argv[2]} says {n}'))\n"
        "    store.record('ada', talk)\n"
        "    store.record_documents('ada', [Document(f'{sys.argv[2]} wrote {n}')])\n"
    )
    running = [
        subprocess.Popen([sys.executable, str(script), str(store.root), who]) for who in "ab"
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    journal, manifest = store.journal("ada"), store.manifest("ada")
    assert len(journal.documents) == 31
    for who in "ab":
        talk = [Message("user", f"{who} says {n}") for n in range(15)]
        assert journal.messages(manifest.chain(talk)[-1]) == tuple(talk)


def test_a_second_writer_waits_for_the_lock_then_gives_up(store, ada, monkeypatch):
    monkeypatch.setattr(store_module, "LOCK_SECONDS", 0.05)
    with hold(ada / "lock", seconds=1):
        with pytest.raises(Conflict, match="locked by another process"):
            store.record("ada", [Message("user", "x")])
        assert store.manifest("ada").epoch == 1  # reading needs no lock
    store.record("ada", [Message("user", "x")])


def test_who_waits_for_a_forgotten_memory_does_not_bring_it_back(store, ada):
    errors = []

    def write():
        try:
            store.record("ada", [Message("user", "x")])
        except UnknownMemory as error:
            errors.append(error)

    other = DirectoryStore(store.root)
    with hold(ada / "lock", seconds=1):
        waiting = threading.Thread(target=write)
        waiting.start()
        gone = store.root / ".forgotten-x"
        ada.rename(gone)
    waiting.join(30)
    assert len(errors) == 1
    assert not ada.exists()
    other.open()
    assert left(store.root) == []


def test_work_that_begins_while_a_memory_is_forgotten_does_not_bring_it_back(
    store, ada, monkeypatch
):
    real = store_module.temporary

    @contextmanager
    def late(folder):
        with real(folder):
            DirectoryStore(store.root).delete("ada")
            yield

    monkeypatch.setattr(store_module, "temporary", late)
    with pytest.raises(StoreWriteFailed, match="folder exists"), store.stage("ada"):
        pass
    assert not ada.exists()


def test_a_size_is_told_while_somebody_is_at_work(store, ada, monkeypatch):
    with store.stage("ada") as folder:
        (folder / "x.json").write_text("{}")
        real, whole = os.walk, store.size("ada")

        def walk(top):
            for entry in real(top):
                if str(folder) == entry[0]:
                    (folder / "x.json").unlink()
                yield entry

        monkeypatch.setattr(os, "walk", walk)
        assert store.size("ada") == whole - 2
    assert ada.is_dir()


@pytest.mark.usefixtures("ada")
def test_a_memory_forgotten_and_made_again_is_another_one(store):
    other = DirectoryStore(store.root)
    old = other.manifest("ada")
    assert other.journal("ada").documents
    store.delete("ada")
    again = replace(new_manifest("ada", BASE, created=5.0, ttl=None), salt=old.salt, epoch=1)
    store.create(again)
    store.record("ada", [Message("user", "new " * 200)])
    assert other.journal("ada").documents == ()
    assert other.journal("ada").messages(other.journal("ada").tip)[0].content == "new " * 200
    with pytest.raises(Conflict, match="made again"):
        other.replace(old, epoch=1)


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}', b'{"format": 9}']
)
def test_a_damaged_manifest_is_named(store, ada, content):
    (ada / "manifest.json").write_bytes(content)
    for call in (store.manifest, store.journal, store.size, lambda i: store.record(i, TALK)):
        with pytest.raises(StoreDamaged, match=r"manifest\.json"):
            call("ada")
    DirectoryStore(store.root).open()
    assert (ada / "manifest.json").read_bytes() == content
    store.delete("ada")
    assert left(store.root) == []


def test_a_copied_folder_is_not_taken_for_the_memory(store, ada):
    shutil.copytree(ada, store.root / "eve")
    with pytest.raises(StoreDamaged, match="says it is 'ada', not 'eve'"):
        store.manifest("eve")


@pytest.mark.parametrize("change", ["other content", "longer", "missing file"])
@pytest.mark.usefixtures("ada")
def test_a_damaged_revision_is_named(store, change):
    revision = store.manifest("ada").revisions[0]
    path = store.folder("ada", revision) / "adapter_model.safetensors"
    if change == "missing file":
        path.unlink()
    else:
        path.write_bytes(b"WEIGHTS" if change == "other content" else b"weights+")
    with pytest.raises(StoreDamaged, match=r"adapter_model\.safetensors"):
        store.folder("ada", revision)


# --- leftovers -----------------------------------------------------------------------------------


def test_leftovers_of_killed_processes_are_swept(store, ada):
    before = left(store.root)
    for name in (".incoming-1", ".forgotten-2", "ada/.staging-3", f"ada/revisions/{'1' * 64}"):
        (store.root / name).mkdir()
        (store.root / name / "adapter.json").write_text("leftover")
    for name in (
        ".incoming-1.lock",
        ".incoming-9.lock",
        "ada/.staging-3.lock",
        "ada/.staging-9.lock",
    ):
        (store.root / name).touch()
    (ada / ".manifest.json.12ab").write_text("{}")
    again = DirectoryStore(store.root)
    again.open()
    again.manifest("ada")  # of a memory, when it is used
    assert left(store.root) == before
    assert {"ada", "notes"} >= set(store.ids())  # what might be a damaged memory is listed


@pytest.mark.usefixtures("ada")
def test_an_orphan_of_a_killed_commit_is_not_in_the_way(store, commit):
    orphan = store.root / "ada" / "revisions" / ("1" * 64)
    orphan.mkdir()
    (orphan / "adapter_model.safetensors").write_bytes(b"half")
    made = commit(store, store.manifest("ada"), "1" * 64)
    path = store.folder("ada", made.newest) / "adapter_model.safetensors"
    assert path.read_bytes() == b"weights"


def test_the_work_of_a_living_process_is_not_swept(store, ada):
    with store.stage("ada") as folder:
        (folder / "x.json").write_text("{}")
        DirectoryStore(store.root).open()
        assert (folder / "x.json").exists()
    assert not list(ada.glob(".staging*"))


@pytest.mark.usefixtures("ada")
def test_folders_of_others_are_left_alone(store):
    (store.root / "notes").mkdir()
    (store.root / "notes" / "manifest.json").write_text("not ours")
    (store.root / "file.txt").write_text("x")
    (store.root / "empty").mkdir()
    before = left(store.root)
    DirectoryStore(store.root).open()
    assert left(store.root) == before


def _change(store, manifest, target):
    if target == "append":
        store.record("ada", [Message("user", "x")])
    else:
        store.replace(replace(manifest, epoch=2), epoch=1)


@pytest.mark.parametrize("target", ["replace", "append"])
def test_a_refused_write_names_path_and_advice_and_loses_nothing(store, ada, monkeypatch, target):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    before = (store.manifest("ada"), (ada / "journal.jsonl").read_bytes(), left(ada))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StoreWriteFailed, match=r"ada.*Permission denied; check that") as caught:
            _change(store, before[0], target)
    assert "Nothing was lost" in str(caught.value)
    assert (store.manifest("ada"), (ada / "journal.jsonl").read_bytes(), left(ada)) == before


# --- forgetting ----------------------------------------------------------------------------------


def test_no_byte_of_a_planted_sentence_is_left(tmp_path):
    root, secret = tmp_path / "root", "The zanzibar marble is under the quince."
    backend = FakeBackend()
    policy = Policy(window=64, reply_tokens=16, chunk=8)
    with ParametricMemory(backend, DirectoryStore(root), policy) as service:
        service["eve"].absorb("Eve likes rain.")
        service["ada"].absorb(secret)
        history = [Message("user", secret), Message("assistant", f"Yes. {secret}")] * 6
        service["ada"].reply([*history, Message("user", "Where?")])
        service["ada"].fork("ada@bob")
        service["ada@bob"].absorb(secret + " Really.")
        service["ada"].rebuild()
        service.wait()
        (root / "ada" / ".staging-1").mkdir()
        (root / "ada" / ".staging-1" / "adapter.json").write_text(secret)
        assert holds(root, b"zanzibar")
        receipt = service["ada"].forget()
        assert {file.path.split("/")[0] for file in receipt.files} == {"ada", "ada@bob"}
        assert not holds(root, b"zanzibar")
        assert not holds(root, b"quince")
        assert not [name for name in left(root) if name.startswith("ada")]
        assert service.list() == ("eve",)
        assert holds(root, b"rain")


def holds(root, word):
    return any(word in path.read_bytes() for path in root.rglob("*") if path.is_file())


@pytest.mark.usefixtures("ada")
def test_the_receipt_lists_exactly_what_was_there(store):
    before = {name for name in left(store.root) if (store.root / name).is_file()}
    sizes = {name: (store.root / name).stat().st_size for name in before}
    assert {file.path: file.bytes for file in store.delete("ada")} == sizes


def test_a_report_and_a_manifest_hold_no_text(tmp_path):
    with ParametricMemory(FakeBackend(), DirectoryStore(tmp_path / "root")) as service:
        service["ada"].absorb("The zanzibar marble.")
        for path in (tmp_path / "root").rglob("*.json"):
            if path.name != "adapter.json":
                assert "zanzibar" not in path.read_text()
                json.loads(path.read_text())


# --- what is rare --------------------------------------------------------------------------------


@pytest.mark.usefixtures("ada")
def test_a_revision_is_committed_once(store, commit):
    made = commit(store, store.manifest("ada"), "7" * 64)
    with pytest.raises(StoreError, match=r"has revision 7+ already"):
        commit(store, made, "7" * 64, b"others")
    assert store.manifest("ada") == made


def test_a_memory_with_a_long_id_is_listed(store, make):
    long = "ä" * 120
    make(store, long)
    assert store.ids() == (long,)
    assert store.manifest(long).id == long
    (path,) = store.root.glob("*/manifest.json")
    path.write_text("{")
    assert store.ids() == ()  # its name is only in there


def test_a_memory_that_is_being_made_is_not_listed(store, ada):
    shutil.copytree(ada, store.root / ".incoming-0123456789abcdef")
    assert store.ids() == ("ada",)


@pytest.mark.parametrize("kind", ["folder", "link", "pickle"])
def test_a_revision_holds_plain_json_and_safetensors_only(store, ada, kind):
    manifest = store.manifest("ada")
    with store.stage("ada") as folder:
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
        if kind == "folder":
            (folder / "more").mkdir()
            (folder / "more" / "x.json").write_text("{}")
        elif kind == "link":
            (folder / "x.json").symlink_to(ada / "manifest.json")
        else:
            (folder / "x.pkl").write_bytes(b"")
        revision = Revision(
            name="1" * 64, parent=None, dialogue=manifest.first, messages=0, documents=(),
            tokens=1, created=2.0, files=(),
        )  # fmt: skip
        with pytest.raises(StoreError, match="only JSON and safetensors files, not 'x"):
            store.commit(manifest, revision, folder, keep=4)
    assert store.manifest("ada") == manifest


def test_links_are_in_the_receipt_and_not_followed(store, ada, tmp_path):
    away = tmp_path / "away"
    away.mkdir()
    (away / "precious").write_text("x")
    (ada / "linked").symlink_to(away)
    assert "ada/linked" in {file.path for file in store.delete("ada")}
    assert (away / "precious").exists()


@pytest.mark.usefixtures("ada")
def test_a_copy_of_a_revision_that_is_gone_is_refused(store, commit):
    made = commit(store, store.manifest("ada"), "7" * 64)
    store.replace(replace(made, revisions=(), head=None, epoch=9), epoch=made.epoch)
    with pytest.raises(UnknownRevision, match=r"of 'ada' was retired meanwhile"):
        store.create(replace(made, id="eve", epoch=0), source="ada")
    assert "eve" not in store.ids()
