"""Which earlier text is drawn to be learned again."""

from __future__ import annotations

import pytest

from templora_memory import Document, Learning, Message
from templora_memory.service.replay import ReplaySample, _part, _sources, sample_earlier

BOOK = " ".join(f"word{number}" for number in range(600))


@pytest.fixture
def learned(make_box):
    """A box whose memory has learned a bio, a book and a talk; and what its backend was asked."""

    def make(replay):
        box = make_box(f"root-{replay}", context=4096)
        box.open(window=2048, chunk=64, learning=Learning(replay=replay))
        box.service["ada"].absorb("Ada keeps bees.")
        box.service["ada"].absorb(BOOK)
        talk = [
            Message("assistant" if n % 2 else "user", f"Message number {n} of the talk.")
            for n in range(40)
        ]
        box.service["ada"].absorb(talk)
        return box

    return make


def parts(box, **draw):
    manifest = box.store.manifest("ada")
    return sample_earlier(box.store.journal("ada"), manifest.newest, ReplaySample(**draw))


def test_half_is_drawn_by_length_and_half_by_source(learned):
    found = parts(learned(0), count=600, size=100, seed=1)
    assert len(found) == 600
    bios = sum(items == (Document("Ada keeps bees."),) for items in found)
    talks = sum(isinstance(items[0], Message) for items in found)
    books = 600 - bios - talks
    assert 70 < bios < 130  # a sixth: its third of one half, and it is short
    assert talks > 200 < books + 60


def test_what_continues_a_document_is_one_source_with_it(make_box):
    box = make_box(context=4096)
    box.open(window=2048, chunk=64)
    book = [Document(f"Page {n} of a long book.", continues=n > 0) for n in range(30)]
    box.service["ada"].absorb("Ada keeps bees.")
    box.service["ada"].absorb(book)
    found = parts(box, count=400, size=100, seed=1)
    assert 80 < sum(items == (Document("Ada keeps bees."),) for items in found) < 140  # a fourth


def test_a_fraction_is_replayed_for_as_many_chunks(learned):
    box = learned(0.25)
    for number in range(40):
        box.service["ada"].absorb(Document(f"Number {number} is short."))
    found = [len(request.replay) for request in box.backend.learned[-40:]]
    assert set(found) == {0, 1}
    assert 4 < sum(found) < 17


def test_parts_of_a_long_text_begin_at_a_word_and_continue_it(learned):
    for items in parts(learned(0), count=60, size=100, seed=2):
        if isinstance(items[0], Document) and items[0].text.startswith("word"):
            assert items[0].continues
            assert len(items[0].text) <= 100
            assert items[0].text in BOOK


def test_messages_come_in_order_and_from_anywhere(learned):
    starts = set()
    for items in parts(learned(0), count=80, size=100, seed=3):
        if isinstance(items[0], Message):
            numbers = [int(message.content.split()[2]) for message in items]
            assert numbers == list(range(numbers[0], numbers[0] + 16))
            starts.add(numbers[0])
    assert len(starts) > 8


def test_the_same_seed_draws_the_same(learned):
    box = learned(0)
    assert parts(box, count=9, size=80, seed=4) == parts(box, count=9, size=80, seed=4)
    assert parts(box, count=9, size=80, seed=4) != parts(box, count=9, size=80, seed=5)


def test_the_service_asks_for_replay_only_where_the_policy_wants_it(learned):
    assert not any(request.replay for request in learned(0).backend.learned)
    first, *others = learned(2).backend.learned
    assert first.replay == ()  # nothing was learned before
    assert all(len(request.replay) >= 2 for request in others)


def test_a_copy_replays_only_what_it_has_learned_itself(learned):
    box = learned(1)
    box.service["ada@bob"].absorb("Bob likes tea.")
    box.service["ada@bob"].absorb("Bob has a boat.")
    texts = [items[0].text for items in box.backend.learned[-1].replay]
    assert texts == ["Bob likes tea."]


class Chosen:
    """A generator that draws what a test says, and keeps from how many."""

    def __init__(self, begin):
        self.begin = begin
        self.asked = []

    def randrange(self, count):
        self.asked.append(count)
        return self.begin


def test_a_part_is_cut_where_the_next_word_begins():
    text = Document("aaa bbb ccc ddd", "title")
    for begin, expected in (
        (0, "aaa bb"),
        (1, "bbb cc"),
        (3, "bbb cc"),
        (4, "bbb cc"),
        (5, "ccc dd"),
        (9, "ddd"),
    ):
        chosen = Chosen(begin)
        found = _part(text, 6, chosen)
        assert (begin, found.text) == (begin, expected)
        assert (found.title, found.continues) == ("title", True)
        assert chosen.asked == [10]  # any place from which so much is left


def test_a_text_without_a_gap_is_cut_anywhere_and_a_short_one_not():
    long = Document("abcdefghij")
    assert _part(long, 4, Chosen(3)).text == "defg"
    assert _part(long, 10, Chosen(3)) is long
    blank = Document(f"a{' ' * 20}b")
    assert _part(blank, 5, Chosen(8)) is blank


def test_sources_are_documents_with_what_continues_them_and_the_talk():
    alone = [True, False, True, True]
    assert _sources(alone, talk=True) == [range(2), range(2, 3), range(3, 4), range(4, 5)]
    assert _sources(alone[1:], talk=False) == [range(1), range(1, 2), range(2, 3)]
    assert _sources([], talk=True) == [range(1)]
    assert _sources([], talk=False) == []


def test_only_what_is_drawn_is_read(make_box, monkeypatch):
    """However long the history is."""
    box = make_box(context=4096)
    box.open(window=2048, chunk=64)
    box.service["ada"].absorb([Document(f"Number {n} of many.") for n in range(200)])
    journal = box.store.journal("ada")
    read, found = journal._read, []
    monkeypatch.setattr(journal, "_read", lambda position: found.append(position) or read(position))
    assert len(parts(box, count=3, size=100, seed=1)) == 3
    assert len(found) == 3
