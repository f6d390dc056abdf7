"""Who gets the model when: counted in turns, by a clock that only work moves."""

import threading
import time
from contextlib import ExitStack

import pytest

from templora_memory.backends.local import LocalBackend
from templora_memory.backends.local.scheduler import (
    AbsorbOrder,
    AbsorbPriority,
    ModelThread,
    never,
)
from templora_memory.errors import InvalidSetting

ROUND, STEP, DRAFT, SLICE = 4.0, 6.0, 2.0, 1.0
FIRST = AbsorbPriority(1, never)


class Desk:
    """A model thread whose work takes the time that it says, and is noted down."""

    def __init__(self, share=0.5):
        self.now = 0.0
        self.log = []
        self.answers = Part(self, "round", ROUND)
        self.drafts = Part(self, "draft", DRAFT)
        self.training = Part(self, "step", STEP)
        self.arranged = threading.Event()
        self.thread = ModelThread(
            self.answers, self.drafts, self.training, share=share, clock=lambda: self.now
        )
        held = threading.Event()

        def hold():
            held.set()
            self.arranged.wait(10)

        self.thread.answer(hold)  # nothing runs before all of it is queued
        assert held.wait(10)

    def took(self, name, seconds):
        self.log.append(name)
        self.now += seconds

    def task(self, name, count):
        for _ in range(count):
            self.took(name, SLICE)
            yield

    def measure(self, name, count, **options):
        thread = threading.Thread(
            target=lambda: self.thread.run(self.task(name, count), **options), daemon=True
        )
        queued = self.thread._inbox.qsize()
        thread.start()
        end = time.monotonic() + 10
        while self.thread._inbox.qsize() == queued:
            assert time.monotonic() < end
            time.sleep(0.001)
        return thread

    def run(self, *threads):
        queued = threading.Event()
        self.thread.answer(queued.set)
        self.arranged.set()
        assert queued.wait(10)
        for thread in threads:
            thread.join(10)
        for part in (self.answers, self.drafts, self.training):
            assert part.over.wait(10)
        self.thread.close()
        return self.log


class Part:
    """Answers, drafts or training runs: so many units of so many seconds."""

    def __init__(self, desk, name, seconds):
        self._desk, self._name, self._seconds = desk, name, seconds
        self.left = 0
        self.then = lambda: None
        self.first = FIRST
        self.over = threading.Event()
        self.over.set()
        self.shorts = []

    def add(self, units):
        if callable(units):
            units()
            return
        self.left += units
        self.over.clear()

    @property
    def busy(self):
        return self.left > 0

    def step(self, *, short=None):
        self.shorts.append(short)
        self._desk.took(self._name, self._seconds)
        self.left -= 1
        self.then()
        if not self.left:
            self.over.set()

    def fail(self, error): ...


def spent(log):
    """Seconds of answering and of learning."""
    each = {"round": ROUND, "asked": SLICE, "step": STEP, "draft": DRAFT, "measured": SLICE}
    answering = sum(each[name] for name in log if name in {"round", "asked"})
    return answering, sum(each[name] for name in log) - answering


def while_all_wait(log):
    """The part of a log before the first kind of work runs out."""
    return log[: min(max(i for i, one in enumerate(log) if one == name) for name in set(log)) + 1]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_learning_has_its_share_of_the_time_whatever_its_units_are(share):
    desk = Desk(share)
    desk.thread.answer(1000)
    desk.thread.draft(1000)
    desk.thread.learn(1000)
    measuring = desk.measure("measured", 1000, priority=FIRST)
    answering, learning = spent(while_all_wait(desk.run(measuring)))
    assert learning / (answering + learning) == pytest.approx(share, abs=0.02)


def test_short_units_of_learning_do_not_starve_beside_long_rounds():
    """One for one, drafts would get a third of the time, and measuring a fifth."""
    desk = Desk()
    desk.thread.answer(500)
    desk.thread.draft(1000)
    log = while_all_wait(desk.run())
    assert log.count("draft") == pytest.approx(2 * log.count("round"), rel=0.02)


