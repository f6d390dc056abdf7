"""An archive is hostile until checked: refused wholly, with nothing left under the root."""

import hashlib
import json
import os
import stat
import struct
import time
import zipfile
import zlib
from dataclasses import replace

import pytest

from templora_memory import Document, Message, ModelIdentity, Revision
from templora_memory.domain.manifest import new_manifest
from templora_memory.domain.results import RemovedFile
from templora_memory.errors import Conflict, InvalidId, StoreDamaged, StoreWriteFailed
from templora_memory.fs.locks import hold
from templora_memory.stores import DirectoryStore, archive as archive_module

BASE = ModelIdentity(name="m", revision=None, config="c", tokenizer="t", weights="w")
NAME = "0" * 64
FILE = f"revisions/{NAME}/adapter_model.safetensors"


@pytest.fixture
def store(tmp_path):
    made = DirectoryStore(tmp_path / "root")
    made.open()
    return made


@pytest.fixture
def parts(store, tmp_path):
    """The names and contents of a good archive, in order."""
    manifest = new_manifest("ada", BASE, created=1.0, ttl=None)
    store.create(manifest)
    store.record("ada", [Message("user", "hello")])
    store.record_documents("ada", [Document("Ada keeps bees.")])
    revision = Revision(
        name=NAME,
        parent=None,
        dialogue=manifest.first,
        messages=0,
        documents=(),
        tokens=1,
        created=2.0,
        files=(),
    )
    with store.stage("ada") as folder:
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
        store.commit(manifest, revision, folder, keep=4)
    store.export("ada", tmp_path / "good.zip")
    store.delete("ada")
    with zipfile.ZipFile(tmp_path / "good.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def refused(store, tmp_path):
    """Import a file that must be refused, and look at what that left."""

    def check(path, error=StoreDamaged, match=None):
        with pytest.raises(error, match=match):
            store.import_(path, None)
        assert list(store.root.iterdir()) == []
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
            {"root", "good.zip", path.name} & {p.name for p in tmp_path.iterdir()}
        )

    return check


def pack(path, entries, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def changed(parts, change):
    body = json.loads(parts["manifest.json"])
    del body["sum"]  # what is changed here is to be refused for itself
    change(body)
    return {**parts, "manifest.json": json.dumps(body).encode()}.items()


def test_a_good_archive_packed_by_hand_is_accepted(store, parts, tmp_path):
    store.import_(pack(tmp_path / "hand.zip", parts.items()), None)
    assert store.journal("ada").documents


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json", "/evil.json", "revisions/../../evil.json", "evil.json", "lock",
        f"revisions/{NAME}/more.json", f"revisions/{NAME}/../x.json", "C:\\evil.json", "revisions/",
    ],
)  # fmt: skip
def test_a_file_too_many_is_refused_wherever_it_points(refused, parts, tmp_path, name):
    refused(pack(tmp_path / "x.zip", [*parts.items(), (name, b"{}")]), match="disagree|plain")


@pytest.mark.parametrize(
    "path", ["../evil.json", "/evil.json", "a/../../evil.json", "..\\evil.json", ".x.json", ""]
)
def test_a_manifest_that_names_paths_is_refused(refused, parts, tmp_path, path):
    entries = dict(changed(parts, lambda b: b["revisions"][0]["files"][0].update(path=path)))
    entries[f"revisions/{NAME}/{path}"] = entries.pop(FILE)
    refused(pack(tmp_path / "x.zip", entries.items()), match="plain")


@pytest.mark.parametrize("name", ["../../../evil", "a" * 63, "/etc", ""])
def test_a_revision_that_names_a_path_is_refused(refused, parts, tmp_path, name):
    entries = dict(
        changed(parts, lambda b: (b["revisions"][0].update(name=name), b.update(head=name)))
    )
    entries[f"revisions/{name}/adapter_model.safetensors"] = entries.pop(FILE)
    refused(pack(tmp_path / "x.zip", entries.items()))


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "a@b@c"])
def test_an_id_that_is_a_path_is_refused(refused, parts, tmp_path, name):
    entries = changed(parts, lambda b: b.update(id=name))
    refused(pack(tmp_path / "x.zip", entries), error=InvalidId)


