"""Learning with compiled layers: the same gradients, nothing compiled again for another memory."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from templora_memory.backends.local import LocalBackend
from templora_memory.errors import InvalidSetting

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler"),
    # what torch itself imports while compiling
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
]


@pytest.fixture
def compiled(make_model, make_tokenizer):
    torch._dynamo.reset()
    counters.clear()
    backend = LocalBackend.of(make_model(), make_tokenizer(), compiled=True)
    backend.open()
    yield backend
    backend.close()


def test_the_same_is_learned(compiled, make_backend, learn, tmp_path):
    text = "a keeper of bees on a roof. " * 12
    own, _ = learn(compiled, tmp_path / "a", text, chunk=64)
    plain = make_backend()
    other, _ = learn(plain, tmp_path / "b", text, chunk=64)
    one, two = compiled._weights(own).flat, plain._weights(other).flat
    assert torch.allclose(one, two, atol=1e-4)
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]


def test_another_memory_compiles_nothing(compiled, learn, tmp_path):
    for number in range(2):
        learn(compiled, tmp_path / f"warm{number}")
    graphs = counters["stats"]["unique_graphs"]
    for number in range(20):
        learn(compiled, tmp_path / f"{number}")
    assert counters["stats"]["unique_graphs"] == graphs
    assert not any(
        hook.bound for layer in compiled.loaded.base.layers.values()
        for hook in layer._forward_hooks.values()
    )  # fmt: skip


def test_answers_are_not_compiled(compiled, make_backend, score):
    assert torch.equal(score(compiled, None), score(make_backend(), None))
    assert not counters["stats"]


def test_checkpointing_does_not_go_with_it(make_model, make_tokenizer):
    backend = LocalBackend.of(make_model(), make_tokenizer(), compiled=True, checkpointing=True)
    with pytest.raises(InvalidSetting, match="choose one"):
        backend.open()
