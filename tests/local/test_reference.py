"""The preset "reference" is the released algorithm: the flat loop gives the same losses."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from templora_memory import Policy
from templora_memory.backends.local.lora import batched
from templora_memory.backends.local.recipes import Example
from templora_memory.backends.local.train.runs import Lesson, Lessons

FLAT_LOOP = Path(__file__).parents[2] / "demos" / "flat_loop.py"
CHUNK, CONTEXT, SEED = 40, 40, 42


@pytest.fixture(scope="module")
def flat_loop():
    spec = importlib.util.spec_from_file_location("flat_loop", FLAT_LOOP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_five_chunks_have_the_losses_of_the_flat_loop(
    flat_loop, make_model, make_backend, tmp_path
):
    torch.manual_seed(1)
    text = torch.randint(0, 256, (5 * CHUNK,)).tolist()
    chunks = [text[i : i + CHUNK] for i in range(0, len(text), CHUNK)]
    expected = flat_loop.temp_lora(make_model(), chunks, context=CONTEXT, seed=SEED)

    torch.manual_seed(SEED)  # PEFT's start values, as the loop draws them
    model = get_peft_model(make_model(), flat_loop.LORA)
    model.save_pretrained(tmp_path)
    base = make_backend()._now.base
    start = batched.load_weights(tmp_path, base.layers, base.device)
    settings = Policy.preset("reference", learning={"seed": SEED}).learning
    assert (settings.r, settings.lora_alpha, settings.lora_dropout) == (64, 64.0, 0.05)

    examples = []
    for number, chunk in enumerate(chunks):
        before = text[max(0, number * CHUNK - CONTEXT) : number * CHUNK]
        examples.append(Example(tuple(before), tuple(chunk), (1.0,) * len(chunk)))
    lesson = Lesson(
        start, examples, settings, chunk=CHUNK, min_steps=0, resume=None,
        progress=lambda _: None, cancelled=lambda: False,
    )  # fmt: skip
    lessons, losses = Lessons(base, pytest.fail, most_tokens=2048), []
    lessons.add(lesson)
    while (prepared := lesson.prepared(base)) is not None:
        (nll,), seen = lessons._gradients([(lesson, prepared)])
        lessons._take([lesson], [nll], seen)
        losses.append(nll.mean().item())
    assert losses == pytest.approx(expected, abs=1e-3)
    assert losses[-1] != pytest.approx(losses[0], abs=1e-3)
