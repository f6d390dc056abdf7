"""Parts of recipes: less weight for what is repeated."""

from __future__ import annotations

import pytest

from templora_memory.backends.local.recipes.base import REPEAT_LENGTH, downweight_repeats


def test_a_repeated_run_weighs_less_each_time():
    run = list(range(REPEAT_LENGTH))
    weights = downweight_repeats([*run, *run, *run], [1.0] * (3 * REPEAT_LENGTH))
    assert weights[: 2 * REPEAT_LENGTH - 1] == (1.0,) * (2 * REPEAT_LENGTH - 1)
    assert weights[2 * REPEAT_LENGTH - 1] == 0.5
    assert weights[-1] == pytest.approx(1 / 3)
    assert downweight_repeats(list(range(50)), [1.0] * 50) == (1.0,) * 50
    assert downweight_repeats([1, 2], [1.0, 0.0]) == (1.0, 0.0)
