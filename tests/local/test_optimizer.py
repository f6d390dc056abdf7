"""One flat buffer for each adapter, the schedule, and the optimizer on disk."""

from __future__ import annotations

import json

import pytest
import torch

from templora_memory import Document, Learning
from templora_memory.backends.local.train.optimizer import (
    OPTIMIZER,
    TrainableAdapter,
    lr_factor,
)
from templora_memory.errors import StoreDamaged
from tests.local.training_steps import SETTINGS, example, flat, fresh, gradients, step


def test_gradients_land_in_one_buffer_in_every_step(base):
    """L1 and T8: leaves are views made outside the graph, their gradients views of one tensor."""
    state = TrainableAdapter(fresh(base), SETTINGS)
    grad = state._grad
    for _ in range(2):
        gradients(base, [state], [example("some text")])
        begin, end = grad.data_ptr(), grad.data_ptr() + grad.nbytes
        for pair in state.leaves.values():
            for leaf in pair:
                assert begin <= leaf.grad.data_ptr() < end
        assert grad.any()
        state.step(1.0)
        assert not grad.any()


def test_a_carried_optimizer_goes_on_as_if_it_had_never_stopped(make_backend, learn, tmp_path):
    backend = make_backend()
    text = "a" * 32 + "b" * 32
    same = {
        "carry_optimizer": True,
        "lr_scheduler_type": "released",
        "context": 32,
        "even_chunks": False,
    }
    whole, _ = learn(backend, tmp_path / "whole", text, **same)
    first, _ = learn(backend, tmp_path / "first", "a" * 32, **same)
    second, _ = learn(
        backend,
        tmp_path / "second",
        items=(Document("b" * 32, continues=True),),
        before=(Document("a" * 32),),
        start=first,
        **same,
    )
    assert torch.equal(backend._weights(second).flat, backend._weights(whole).flat)
    counted = json.loads((second.folder / "training.json").read_text())
    assert counted == {"steps": 4, "chunks": 2}


def test_only_the_preset_that_says_so_keeps_optimizer_state(make_backend, learn, tmp_path):
    adapter, _ = learn(make_backend(), tmp_path / "a")
    assert not (adapter.folder / OPTIMIZER).exists()


def test_damaged_optimizer_state_is_refused(make_backend, learn, tmp_path):
    backend = make_backend()
    first, _ = learn(backend, tmp_path / "first", carry_optimizer=True)
    (first.folder / OPTIMIZER).write_bytes(b"nonsense")
    with pytest.raises(StoreDamaged, match="optimizer"):
        learn(backend, tmp_path / "second", start=first, carry_optimizer=True)


def test_the_released_schedule_leaves_the_first_chunk_unlearned(
    make_backend, learn, score, tmp_path
):
    backend = make_backend()
    adapter, _ = learn(backend, tmp_path / "a", "x" * 30, lr_scheduler_type="released")
    assert torch.equal(score(backend, adapter), score(backend, None))
    assert [lr_factor(Learning(lr_scheduler_type="released"), n) for n in range(4)] == [
        0,
        0.5,
        1,
        1,
    ]
    assert lr_factor(Learning(), 0) == 1


def test_a_linear_schedule_falls_over_a_run_of_known_length():
    factors = [lr_factor(Learning(), 0, done) for done in (0.0, 0.5, 1.0)]
    assert factors == pytest.approx([1.5, 0.8, 0.1])
    assert lr_factor(Learning(lr_scheduler_type="constant"), 0, 0.5) == 1


def test_a_short_chunk_moves_the_adapter_by_its_share(base):
    moved = []
    for share in (1.0, 0.25):
        state = TrainableAdapter(fresh(base), SETTINGS)
        step(base, [state], [example("some text")], factor=share)
        moved.append((flat(state) - fresh(base).flat).abs().max().item())
    assert moved[1] == pytest.approx(moved[0] / 4, rel=1e-3)
