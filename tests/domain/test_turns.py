import pytest
from hypothesis import given, strategies as st

from templora_memory import Message
from templora_memory.domain.turns import newest_exchange, oldest_turns, turn_starts

histories = st.lists(
    st.sampled_from(["user", "assistant", "tool"]).map(lambda role: Message(role, "x")), max_size=12
)
costs = st.lists(st.integers(1, 40), max_size=12)


@given(histories)
def test_turns_are_a_partition_that_begins_at_user_messages(history):
    starts = turn_starts(history)
    assert list(starts) == sorted(set(starts))
    assert bool(starts) == bool(history)
    assert all(history[begin].role == "user" for begin in starts[1:])
    assert all(begin == 0 for begin in starts[:1])


@given(histories)
def test_nothing_after_the_newest_user_message_starts_a_turn(history):
    newest = newest_exchange(history)
    assert not any(message.role == "user" for message in history[newest + 1 :][1:]) or newest == 0
    assert newest in (*turn_starts(history), 0)


def test_a_greeting_belongs_to_the_first_turn():
    history = [Message("assistant", "Hi"), Message("user", "a"), Message("user", "b")]
    assert turn_starts(history) == (0, 2)


@given(costs, st.integers(-5, 200), st.integers(1, 60), st.integers(1, 5), st.booleans())
def test_the_newest_turn_always_stays(turns, budget, chunk, keep, needed):
    count = oldest_turns(turns, budget=budget, chunk=chunk, keep=keep, needed=needed)
    assert 0 <= count <= max(0, len(turns) - 1)


@given(costs, st.integers(0, 200), st.integers(1, 60), st.integers(1, 5))
def test_without_need_whole_chunks_leave_and_the_kept_turns_stay(turns, budget, chunk, keep):
    count = oldest_turns(turns, budget=budget, chunk=chunk, keep=keep, needed=False)
    assert count == 0 or (sum(turns[:count]) >= chunk and count <= len(turns) - keep)


@given(costs, st.integers(0, 200), st.integers(1, 60), st.integers(1, 5))
def test_what_fits_stays(turns, budget, chunk, keep):
    count = oldest_turns(turns, budget=budget, chunk=chunk, keep=keep, needed=True)
    if sum(turns) <= budget:
        assert count == 0
    elif turns and turns[-1] <= budget:
        assert sum(turns[count:]) <= budget


def test_the_fewest_turns_that_make_a_chunk_leave():
    assert oldest_turns([10] * 6, budget=50, chunk=25, keep=2, needed=False) == 3
    assert oldest_turns([10] * 6, budget=60, chunk=25, keep=2, needed=False) == 0


def test_in_need_less_than_a_chunk_leaves_and_kept_turns_give_way():
    assert oldest_turns([10, 10, 30], budget=45, chunk=100, keep=2, needed=True) == 1
    assert oldest_turns([10, 10, 30], budget=30, chunk=100, keep=3, needed=True) == 2


@pytest.mark.parametrize(
    ("costs", "settings", "moved"),
    [
        ([5, 5, 5, 5], {"budget": 20}, 0),  # it fits
        ([5, 5, 5, 5], {"budget": 15}, 1),  # exactly a chunk, exactly the budget
        ([5, 5, 5, 5], {"budget": 14}, 2),
        ([5, 5, 5, 5], {"budget": 19, "chunk": 6}, 2),  # less than a chunk does not move
        ([5, 5, 5, 5], {"budget": 19, "chunk": 10}, 2),
        ([5, 5, 5, 5], {"budget": 4}, 3),  # all but the newest, if only that is kept
        ([5, 5, 5, 5], {"budget": 4, "keep": 2}, 2),
        ([5, 5, 5, 5], {"budget": 4, "keep": 0}, 3),
        ([5, 5, 5, 5], {"budget": 4, "chunk": 16}, 0),
        ([5, 9], {"budget": 3, "chunk": 5}, 1),
        ([5, 9], {"budget": 3, "chunk": 6}, 0),
        ([5, 5, 5, 5], {"budget": 15, "chunk": 16, "needed": True}, 1),  # less than a chunk
        ([5, 5, 5, 5], {"budget": 10, "chunk": 16, "needed": True}, 2),
        ([5, 5, 5, 5], {"budget": 4, "keep": 3, "needed": True}, 3),
        ([5], {"budget": 4, "needed": True}, 0),
        ([], {"budget": -1, "needed": True}, 0),
    ],
)
def test_how_many_turns_move_at_the_edges(costs, settings, moved):
    given = {"chunk": 5, "keep": 1, "needed": False} | settings
    assert oldest_turns(costs, **given) == moved
