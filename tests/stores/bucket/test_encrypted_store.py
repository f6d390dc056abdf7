"""What is special about an encrypted bucket: keys, tampering, copies, what a forget leaves."""

import json
import secrets
from dataclasses import replace

import pytest

from templora_memory import Document, Message, ParametricMemory, Policy
from templora_memory.domain.manifest import new_manifest
from templora_memory.errors import (
    InvalidSetting,
    StoreDamaged,
    StoreWriteFailed,
    UnknownMemory,
    UnknownRevision,
)
from templora_memory.stores import Key, ObjectStore, decrypted_cache, encryption
from templora_memory.stores.bucket import journal as journal_module, store as store_module
from templora_memory.stores.bucket.s3 import Bucket
from templora_memory.testing import FakeBackend
from tests.stores.encrypted import ADAPTER, BASE, SECRET, TALK, head, texts

pytestmark = pytest.mark.enable_socket
URL = "s3://memories/some/where"


@pytest.fixture
def unopened(bucket, tmp_path, copies, s3):  # noqa: ARG001  # they must be there
    """`unopened("a")`: the store as that machine has it, not open."""

    def make(name="a", secret=SECRET, client=s3):
        key = secret and Key(secret)
        return ObjectStore(URL, cache=tmp_path / name, key=key, client=client)

    return make


@pytest.fixture
def machine(unopened):
    """The same, open."""

    def make(*args, **options):
        store = unopened(*args, **options)
        store.open()
        return store

    return make


@pytest.fixture
def store(machine, make):
    """It holds `ada`, with a conversation and a revision."""
    made = machine()
    make(made, "ada")
    return made


@pytest.fixture
def make(commit):
    """`make(store, name)`: a memory with a conversation and a revision."""

    def make_memory(store, name, content=b"zanzibar weights"):
        manifest = new_manifest(name, BASE, created=1.0, ttl=None)
        store.create(manifest)
        store.record(name, TALK)
        return commit(store, manifest, "0" * 64, content)

    return make_memory


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Objects:
    """The objects below the prefix, as somebody sees and changes them who has no key."""

    def __init__(self, s3, bucket):
        self._s3, self._bucket = s3, bucket

    def __getitem__(self, key):
        return self._s3.get_object(Bucket=self._bucket, Key=f"some/where/{key}")["Body"].read()

    def __setitem__(self, key, body):
        self._s3.put_object(Bucket=self._bucket, Key=f"some/where/{key}", Body=body)

    def __delitem__(self, key):
        self._s3.delete_object(Bucket=self._bucket, Key=f"some/where/{key}")

    def __iter__(self):
        return iter(self.keys())

    def keys(self):
        found = self._s3.list_objects_v2(Bucket=self._bucket).get("Contents", ())
        return [one["Key"].removeprefix("some/where/") for one in found]

    def all(self):
        return {key: self[key] for key in self}

    def one(self, *parts):
        """The key with all these parts."""
        (key,) = [key for key in self if all(part in key for part in parts)]
        return key


@pytest.fixture
def objects(s3, bucket):
    return Objects(s3, bucket)


@pytest.fixture
def holding(objects, tmp_path):
    """What holds a word in the bucket or on the machines; plain copies are told apart."""

    def found(word=b"zanzibar"):
        here = {f"bucket/{key}": body for key, body in objects.all().items()}
        here |= {str(path.relative_to(tmp_path)): body for path, body in files(tmp_path).items()}
        return [name for name, body in here.items() if word in body]

    return found


# --- what lies in the bucket and in the cache ----------------------------------------------------


