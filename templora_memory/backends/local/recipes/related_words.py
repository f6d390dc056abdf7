"""Words that a model holds for related: those whose input embeddings point the same way.

In the embeddings of a language model "afraid" lies near "scared" and "fear", "teaches" near
"taught" and "teacher", "brother" near "sister" and "siblings": what people put in place of a word
when they ask. It is there in every model, for every language that it knows, and costs a product of
two matrices. With embeddings e of V tokens and their mean m::

    likeness(a, b) = cos(e_a - m, e_b - m)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from templora_memory.backends.local.base_model import BaseModel
from templora_memory.backends.local.tokenizer import ChatTokenizer
from templora_memory.domain.segmentation import content_words, fold

COUNT = 8
"""Related words that are looked for."""
LEAST = 0.4
"""Least likeness."""
_CANDIDATES = 24  # some of which are no words
_ROWS = 16384  # of the embeddings at once


def related_words(
    base: BaseModel, tokenizer: ChatTokenizer, words: Sequence[str]
) -> Mapping[str, tuple[str, ...]]:
    """Return for each word those related to it, the nearest first.

    Only words that are one token have any, and only such are found: a rarer word is in pieces that
    mean nothing alone. Words between spaces; in Chinese and the like nothing is found.

    Args:
        base: the model.
        tokenizer: its tokenizer.
        words: as `content_words` gives them.
    """
    tokens = {word: tokenizer.encode(f" {word}") for word in dict.fromkeys(words)}
    single = {word: ids[0] for word, ids in tokens.items() if len(ids) == 1}
    if not single:
        return {}
    embeddings = base.model.get_input_embeddings().weight.detach()  # [V, D]
    mean = embeddings.mean(0, dtype=torch.float32)  # [D]
    asked = functional.normalize(embeddings[list(single.values())].float() - mean, dim=-1)  # [W, D]
    likeness = torch.cat(
        [
            asked @ functional.normalize(rows.float() - mean, dim=-1).T  # [W, rows]
            for rows in embeddings.split(_ROWS)
        ],
        1,
    )  # [W, V]
    best = likeness.topk(min(_CANDIDATES, likeness.shape[1]), dim=-1)
    return {
        word: _words(word, ids, values, tokenizer)
        for word, ids, values in zip(
            single, best.indices.tolist(), best.values.tolist(), strict=True
        )
    }


def _words(
    word: str, ids: Sequence[int], values: Sequence[float], tokenizer: ChatTokenizer
) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for token, value in zip(ids, values, strict=True):
        text = tokenizer.decode([token])
        if value < LEAST or not text.startswith(" "):
            continue
        (candidate, *others) = content_words(text) or [""]
        if not others and candidate and candidate == fold(text.strip()) != fold(word):
            found[candidate] = None
    return tuple(found)[:COUNT]
