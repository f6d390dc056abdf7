"""Contract tests of a store."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path

import pytest

from templora_memory.domain.manifest import Manifest, ModelIdentity, Revision, new_manifest
from templora_memory.domain.messages import Document, Message
from templora_memory.domain.results import RemovedFile
from templora_memory.errors import (
    Conflict,
    StoreDamaged,
    StoreError,
    UnknownMemory,
    UnknownRevision,
)
from templora_memory.ports import Store
from templora_memory.testing.contracts.backend import ANSWER, BIO, QUESTION

IDENTITY = ModelIdentity(name="m", revision=None, config="c", tokenizer="t", weights="w")
TALK = (QUESTION, ANSWER, Message("user", "Since when?"), Message("assistant", "Since spring."))


class StoreContract(ABC):
    """Promises of `Store`, see `templora_memory.ports`. Override `make_store`."""

    @abstractmethod
    def make_store(self, root: Path) -> Store:
        """Return a store that is not open; all made with the same `root` share their memories."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """An open, empty store."""
        made = self.make_store(tmp_path / "root")
        made.open()
        return made

    @pytest.fixture
    def other(self, store: Store, tmp_path: Path) -> Store:
        """A second store over the same place, as another process would have it."""
        assert store.ids() == ()
        made = self.make_store(tmp_path / "root")
        made.open()
        return made

    def make(self, store: Store, memory_id: str = "ada") -> Manifest:
        """Return a new, empty memory."""
        manifest = new_manifest(memory_id, IDENTITY, created=1.0, ttl=None)
        store.create(manifest)
        return manifest

    def commit(
        self, store: Store, manifest: Manifest, content: bytes = b"A", *, keep: int = 4
    ) -> Manifest:
        """Commit a revision that has learned one document with this content."""
        text = Document(content.hex() or "-")
        revision = Revision(
            name=manifest.name_after(manifest.newest, (text,)),
            parent=manifest.head,
            dialogue=manifest.first,
            messages=0,
            documents=(*(manifest.newest.documents if manifest.newest else ()), content.hex()),
            tokens=1,
            created=2.0,
            files=(),
        )
        with store.stage(manifest.id) as folder:
            (folder / "adapter_model.safetensors").write_bytes(content)
            (folder / "adapter_config.json").write_bytes(b"{}")
            return store.commit(manifest, revision, folder, keep=keep)

    def damage(self, store: Store, memory_id: str, revision: Revision) -> None:
        """Change the stored weights of a revision, without changing their size.

        Override this where `Store.folder` gives a copy.
        """
        path = store.folder(memory_id, revision) / "adapter_model.safetensors"
        path.write_bytes(b"X" * path.stat().st_size)

    # --- memories ------------------------------------------------------------------------------

    def test_a_created_memory_is_read_back(self, store: Store, other: Store) -> None:
        """A created memory is read back."""
        manifest = self.make(store)
        assert store.manifest("ada") == other.manifest("ada") == manifest
        assert store.ids() == other.ids() == ("ada",)

    def test_memories_that_expire_are_listed(self, store: Store, other: Store) -> None:
        """Memories that have a ttl are listed, others are not."""
        self.make(store)
        for name in ("zoe", "eve"):
            store.create(new_manifest(name, IDENTITY, created=1.0, ttl=9.0))
        assert store.expiring() == other.expiring() == ("eve", "zoe")
        store.delete("zoe")
        assert other.expiring() == ("eve",)

    def test_lists_of_documents_survive_in_every_revision(self, store: Store, other: Store) -> None:
        """Each revision has its own list of documents, also read afresh, and in a copy."""
        manifest = self.make(store)
        for content in (b"A", b"B", b"C"):
            manifest = self.commit(store, manifest, content)
        lists = [("41",), ("41", "42"), ("41", "42", "43")]
        assert manifest.revisions == store.manifest("ada").revisions  # type: ignore[union-attr]
        assert other.manifest("ada") == manifest
        assert [revision.documents for revision in manifest.revisions] == lists
        started = new_manifest("eve", IDENTITY, created=2.0, ttl=None, origin=manifest)
        store.create(started, source="ada")
        store.delete("ada")
        assert other.manifest("eve") == started
        assert started.revisions[0].documents == lists[-1]

    def test_a_manifest_does_not_grow_with_its_documents(self, store: Store) -> None:
        """What a commit writes is the same after many documents as after few."""
        manifest = self.make(store)
        sizes = []
        for number in range(30):
            before = store.size("ada")
            manifest = self.commit(store, manifest, bytes([number]), keep=2)
            sizes.append(store.size("ada") - before)
        assert max(sizes[10:]) <= max(sizes[3:10]) + 64  # digits of numbers

    def test_ids_are_sorted(self, store: Store) -> None:
        """Ids are sorted."""
        for name in ("zoe", "ada@bob", "Ada", "ada"):
            self.make(store, name)
        assert store.ids() == tuple(sorted(("zoe", "ada@bob", "Ada", "ada")))

    def test_a_memory_is_created_once(self, store: Store, other: Store) -> None:
        """A memory is created once."""
        first = self.make(store)
        with pytest.raises(Conflict, match="exists"):
            self.make(other)
        assert store.manifest("ada") == first

    def test_an_unknown_memory_has_no_manifest_and_nothing_else(
        self, store: Store, tmp_path: Path
    ) -> None:
        """An unknown memory has no manifest and nothing else."""
        assert store.manifest("ada") is None
        for call in (
            lambda: store.journal("ada"),
            lambda: store.record("ada", TALK),
            lambda: store.record_documents("ada", [BIO]),
            lambda: store.withdraw_documents("ada", ["0"]),
            lambda: store.size("ada"),
            lambda: store.last_used("ada"),
            lambda: store.delete("ada"),
            lambda: store.export("ada", tmp_path / "ada.zip"),
            lambda: store.stage("ada").__enter__(),
            lambda: store.replace(new_manifest("ada", IDENTITY, created=1.0, ttl=None), epoch=0),
        ):
            with pytest.raises(UnknownMemory, match="ada"):
                call()
        assert store.ids() == ()

    # --- text ----------------------------------------------------------------------------------

    def test_recorded_dialogue_is_read_back(self, store: Store, other: Store) -> None:
        """Recorded dialogue is read back."""
        manifest = self.make(store)
        digest = store.record("ada", TALK)
        assert digest == manifest.chain(TALK)[-1]
        for journal in (store.journal("ada"), other.journal("ada")):
            assert journal.tip == digest
            assert journal.messages(digest) == TALK

    def test_recording_again_keeps_one_copy(self, store: Store) -> None:
        """Recording again keeps one copy."""
        self.make(store)
        store.record("ada", TALK)
        size = store.size("ada")
        store.record("ada", TALK)
        assert store.size("ada") == size

    def test_a_dialogue_can_be_continued(self, store: Store) -> None:
        """A dialogue can be continued."""
        self.make(store)
        first = store.record("ada", TALK[:2])
        last = store.record("ada", TALK[2:], after=first)
        assert store.journal("ada").messages(last) == TALK

    def test_continuing_an_unknown_dialogue_is_refused(self, store: Store) -> None:
        """Continuing an unknown dialogue is refused."""
        self.make(store)
        with pytest.raises(StoreDamaged, match="no conversation"):
            store.record("ada", TALK, after="f" * 64)

    def test_an_edited_dialogue_is_a_branch_and_the_newest(self, store: Store) -> None:
        """An edited dialogue is a branch and the newest."""
        self.make(store)
        old = store.record("ada", TALK)
        edited = (*TALK[:2], Message("user", "Why?"))
        new = store.record("ada", edited)
        journal = store.journal("ada")
        assert (journal.tip, journal.messages(new), journal.messages(old)) == (new, edited, TALK)

    def test_a_shortened_dialogue_becomes_the_newest(self, store: Store, other: Store) -> None:
        """A shortened dialogue becomes the newest."""
        self.make(store)
        store.record("ada", TALK)
        short = store.record("ada", TALK[:2])
        assert store.journal("ada").tip == other.journal("ada").tip == short

    def test_documents_keep_their_order_and_come_once(self, store: Store, other: Store) -> None:
        """Documents keep their order and come once."""
        self.make(store)
        (bio,) = store.record_documents("ada", [BIO])
        both = store.record_documents("ada", [Document("Second.", title="two"), BIO])
        assert both[1] == bio
        assert other.journal("ada").documents == (bio, both[0])
        assert other.journal("ada").document(both[0]) == Document("Second.", title="two")

    def test_a_document_continues_the_newest_or_the_one_named(self, store: Store) -> None:
        """A document continues the newest or the one named."""
        self.make(store)
        first, second = store.record_documents("ada", [BIO, Document("Second.")])
        (newest,) = store.record_documents("ada", [Document("More.", continues=True)])
        (named,) = store.record_documents("ada", [Document("More.", continues=True)], after=first)
        journal = store.journal("ada")
        assert journal.document_before(newest) == second
        assert journal.document_before(named) == first
        assert journal.document_before(second) is None

    def test_withdrawn_documents_stay_readable_until_learned_again(self, store: Store) -> None:
        """Withdrawn documents stay readable until learned again."""
        self.make(store)
        digests = store.record_documents("ada", [BIO, Document("Second.")])
        store.withdraw_documents("ada", digests[:1])
        assert store.journal("ada").documents == digests[1:]
        assert store.journal("ada").document(digests[0]) == BIO
        store.record_documents("ada", [BIO])
        assert store.journal("ada").documents == (digests[1], digests[0])

    def test_two_writers_lose_no_text(self, store: Store, other: Store) -> None:
        """Two writers lose no text."""
        manifest = self.make(store)
        places = (store, other, store, other)
        talks = [[Message("user", f"{who} says {n}") for n in range(6)] for who in range(4)]

        def write(index: int) -> None:
            for length in range(1, 7):
                places[index].record("ada", talks[index][:length])

        threads = [threading.Thread(target=write, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for each in (store, other):
            for talk in talks:
                digest = manifest.chain(talk)[-1]
                assert each.journal("ada").messages(digest) == tuple(talk)

    # --- revisions -----------------------------------------------------------------------------

    def test_a_staged_folder_is_empty_and_gone_afterwards(self, store: Store) -> None:
        """A staged folder is empty and gone afterwards."""
        self.make(store)
        with store.stage("ada") as folder:
            assert list(folder.iterdir()) == []
            (folder / "adapter.json").write_bytes(b"secret")
        assert not folder.exists()

    def test_a_committed_revision_is_the_head_and_its_files_are_there(
        self, store: Store, other: Store
    ) -> None:
        """A committed revision is the head and its files are there."""
        made = self.commit(store, self.make(store), b"weights")
        assert store.manifest("ada") == other.manifest("ada") == made
        assert made.epoch == 1
        head = made.newest
        assert head is not None
        folder = other.folder("ada", head)
        assert {record.path: record.bytes for record in head.files} == {
            "adapter_config.json": 2,
            "adapter_model.safetensors": 7,
        }
        assert (folder / "adapter_model.safetensors").read_bytes() == b"weights"

    def test_retention_removes_old_revisions(self, store: Store) -> None:
        """Retention removes old revisions."""
        manifest = self.make(store)
        every = []
        for content in (b"A", b"B", b"C"):
            manifest = self.commit(store, manifest, content, keep=2)
            every.append(manifest.revisions[-1])
        assert manifest.revisions == tuple(every[1:])
        with pytest.raises(UnknownRevision, match="retired"):
            store.folder("ada", every[0])

    def test_the_second_of_two_commits_conflicts(self, store: Store, other: Store) -> None:
        """The second of two commits conflicts."""
        manifest = self.make(store)
        made = self.commit(store, manifest, b"A")
        with pytest.raises(Conflict, match="another writer"):
            self.commit(other, manifest, b"B")
        assert store.manifest("ada") == made

    def test_a_name_in_use_is_refused_whatever_the_caller_knows_of(self, store: Store) -> None:
        """It would take the files of a revision away that the stored manifest names."""
        made = self.commit(store, self.make(store), b"A")
        with pytest.raises(StoreError, match="already"):
            self.commit(store, replace(made, revisions=(), head=None), b"A")
        head = made.newest
        assert head is not None
        assert (store.folder("ada", head) / "adapter_model.safetensors").read_bytes() == b"A"

    def amend(
        self, store: Store, edits: dict[str, str | None], content: bytes = b"B"
    ) -> tuple[Manifest, tuple[RemovedFile, ...]]:
        """Remove or correct texts, and put one revision in the place of those that there are."""
        manifest = store.manifest("ada")
        assert manifest is not None
        revision = Revision(
            name=manifest.name_after(None, (Document(content.hex()),)),
            parent=None,
            dialogue=manifest.first,
            messages=0,
            documents=(),
            tokens=1,
            created=3.0,
            files=(),
        )
        fresh = replace(
            manifest,
            epoch=manifest.epoch + 1,
            edits=manifest.edits + 1,
            revisions=(revision,),
            head=revision.name,
        )
        with store.stage("ada") as folder:
            (folder / "adapter_model.safetensors").write_bytes(content)
            return store.amend(
                fresh, epoch=manifest.epoch, edits=edits, staged={revision.name: folder}
            )

    def test_removed_texts_and_the_revisions_before_are_gone(
        self, store: Store, other: Store
    ) -> None:
        """Removed texts and the revisions before are gone."""
        before = self.commit(store, self.make(store))
        path = self.talk(store)
        (document,) = store.record_documents("ada", [Document("A secret.")])
        old = store.folder("ada", before.revisions[0])
        after, files = self.amend(store, {path[1]: None, path[2]: "Why?", document: None})
        assert not old.exists()
        assert files
        assert sum(file.bytes for file in files) > 0
        for one in (store, other):
            journal, manifest = one.journal("ada"), one.manifest("ada")
            said = [message.content for message in journal.messages(journal.tip)]
            assert said == [TALK[0].content, "Why?", TALK[3].content]
            assert journal.documents == ()
            assert manifest == after
            assert manifest.newest is not None
            folder = one.folder("ada", manifest.newest)
            assert (folder / "adapter_model.safetensors").read_bytes() == b"B"

    def test_what_is_left_keeps_its_id_and_its_time(self, store: Store) -> None:
        """What is left keeps its id and its time."""
        self.make(store)
        path = self.talk(store)
        before = [store.journal("ada").entry(digest) for digest in path]
        self.amend(store, {path[0]: None, path[2]: "Why?"})
        journal = store.journal("ada")
        after = [journal.entry(digest) for digest in journal.path(journal.tip)]
        assert [(e.id, e.time) for e in after] == [(e.id, e.time) for e in before[1:]]
        assert journal.digest_of(before[0].id) is None

    def test_an_outdated_manifest_amends_nothing(self, store: Store, other: Store) -> None:
        """An outdated manifest amends nothing."""
        manifest = self.make(store)
        path = self.talk(store)
        fresh = replace(manifest, epoch=1, edits=1)
        self.commit(other, manifest)
        with pytest.raises(Conflict):
            store.amend(fresh, epoch=manifest.epoch, edits={path[0]: None}, staged={})
        for one in (store, other):
            assert one.journal("ada").messages(path[-1]) == TALK
            assert one.manifest("ada") == self.newest(store)

    @staticmethod
    def talk(store: Store) -> tuple[str, ...]:
        """Journal a conversation; returns the digests after each message."""
        end = store.record("ada", TALK)
        return store.journal("ada").path(end)

    @staticmethod
    def newest(store: Store) -> Manifest:
        """Return the manifest of the only memory."""
        manifest = store.manifest("ada")
        assert manifest is not None
        return manifest

    def test_a_memory_goes_on_after_an_amend(self, store: Store, other: Store) -> None:
        """A memory goes on after an amend."""
        self.make(store)
        path = self.talk(store)
        assert other.journal("ada").length(path[-1]) == len(TALK)
        self.amend(store, {path[3]: None})
        other.record_documents("ada", [Document("More.")])
        end = other.record("ada", [Message("user", "Ah.")], after=path[2])
        self.amend(other, {path[0]: None}, b"C")
        journal = store.journal("ada")
        assert len(journal.messages(journal.tip)) == len(TALK) - 1
        assert not journal.knows(end)
        self.commit(store, self.newest(other), b"D")
        assert len(self.newest(other).revisions) == 2  # noqa: PLR2004  # C and D

    def test_a_copy_and_a_file_hold_what_is_left(self, store: Store, tmp_path: Path) -> None:
        """A copy and a file hold what is left."""
        self.make(store)
        path = self.talk(store)
        manifest, _ = self.amend(store, {path[1]: None})
        copied = replace(manifest, id="eve", epoch=0)
        store.create(copied, source="ada", journal=True)
        store.export("ada", tmp_path / "ada.zip")
        store.delete("ada")
        store.import_(tmp_path / "ada.zip", None)
        for name in ("ada", "eve"):
            journal = store.journal(name)
            assert len(journal.messages(journal.tip)) == len(TALK) - 1
            store.record(name, [Message("user", "Ah.")], after=journal.tip)
            assert store.journal(name).length(store.journal(name).tip) == len(TALK)

    def test_text_told_while_texts_are_removed_is_kept(self, store: Store, other: Store) -> None:
        """Text told while texts are removed is kept."""
        self.make(store)
        path = self.talk(store)
        told: list[str] = []
        stop = threading.Event()

        def tell() -> None:
            while not stop.wait(0.01):
                number = len(told)
                other.record_documents("ada", [Document(f"Number {number}.")])
                told.append(f"Number {number}.")

        teller = threading.Thread(target=tell)
        teller.start()
        try:
            for digest in (path[3], path[2], path[1]):
                while True:
                    try:
                        self.amend(store, {digest: None}, digest.encode())
                    except Conflict:  # the teller has taken the memory over
                        continue
                    break
        finally:
            stop.set()
            teller.join()
        journal = other.journal("ada")
        assert {journal.document(digest).text for digest in journal.documents} == set(told)
        assert journal.messages(journal.tip) == TALK[:1]

    def test_pins_are_durable_and_follow_their_text(self, store: Store, other: Store) -> None:
        """Pins are durable and follow their text."""
        self.make(store)
        path = self.talk(store)
        store.pin("ada", [path[0], path[3], path[3]], pinned=True)
        store.pin("ada", [path[0]], pinned=False)
        assert other.journal("ada").pinned == (path[3],)
        self.amend(store, {path[1]: None})
        journal = other.journal("ada")
        assert journal.pinned == (journal.tip,)
        with pytest.raises(StoreDamaged, match="no text"):
            store.pin("ada", ["f" * 64], pinned=True)

    def test_only_json_and_safetensors_are_committed(self, store: Store) -> None:
        """Only json and safetensors are committed."""
        manifest = self.make(store)
        revision = Revision(
            name="0" * 64,
            parent=None,
            dialogue=manifest.first,
            messages=0,
            documents=(),
            tokens=1,
            created=2.0,
            files=(),
        )
        with store.stage("ada") as folder:
            (folder / "optimizer.pt").write_bytes(b"pickle")
            with pytest.raises(StoreError, match=r"optimizer\.pt"):
                store.commit(manifest, revision, folder, keep=4)
        assert store.manifest("ada") == manifest

    def test_replacing_drops_what_is_no_longer_named(self, store: Store) -> None:
        """Replacing drops what is no longer named."""
        first = self.commit(store, self.make(store), b"A")
        second = self.commit(store, first, b"B")
        store.replace(second.rolled_back(first.revisions[0]), epoch=second.epoch)
        found = store.manifest("ada")
        assert found is not None
        assert (found.epoch, found.revisions) == (3, first.revisions)
        with pytest.raises(UnknownRevision):
            store.folder("ada", second.revisions[1])

    def test_replacing_an_outdated_manifest_conflicts(self, store: Store, other: Store) -> None:
        """Replacing an outdated manifest conflicts."""
        first = self.commit(store, self.make(store), b"A")
        second = self.commit(other, first, b"B")
        with pytest.raises(Conflict):
            store.replace(replace(first, epoch=9), epoch=first.epoch)
        assert store.manifest("ada") == second

    def test_a_changed_file_is_noticed(self, store: Store, other: Store) -> None:
        """A changed file is noticed."""
        made = self.commit(store, self.make(store), b"weights")
        head = made.revisions[-1]
        self.damage(store, "ada", head)
        with pytest.raises(StoreDamaged, match="rebuild"):
            other.folder("ada", head)

    def test_size_and_last_use_follow_what_is_written(self, store: Store) -> None:
        """Size and last use follow what is written."""
        self.make(store)
        size, used = store.size("ada"), store.last_used("ada")
        store.record("ada", TALK)
        assert store.size("ada") > size
        assert store.last_used("ada") >= used > 0

    # --- removing and moving -------------------------------------------------------------------

    def test_a_deleted_memory_is_gone(self, store: Store, other: Store) -> None:
        """A deleted memory is gone."""
        made = self.commit(store, self.make(store), b"weights")
        store.record("ada", TALK)
        assert other.journal("ada").messages(made.chain(TALK)[-1]) == TALK
        removed = store.delete("ada")
        assert sum(file.bytes for file in removed) > 0
        for each in (store, other):
            assert (each.manifest("ada"), each.ids()) == (None, ())
            with pytest.raises(UnknownMemory):
                each.journal("ada")
        self.make(other)
        assert other.journal("ada").messages(other.journal("ada").tip) == ()

    def test_a_commit_into_a_deleted_memory_fails(self, store: Store, other: Store) -> None:
        """A commit into a deleted memory fails."""
        manifest = self.make(store)
        revision = self.commit(store, manifest).revisions[-1]
        with store.stage("ada") as folder:
            (folder / "a.json").write_bytes(b"{}")
            other.delete("ada")
            self.make(other)
            with pytest.raises(StoreError):
                store.commit(manifest, replace(revision, name="1" * 64), folder, keep=4)
        found = store.manifest("ada")
        assert found is not None
        assert found.revisions == ()

    def test_a_copy_has_revisions_and_text_of_its_own(self, store: Store) -> None:
        """A copy has revisions and text of its own."""
        made = self.commit(store, self.make(store), b"weights")
        digest = store.record("ada", TALK)
        store.create(replace(made, id="eve", epoch=0), source="ada", journal=True)
        store.delete("ada")
        assert store.journal("eve").messages(digest) == TALK
        folder = store.folder("eve", made.revisions[-1])
        assert (folder / "adapter_model.safetensors").read_bytes() == b"weights"

    def test_a_copy_without_journal_has_no_text(self, store: Store) -> None:
        """A copy without journal has no text."""
        made = self.commit(store, self.make(store), b"weights")
        store.record("ada", TALK)
        store.create(replace(made, id="eve", epoch=0), source="ada")
        assert store.journal("eve").tip == made.first

    def test_an_exported_memory_comes_back(self, store: Store, tmp_path: Path) -> None:
        """An exported memory comes back."""
        made = self.commit(store, self.make(store), b"weights")
        digest = store.record("ada", TALK)
        store.export("ada", tmp_path / "ada.zip")
        with pytest.raises(Conflict):
            store.import_(tmp_path / "ada.zip", None)
        assert store.import_(tmp_path / "ada.zip", "eve").id == "eve"
        store.delete("ada")
        assert store.import_(tmp_path / "ada.zip", None) == made
        for name in ("ada", "eve"):
            assert store.journal(name).messages(digest) == TALK
            folder = store.folder(name, made.revisions[-1])
            assert (folder / "adapter_model.safetensors").read_bytes() == b"weights"

    def test_what_was_not_exported_is_refused(self, store: Store, tmp_path: Path) -> None:
        """What was not exported is refused."""
        (tmp_path / "no.zip").write_bytes(b"PK\x03\x04 not really")
        for name in ("no.zip", "missing.zip"):
            with pytest.raises(StoreDamaged, match=name):
                store.import_(tmp_path / name, "eve")
        assert store.ids() == ()

    def test_exporting_replaces_only_when_complete(self, store: Store, tmp_path: Path) -> None:
        """Exporting replaces only when complete."""
        made = self.commit(store, self.make(store), b"weights")
        target = tmp_path / "ada.zip"
        store.export("ada", target)
        whole = target.read_bytes()
        self.damage(store, "ada", made.revisions[-1])
        with pytest.raises(StoreDamaged):
            store.export("ada", target)
        assert target.read_bytes() == whole
        assert [entry.name for entry in tmp_path.iterdir() if "zip" in entry.name] == ["ada.zip"]
