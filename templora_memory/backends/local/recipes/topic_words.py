"""Words that a model expects where a sentence's topics are named.

Who asks about a fact seldom uses its words: the brewer of moonshine is asked about alcohol, the
heron that robs people at lunch about a thief. A base model knows such words. After a few examples
of sentences with their topics, the probability p of each token of its vocabulary is read off in
one forward for each sentence, and compared with the mean over all sentences, so that a word that
is expected everywhere says nothing. Documents are expanded for search in the same spirit
(doc2query, arXiv 1904.08375). With N sentences::

    gain(w, i) = log p(w | sentence i) - log (1/N sum_j p(w | sentence j))
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import torch

from templora_memory.backends.local.base_model import BaseModel, prefill
from templora_memory.backends.local.decode.greedy import ROWS, GreedyBatch
from templora_memory.backends.local.tokenizer import ChatTokenizer
from templora_memory.domain.segmentation import content_words, fold, is_unspaced

COUNT = 10
"""Topic words of a sentence."""
LEAST_GAIN = 0.5
"""Nats by which a word is more expected behind its sentence than behind the others."""
LEAST_P = 0.002
"""Probability below which a word is chance."""
_CANDIDATES = 60  # some of which are no words


def topic_words(
    base: BaseModel,
    tokenizer: ChatTokenizer,
    before: str,
    texts: Sequence[str],
    others: Sequence[str],
    *,
    check: Callable[[], None],
) -> Generator[None, None, list[tuple[str, ...]]]:
    """Return the topic words of each text, the surest first; yields between batches.

    Only words that are one token are found, whole as far as can be told: the beginning of a longer
    word that is written with several tokens may be among them.

    Args:
        base: the model; no adapter is used.
        tokenizer: its tokenizer.
        before: examples, which all texts follow.
        texts: each up to where its topics would stand.
        others: more of this form, for the comparison only.
        check: called before each batch; raises to end it.
    """
    if not texts:
        return []
    rows = [tokenizer.encode(text) for text in [*texts, *others]]
    prefix = prefill(base, [*tokenizer.beginning, *tokenizer.encode(before)])
    total = torch.zeros(1)  # becomes [V]
    likely: list[tuple[torch.Tensor, torch.Tensor]] = []  # of each row log p [K] and tokens [K]
    for start in range(0, len(rows), ROWS):
        yield
        check()
        log_p = GreedyBatch(base, prefix, rows[start : start + ROWS]).next_log_p().cpu()  # [B, V]
        total = total + log_p.exp().sum(0)
        values, tokens = log_p.topk(min(_CANDIDATES, log_p.shape[1]), dim=-1)
        likely += zip(values, tokens, strict=True)
    mean = (total / len(rows)).log()  # [V]
    floor = torch.tensor(LEAST_P).log()
    words = []
    for values, tokens in likely[: len(texts)]:
        gains = values - mean[tokens]
        chosen = gains.masked_fill((values < floor) | (gains < LEAST_GAIN), -torch.inf)
        order = [at for at in chosen.argsort(descending=True).tolist() if chosen[at].isfinite()]
        words.append(_words([int(tokens[at]) for at in order], tokenizer))
    return words


def _words(tokens: Sequence[int], tokenizer: ChatTokenizer) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for token in tokens:
        text = tokenizer.decode([token])
        if not (text.startswith(" ") or is_unspaced(text)):
            continue  # the rest of a word
        (word, *others) = content_words(text) or [""]
        if not others and word and word == fold(text.strip()):
            found[word] = None
    return tuple(found)[:COUNT]