@pytest.mark.usefixtures("bucket")
def test_nothing_but_names_can_be_read_in_the_bucket_or_the_cache(
    machine, objects, holding, monkeypatch, make
):
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 300)
    store, other = machine("a"), machine("b")
    revision = make(store, "ada").newest
    store.record_documents("ada", [Document("A zanzibar document.", author="zanzibar author")])
    assert texts(other) == [message.content for message in TALK]
    other.folder("ada", revision)
    place = objects.one("key.json").rpartition("/")[0]
    assert {key.replace(place, "<place>").partition("/rev")[0] for key in objects} >= {
        "ada.json", "<place>/key.json", "<place>/journal/00000001.jsonl", "<place>",
    }  # fmt: skip
    assert holding(b"") != []
    for word in (
        b"zanzibar", b"Zanzibar", b"lines", b"salt", b"digest", SECRET, SECRET.hex().encode()
    ):  # fmt: skip
        assert [name for name in holding(word) if not name.startswith("shared/")] == []
    assert holding(b"AES-256-GCM") == [f"bucket/{place}/key.json"]
    assert any("journal-00000000" in name for name in holding(b""))  # the cache has it, encrypted


def test_without_a_key_all_lies_in_the_bucket_as_before(machine, objects, make):
    plain = machine("a", None)
    manifest = make(plain, "ada")
    body = json.loads(objects["ada.json"])
    (folder,) = body["commits"].values()
    parts = {
        "place": body["place"],
        "commits": {"0" * 64: folder},
        "manifest": manifest.as_json(machine("b", None).journal("ada").list_name),
    }
    assert objects["ada.json"] == json.dumps(parts, ensure_ascii=False, indent=1).encode()
    assert objects.keys() == [
        "ada.json",
        f"{body['place']}/journal/00000000.jsonl",
        f"{body['place']}/revisions/{folder}/{ADAPTER}",
    ]
    assert objects[objects.one(ADAPTER)] == b"zanzibar weights"
    assert json.loads(objects[objects.one("journal")].split(b"\n")[0])["kind"] == "message"


def test_the_same_text_looks_different_every_time(store, objects, make):
    make(store, "eve")
    bodies = [objects[key] for key in objects if "/journal/" in key]
    lines = [line for body in bodies for line in body.split(b"\n") if line]
    lists = 1  # of what the revision of one of the two has learned
    assert len(set(lines)) == len(lines) >= 2 * len(TALK) + lists


@pytest.mark.parametrize("size", [0, 64, 65, 200])
def test_files_of_any_size_come_back(store, machine, size, monkeypatch, commit):
    monkeypatch.setattr(encryption, "_CHUNK_BYTES", 64)
    content = secrets.token_bytes(size)
    made = commit(store, store.manifest("ada"), "1" * 64, content)
    for place in (store, machine("b")):
        assert (place.folder("ada", made.newest) / ADAPTER).read_bytes() == content


def test_a_service_keeps_its_promises_and_leaves_nothing(machine, objects, holding, tmp_path):
    policy = Policy(window=64, reply_tokens=16, chunk=8)
    planted = "The zanzibar marble is under the quince."
    with ParametricMemory(FakeBackend(), machine(), policy) as memory:
        memory["ada"].absorb(planted)
        history = [Message("user", planted), Message("assistant", f"Yes. {planted}")] * 3
        assert memory["ada"].reply([*history, Message("user", "Where?")]).text
        memory["ada"].fork("copy")
        memory["copy"].rebuild()
        memory["ada"].rollback(memory["ada"].revisions()[0].name)
        memory["ada"].export(tmp_path / "ada.zip")
        again = memory.import_(tmp_path / "ada.zip", "again")
        assert again.transcript() == memory["ada"].transcript()
        assert {name.partition("/")[0] for name in holding()} == {"shared", "ada.zip"}
        for name in memory.list():
            memory[name].forget()
        assert objects.keys() == []
        assert holding() == ["ada.zip"]
        assert files(tmp_path / "a") == {}


# --- keys ----------------------------------------------------------------------------------------


def refused(store, objects, tmp_path, error_text):
    """Whatever is tried is refused, and nothing changes."""
    store._bucket.open()
    before = objects.all(), files(tmp_path)
    manifest = new_manifest("eve", BASE, created=1.0, ttl=None)
    for attempt in (
        store.open,
        lambda: store.manifest("ada"),
        lambda: store.journal("ada"),
        lambda: store.size("ada"),
        lambda: store.record("ada", TALK),
        lambda: store.create(manifest, source="ada", journal=True),
        lambda: store.export("ada", tmp_path / "ada.zip"),
    ):
        with pytest.raises(InvalidSetting, match=error_text):
            attempt()
    assert (objects.all(), files(tmp_path)) == before


