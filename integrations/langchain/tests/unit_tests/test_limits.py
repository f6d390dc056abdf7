"""When text leaves the prompt, and where the cut falls."""

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_templora._limits import LearningLimits, newest_exchange

TALK = [HumanMessage("a b"), AIMessage("c d")] * 5


def words(messages):
    return sum(len(message.content.split()) for message in messages)


def due(trigger, messages=TALK, window=100):
    return LearningLimits.of(trigger, ("messages", 2)).due(messages, words, window)


def test_every_form_of_trigger():
    assert due(("messages", 10))
    assert not due(("messages", 11))
    assert due(("tokens", 20))
    assert not due(("tokens", 21))
    assert due(("fraction", 0.2))
    assert not due(("fraction", 0.21))
    assert due({"tokens": 20, "messages": 10})
    assert not due({"tokens": 20, "messages": 11})
    assert due([("tokens", 99), {"tokens": 5, "messages": 5}])
    assert not due([("tokens", 99), ("messages", 99)])
    assert not due(("tokens", 1), [])


@pytest.mark.parametrize(
    "size",
    [
        ("tokens", 0), ("tokens", 1.5), ("tokens", "5"), ("messages", True), ("fraction", 1.2),
        ("fraction", 0), ("words", 5), {"words": 5}, {"tokens": -1},
    ],
)  # fmt: skip
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match="is no size: use a whole number"):
        LearningLimits.of(size, ("messages", 2))


@pytest.mark.parametrize("trigger", [5, "tokens", None, {}, [7]])
def test_what_is_no_trigger_is_refused(trigger):
    with pytest.raises(TypeError, match="is no size: use"):
        LearningLimits.of(trigger, ("messages", 2))
    with pytest.raises(ValueError, match="at least one"):
        LearningLimits.of([], ("messages", 2))
    with pytest.raises(ValueError, match="must be one"):
        LearningLimits.of(("tokens", 5), {"tokens": 5})


@pytest.mark.parametrize(
    ("keep", "cut"),
    [
        (("messages", 2), 8),
        (("messages", 3), 6),
        (("messages", 99), 0),
        (("tokens", 8), 6),
        (("tokens", 1), 8),
        (("fraction", 0.12), 4),
        (("tokens", 99), 0),
    ],
)
def test_how_much_stays(keep, cut):
    assert LearningLimits.of(("tokens", 1), keep).cut(TALK, 0, words, 100) == cut


TURN = st.lists(st.sampled_from(["ai", "call", "tool"]), max_size=6).map(
    lambda kinds: ["human", *kinds]
)
MAKE = {
    "human": lambda: HumanMessage("question word"),
    "ai": lambda: AIMessage("answer word"),
    "call": lambda: AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}]),
    "tool": lambda: ToolMessage("result of it", tool_call_id="1"),
}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # of a busy machine
@given(
    turns=st.lists(TURN, min_size=1, max_size=8),
    greeting=st.booleans(),
    keep=st.one_of(
        st.tuples(st.just("messages"), st.integers(1, 20)),
        st.tuples(st.just("tokens"), st.integers(1, 60)),
        st.tuples(st.just("fraction"), st.floats(0.01, 1)),
    ),
    data=st.data(),
)
def test_a_cut_falls_before_a_human_message_and_never_in_the_newest_exchange(
    turns, greeting, keep, data
):
    kinds = ["ai"] * greeting + [kind for turn in turns for kind in turn]
    messages = [MAKE[kind]() for kind in kinds]
    humans = [0, *(i for i, kind in enumerate(kinds) if kind == "human")]
    start = data.draw(st.sampled_from(humans))
    end = LearningLimits.of(("tokens", 1), keep).cut(messages, start, words, 60)
    assert end == start or (kinds[end] == "human" and end > start)
    assert end <= max(start, newest_exchange(messages))
    if end > start and keep[0] == "messages":
        assert len(messages) - end >= keep[1]