@pytest.mark.parametrize("suffix", [".pt", ".py", ".bin", ""])
def test_only_json_and_safetensors_come_in(refused, parts, tmp_path, suffix):
    entries = dict(
        changed(parts, lambda b: b["revisions"][0]["files"][0].update(path=f"x{suffix}"))
    )
    entries[f"revisions/{NAME}/x{suffix}"] = entries.pop(FILE)
    refused(pack(tmp_path / "x.zip", entries.items()), match="only JSON and safetensors")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(refused, parts, tmp_path):
    refused(pack(tmp_path / "x.zip", [*parts.items(), (FILE, b"WEIGHTS")]), match="names twice")


@pytest.mark.parametrize("size", [0, 6, 8, 1 << 40])
def test_a_wrong_size_is_refused(refused, parts, tmp_path, size):
    entries = changed(parts, lambda b: b["revisions"][0]["files"][0].update(bytes=size))
    refused(pack(tmp_path / "x.zip", entries), match="disagree")


def test_a_wrong_checksum_is_refused(refused, parts, tmp_path):
    entries = {**parts, FILE: b"WEIGHTS"}.items()
    refused(pack(tmp_path / "x.zip", entries), match="checksum")


def test_a_missing_file_is_refused(refused, parts, tmp_path):
    for gone in ("manifest.json", FILE):
        entries = [(name, content) for name, content in parts.items() if name != gone]
        refused(pack(tmp_path / "x.zip", entries))


def test_a_damaged_journal_is_refused(refused, parts, tmp_path):
    entries = {**parts, "journal.jsonl": parts["journal.jsonl"].replace(b"hello", b"jello")}
    refused(pack(tmp_path / "x.zip", entries.items()), match="damaged at byte 0")


@pytest.mark.parametrize("name", ["journal.jsonl", FILE])
def test_a_compressed_bomb_is_refused_unopened(refused, parts, tmp_path, name):
    bomb = b"\0" * 10_000_000
    entries = dict(
        changed(
            parts,
            lambda b: b["revisions"][0]["files"][0].update(
                bytes=len(bomb), sha256=hashlib.sha256(bomb).hexdigest()
            ),
        )
    )
    entries[name] = bomb
    path = pack(tmp_path / "x.zip", entries.items(), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    refused(path, match="not a plain stored file")


def test_sizes_beyond_the_file_are_refused(refused, parts, tmp_path):
    """Central directory and manifest agree on a size that the archive cannot hold."""
    size = 1 << 30
    entries = changed(parts, lambda b: b["revisions"][0]["files"][0].update(bytes=size))
    path = pack(tmp_path / "x.zip", entries)
    body = bytearray(path.read_bytes())
    at = body.rindex(FILE.encode()) - 46
    assert body[at : at + 4] == b"PK\x01\x02"
    body[at + 20 : at + 28] = struct.pack("<II", size, size)
    path.write_bytes(body)
    refused(path, match="more than it is long")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO])
def test_links_and_other_kinds_are_refused(refused, parts, tmp_path, kind):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = ((kind if name == FILE else stat.S_IFREG) | 0o600) << 16
            archive.writestr(info, content)
    refused(path, match="not a plain stored file")


def test_an_encrypted_entry_is_refused(refused, parts, tmp_path):
    path = pack(tmp_path / "x.zip", parts.items())
    body = bytearray(path.read_bytes())
    at = body.rindex(FILE.encode()) - 46
    body[at + 8] |= 1
    path.write_bytes(body)
    refused(path, match="not a plain stored file")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x05\x06" + b"\0" * 18, b"PK\x03\x04" * 50])
def test_what_is_no_archive_is_refused(refused, tmp_path, content):
    (tmp_path / "x.zip").write_bytes(content)
    refused(tmp_path / "x.zip", match=r"x\.zip")


def test_a_folder_or_a_missing_file_is_refused(refused, tmp_path):
    refused(tmp_path / "no.zip", match="There is no file")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", match="Could not read")


@pytest.mark.parametrize("change", [{"format": 2}, {"format": None}, {"salt": 5}, {"more": 1}])
def test_an_unknown_format_is_refused(refused, parts, tmp_path, change):
    refused(pack(tmp_path / "x.zip", changed(parts, lambda b: b.update(change))))


def test_an_archive_cut_anywhere_is_refused(refused, parts, tmp_path):
    whole = pack(tmp_path / "x.zip", parts.items()).read_bytes()
    for cut in range(0, len(whole), 41):
        (tmp_path / "x.zip").write_bytes(whole[:cut])
        refused(tmp_path / "x.zip")