def test_another_key_is_refused_and_nothing_is_lost(store, machine, unopened, objects, tmp_path):
    other = unopened("a", b"x" * 32)
    refused(other, objects, tmp_path, r"/ada/\w+ is encrypted with the key .*give the other one")
    assert texts(machine("b")) == texts(store)


def test_a_bucket_that_is_encrypted_asks_for_the_key(store, machine, unopened, objects, tmp_path):
    other = unopened("a", None)
    refused(other, objects, tmp_path, r"is encrypted: give the key .*ENCRYPTION_KEY_FILE")
    assert texts(machine("b")) == texts(store)


def test_a_bucket_that_is_not_encrypted_takes_no_key(machine, unopened, objects, tmp_path, make):
    plain = machine("a", None)
    make(plain, "ada")
    other = unopened("a", SECRET)
    refused(other, objects, tmp_path, "is not encrypted, and a key was given: leave out")
    assert texts(plain) == [message.content for message in TALK]


def test_opening_asks_for_few_objects(machine, monkeypatch, make):
    first = machine("a", None)
    for name in "abc":
        make(first, name)
    asked = []
    real = Bucket.get
    monkeypatch.setattr(
        Bucket, "get", lambda self, key, **how: asked.append(key) or real(self, key, **how)
    )
    machine("b", None)
    assert asked == []
    for name in "abc":
        first.delete(name)
    second = machine("c")
    for name in "abc":
        make(second, name)
    del asked[:]
    machine("d")
    assert len(asked) == 3  # of one memory, the manifest, the key and the journal


def test_objects_of_others_do_not_matter(machine, objects):
    objects["page.json"] = b'{"name": "a web page"}' * 20
    objects["notes.txt"] = b"x" * 300
    assert machine().ids() == ("page",)  # its name is one; nothing else is
    with pytest.raises(StoreDamaged, match=r"page\.json .*is damaged"):
        machine().manifest("page")


@pytest.mark.parametrize(
    ("wrong", "error_text"),
    [
        (None, "is missing"),
        (b"", "damaged"),
        (b"{}", "damaged"),
        (lambda key: {**key, "key": key["key"][:-4]}, "damaged"),
        (lambda key: {**key, "format": 2}, "format 2"),
    ],
)
def test_a_lost_or_damaged_key_is_named_and_restoring_it_is_enough(
    store, machine, objects, wrong, error_text, make
):
    key = objects.one("key.json")
    whole = objects[key]
    if wrong is None:
        del objects[key]
    else:
        objects[key] = wrong if isinstance(wrong, bytes) else json.dumps(wrong(json.loads(whole)))
    other = machine("b")
    make(other, "eve")  # others can be used
    with pytest.raises(StoreDamaged, match=rf"s3://.*/key\.json.*{error_text}"):
        other.journal("ada")
    objects[key] = whole
    assert texts(other) == texts(store)


@pytest.mark.parametrize("wrong", [b"", None])
def test_a_memory_whose_key_is_damaged_can_be_forgotten(store, machine, objects, wrong):
    if wrong is None:
        del objects[objects.one("key.json")]
    else:
        objects[objects.one("key.json")] = wrong
    assert machine("b").ids() == ("ada",)
    removed = {file.path for file in machine("b").delete("ada")}
    assert any(path.endswith("/journal/00000000.jsonl") for path in removed)
    assert objects.keys() == []
    with pytest.raises(UnknownMemory):
        store.journal("ada")


