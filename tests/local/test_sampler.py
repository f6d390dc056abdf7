"""Choosing tokens: greedily, by chance, with penalties, and ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from templora_memory import Sampling
from templora_memory.errors import ModelError
from tests.local.generate_requests import ENDLESS, ask, greedy_by_hand


def test_greedy_decoding_is_the_models_own_argmax(make_backend):
    backend = make_backend()
    prompt = backend.loaded.tokenizer.prompt(ask().messages)
    expected = greedy_by_hand(backend, prompt, 12)[len(prompt) :]
    done = backend.stream(ask()).completion
    assert done.text == backend.loaded.tokenizer.decode(expected)
    assert (done.finish_reason, done.prompt_tokens, done.completion_tokens) == (
        "length", len(prompt), 12,
    )  # fmt: skip


def test_a_seed_repeats_a_draw_and_other_seeds_give_others(make_backend):
    backend = make_backend()

    def draw(seed, **how):
        sampling = Sampling(temperature=1.5, seed=seed, ignore_end=True, **how)
        return backend.stream(ask(sampling=sampling)).completion.text

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(6)}) > 1
    assert len({draw(None) for _ in range(6)}) > 1
    greedy = backend.stream(ask()).completion.text
    assert draw(3, top_k=1) == greedy
    assert draw(3, top_p=1e-6) == greedy


@pytest.mark.parametrize("setting", ["temperature", "repetition_penalty"])
def test_a_whole_number_is_as_good_as_a_fraction(make_backend, setting):
    backend = make_backend()
    texts = {
        backend.stream(
            ask(sampling=replace(ENDLESS, **{"temperature": 0.7, "seed": 1, setting: value}))
        ).completion.text
        for value in (2, 2.0)
    }
    assert len(texts) == 1


def test_a_repetition_penalty_changes_what_is_repeated(make_backend):
    backend = make_backend()
    plain = backend.stream(ask(max_tokens=30)).completion.text
    penalised = backend.stream(
        ask(max_tokens=30, sampling=replace(ENDLESS, repetition_penalty=5.0))
    ).completion.text
    assert len(set(penalised)) > len(set(plain))


def test_the_end_token_ends_an_answer_and_is_no_text(make_backend):
    backend = make_backend()
    base = backend.loaded.base
    end = next(iter(base.eos_token_ids))
    with torch.no_grad():
        base.lm_head.weight[end] = 0
        base.lm_head.weight[:end] = -base.model.model.norm.weight.mean() * 1e-3
    sure = backend.stream(ask(sampling=Sampling())).completion
    endless = backend.stream(ask()).completion
    assert endless.finish_reason == "length"
    if sure.finish_reason == "stop":
        assert "<|end|>" not in sure.text
        assert sure.completion_tokens <= 12


def test_output_that_is_no_number_is_an_error_and_not_a_token(make_backend):
    backend = make_backend()
    with torch.no_grad():
        backend.loaded.base.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="no number"):
        backend.stream(ask()).completion  # noqa: B018
