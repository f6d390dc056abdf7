"""A journal as segments in a bucket."""

import pytest

from templora_memory import Document, Message
from templora_memory.errors import (
    StoreDamaged,
    UnknownMemory,
)
from templora_memory.stores.bucket import journal as journal_module

pytestmark = pytest.mark.enable_socket
TALK = [Message("user", "Füße"), Message("assistant", "two\nlines"), Message("user", "c")]


def test_a_long_journal_is_cut_into_segments_that_stay(store, machine, keys, monkeypatch, tmp_path):
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 600)
    texts = [f"Sentence {n}. " * 5 for n in range(20)]
    other = machine("b")
    for n, text in enumerate(texts):
        (store, other)[n % 2].record_documents("ada", [Document(text)])
    journal = [key for key in keys() if "/journal/" in key]
    assert len(journal) > 5
    late = machine("c")
    for place in (store, other, late):
        found = place.journal("ada")
        assert [found.document(digest).text for digest in found.documents] == texts
        assert [m.content for m in found.messages(found.tip)] == [m.content for m in TALK]
    store.export("ada", tmp_path / "ada.zip")
    store.delete("ada")
    late.import_(tmp_path / "ada.zip", None)
    again = machine("d").journal("ada")
    assert [again.document(digest).text for digest in again.documents] == texts


def test_a_copy_of_a_full_segment_is_fetched_again(store, monkeypatch, tmp_path):
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 1)
    journal = store.journal("ada")
    (copy,) = (tmp_path / "a").rglob("journal-*.jsonl")
    whole = copy.read_bytes()
    copy.unlink()
    assert [m.content for m in journal.messages(journal.tip)] == [m.content for m in TALK]
    assert copy.read_bytes() == whole
    copy.write_bytes(b"X" + whole[1:])
    with pytest.raises(StoreDamaged, match=r"damaged at byte 0.*It is a copy: remove it"):
        journal.messages(journal.tip)
    copy.unlink()
    store.delete("ada")
    with pytest.raises(UnknownMemory, match="forgotten meanwhile"):
        journal.messages(journal.tip)


@pytest.mark.parametrize("size", [1, 40, 100, 10_000])
def test_segments_are_whole_lines_and_all_but_the_last_are_full(size, monkeypatch):
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", size)
    lines = b"".join(b"x" * n + b"\n" for n in range(60))
    cut = journal_module.split_segments(lines)
    assert b"".join(cut) == lines
    assert all(one.endswith(b"\n") for one in cut)
    assert all(len(one) >= size for one in cut[:-1])


@pytest.mark.usefixtures("store")
def test_a_damaged_journal_is_named(machine, keys, s3, bucket):
    (key,) = [key for key in keys() if "/journal/" in key]
    body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    for wrong in (body[:-1], body.replace(b"user", b"USER"), b"", b"\n" + body):
        s3.put_object(Bucket=bucket, Key=key, Body=wrong)
        with pytest.raises(StoreDamaged, match=r"00000000\.jsonl"):
            machine("b").journal("ada")
