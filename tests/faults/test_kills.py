"""A process killed at any moment leaves the old or the new state, and loses no text it was told of.

The template holds a memory with a bio, a conversation and two revisions. After each death the
parent opens the store afresh, which also sweeps, and looks at everything.
"""

from dataclasses import replace
from functools import partial

import pytest

from templora_memory import Document, Message, ModelIdentity, Revision
from templora_memory.domain.manifest import new_manifest
from templora_memory.stores import DirectoryStore, Key

BASE = ModelIdentity(name="m", revision=None, config="c", tokenizer="t", weights="w")
KEY = Key(b"k" * 32)
BIO = Document("Ada keeps zanzibar bees.")
TALK = [Message("user", "zanzibar one"), Message("assistant", "zanzibar two")]
MORE = [*TALK, Message("user", "zanzibar three"), Message("assistant", "zanzibar four")]


encrypted_too = pytest.mark.parametrize("way", ["plain", "encrypted"], indirect=True)


@pytest.fixture
def way(request, monkeypatch):
    if request.param == "encrypted":
        monkeypatch.setitem(globals(), "DirectoryStore", partial(DirectoryStore, key=KEY))


def opened(root):
    store = DirectoryStore(root)
    store.open()
    return store


def commit(store, manifest, digit, *, keep=4):
    revision = Revision(
        name=digit * 64,
        parent=None,
        dialogue=manifest.first,
        messages=0,
        documents=(),
        tokens=int(digit),
        created=2.0,
        files=(),
    )
    with store.stage(manifest.id) as folder:
        (folder / "adapter_model.safetensors").write_bytes(b"zanzibar weights" + digit.encode())
        (folder / "adapter_config.json").write_bytes(b"{}")
        return store.commit(manifest, revision, folder, keep=keep)


def prepare(root):
    store = opened(root)
    manifest = new_manifest("ada", BASE, created=1.0, ttl=None)
    store.create(manifest)
    store.record_documents("ada", [BIO])
    store.record("ada", TALK)
    commit(store, commit(store, manifest, "1"), "2")


def sound(root, *ids):
    """The store after a restart: every memory wholly readable, nothing left lying about."""
    store = opened(root)
    assert store.ids() == ids
    allowed = {"manifest.json", "journal.jsonl", "lock", "revisions", "key.json"}
    assert {entry.name for entry in root.iterdir()} == set(ids)
    for name in ids:
        manifest, journal = store.manifest(name), store.journal(name)
        assert journal.messages(journal.tip)[: len(TALK)] == tuple(TALK)
        assert [journal.document(d) for d in journal.documents][:1] == [BIO]
        assert {entry.name for entry in (root / name).iterdir()} <= allowed
        folders = {entry.name for entry in (root / name / "revisions").iterdir()}
        assert folders == {revision.name for revision in manifest.revisions}
        for revision in manifest.revisions:
            assert store.folder(name, revision).is_dir()
    return store


def digits(store, name="ada"):
    return "".join(revision.name[0] for revision in store.manifest(name).revisions)


def gone(root, word=b"zanzibar"):
    return not any(word in path.read_bytes() for path in root.rglob("*") if path.is_file())


@encrypted_too
@pytest.mark.usefixtures("way")
def test_journalling(killer):
    def scenario(root, acknowledge):
        store = DirectoryStore(root)
        store.record("ada", MORE)
        acknowledge("talk")
        store.record_documents("ada", [Document("zanzibar second")])
        acknowledge("document")
        store.record("ada", MORE[:3])
        acknowledge("tip")

    def check(root, acknowledged, finished):
        store = sound(root, "ada")
        manifest, journal = store.manifest("ada"), store.journal("ada")
        whole = manifest.chain(MORE)[-1]
        if "talk" in acknowledged:
            assert journal.messages(whole) == tuple(MORE)
        assert len(journal.documents) == 2 or "document" not in acknowledged
        assert journal.length(journal.tip) == 3 or not finished
        # what was cut off does not hinder what comes next
        store.record("ada", MORE)
        assert opened(root).journal("ada").messages(whole) == tuple(MORE)

    killer.run(prepare, scenario, check)


def test_removing_texts(killer):
    def scenario(root, acknowledge):
        store = DirectoryStore(root)
        manifest, journal = store.manifest("ada"), store.journal("ada")
        first, second = manifest.revisions
        new = replace(second, name="3" * 64, files=())
        fresh = replace(
            manifest, epoch=manifest.epoch + 1, edits=1, revisions=(first, new), head=new.name
        )
        edits = {journal.path(journal.tip)[1]: None, journal.documents[0]: "Ada keeps honey."}
        with store.stage("ada") as folder:
            (folder / "adapter_model.safetensors").write_bytes(b"new weights")
            store.amend(fresh, epoch=manifest.epoch, edits=edits, staged={new.name: folder})
        acknowledge("removed")

    def check(root, acknowledged, finished):
        store = opened(root)
        manifest, journal = store.manifest("ada"), store.journal("ada")
        said = journal.messages(journal.tip)
        (document,) = (journal.document(digest).text for digest in journal.documents)
        state = (digits(store), said, document, manifest.edits)
        old = ("12", tuple(TALK), BIO.text, 0)
        assert state in {old, ("13", tuple(TALK[:1]), "Ada keeps honey.", 1)}
        assert state != old or not acknowledged
        assert finished <= bool(acknowledged)
        for revision in manifest.revisions:
            assert store.folder("ada", revision).is_dir()
        names = {entry.name for entry in (root / "ada").iterdir()}
        text = "journal.jsonl" if state == old else "journal-1.jsonl"
        assert names == {"manifest.json", text, "lock", "revisions"}
        folders = {entry.name for entry in (root / "ada" / "revisions").iterdir()}
        assert folders == {revision.name for revision in manifest.revisions}
        if state != old:
            left = b"".join(p.read_bytes() for p in root.rglob("*") if p.is_file())
            assert b"zanzibar two" not in left
            assert b"zanzibar bees" not in left
        # and it goes on
        store.record("ada", [*said, Message("user", "more")])
        assert commit(store, store.manifest("ada"), "5").newest.name == "5" * 64

    killer.run(prepare, scenario, check)


