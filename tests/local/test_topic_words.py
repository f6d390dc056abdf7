"""Words that a model expects where topics are named."""

from __future__ import annotations

import pytest
import torch

from templora_memory.backends.local.recipes import topic_words as topics


class Words:
    """A tokenizer of whole words, each behind a space but the rest of one."""

    beginning = (0,)

    def __init__(self, words):
        self._words = words

    def encode(self, text):
        return [self._words.index(f" {word}") for word in text.split()]

    def decode(self, ids):
        return self._words[ids[0]]


WORDS = [" bees", " boat", " insects", " sea", " thing", "ects", " the", " one two"]


@pytest.fixture
def expected(monkeypatch):
    """What the model expects behind a text, by its last word; elsewhere everything alike."""
    behind = {
        0: {2: 0.5, 4: 0.3, 5: 0.1, 6: 0.05},
        1: {3: 0.5, 4: 0.3, 7: 0.1},
    }

    class Batch:
        def __init__(self, _base, _prefix, rows):
            self._rows = rows

        def next_log_p(self):
            rows = torch.full((len(self._rows), len(WORDS)), 1e-4)
            for row, ids in zip(rows, self._rows, strict=True):
                for token, p in behind.get(ids[-1], {}).items():
                    row[token] = p
            return (rows / rows.sum(-1, keepdim=True)).log()

    monkeypatch.setattr(topics, "GreedyBatch", Batch)
    monkeypatch.setattr(topics, "prefill", lambda _base, _ids: [])


def named(texts, others=()):
    task = topics.topic_words(None, Words(WORDS), "the thing", texts, others, check=lambda: None)
    while True:
        try:
            next(task)
        except StopIteration as ended:
            return ended.value


@pytest.mark.usefixtures("expected")
def test_what_is_expected_behind_one_sentence_only_is_its_topic():
    first, second = named(["the bees", "the boat"])
    assert first == ("insects",)
    assert second == ("sea",)


@pytest.mark.usefixtures("expected")
def test_what_is_expected_behind_other_texts_as_well_is_none():
    (first,) = named(["the bees"], ["the bees", "the bees"])
    assert first == ()


@pytest.mark.usefixtures("expected")
def test_a_batch_holds_few_texts_and_changes_nothing(monkeypatch):
    texts = ["the bees", "the boat", "the bees"]
    whole = named(texts)
    monkeypatch.setattr(topics, "ROWS", 1)
    assert named(texts) == whole


def test_without_texts_there_are_none():
    assert named([]) == []


@pytest.mark.usefixtures("expected")
def test_what_is_cancelled_ends_before_the_next_batch():
    def cancelled():
        raise RuntimeError("cancelled")

    task = topics.topic_words(None, Words(WORDS), "the thing", ["the bees"], [], check=cancelled)
    next(task)
    with pytest.raises(RuntimeError, match="cancelled"):
        next(task)
