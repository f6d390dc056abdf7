"""A journal in a file: torn lines, changed bytes, files that were put back."""

import shutil
from dataclasses import replace

import pytest

from templora_memory import Document, Message
from templora_memory.errors import (
    StoreDamaged,
)
from templora_memory.stores import DirectoryStore

TALK = [Message("user", "Füße"), Message("assistant", "two\nlines"), Message("user", "c")]


def test_a_long_torn_line_does_not_spoil_a_short_one_after_it(store, ada):
    with (ada / "journal.jsonl").open("ab") as file:
        file.write(b'{"sum": "0", "kind": "mess' + b"x" * 2000)
    end = store.record("ada", [*TALK, Message("assistant", "d")])
    store.record_documents("ada", [Document("Second.")])
    journal = DirectoryStore(store.root).journal("ada")
    assert journal.messages(end)[-1].content == "d"
    assert len(journal.documents) == 2


def test_every_damaged_byte_of_the_journal_is_noticed(store, ada):
    path = ada / "journal.jsonl"
    whole = path.read_bytes()
    ends = [index for index, byte in enumerate(whole) if byte == 10]
    for index in range(0, len(whole), 7):
        if index in ends:
            continue
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        with pytest.raises(StoreDamaged, match=r"journal\.jsonl is damaged at byte \d+"):
            DirectoryStore(store.root).journal("ada")


def test_a_journal_cut_anywhere_is_readable_and_can_be_continued(store, ada):
    path = ada / "journal.jsonl"
    manifest = store.manifest("ada")
    # what it has learned stands in the journal, too: it is never cut off behind that
    nothing = replace(manifest, revisions=(), head=None, epoch=manifest.epoch + 1)
    store.replace(nothing, epoch=manifest.epoch)
    whole = path.read_bytes()
    chain = manifest.chain(TALK)
    more = [*TALK, Message("assistant", "d")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        fresh = DirectoryStore(store.root)
        lines = whole[:cut].count(b"\n")
        journal = fresh.journal("ada")
        tip = chain[min(lines, len(TALK))]
        assert (journal.tip, len(journal.documents)) == (tip, int(lines > len(TALK)))
        assert journal.messages(tip) == tuple(TALK[:lines])
        if cut % 5 == 0 or cut == len(whole):
            end = fresh.record("ada", more)
            for reader in (fresh, DirectoryStore(store.root)):
                assert reader.journal("ada").messages(end) == tuple(more)


@pytest.mark.usefixtures("ada")
def test_a_line_that_is_damaged_after_it_was_read_is_named(store):
    journal = store.journal("ada")
    path = store.root / "ada" / "journal.jsonl"
    path.write_bytes(b"X" + path.read_bytes()[1:])
    with pytest.raises(StoreDamaged, match=r"journal\.jsonl is damaged at byte 0"):
        journal.messages(journal.tip)


def test_a_journal_that_was_put_back_is_read_again(store, ada):
    """Also where it is longer than what was read of the other one."""
    backup = ada.parent / "backup"
    shutil.copy(ada / "journal.jsonl", backup)
    lost = store.record("ada", [*TALK, Message("assistant", "after the backup")])
    assert store.journal("ada").knows(lost)
    backup.replace(ada / "journal.jsonl")
    other = DirectoryStore(store.root)
    newest = other.record("ada", [*TALK, Message("assistant", "after it was put back " * 9)])
    journal = store.journal("ada")
    assert journal.knows(newest)
    assert not journal.knows(lost)