def test_a_changed_byte_never_ends_in_another_error(store, parts, tmp_path):
    whole = pack(tmp_path / "x.zip", parts.items()).read_bytes()
    for index in range(0, len(whole), 11):
        body = bytearray(whole)
        body[index] ^= 0x15
        (tmp_path / "x.zip").write_bytes(body)
        try:
            name = store.import_(tmp_path / "x.zip", "ada").id
        except (StoreDamaged, Conflict):
            assert list(store.root.iterdir()) == []
        else:  # a byte without meaning, such as a date
            assert store.folder(name, store.manifest(name).revisions[0])
            store.delete(name)


def test_where_a_memory_was_is_neither_written_nor_read(store, parts, tmp_path):
    elsewhere = {"forks": ["bob"], "exports": ["/srv/ada.zip"]}
    path = pack(tmp_path / "x.zip", changed(parts, lambda b: b.update(elsewhere)))
    manifest = store.import_(path, None)
    assert (manifest.forks, manifest.exports) == ((), ())
    store.replace(replace(manifest, epoch=manifest.epoch + 1, **elsewhere), epoch=manifest.epoch)
    assert store.manifest("ada").forks == ("bob",)
    store.export("ada", path)
    with zipfile.ZipFile(path) as archive:
        body = json.loads(archive.read("manifest.json"))
    assert (body["forks"], body["exports"]) == ([], [])


def test_what_is_unpacked_is_for_its_owner_only(store, parts, tmp_path):
    path = pack(tmp_path / "x.zip", parts.items())
    before = os.umask(0)
    try:
        store.import_(path, None)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o177 for path in store.root.rglob("*") if path.is_file()} == {0}


def test_an_export_into_no_folder_says_so(store, parts, tmp_path):
    store.import_(pack(tmp_path / "x.zip", parts.items()), None)
    with pytest.raises(StoreWriteFailed, match=r"nowhere/ada\.zip.*No such file"):
        store.export("ada", tmp_path / "nowhere" / "ada.zip")


def test_the_files_in_question_are_named(refused, parts, tmp_path):
    path = pack(tmp_path / "x.zip", [*parts.items(), ("evil.json", b"{}")])
    refused(path, match=r"for example \[\('evil\.json', 2\)\]")
    refused(pack(path, {**parts, "manifest.json": b"{"}.items()), match="manifest is not JSON")


@pytest.mark.parametrize("name", ["manifest.json", "journal.jsonl", FILE])
def test_an_entry_that_is_shorter_than_it_says_is_refused(refused, parts, tmp_path, name):
    """Its checksum is right for what there is of it."""
    path = pack(tmp_path / "x.zip", parts.items())
    body = bytearray(path.read_bytes())
    at = body.rindex(name.encode()) - 46
    body[at + 16 : at + 24] = struct.pack("<II", zlib.crc32(parts[name][:5]), 5)
    path.write_bytes(body)
    refused(path, match=f"{name} is .* the archive says")


@pytest.mark.parametrize(
    ("limit", "of"), [("MAX_FILES", len), ("MAX_MANIFEST", lambda p: len(p["manifest.json"]))]
)
def test_as_much_as_is_allowed_comes_in(store, refused, parts, tmp_path, monkeypatch, limit, of):
    path = pack(tmp_path / "x.zip", parts.items())
    monkeypatch.setattr(archive_module, limit, of(parts) - 1)
    refused(path, match="too many files|no usable manifest")
    monkeypatch.setattr(archive_module, limit, of(parts))
    assert store.import_(path, None).id == "ada"


def test_only_what_no_living_export_writes_is_cleared(tmp_path):
    target = tmp_path / "ada [1].zip"
    left, alive, other = (
        tmp_path / name
        for name in (".ada [1].zip.0.partial", ".ada [1].zip.1.partial", ".ada 1.zip.2.partial")
    )
    for path in (left, alive, other):
        path.write_bytes(b"half")
    with hold(alive, seconds=0):
        began = time.monotonic()
        assert archive_module.clear_partials(target) == (RemovedFile(path=str(left), bytes=4),)
        assert time.monotonic() - began < 0.5  # who is alive is not waited for
    assert sorted(tmp_path.glob(".ada*")) == sorted([alive, other])
