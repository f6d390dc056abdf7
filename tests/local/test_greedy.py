"""Texts that the base model goes on with, many at once."""

from __future__ import annotations

import pytest
import torch

from templora_memory.backends.local.base_model import prefill
from templora_memory.backends.local.decode.greedy import (
    ROWS,
    GreedyBatch,
    score_continuations,
)
from templora_memory.backends.local.scheduler import DEFAULT_PRIORITY
from templora_memory.errors import Cancelled
from templora_memory.ports import LearningControl

FAMILIES = ["llama", "qwen3", "mistral", "gemma3", "gemma2", "phi3", "gpt2", "gpt_neox"]
WINDOWED = {"mistral", "gemma3", "gemma2"}
TEXTS = ["red", "the house by the river ", "Ada keeps", "x"]
SHARED = "Once upon a time, "
TOKENS = 12


def continued(base, shared, rows, tokens=TOKENS):
    batch = GreedyBatch(base, prefill(base, list(shared.encode())), [list(r) for r in rows])
    for _ in range(tokens):
        batch.step()
    return batch


def generated(base, ids, tokens=TOKENS):
    """What transformers goes on with, the end token left out."""
    ids = torch.tensor([list(ids)])
    with torch.no_grad():
        found = base.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
        )
    new = found[0, ids.shape[1] :].tolist()
    end = next((at for at, token in enumerate(new) if token in base.eos_token_ids), len(new))
    return new[:end]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shared", ["", SHARED], ids=["nothing before", "after the same"])
def test_rows_of_different_lengths_go_on_as_transformers_does(make_backend, family, shared):
    wide = {"sliding_window": 64} if family in WINDOWED else {}  # no text here is longer
    base = make_backend(family, **wide).loaded.base
    batch = continued(base, shared, [text.encode() for text in TEXTS])
    assert batch.output_ids == [generated(base, (shared + text).encode()) for text in TEXTS]


def test_a_row_ends_at_the_models_end_token(make_backend):
    said = TEXTS[2].encode()
    first = generated(make_backend().loaded.base, said)
    end = first[-1]
    base = make_backend(eos_token_id=end).loaded.base
    assert end in base.eos_token_ids
    batch = continued(base, "", [said])
    assert batch.output_ids == [first[: first.index(end)]]
    assert batch.done


def test_a_row_that_is_finished_keeps_what_it_has(make_backend):
    base = make_backend().loaded.base
    batch = continued(base, "", [text.encode() for text in TEXTS], tokens=3)
    kept = list(batch.output_ids[1])
    batch.finish([False, True, False, False])
    for _ in range(3):
        batch.step()
    assert batch.output_ids[1] == kept
    assert batch.output_ids[0] == generated(base, TEXTS[0].encode(), tokens=6)
    assert not batch.done


def complete(backend, texts, *, stop="\n", cancelled=lambda: False, max_tokens=TOKENS):
    found = backend._complete_texts(
        SHARED, texts, against=["x"] * len(texts), max_tokens=max_tokens, stop=stop,
        priority=DEFAULT_PRIORITY, control=LearningControl(cancelled=cancelled),
    )  # fmt: skip
    return [text for text, _ in found]


def first_with_a_sign(backend):
    """A text that is gone on with, the beginning of what comes, and the sign that ends it."""
    loaded = backend.loaded
    for text in TEXTS:
        whole = loaded.tokenizer.decode(
            generated(loaded.base, loaded.tokenizer.encode(SHARED + text))
        )
        for sign in whole[1:]:
            if sign.isascii() and sign.isprintable() and sign != whole[0]:
                return text, whole.partition(sign)[0], sign
    pytest.fail("this model writes nothing that can be read")


def test_what_comes_to_no_stop_is_empty_and_the_rest_ends_before_it(make_backend):
    backend = make_backend()
    text, before, sign = first_with_a_sign(backend)
    assert complete(backend, [text], stop=sign) == [before]
    assert complete(backend, [text], stop="never written") == [""]


def test_more_texts_than_a_batch_has_rows_come_back_in_order(make_backend):
    backend = make_backend()
    text, before, sign = first_with_a_sign(backend)
    many = [*TEXTS, text] * (ROWS // 2)
    found = complete(backend, many, stop=sign)
    assert found == complete(backend, [*TEXTS, text], stop=sign) * (ROWS // 2)
    assert found[-1] == before


def test_no_text_is_nothing_to_go_on_with(make_backend):
    assert complete(make_backend(), []) == []


def test_a_cancelled_absorb_writes_no_further(make_backend):
    asked = []

    def cancelled():
        asked.append(None)
        return len(asked) > 2

    with pytest.raises(Cancelled):
        complete(make_backend(), TEXTS, cancelled=cancelled)
    assert len(asked) == 3


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("shared", ["", SHARED], ids=["nothing before", "after the same"])
def test_a_continuation_is_scored_as_the_model_holds_it_likely(make_backend, family, shared):
    base = make_backend(family).loaded.base
    rows = [(b"Ada keeps", b" bees"), (b"x", b"y"), (b"the house by", b" the river")]
    found = score_continuations(
        base, prefill(base, list(shared.encode())), [(list(a), list(b)) for a, b in rows]
    )
    for (text, rest), score in zip(rows, found, strict=True):
        ids = torch.tensor([list(shared.encode() + text + rest)])
        with torch.no_grad():
            log_p = base.model(ids).logits[0, :-1].float().log_softmax(-1)
        wanted = log_p.gather(1, ids[0, 1:, None])[-len(rest) :].sum().item()
        assert score == pytest.approx(wanted, abs=1e-3)


def test_what_a_batch_writes_is_as_likely_as_it_says(make_backend):
    base = make_backend().loaded.base
    batch = continued(base, SHARED, [b"Ada keeps", b"x"], tokens=4)
    prefix = prefill(base, list(SHARED.encode()))
    rows = list(zip([list(b"Ada keeps"), list(b"x")], batch.output_ids, strict=True))
    found = score_continuations(base, prefix, rows)
    assert found == pytest.approx([sum(log_p) for log_p in batch.log_p], abs=1e-3)