# --- tampering -----------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["ada.json", "/journal/", "/revisions/"])
def test_every_changed_byte_is_noticed(store, machine, objects, part):
    key, revision = objects.one(part), head(store)
    whole = objects[key]
    for place in [*range(0, len(whole) - 1, len(whole) // 8), len(whole) - 2]:
        objects[key] = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        other = machine(f"at-{place}")
        with pytest.raises(StoreDamaged, match=r"ada\.json|key\.json|00000000\.jsonl|safetensors"):
            (other.manifest("ada"), other.journal("ada"), other.folder("ada", revision))
    objects[key] = whole
    assert texts(machine("b")) == texts(store)


def test_lines_in_another_order_do_not_open(store, machine, objects, tmp_path):
    key = objects.one("/journal/")
    first, second, third, *_ = objects[key].split(b"\n")
    for lines in (
        [], [first, third], [second, third], [first, first, second, third],
        [first, second, b'{"kind": "tip"}'], [first, second, third[:-8]], [second, first, third],
    ):  # fmt: skip
        objects[key] = b"\n".join([*lines, b""])
        with pytest.raises(StoreDamaged, match=r"00000000\.jsonl is damaged"):
            machine("b").journal("ada")
    with pytest.raises(StoreDamaged, match="damaged at byte 0"):
        store.create(replace(store.manifest("ada"), id="eve"), source="ada", journal=True)
    with pytest.raises(StoreDamaged, match="damaged at byte 0"):
        store.export("ada", tmp_path / "ada.zip")
    assert store.ids() == ("ada",)
    assert not (tmp_path / "ada.zip").exists()


def test_segments_and_their_copies_in_another_order_do_not_open(
    machine, objects, monkeypatch, make
):
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 1)  # each line is a segment
    store = machine()
    make(store, "ada")
    store.record_documents("ada", [Document("Another line.")])
    one, two = objects.one("/00000000.jsonl"), objects.one("/00000001.jsonl")
    journal = store.journal("ada")
    first, second = (
        store._cache.location_folder(one).parent.parent / f"journal-0000000{n}.jsonl" for n in "01"
    )
    content = first.read_bytes()
    assert content == objects[one]
    first.write_bytes(second.read_bytes())
    with pytest.raises(StoreDamaged, match="It is a copy: remove it"):
        journal.messages(journal.tip)
    first.write_bytes(content)
    assert texts(store) == [message.content for message in TALK]
    objects[one], objects[two] = objects[two], objects[one]
    with pytest.raises(StoreDamaged, match=r"00000000\.jsonl is damaged at byte 0"):
        machine("b").journal("ada")


@pytest.mark.parametrize("part", ["/journal/", "/revisions/", "/key.json"])
def test_what_belongs_to_another_memory_does_not_open(store, machine, objects, part, make):
    make(store, "eve", b"ZANZIBAR WEIGHTS")
    objects[objects.one("ada/", part)] = objects[objects.one("eve/", part)]
    other = machine("b")
    with pytest.raises(StoreDamaged, match="was changed, or written with another key"):
        (other.manifest("ada"), other.journal("ada"), other.folder("ada", head(store)))


def test_a_manifest_opens_only_with_what_stands_beside_it(store, machine, objects, commit, make):
    second = commit(store, store.manifest("ada"), "1" * 64, b"zanzibar too")
    make(store, "eve")
    ada, eve = (json.loads(objects[f"{name}.json"]) for name in ("ada", "eve"))
    first, last = (ada["commits"][one.name] for one in second.revisions)
    for wrong in (
        {**ada, "commits": {"0" * 64: last, "1" * 64: first}},
        {**ada, "commits": {"0" * 64: first}},
        {**ada, "place": f"ada/{'ab' * 16}"},
        {**ada, "place": eve["place"]},
        {**ada, "place": eve["place"].replace("eve/", "ada/")},
        {**ada, "manifest": eve["manifest"]},
        {**ada, "commits": {"0" * 64: "../eve", "1" * 64: last}},
        eve,
    ):
        objects["ada.json"] = json.dumps(wrong)
        with pytest.raises(StoreDamaged, match=r"ada\.json .*damaged|key\.json is missing"):
            machine("b").manifest("ada")
    objects["ada.json"] = json.dumps(ada)
    assert machine("b").manifest("ada") == second


@pytest.mark.parametrize("wrong", [None, "swapped", -1, -(64 + 28), -2 * (64 + 28)])
def test_a_revision_that_was_cut_swapped_or_lost_is_noticed(
    store, machine, objects, wrong, monkeypatch, holding, commit
):
    monkeypatch.setattr(encryption, "_CHUNK_BYTES", 64)
    made = commit(store, store.manifest("ada"), "1" * 64, secrets.token_bytes(256))
    one, two = json.loads(objects["ada.json"])["commits"].values()
    key = objects.one(two)
    if wrong is None:
        del objects[key]
    else:
        objects[key] = objects[objects.one(one)] if wrong == "swapped" else objects[key][:wrong]
    with pytest.raises(StoreDamaged, match="is missing" if wrong is None else "rebuild"):
        machine("b").folder("ada", made.newest)
    with pytest.raises((StoreDamaged, UnknownRevision)):
        store.create(replace(made, id="eve"), source="ada")
    assert store.ids() == ("ada",)
    assert not any("eve" in name for name in holding(b""))
    machine("b").folder("ada", made.revisions[0])


# --- plain copies --------------------------------------------------------------------------------


def test_copies_are_for_their_owner_only_and_go_with_the_store(store, copies, tmp_path):
    folder = store.folder("ada", head(store))
    assert (folder / ADAPTER).read_bytes() == b"zanzibar weights"
    with store.stage("ada") as staged:
        assert staged.is_relative_to(copies)
        assert {path.stat().st_mode & 0o077 for path in copies.rglob("*")} == {0}
        assert {path.stat().st_mode & 0o077 for path in (tmp_path / "a").rglob("*")} <= {0}
    store._cache = None  # the last one who knew them
    store._transfer = None
    assert list(copies.iterdir()) == []


def test_a_committed_revision_is_not_fetched_by_who_made_it(store, monkeypatch):
    monkeypatch.setattr(Bucket, "download", None)
    assert (store.folder("ada", head(store)) / ADAPTER).read_bytes() == b"zanzibar weights"


def test_a_corrupted_copy_is_fetched_again(store):
    path = store.folder("ada", head(store)) / ADAPTER
    path.write_bytes(b"ZANZIBAR WEIGHTS")
    assert (store.folder("ada", head(store)) / ADAPTER).read_bytes() == b"zanzibar weights"
    path.unlink()
    assert (store.folder("ada", head(store)) / ADAPTER).read_bytes() == b"zanzibar weights"


def test_copies_of_what_was_retired_or_forgotten_go(store, machine, holding, commit):
    other, revision = machine("b"), head(store)
    for one in (store, other):  # two processes of one machine, as far as copies go
        one.folder("ada", revision)
    assert len(holding()) == 2
    made = commit(store, store.manifest("ada"), "1" * 64, b"zanzibar too", keep=1)
    assert len(holding()) == 1
    other.folder("ada", made.newest)
    receipt = {file.path for file in store.delete("ada")}
    assert holding() == holding(b"too") == []
    assert sum(path.startswith(".templora-copies-") for path in receipt) == 2


def test_copies_of_killed_processes_are_swept_and_no_others(store, machine, copies, holding):
    dead = copies / f"{decrypted_cache.PREFIX}dead"
    dead.mkdir()
    (dead / "adapter.json").write_text("zanzibar")
    store.folder("ada", head(store))
    assert len(holding()) == 2
    machine("a")
    assert len(holding()) == 1
    assert not dead.exists()


@pytest.mark.parametrize("look", ["ids", "open"])
def test_another_machine_drops_its_copies_when_it_looks(store, machine, holding, look, monkeypatch):
    other = machine("b")
    with monkeypatch.context() as patch:
        patch.setattr(
            decrypted_cache.DecryptedCache, "drop", lambda *_, **__: {}
        )  # as if it were far away
        other.folder("ada", head(store))
        store.delete("ada")
    assert len(holding()) == 2
    getattr(other, look)()
    assert holding() == []


def test_a_revision_that_is_retired_while_it_is_fetched_leaves_no_copy(
    store, machine, holding, monkeypatch, commit
):
    other, revision = machine("b"), head(store)
    real = other._fetch

    def late(*asked):
        real(*asked)
        commit(store, store.manifest("ada"), "1" * 64, b"other", keep=1)

    monkeypatch.setattr(other, "_fetch", late)
    with pytest.raises(UnknownRevision, match="retired"):
        other.folder("ada", revision)
    assert holding() == []


def test_a_memory_that_is_forgotten_while_it_is_committed_leaves_no_copy(
    store, machine, objects, holding, monkeypatch, commit
):
    real = store._swap

    def late(*asked):
        made = real(*asked)
        machine("b").delete("ada")
        return made

    monkeypatch.setattr(store, "_swap", late)
    commit(store, store.manifest("ada"), "1" * 64, b"zanzibar too")
    assert objects.keys() == holding() == []


# --- forgetting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["delete", "open"])
def test_the_key_goes_first_and_an_interrupted_forget_is_finished(
    store, machine, objects, monkeypatch, again
):
    key, body = objects.one("key.json"), objects["ada.json"]

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            store.delete("ada")
    left = objects.all()
    assert key not in left
    assert any("/journal/" in name for name in left)
    assert any("/revisions/" in name for name in left)
    late = machine("b")
    assert late.ids() == ()
    objects["ada.json"], stone = body, left["ada.json"]  # an older version, laid back
    with pytest.raises(StoreDamaged, match=r"key\.json is missing"):
        late.manifest("ada")
    objects["ada.json"] = stone
    if again == "delete":
        late.delete("ada")
    else:
        monkeypatch.setattr(store_module, "ORPHAN_SECONDS", -1.0)
        machine("c")
    assert objects.keys() == []


@pytest.fixture
def versions(s3, bucket, store):  # noqa: ARG001  # it was made before the bucket kept versions
    """The bucket keeps versions: `versions()` tells of which objects, and its markers."""

    def found():
        answer = s3.list_object_versions(Bucket=bucket)
        kinds = [
            (kind, one) for kind in ("Versions", "DeleteMarkers") for one in answer.get(kind, ())
        ]
        return [(kind, one["Key"], one["VersionId"]) for kind, one in kinds]

    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    yield lambda: {(kind, key.rpartition("/")[2]) for kind, key, _ in found()}
    for _, key, version in found():
        s3.delete_object(Bucket=bucket, Key=key, VersionId=version)


def test_no_version_of_a_key_is_left_in_a_bucket_that_keeps_versions(
    store, objects, versions, make
):
    make(store, "eve")
    key = objects.one("eve/", "key.json")
    objects[key] = objects[key]  # restored from a backup once
    store.delete("ada")
    store.delete("eve")
    assert objects.keys() == []
    assert {("Versions", ADAPTER), ("Versions", "eve.json")} <= versions()
    assert not any(name == "key.json" for _, name in versions())


def test_a_key_that_was_removed_by_hand_is_removed_with_its_versions(store, objects, versions):
    del objects[objects.one("key.json")]  # it hides the key and keeps it
    assert ("Versions", "key.json") in versions()
    store.delete("ada")
    assert not any(name == "key.json" for _, name in versions())


class WithoutVersions:
    """A client of a service that knows no versions."""

    def __init__(self, client, status):
        self._client, self._status = client, status

    def __getattr__(self, name):
        return getattr(self._client, name)

    def list_object_versions(self, **_):
        from botocore.exceptions import ClientError  # noqa: PLC0415  # an extra

        answer = {
            "Error": {"Code": "Refused"}, "ResponseMetadata": {"HTTPStatusCode": self._status},
        }  # fmt: skip
        raise ClientError(answer, "ListObjectVersions")


def test_a_service_without_versions_forgets_too(store, machine, s3, objects):
    other = machine("b", client=WithoutVersions(s3, 501))
    assert texts(other) == texts(store)
    other.delete("ada")
    assert objects.keys() == []


@pytest.mark.usefixtures("store")
def test_versions_that_may_not_be_seen_are_said(machine, s3, objects):
    other = machine("b", client=WithoutVersions(s3, 403))
    with pytest.raises(StoreWriteFailed, match=r"key\.json.*Refused.*permissions"):
        other.delete("ada")
    machine("b").delete("ada")
    assert objects.keys() == []


def test_what_a_forget_leaves_in_a_backup_cannot_be_read_without_the_key_object(
    store, machine, objects, make
):
    saved = objects.all()
    store.delete("ada")
    for key, body in saved.items():
        if not key.endswith("/key.json"):
            objects[key] = body
    with pytest.raises(StoreDamaged, match=r"key\.json is missing"):
        store.manifest("ada")  # who forgot it has its key no more, either
    make(store, "eve")
    place = json.loads(objects["ada.json"])["place"]
    objects[f"{place}/key.json"] = objects[objects.one("eve/", "key.json")]
    with pytest.raises(StoreDamaged, match="written with another key"):
        machine("b").journal("ada")


def test_a_memory_forgotten_while_it_is_read_is_unknown(store, unopened, objects, monkeypatch):
    other = unopened("b")  # it has seen no key yet
    other._bucket.open()
    real = Bucket.get

    def late(self, key, **how):
        if key.endswith("/key.json"):
            store.delete("ada")
        return real(self, key, **how)

    monkeypatch.setattr(Bucket, "get", late)
    with pytest.raises(UnknownMemory):
        other.journal("ada")
    assert objects.keys() == []


def test_a_killed_creation_is_swept_with_the_versions_of_its_key(
    machine, objects, versions, monkeypatch
):
    before = objects.keys()
    for name in ("eve", "ada"):
        objects[f"{name}/{'ab' * 16}/key.json"] = b"{}"
    machine("b")
    assert len(objects.keys()) == len(before) + 2  # too young: its maker may be alive
    monkeypatch.setattr(store_module, "ORPHAN_SECONDS", -1.0)
    machine("c")
    assert objects.keys() == before
    assert ("DeleteMarkers", "key.json") not in versions()


# --- forks, files, and changing over -------------------------------------------------------------


def test_a_fork_has_a_key_of_its_own(machine, objects, holding, monkeypatch, make):
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 300)
    monkeypatch.setattr(encryption, "_CHUNK_BYTES", 64)
    store, weights = machine(), b"zanzibar weights" * 20
    make(store, "ada", weights)
    store.create(replace(store.manifest("ada"), id="eve", epoch=0), source="ada", journal=True)
    keys = [json.loads(objects[objects.one(name, "/key.json")])["key"] for name in ("ada", "eve")]
    assert keys[0] != keys[1]
    store.delete("ada")
    other = machine("b")
    assert texts(other, "eve") == [message.content for message in TALK]
    copy = other.folder("eve", other.manifest("eve").newest)
    assert (copy / ADAPTER).read_bytes() == weights
    assert len(holding()) == 1