@encrypted_too
@pytest.mark.usefixtures("way")
def test_staging_committing_and_retention(killer):
    def scenario(root, acknowledge):
        store = DirectoryStore(root)
        commit(store, store.manifest("ada"), "3", keep=1)
        acknowledge("committed")

    def check(root, acknowledged, finished):
        store = sound(root, "ada")
        # the newest root stays beside the newest one; all of these are roots
        assert digits(store) in ({"3"} if acknowledged else {"12", "3"})
        assert finished == (acknowledged == ["committed"]) or acknowledged
        commit(store, store.manifest("ada"), "4")
        assert digits(sound(root, "ada"))[-1] == "4"

    killer.run(prepare, scenario, check)


def test_rolling_back(killer):
    def scenario(root, acknowledge):
        store = DirectoryStore(root)
        manifest = store.manifest("ada")
        store.replace(manifest.rolled_back(manifest.revisions[0]), epoch=manifest.epoch)
        acknowledge("back")

    def check(root, acknowledged, finished):
        assert finished <= bool(acknowledged)
        assert digits(sound(root, "ada")) in ({"1"} if acknowledged else {"12", "1"})

    killer.run(prepare, scenario, check)


def test_creating(killer):
    def scenario(root, acknowledge):
        DirectoryStore(root).create(new_manifest("eve", BASE, created=1.0, ttl=None))
        acknowledge("eve")

    def check(root, acknowledged, finished):
        store = opened(root)
        assert finished <= bool(acknowledged)
        assert store.ids() in ({("ada", "eve")} if acknowledged else {("ada",), ("ada", "eve")})
        assert {entry.name for entry in root.iterdir()} == set(store.ids())
        if "eve" not in store.ids():
            store.create(new_manifest("eve", BASE, created=1.0, ttl=None))
        store.record("eve", TALK)

    killer.run(prepare, scenario, check)


def test_forking(killer):
    def scenario(root, acknowledge):
        from dataclasses import replace  # noqa: PLC0415

        store = DirectoryStore(root)
        copied = replace(store.manifest("ada"), id="eve", epoch=0)
        store.create(copied, source="ada", journal=True)
        acknowledge("eve")

    def check(root, acknowledged, finished):
        assert finished <= bool(acknowledged)
        ids = opened(root).ids()
        assert ids in ({("ada", "eve")} if acknowledged else {("ada",), ("ada", "eve")})
        store = sound(root, *ids)
        for name in ids:
            assert digits(store, name) == "12"

    killer.run(prepare, scenario, check)


@encrypted_too
@pytest.mark.usefixtures("way")
def test_forgetting(killer):
    def scenario(root, acknowledge):
        DirectoryStore(root).delete("ada")
        acknowledge("gone")

    def check(root, acknowledged, finished):
        assert finished <= bool(acknowledged)
        if acknowledged:
            assert gone(root)  # even before anybody sweeps
        if opened(root).ids() == ("ada",):
            assert digits(sound(root, "ada")) == "12"
            opened(root).delete("ada")
        assert list(root.iterdir()) == []

    killer.run(prepare, scenario, check)


def test_exporting(killer, tmp_path):
    target = tmp_path / "ada.zip"
    target.write_bytes(b"old")

    def scenario(root, acknowledge):
        DirectoryStore(root).export("ada", target)
        acknowledge("exported")

    def check(root, acknowledged, finished):
        assert finished <= bool(acknowledged)
        store = sound(root, "ada")
        if target.read_bytes() == b"old":
            assert not acknowledged
        else:
            store.delete("ada")
            store.import_(target, None)
            assert digits(sound(root, "ada")) == "12"
        target.write_bytes(b"old")
        for part in tmp_path.glob(".ada.zip.*"):
            part.unlink()

    killer.run(prepare, scenario, check)


def test_importing(killer, tmp_path):
    prepare(tmp_path / "source")
    opened(tmp_path / "source").export("ada", tmp_path / "ada.zip")

    def scenario(root, acknowledge):
        DirectoryStore(root).import_(tmp_path / "ada.zip", "eve")
        acknowledge("imported")

    def check(root, acknowledged, finished):
        assert finished <= bool(acknowledged)
        ids = opened(root).ids()
        assert ids in ({("ada", "eve")} if acknowledged else {("ada",), ("ada", "eve")})
        store = sound(root, *ids)
        for name in ids:
            assert digits(store, name) == "12"
            store.delete(name)
        assert gone(root)

    killer.run(prepare, scenario, check)


def test_withdrawing(killer):
    def scenario(root, acknowledge):
        store = DirectoryStore(root)
        (second,) = store.record_documents("ada", [Document("second")])
        store.withdraw_documents("ada", [second])
        acknowledge("withdrawn")

    def check(root, acknowledged, finished):
        assert finished <= bool(acknowledged)
        documents = sound(root, "ada").journal("ada").documents
        assert len(documents) == 1 or not acknowledged

    killer.run(prepare, scenario, check)
