"""Forgetting, copying and going back."""

import threading

import pytest

from templora_memory import Message
from templora_memory.errors import (
    Cancelled,
    Conflict,
    StoreDamaged,
    UnknownMemory,
)
from templora_memory.fs.locks import hold

BIO = "Ada keeps bees on the roof."


def test_forgetting_a_name_takes_its_pairs_along(box):
    for name in ("ada", "ada@bob", "ada@eve", "adam", "bob", "cat@bob"):
        box.service[name].absorb(BIO)
    receipt = box.service["ada"].forget()
    assert receipt.ids == ("ada", "ada@bob", "ada@eve")
    assert receipt.bytes == sum(file.bytes for file in receipt.files) > 0
    assert box.backend.released == ["ada/", "ada@bob/", "ada@eve/"]
    assert box.service.forget(user="bob").ids == ("cat@bob",)
    assert box.service.list() == ("adam", "bob")
    box.service["adam"].forget()
    box.service["bob"].forget()
    assert list(box.root.iterdir()) == []


def test_forgetting_a_pair_leaves_the_name(box):
    for name in ("ada", "ada@bob"):
        box.service[name].absorb(BIO)
    assert box.service["ada@bob"].forget().ids == ("ada@bob",)
    assert box.service.list() == ("ada",)


def test_forgetting_needs_something_there(box):
    with pytest.raises(UnknownMemory, match="'ada'"):
        box.service["ada"].forget()
    with pytest.raises(UnknownMemory, match="user 'bob'"):
        box.service.forget(user="bob")


def test_forgetting_stops_an_absorb_and_leaves_nothing(make_box, gate):
    box = make_box(on_learn=gate)
    box.open()
    job = box.service["ada"].absorb("word " * 40, wait=False)
    assert gate.reached.wait(30)
    forgetting = threading.Thread(target=box.service["ada"].forget)
    forgetting.start()
    assert job._cancel.wait(30)
    gate.open.set()
    forgetting.join(30)
    with pytest.raises(Cancelled):
        job.wait(30)
    assert list(box.root.iterdir()) == []


def test_unused_memories_expire(make_box):
    box = make_box()
    box.open(ttl=1000.0)
    for name in ("old", "new"):
        box.service[name].absorb(BIO)
    assert box.service.expire().ids == ()
    for path in box.root.rglob("old/*"):
        if path.is_file():
            import os  # noqa: PLC0415

            os.utime(path, (1, 1))
    assert box.service.expire().ids == ("old",)
    assert box.service.list() == ("new",)


def test_a_damaged_memory_does_not_stop_the_others_and_can_be_forgotten(make_box):
    box = make_box()
    box.open()
    for name in ("ada", "eve"):
        box.service[name].absorb(BIO)
    box.service.close()
    (box.root / "ada" / "manifest.json").write_text("{")
    again = make_box()
    again.open()
    assert "bees" in again.service["eve"].reply([Message("user", "Who keeps bees?")]).text
    with pytest.raises(StoreDamaged, match=r"manifest\.json"):
        again.service["ada"].status()
    assert again.service.list() == ("ada", "eve")
    again.service["ada"].forget()
    assert again.service.list() == ("eve",)


def test_a_fork_goes_its_own_way(box, talk):
    box.service["ada"].absorb(BIO)
    box.service["ada"].reply(talk(10))
    fork = box.service["ada"].fork("eve")
    assert box.service["eve"].transcript() == box.service["ada"].transcript()
    assert fork.revisions() == box.service["ada"].revisions()
    fork.absorb("Owls sleep in the barn.")
    assert "barn" not in box.service["ada"].reply([Message("user", "Where do owls sleep?")]).text
    with pytest.raises(Conflict, match="exists"):
        box.service["ada"].fork("eve")
    with pytest.raises(UnknownMemory):
        box.service["nobody"].fork("x")


