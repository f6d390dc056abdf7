"""Learning beside the page: passes, and the seconds it takes."""

import math

import pytest

from templora_memory.apps.roleplay.learning_estimate import LearningEstimate
from templora_memory.apps.roleplay.learning_task import LearningStep, PassPerplexities
from templora_memory.domain.results import AbsorbProgress


def progress(chunk, chunks, tokens, perplexity):
    return AbsorbProgress(chunk=chunk, chunks=chunks, tokens=tokens, perplexity=perplexity)


def test_there_is_one_point_for_each_whole_pass():
    passes = PassPerplexities()
    shown = []
    for number in range(6):  # three passes over two examples, which differ much from each other
        tokens = 10 if number == 0 else 30
        passes.add(progress(number + 1, 6, tokens, math.exp(4 - number // 2 + number % 2)))
        shown.append(len(passes.values()))
    assert shown == [0, 0, 1, 2, 2, 3]
    assert passes.values() == pytest.approx([math.exp(4.5), math.exp(3.5), math.exp(2.5)])


def test_a_long_text_is_one_pass():
    passes = PassPerplexities()
    for number in range(5):
        passes.add(progress(number + 1, 5, 10 * (number + 1), 3.0))
        assert len(passes.values()) == (number == 4)


def test_seconds_left_follow_the_pace():
    step = LearningStep(done=2, total=10, seconds=30.0, perplexities=())
    assert step.seconds_left == 120.0
    assert LearningStep(done=0, total=0, seconds=9.0, perplexities=()).seconds_left is None


def test_an_estimate_is_measured_first_and_then_known(make_memory, tmp_path):
    memory = make_memory("pace").load()
    estimate = LearningEstimate(memory, tmp_path)
    assert estimate.seconds(100) >= 1.0
    assert memory.backend.requests  # it was measured on this machine
    estimate.learned(100, 50.0)
    assert estimate.seconds(200) == pytest.approx(100.0)
    assert LearningEstimate(memory, tmp_path).seconds(200) == pytest.approx(100.0)
    (tmp_path / "learning_speed.json").write_text("nonsense")
    assert LearningEstimate(memory, tmp_path).seconds(200) >= 1.0