def test_an_exported_file_is_plain_and_can_be_imported_anywhere(machine, holding, tmp_path, make):
    store = machine()
    make(store, "ada")
    store.export("ada", tmp_path / "ada.zip")
    assert b"zanzibar" in (tmp_path / "ada.zip").read_bytes()
    store.delete("ada")
    assert holding() == ["ada.zip"]
    plain = machine("b", None)
    plain.import_(tmp_path / "ada.zip", None)
    assert texts(plain) == [message.content for message in TALK]
    plain.export("ada", tmp_path / "again.zip")
    plain.delete("ada")
    assert store.import_(tmp_path / "again.zip", "eve").id == "eve"
    assert texts(machine("c"), "eve") == [message.content for message in TALK]
    assert sorted(holding()) == ["ada.zip", "again.zip"]


def test_plain_copies_of_before_a_change_over_go_when_the_store_is_opened(
    machine, holding, s3, bucket, make
):
    make(machine("a", None), "ada")
    assert [name for name in holding() if name.startswith("a/")]
    for one in s3.list_objects_v2(Bucket=bucket)["Contents"]:
        s3.delete_object(Bucket=bucket, Key=one["Key"])
    make(machine("b"), "ada")
    assert [name for name in holding() if name.startswith("a/")]
    machine("a")
    assert [name for name in holding() if not name.startswith("shared/")] == []
