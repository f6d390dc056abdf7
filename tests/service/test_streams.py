"""Replies under way: pieces, closing, and who owns them."""

import pytest

from templora_memory import Message
from templora_memory.errors import (
    Closed,
)

BIO = "Ada keeps bees on the roof."


def test_a_stream_gives_the_reply_in_pieces_and_journals_it(box):
    with box.service["ada"].stream([Message("user", "Hello there?")]) as stream:
        pieces = list(stream)
    assert "".join(pieces) == stream.reply.text
    assert [m.content for m in box.service["ada"].transcript().messages] == [
        "Hello there?", stream.reply.text,
    ]  # fmt: skip


def test_a_closed_stream_keeps_the_question_and_drops_the_answer(box):
    with box.service["ada"].stream([Message("user", "Hello there?")]) as stream:
        first = next(iter(stream))
    assert (stream.reply.text, stream.reply.finish_reason) == (first, "cancelled")
    assert box.service["ada"].status().message_count == 1


def test_streams_nobody_finished_are_not_kept(box):
    for _ in range(5):
        with box.service["ada"].stream([Message("user", "Hello?")]) as stream:
            next(iter(stream))
    del stream
    import gc  # noqa: PLC0415

    gc.collect()
    assert len(box.service._parts.lifecycle._streams) == 0


@pytest.mark.parametrize("pinned", [{}, {"revision": "head"}])
def test_forgetting_stops_a_stream_and_its_answer_is_not_kept(box, pinned):
    box.service["ada"].absorb(BIO)
    stream = box.service["ada"].stream([Message("user", "Who keeps bees?")], **pinned)
    pieces = iter(stream)
    next(pieces)
    box.service["ada"].forget()
    assert list(pieces) == []
    assert stream.reply.finish_reason == "cancelled"
    assert box.service.list() == ()
    assert list(box.root.iterdir()) == []


def test_a_stream_ends_with_closed_when_the_service_closes(make_box):
    box = make_box()
    box.open()
    stream = box.service["ada"].stream([Message("user", "x")])
    box.service.close()
    with pytest.raises(Closed):
        list(stream)
    assert box.store.journal("ada").tip != box.store.journal("ada").first
