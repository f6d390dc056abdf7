"""Days that a question asks about."""

from datetime import date, datetime

import pytest

from templora_memory.domain.time_spans import TimeSpan, time_spans, without_time

TODAY = date(2026, 11, 25)  # a Wednesday


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("What happened on 2026-05-03?", (2026, 5, 3), (2026, 5, 3)),
        ("What did he say on 3 May?", (2026, 5, 3), (2026, 5, 3)),
        ("the 3rd of May, 2024", (2024, 5, 3), (2024, 5, 3)),
        ("On October 13, 2023 she painted", (2023, 10, 13), (2023, 10, 13)),
        ("Sept. 9th", (2026, 9, 9), (2026, 9, 9)),
        ("on 24 December", (2025, 12, 24), (2025, 12, 24)),
        ("camping in June?", (2026, 6, 1), (2026, 6, 30)),
        ("in May", (2026, 5, 1), (2026, 5, 31)),
        ("December 2023", (2023, 12, 1), (2023, 12, 31)),
        ("how often in 2023?", (2023, 1, 1), (2023, 12, 31)),
        ("yesterday", (2026, 11, 24), (2026, 11, 24)),
        ("the day before yesterday", (2026, 11, 23), (2026, 11, 23)),
        ("this morning", (2026, 11, 25), (2026, 11, 25)),
        ("last week", (2026, 11, 16), (2026, 11, 22)),
        ("this week", (2026, 11, 23), (2026, 11, 29)),
        ("last month", (2026, 10, 1), (2026, 10, 31)),
        ("last year", (2025, 1, 1), (2025, 12, 31)),
        ("two weeks ago", (2026, 11, 9), (2026, 11, 15)),
        ("11 months ago", (2025, 12, 1), (2025, 12, 31)),
        ("a day ago", (2026, 11, 24), (2026, 11, 24)),
        ("on Wednesday", (2026, 11, 18), (2026, 11, 18)),
        ("last Tuesday", (2026, 11, 24), (2026, 11, 24)),
        ("last weekend", (2026, 11, 21), (2026, 11, 22)),
    ],
)
def test_a_time_is_read(text, first, last):
    assert time_spans(text, TODAY) == (TimeSpan(date(*first), date(*last)),)


@pytest.mark.parametrize(
    "text",
    [
        "You may march on.",
        "I have 2023 bees.",
        "3/5/2026",
        "on 31 June",
        "on 30 February 2024",
        "Was sagte Ben gestern?",
        "Marching ago",
        "version-2026-05-031",
        "900 years ago 999 years ago 999 weeks ag",
    ],
)
def test_what_is_no_time_is_left_alone(text):
    assert all(span.first.year < 1200 for span in time_spans(text, TODAY))


@pytest.mark.parametrize("day", [date(2026, 11, 21), date(2026, 11, 22), date(2026, 11, 23)])
def test_the_last_weekend_is_over(day):
    (span,) = time_spans("last weekend", day)
    assert (span.first.weekday(), span.last.weekday()) == (5, 6)
    assert span.last < day
    assert (day - span.last).days <= 7


def test_a_leap_day_without_a_year_is_the_newest_one():
    assert time_spans("on 29 February", date(2026, 3, 1)) == (
        TimeSpan(date(2024, 2, 29), date(2024, 2, 29)),
    )


def test_several_times_are_read_in_order():
    spans = time_spans("in June or on 3 May 2025?", TODAY)
    assert [span.first.month for span in spans] == [6, 5]


def test_the_words_of_a_time_can_be_taken_out():
    assert without_time("What did Ben say last week?", TODAY).split() == [
        "What", "did", "Ben", "say", "?",
    ]  # fmt: skip


def test_a_moment_is_on_a_day_of_this_time_zone():
    moment = datetime(2026, 5, 3, 23, 30).astimezone().timestamp()
    span = TimeSpan(date(2026, 5, 2), date(2026, 5, 2))
    assert not span.holds(moment)
    assert span.holds(moment, days_after=1)
    assert not span.holds(moment - 3 * 86400, days_after=7)
