"""Texts far beyond the window, learned chunk by chunk."""

import pytest

from templora_memory import Document, Sampling
from templora_memory.errors import (
    Cancelled,
)

BIO = "Ada keeps bees on the roof."


def test_forgetting_stops_a_text_under_way_and_it_does_not_come_back(box):
    stream = box.service["ada"].generate("Once upon a time", max_tokens=64)
    pieces = iter(stream)
    for _ in range(20):
        next(pieces)
    box.service["ada"].forget()
    with pytest.raises(Cancelled, match="forgotten"):
        list(pieces)
    assert box.service.list() == ()
    assert list(box.root.iterdir()) == []


def test_a_text_under_way_does_not_go_on_in_a_memory_made_again(box):
    pieces = iter(box.service["ada"].generate("Once upon a time", max_tokens=64))
    for _ in range(20):
        next(pieces)
    box.service["ada"].forget()
    box.service["ada"].absorb(BIO)
    with pytest.raises(Cancelled, match="forgotten"):
        list(pieces)
    assert [document.text for document in box.service["ada"].transcript().documents] == [BIO]


def test_a_long_text_is_learned_chunk_by_chunk(box):
    stream = box.service["ada"].generate("word " * 40, max_tokens=100)
    text = "".join(stream)
    reply = stream.reply
    assert reply.text == text
    assert (reply.completion_tokens, reply.finish_reason) == (100, "length")
    assert "".join(box.learned) == "word " * 40 + text
    assert len(box.learned) == 2 + 7
    assert all(item.continues for request in box.backend.learned for item in request.items)
    assert not any(request.min_steps for request in box.backend.learned)


def test_a_text_that_repeats_itself_is_kept_and_learned_whole(box):
    box.service["ada"].absorb("chorus")
    for _ in range(3):
        box.service["ada"].absorb(Document(" again", continues=True))
    texts = [document.text for document in box.service["ada"].transcript().documents]
    assert texts == ["chorus", " again", " again", " again"]
    assert box.learned == texts


def test_a_stopped_text_is_kept(box):
    stream = box.service["ada"].generate("Once upon ", max_tokens=100)
    pieces = iter(stream)
    said = "".join(next(pieces) for _ in range(20))
    stream.close()
    assert (stream.reply.text, stream.reply.finish_reason) == (said, "cancelled")
    documents = box.service["ada"].transcript().documents
    assert "".join(document.text for document in documents) == "Once upon " + said
    assert box.service["ada"].status().absorbed_documents == 1
    with pytest.raises(StopIteration):
        next(iter(stream))


def test_a_stop_text_ends_a_long_text(box):
    sampling = Sampling(stop=("word20",), ignore_end=True)
    reply = box.service["ada"].generate(max_tokens=100, sampling=sampling).reply
    assert reply.finish_reason == "stop"
    assert reply.text.split()[-1] == "word19"
