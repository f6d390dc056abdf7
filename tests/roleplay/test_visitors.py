import pytest

from templora_memory.apps.roleplay.visitors import VisitExpired, Visitors


def test_two_tabs_are_one_visitor_until_the_last_closes():
    now = [0.0]
    gone = []
    visitors = Visitors(grace=10, idle=1000, discard=gone.append, clock=lambda: now[0])
    visitor = visitors.enter(None, "one")
    visitors.enter(visitor.token, "two")
    visitors.leave("one")
    now[0] = 50
    visitors.sweep()
    assert gone == []
    visitors.leave("two")
    now[0] = 61
    visitors.sweep()
    assert gone == [visitor]
    with pytest.raises(VisitExpired):
        visitors.get(visitor.token)


def test_an_idle_visitor_is_discarded_though_no_tab_closed():
    now = [0.0]
    gone = []
    visitors = Visitors(grace=10, idle=100, discard=gone.append, clock=lambda: now[0])
    visitor = visitors.enter(None, "one")
    now[0] = 90
    visitors.get(visitor.token)
    now[0] = 180
    visitors.sweep()
    assert gone == []
    now[0] = 191
    visitors.sweep()
    assert gone == [visitor]


def test_a_discard_that_fails_is_tried_again():
    now, tries = [0.0], []

    def discard(visitor):
        tries.append(visitor)
        if len(tries) == 1:
            raise OSError("disk")

    visitors = Visitors(grace=1, idle=100, discard=discard, clock=lambda: now[0])
    first, second = visitors.enter(None, "one"), visitors.enter(None, "two")
    visitors.leave("one")
    visitors.leave("two")
    now[0] = 2
    visitors.sweep()
    assert set(map(id, tries)) == {id(first), id(second)}
    now[0] = 4
    visitors.sweep()
    assert tries.count(first) + tries.count(second) == 3
