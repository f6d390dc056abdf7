"""The speed benchmark on a model of a few weights: every figure is there, and none is made up."""

from __future__ import annotations

import json
import math

import pytest

from templora_memory.errors import InvalidSetting, InvalidText
from templora_memory.evaluation import speed as module
from templora_memory.evaluation.speed import SpeedSettings, speed

SMALL = SpeedSettings(chunk=32, context=64, repeats=1, learned=1, book=320, history=(64, 192),
                      memories=30, documents=20)  # fmt: skip
RATIOS = {
    "absorb_vs_reference", "floor_over_step", "ppl_vs_reference", "batched_learn",
    "batched_generate", "turn_192_vs_64", "full_history_vs_turn", "switch_vs_token",
    "resident_vs_adapter", "disk_vs_adapter", "stall_vs_idle",
    "decode_vs_generate", "peak_vs_weights", "help_vs_pass", "list_vs_pass", "open_30_vs_pass",
    "absorb_20_vs_10",
}  # fmt: skip
BOOK = " ".join(f"On day {n} the keeper went to the harbour and counted ships." for n in range(90))


@pytest.fixture(scope="module", autouse=True)
def shape():
    """A random model so small that the whole run takes seconds."""
    few = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
           "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHAPES", {"121m": few})
        patch.setattr(module, "RANDOM_CONTEXT", 512)
        patch.setattr(module, "MEMORIES", 2)
        patch.setattr(module, "ANSWER", 8)
        yield


@pytest.fixture(scope="module")
def without_book(shape):
    del shape
    return speed("121m", settings=SMALL)


def test_every_ratio_is_measured():
    told = []
    report = speed("121m", text=BOOK, settings=SMALL, progress=told.append)
    assert set(report.ratios) == RATIOS
    assert all(math.isfinite(ratio) for ratio in report.ratios.values())
    assert len(told) == 14
    assert report.ratios["ppl_vs_reference"] == pytest.approx(1, abs=0.2)
    assert report.ratios["resident_vs_adapter"] == 1
    turns = report.curves["turn_by_absorbed_tokens"]
    assert [round(p["absorbed_tokens"], -1) for p in turns] == [60, 190]
    found = json.loads(json.dumps(report.as_dict()))
    assert found["model"] == "random-121m"
    assert found["settings"]["chunk"] == 32


def test_without_a_book_only_quality_is_left_out(without_book):
    missing = {name for name, ratio in without_book.ratios.items() if ratio is None}
    assert missing == {"ppl_vs_reference"}


def test_pictures_are_drawn(without_book, tmp_path):
    pytest.importorskip("matplotlib")
    for path in without_book.plot(tmp_path / "pictures"):
        assert path.read_text(encoding="utf-8").count("<svg") == 1


def test_a_short_book_is_refused():
    with pytest.raises(InvalidText, match="fewer than"):
        speed("121m", text="A short book.", settings=SMALL)


def test_a_context_beyond_the_model_is_refused():
    with pytest.raises(InvalidSetting, match="512"):
        speed("121m", settings=SpeedSettings(chunk=256, context=300))


@pytest.mark.parametrize(
    "wrong",
    [
        {"chunk": 0},
        {"repeats": 0},
        {"book": -1},
        {"history": ()},
        {"history": (5, 4)},
        {"memories": 0},
        {"documents": 9},
    ],
)
def test_settings_that_measure_nothing_are_refused(wrong):
    with pytest.raises(InvalidSetting):
        SpeedSettings(**wrong)
