"""What reaches the journal before anything is learned, over the fake backend."""

import copy

import pytest

from templora_memory import Document, Message
from templora_memory.errors import (
    InvalidSetting,
    InvalidText,
    LearningFailed,
)
from templora_memory.testing import POISON

BIO = "Ada keeps bees on the roof."


def test_absorbing_a_text_again_trains_nothing(box):
    first = box.service["ada"].absorb(BIO)
    again = box.service["ada"].absorb([Document(BIO), Document(BIO)])
    assert (again.tokens, again.revision) == (0, first.revision)
    assert box.learned == [BIO]


def test_a_gap_before_evicted_messages_is_refused(box, talk):
    with pytest.raises(InvalidText, match="has 0 messages, 4 were expected"):
        box.service["ada"].absorb(talk(2), after=4)
    with pytest.raises(InvalidSetting, match="documents have no place"):
        box.service["ada"].absorb(BIO, after=0)


def test_retrieved_text_reaches_neither_journal_nor_weights(box, talk):
    for turns in range(1, 15):
        reply = box.service["ada"].reply(
            talk(turns, question="Where is the planted key?"),
            context=["The planted key is under the marble.", Document("More marble.", "Stone")],
        )
        box.service.wait()
        assert "marble" in reply.text
    assert "Stone\nMore marble." in box.backend.requests[-1].messages[0].content
    assert box.learned
    assert not any(
        b"marble" in path.read_bytes() and path.name != "journal.jsonl"
        for path in box.root.rglob("*")
        if path.is_file()
    )
    # the model's own answers are text of the conversation; nothing else quotes the context
    journalled = box.service["ada"].transcript().messages
    assert all(m.role == "assistant" for m in journalled if "marble" in m.content)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        [],
        [Message("system", "x")],
        Message("user", "x"),
        [Document("x"), Message("user", "x")],
    ],
)
def test_a_text_without_anything_to_learn_is_refused(box, text):
    with pytest.raises(InvalidText):
        box.service["ada"].absorb(text)
    assert box.service.list() == ()


def test_callers_lists_are_left_alone(box, talk):
    history = [{"role": m.role, "content": m.content} for m in talk(20)]
    before = copy.deepcopy(history)
    box.service["ada"].reply(history)
    assert history == before


def test_trying_again_after_a_failure_keeps_a_continuing_text_once(box):
    box.service["ada"].absorb("begin")
    for _ in range(2):
        with pytest.raises(LearningFailed):
            box.service["ada"].absorb(Document(f" {POISON}", continues=True))
    texts = [document.text for document in box.service["ada"].transcript().documents]
    assert texts == ["begin", f" {POISON}"]
