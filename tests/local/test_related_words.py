"""Words that lie near each other in a model's embeddings."""

from __future__ import annotations

import torch

from templora_memory.backends.local.recipes.related_words import related_words


class Words:
    """A tokenizer of whole words, each behind a space; what it does not know is in pieces."""

    def __init__(self, words):
        self._words = words

    def encode(self, text):
        word = text.strip()
        return [self._words.index(word)] if word in self._words else [0, 0]

    def decode(self, ids):
        return f" {self._words[ids[0]]}" if ids[0] < len(self._words) else "?"


WORDS = ["the", "afraid", "scared", "frightened", "boat", "Afraid", "stone"]


def model(base):
    """Embeddings in which three words point one way, and the others their own."""
    weight = base.model.get_input_embeddings().weight
    with torch.no_grad():
        weight.normal_(0, 0.01, generator=torch.Generator().manual_seed(0))
        for row, way in enumerate([3, 0, 0, 0, 1, 0, 2]):
            weight[row, way] += 1.0
    return base


def test_words_that_point_the_same_way_are_related(base):
    found = related_words(model(base), Words(WORDS), ["afraid", "boat"])
    assert set(found["afraid"]) == {"scared", "frightened"}
    assert found["boat"] == ()


def test_a_word_in_pieces_has_none(base):
    assert related_words(model(base), Words(WORDS), ["terrified"]) == {}


def test_without_words_nothing_is_looked_for(base):
    assert related_words(base, Words(WORDS), []) == {}
