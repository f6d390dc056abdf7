"""Questions packed into one example: each as if it stood there alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from templora_memory import Message
from templora_memory.backends.local.recipes import Example, pack_turns
from templora_memory.backends.local.train.optimizer import TrainableAdapter
from templora_memory.backends.local.train.runs import TrainingBatcher
from templora_memory.backends.local.train.step import collate, inputs_of
from tests.local.test_runs import new_run
from tests.local.training_steps import SETTINGS, example, fresh, gradients, step

FAMILIES = ["llama", "qwen3", "mistral", "gemma3", "gemma2", "phi3", "gpt2", "gpt_neox"]
TURNS = (("Who?", "Ada."), ("Where do you live?", "On the roof of it."), ("Pet?", "A cat, Pim."))
OTHER = (("How old?", "Forty."), ("Job?", "I bake bread."))
WIDE = {"sliding_window": 128}  # packed questions are shorter than any real model's window
LEAD = (Message("system", "You are Ada."),)


def loaded_of(make_backend, family, **changes):
    wide = WIDE if family in {"mistral", "gemma3", "gemma2"} else {}
    return make_backend(family, **wide, **changes).loaded


def warm(base, seed=0):
    """An adapter whose B is not zero any more."""
    state = TrainableAdapter(fresh(base, replace(SETTINGS, seed=seed)), SETTINGS)
    step(base, [state], [example("warm up")])
    return state


def own_gradient(base, state, examples):
    """Losses of one row and its adapter's gradient."""
    _, loss, nll = gradients(base, [state], examples)
    found = state._grad.clone()
    state.clear()
    return loss.item(), nll, found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lead", [(), LEAD], ids=["alone", "after a lead"])
def test_packed_turns_have_the_losses_and_gradients_of_the_turns_alone(make_backend, family, lead):
    loaded = loaded_of(make_backend, family)
    base, tokenizer, state = loaded.base, loaded.tokenizer, warm(loaded.base)
    loss, nll, grad = own_gradient(base, state, [pack_turns(TURNS, tokenizer, lead=lead)])
    single = [
        own_gradient(base, state, [pack_turns([turn], tokenizer, lead=lead)]) for turn in TURNS
    ]
    assert torch.allclose(nll, torch.cat([one[1] for one in single]), atol=1e-4)
    assert loss == pytest.approx(sum(one[0] for one in single) / len(TURNS), abs=1e-4)
    mean = sum(one[2] for one in single) / len(TURNS)
    assert torch.allclose(grad, mean, atol=1e-5)
    assert grad.any()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_one_packed_turn_is_the_turn_as_plain_text(make_backend, family):
    loaded = loaded_of(make_backend, family)
    packed = pack_turns(TURNS[1:2], loaded.tokenizer, lead=LEAD)
    state = warm(loaded.base)
    _, nll, grad = own_gradient(loaded.base, state, [packed])
    _, plain, same = own_gradient(loaded.base, state, [replace(packed, segments=())])
    assert torch.allclose(nll, plain, atol=1e-5)
    assert torch.allclose(grad, same, atol=1e-6)


def test_what_all_turns_follow_stands_there_once(text):
    packed = pack_turns(TURNS, text, lead=LEAD)
    assert text.decode(packed.ids, special=True).count("You are Ada.") == 1
    assert packed.segments[0] == len(text.encode("You are Ada.")) + 2  # and two marks
    assert sum(packed.segments) == len(packed.ids) == len(packed.weights)


def assert_as_alone(base, states, examples):
    """Losses and gradients of a batch are those of each memory alone."""
    alone = [own_gradient(base, s, [e]) for s, e in zip(states, examples, strict=True)]
    _, _, together = gradients(base, states, examples)
    assert torch.allclose(together, torch.cat([one[1] for one in alone]), atol=1e-4)
    for state, (_, _, grad) in zip(states, alone, strict=True):
        assert torch.allclose(state._grad, grad, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_memories_with_different_segments_share_a_batch(make_backend, family):
    loaded = loaded_of(make_backend, family)
    base, tokenizer = loaded.base, loaded.tokenizer
    states = [warm(base, seed) for seed in range(2)]
    packed = [pack_turns(TURNS, tokenizer, lead=LEAD), pack_turns(OTHER, tokenizer)]
    assert_as_alone(base, states, packed)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("first", [True, False])
def test_one_with_segments_shares_a_batch_with_one_with_a_prefix(make_backend, family, first):
    loaded = loaded_of(make_backend, family)
    base, tokenizer = loaded.base, loaded.tokenizer
    states = [warm(base, seed) for seed in range(3)]
    examples = [
        pack_turns(TURNS, tokenizer, lead=LEAD),
        example("the chunk of a longer text", "what stood before it, at some length"),
        example("a third without anything before"),
    ]
    if not first:
        examples.reverse()
    assert_as_alone(base, states, examples)


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_a_memory_learns_with_a_sliding_window_what_it_learns_alone(make_backend, family):
    """Also beside one with segments, whose mask knows of no window."""
    loaded = make_backend(family).loaded  # a window of 16
    base, tokenizer = loaded.base, loaded.tokenizer
    long = example("the chunk of a longer text, of more tokens than a window has")
    packed = pack_turns([("Who?", "Ada.")] * 3, tokenizer)
    settings = replace(SETTINGS, scale_short=False)

    def learned(*runs):
        batcher = TrainingBatcher(base, lambda _: NoPull(), max_tokens=512)
        for run in runs:
            batcher.add(run)
        while batcher.busy:
            batcher.step(short=False)
        return [run.result.result().weights.flat for run in runs]

    def run(one, seed):
        return new_run(base, [one], settings, seed=seed)

    alone = [*learned(run(long, 0)), *learned(run(packed, 1))]
    together = learned(run(long, 0), run(packed, 1))
    for one, other in zip(alone, together, strict=True):
        assert (one - other).abs().max() < 1e-4


class NoPull:
    """Neutral text that nobody may be pulled towards."""

    def kl_to_base(self, adapters):  # noqa: ARG002  # as the real one
        return 0.25


def test_no_segment_sees_another(base, text):
    """Other words in one turn change no loss of the others."""
    state = warm(base)
    changed = (("Who?", "Eva."), *TURNS[1:])
    _, one, _ = own_gradient(base, state, [pack_turns(TURNS, text)])
    _, other, _ = own_gradient(base, state, [pack_turns(changed, text)])
    first = len("Ada.") + 1
    assert not torch.allclose(one[:first], other[:first])
    assert torch.allclose(one[first:], other[first:], atol=1e-5)


def test_neutral_pieces_are_cut_to_the_model(base, text):
    packed = pack_turns([("Question?", "An answer of some length.")] * 20, text)
    inputs = inputs_of(base, packed)
    assert len(packed.ids) > base.max_length == len(inputs.input_ids)
    assert collate(base, [inputs]).attention_mask.shape[-1] == base.max_length


def test_an_example_without_segments_has_no_mask(base):
    one = Example((), tuple(b"plain text"), (1.0,) * 10)
    assert collate(base, [inputs_of(base, one)]).attention_mask is None
