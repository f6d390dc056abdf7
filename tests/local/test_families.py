"""Every family of models carries a memory, and PEFT reads our files."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel

from templora_memory import Message, Policy, Sampling
from templora_memory.ports import GenerateRequest

FAMILIES = ["llama", "qwen3", "mistral", "gemma3", "gemma2", "phi3", "gpt2", "gpt_neox"]
TEXT = "Ada keeps bees on the roof of the old observatory. Her cat is called Pim, and he is grey."


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_learns_and_peft_gives_the_same_logits(
    family, make_backend, make_model, learn, score, tmp_path
):
    backend = make_backend(family)
    before = score(backend, None)
    adapter, stats = learn(backend, tmp_path / "a")
    assert score(backend, adapter).mean() > before.mean() + 0.1
    assert torch.equal(score(backend, None), before)
    assert torch.equal(score(backend, adapter, strength=0.0), before)
    assert stats.chunks[0].nll_before == pytest.approx(
        -before[: stats.chunks[0].tokens].mean().item(), abs=1e-4
    )

    peft = PeftModel.from_pretrained(make_model(family), tmp_path / "a").eval()
    tokenizer = backend.loaded.base.tokenizer
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        theirs = peft(input_ids=ids).logits.float().log_softmax(-1)
    theirs = theirs[0, :-1].gather(1, ids[0, 1:, None]).squeeze(1)
    assert (score(backend, adapter) - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_of_a_chunk_after_its_context_is_the_models_own(
    family, make_backend, learn, score, tmp_path
):
    """Keys and values without gradient, explicit positions, sliding windows: same loss."""
    backend = make_backend(family)
    chunk = 24
    text = TEXT + TEXT[:6]
    settings = {"context": 200, "even_chunks": False, "learning_rate": 1e-12, "steps_per_chunk": 1}
    _, stats = learn(backend, tmp_path / "a", text, chunk=chunk, **settings)
    whole = score(backend, None, text)
    start = chunk - 1
    for found in stats.chunks[1:]:
        expected = -whole[start : start + found.tokens].mean().item()
        assert found.nll_before == pytest.approx(expected, abs=2e-4)
        start += found.tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_in_one_batch_equal_answers_alone(family, make_backend, learn, tmp_path):
    backend = make_backend(family)
    adapter, _ = learn(backend, tmp_path / "a")
    asked = [
        GenerateRequest(
            messages=(Message("user", text),), adapter=chosen, strength=strength,
            sampling=Sampling(ignore_end=True), max_tokens=24,
        )
        for text, chosen, strength in [
            ("Hi", adapter, 1.0), ("Where are the bees of Ada, please?", None, 1.0),
            ("Who is Pim?", adapter, 0.5), ("Hi", None, 1.0),
        ]
    ]  # fmt: skip
    alone = [backend.stream(request).completion for request in asked]
    streams = [backend.stream(request) for request in asked]
    assert [stream.completion for stream in streams] == alone
    assert alone[0].text != alone[3].text


def test_policy_defaults_fit_every_family(make_backend):
    for family in FAMILIES:
        backend = make_backend(family)
        policy = Policy().resolve(backend.limits)
        assert policy.window == 256