def test_a_token_waits_for_one_step_and_what_the_round_before_it_earned():
    desk = Desk()
    desk.thread.answer(300)
    desk.thread.draft(300)
    desk.thread.learn(300)
    measuring = desk.measure("measured", 300, priority=FIRST)
    each = {"step": STEP, "draft": DRAFT, "measured": SLICE}
    waited, longest = 0.0, 0.0
    for name in while_all_wait(desk.run(measuring)):
        waited = 0.0 if name == "round" else waited + each[name]
        longest = max(longest, waited)
    assert longest <= STEP + ROUND
    assert set(desk.training.shorts[:50]) == {True}


def test_kinds_of_learning_take_turns():
    desk = Desk()
    desk.thread.draft(9)
    desk.thread.learn(9)
    log = desk.run(desk.measure("measured", 9, priority=FIRST))
    assert log == ["draft", "measured", "step"] * 9
    assert set(desk.training.shorts) == {False}


def test_the_oldest_absorb_goes_first_while_somebody_waits():
    desk = Desk()
    desk.thread.answer(60)
    desk.drafts.first, desk.training.first = AbsorbPriority(3, never), AbsorbPriority(2, never)
    desk.thread.draft(9)
    desk.thread.learn(9)
    log = desk.run(desk.measure("measured", 9, priority=FIRST))
    learned = [name for name in log if name != "round"]
    assert learned == ["measured"] * 9 + ["step"] * 9 + ["draft"] * 9


def test_what_becomes_urgent_goes_first_although_nobody_waits_for_an_answer():
    desk = Desk()
    waited = threading.Event()
    desk.training.first = AbsorbPriority(2, waited.is_set)
    desk.drafts.then = lambda: desk.drafts.left == 5 and waited.set()
    desk.thread.draft(9)
    desk.thread.learn(9)
    log = desk.run(desk.measure("measured", 9, priority=FIRST))
    assert log[:10] == ["draft", "measured", "step"] * 3 + ["draft"]
    assert log[10:16] == ["step"] * 6
    assert desk.training.shorts == [False] * 3 + [True] * 6


def test_what_a_caller_measures_is_answering():
    desk = Desk()
    desk.thread.learn(100)
    asked = desk.measure("asked", 30)
    log = while_all_wait(desk.run(asked))
    answering, learning = spent(log)
    assert answering == pytest.approx(learning, rel=0.25)
    assert log[0] == "asked"


def test_time_is_not_saved_up():
    """Learning that comes after a thousand rounds without any gets its share, not more."""
    desk = Desk()
    desk.thread.answer(1000)
    came = []

    def late():
        if desk.answers.left == 500:
            came.append(len(desk.log))
            desk.training.add(20)

    desk.answers.then = late
    desk.run()
    log = desk.log[came[0] :]
    last = max(i for i, one in enumerate(log) if one == "step")
    answering, learning = spent(log[: last + 1])
    assert learning == pytest.approx(answering, rel=0.1)


@pytest.mark.parametrize("share", [0, 1, -0.5, 2, "half", None])
def test_a_share_is_a_part(share):
    with pytest.raises(InvalidSetting, match="learning_share is"):
        LocalBackend(learning_share=share)


def test_owners_take_turns_and_an_owners_own_absorbs_keep_their_order():
    order = AbsorbOrder()
    with ExitStack() as others:
        first = order.turn("a")
        assert first.__enter__() == 1
        assert [others.enter_context(order.turn("a")) for _ in range(3)] == [2, 3, 4]
        assert others.enter_context(order.turn("b")) == 1  # beside the first, not behind the last
        assert others.enter_context(order.turn("b")) == 2
        first.__exit__(None, None, None)
        assert others.enter_context(order.turn("a")) == 5
        assert others.enter_context(order.turn("c")) == 1
    numbers = []
    for owner in ("a", "b", "a"):  # nobody is ahead any more
        with order.turn(owner) as number:
            numbers.append(number)
    assert numbers == [6, 7, 8]


def test_an_owner_that_comes_later_has_no_credit_from_before():
    order = AbsorbOrder()
    turns = [order.turn("a") for _ in range(5)]
    assert [turn.__enter__() for turn in turns] == [1, 2, 3, 4, 5]
    for turn in turns[:3]:
        turn.__exit__(None, None, None)
    with order.turn("b") as number:
        assert number == 4
    for turn in turns[3:]:
        turn.__exit__(None, None, None)
