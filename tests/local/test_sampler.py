"""Choosing tokens: greedily, by chance, with penalties, and ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from templora_memory import Sampling
from templora_memory.backends.local.decode.json_grammar import GrammarFactory
from templora_memory.backends.local.decode.sampler import TokenSampler
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


def drawn(backend, logits, count, **how):
    """The tokens of `count` draws from the same logits."""
    base = backend.loaded.base
    sampler = TokenSampler(Sampling(**how), base, GrammarFactory(base))
    return [sampler.sample(torch.tensor(logits), (), ()) for _ in range(count)]


def test_penalties_make_what_the_answer_has_less_likely(make_backend):
    backend = make_backend()
    logits = [0.0, 5.0, 4.5, 3.0]
    assert drawn(backend, logits, 4) == [1, 1, 1, 1]
    assert drawn(backend, logits, 4, presence_penalty=1.0) == [1, 2, 1, 1]
    assert drawn(backend, logits, 6, frequency_penalty=1.0) == [1, 2, 1, 2, 1, 3]
    assert drawn(backend, logits, 4, presence_penalty=-10.0) == [1, 1, 1, 1]


def test_min_p_keeps_the_tokens_nearly_as_likely_as_the_likeliest(make_backend):
    backend = make_backend()
    hot = {"temperature": 50.0, "seed": 1}
    assert set(drawn(backend, [0.0, 5.0, 4.5, 3.0], 40, **hot)) == {0, 1, 2, 3}
    assert set(drawn(backend, [0.0, 5.0, 4.5, 3.0], 40, **hot, min_p=0.97)) == {1, 2}


def test_log_probabilities_are_the_models_own_whatever_else_is_set(make_backend):
    backend = make_backend()
    prompt = backend.loaded.tokenizer.prompt(ask().messages)
    with torch.no_grad():
        logits = backend.loaded.base.model(torch.tensor([prompt])).logits[0, -1]
    sampling = replace(ENDLESS, logprobs=3, temperature=2.0, seed=3, repetition_penalty=1.5)
    first = backend.stream(ask(sampling=sampling)).completion.logprobs[0]
    top = logits.log_softmax(-1).topk(3).values.tolist()
    assert [t.logprob for t in first.top_logprobs] == pytest.approx(top, abs=1e-5)
    assert first.logprob <= first.top_logprobs[0].logprob + 1e-6


def test_rows_that_ask_for_nothing_are_not_changed_by_rows_that_do(make_backend):
    backend = make_backend()
    plain = backend.stream(ask()).completion
    asking = Sampling(
        logprobs=5, frequency_penalty=2.0, presence_penalty=1.0, min_p=0.1, ignore_end=True
    )
    streams = [backend.stream(ask(sampling=how)) for how in (asking, ENDLESS, asking)]
    assert [stream.completion.text for stream in streams][1] == plain.text
    assert streams[1].completion.logprobs == ()


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
