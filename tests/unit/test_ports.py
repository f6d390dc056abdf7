"""A compare-and-swap that lost is tried again, and not for ever."""

import pytest

from templora_memory import ports
from templora_memory.errors import Conflict, UnknownMemory
from templora_memory.ports import retry_on_conflict


def losing(times, error=Conflict):
    calls = []

    def attempt():
        calls.append(len(calls))
        if len(calls) <= times:
            raise error(f"lost {len(calls)}")
        return len(calls)

    return attempt, calls


@pytest.mark.parametrize("times", [0, 1, 7])
def test_a_lost_swap_is_tried_again(times):
    attempt, _ = losing(times)
    assert retry_on_conflict(attempt) == times + 1


def test_the_last_conflict_reaches_the_caller():
    attempt, calls = losing(9)
    with pytest.raises(Conflict, match="lost 3"):
        retry_on_conflict(attempt, tries=3)
    assert len(calls) == 3


def test_other_errors_are_not_tried_again():
    attempt, calls = losing(1, UnknownMemory)
    with pytest.raises(UnknownMemory):
        retry_on_conflict(attempt)
    assert len(calls) == 1


def test_the_pause_grows_up_to_a_limit_and_is_random(monkeypatch):
    limits, slept = [], []
    monkeypatch.setattr(ports.random, "uniform", lambda low, high: limits.append(high) or low)
    monkeypatch.setattr(ports.time, "sleep", slept.append)
    attempt, _ = losing(13)
    assert retry_on_conflict(attempt, tries=20, pause=1.0) == 14
    assert limits == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11, 11]
    assert slept == [0] * 13