def test_a_fork_of_an_older_revision_lacks_what_came_later(box):
    first = box.service["ada"].absorb(BIO).revision
    box.service["ada"].absorb("Owls sleep in the barn.")
    fork = box.service["ada"].fork("eve", revision=first)
    assert [document.text for document in fork.transcript().documents] == [BIO]
    assert fork.head().name == first
    fork.rebuild()
    assert "barn" not in fork.reply([Message("user", "Where do owls sleep?")]).text


def test_rolling_back_takes_newer_text_out_of_the_weights(box):
    first = box.service["ada"].absorb(BIO).revision
    second = box.service["ada"].absorb("Owls sleep in the barn.").revision
    assert box.service["ada"].rollback(first).name == first
    assert "barn" not in box.service["ada"].reply([Message("user", "Where do owls sleep?")]).text
    assert box.service["ada"].status().document_count == 1
    assert not list(box.root.rglob(second))
    assert box.service["ada"].absorb("Owls sleep in the barn.").tokens == 5


def test_an_exported_memory_is_imported_elsewhere(make_box, tmp_path, talk):
    box, elsewhere = make_box(), make_box("elsewhere")
    box.open()
    elsewhere.open()
    box.service["ada"].absorb(BIO)
    box.service["ada"].reply(talk(10))
    path = box.service["ada"].export(tmp_path / "ada.zip")
    memory = elsewhere.service.import_(path, "eve")
    assert memory.transcript() == box.service["ada"].transcript()
    assert memory.reply(talk(10)).text == box.service["ada"].reply(talk(10)).text


def test_resuming_needs_a_memory(box):
    with pytest.raises(UnknownMemory, match="no memory 'nobody'"):
        box.service["nobody"].resume()


def test_a_receipt_names_forks_and_exports_that_are_left(box, tmp_path):
    box.service["ada"].absorb("Ada keeps bees.")
    for name in ("one.zip", "two.zip"):
        box.service["ada"].export(tmp_path / name)
    (tmp_path / "two.zip").unlink()
    box.service["ada"].fork("eve").fork("zed")
    box.service.open("cyd", base="ada")
    box.service.open("ada@bob")
    receipt = box.service["ada"].forget()
    assert receipt.ids == ("ada", "ada@bob")
    assert receipt.forks == ("eve", "cyd", "zed")
    assert receipt.exports == (str(tmp_path / "one.zip"),)
    assert box.service["eve"].forget().forks == ("zed",)
    last = box.service["zed"].forget()
    assert (last.forks, last.exports) == ((), ())


def test_an_export_holds_neither_paths_nor_ids_of_other_copies(box, tmp_path):
    box.service["ada"].absorb("Ada keeps bees.")
    box.service["ada"].export(tmp_path / "planted-path.zip")
    box.service["ada"].fork("planted-id")
    box.service["ada"].export(tmp_path / "two.zip")
    assert b"planted" not in (tmp_path / "two.zip").read_bytes()
    again = box.service.import_(tmp_path / "two.zip", "eve")
    manifest = box.store.manifest(again.id)
    assert (manifest.forks, manifest.exports) == ((), ())


def test_a_forget_removes_what_killed_exports_left_and_not_what_is_being_written(box, tmp_path):
    box.service["ada"].absorb("Ada keeps bees.")
    box.service["ada"].export(tmp_path / "ada.zip")
    left = tmp_path / ".ada.zip.0a1b2c3d.partial"
    left.write_text("Ada keeps bees.")
    alive = tmp_path / ".ada.zip.00000000.partial"
    with hold(alive, seconds=1):
        receipt = box.service["ada"].forget()
        assert alive.exists()
    assert not left.exists()
    assert str(left) in [file.path for file in receipt.files]


def test_a_failed_fork_notes_no_copy(box):
    box.service["ada"].absorb("Ada keeps bees.")
    box.service["eve"].absorb("Eve sails.")
    with pytest.raises(Conflict):
        box.service["ada"].fork("eve")
    assert box.service["ada"].forget().forks == ()
