"""The receipt of a forget is the whole truth: what went, with sizes, and what is left."""

import pytest

from templora_memory import Message, ParametricMemory, Policy
from templora_memory.stores import DirectoryStore, Key, decrypted_cache
from templora_memory.testing import FakeBackend

PLANTED = "The zanzibar marble is under the quince."
KEY = Key(b"k" * 32)


def files(folder):
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_a_receipt_lists_every_file_that_went_and_every_copy_that_is_left(
    key, tmp_path, monkeypatch
):
    root, shared, away = (tmp_path / name for name in ("root", "shared", "away"))
    for folder in (shared, away):
        folder.mkdir()
    monkeypatch.setattr(decrypted_cache, "SHARED", shared)
    policy = Policy(window=64, reply_tokens=16, chunk=8)
    with ParametricMemory(FakeBackend(), DirectoryStore(root, key=key), policy) as memory:
        memory["eve"].absorb("Eve likes rain.")
        memory["ada"].absorb(PLANTED)
        history = [Message("user", PLANTED), Message("assistant", f"Yes. {PLANTED}")] * 6
        memory["ada@bob"].reply([*history, Message("user", "Where?")])
        memory["ada"].fork("copy")
        memory["ada"].export(away / "ada.zip")
        memory.wait()
        for left in (root / "ada" / ".staging-1" / "adapter.json", away / ".ada.zip.1.partial"):
            left.parent.mkdir(exist_ok=True)
            left.write_text(PLANTED)  # of a process that was killed
        for name in memory.list():
            assert memory[name].status().bytes
            memory[name].search("quince")
        before = files(tmp_path)
        receipt = memory["ada"].forget()
        gone = {path: size for path, size in before.items() if not path.exists()}
        assert receipt.ids == ("ada", "ada@bob")
        listed = {}
        for file in receipt.files:
            places = {base / file.path for base in (root, shared, away)} & before.keys()
            assert len(places) == 1, f"{file.path} was never there, or is not told apart"
            listed[places.pop()] = file.bytes
        assert listed == gone
        assert len(listed) == len(receipt.files) > 8
        assert receipt.forks == ("copy",)
        assert receipt.exports == (str(away / "ada.zip"),)
        assert memory["copy"].forget().files
        (away / "ada.zip").unlink()
        held = [path.read_bytes() for path in files(tmp_path)]
        assert not any(b"zanzibar" in content or b"quince" in content for content in held)
        assert memory.list() == ("eve",)
