"""Which days a question asks about: dates and words such as "yesterday", in English.

Read are ISO dates (2026-05-03), names of months with a day, a year or both ("3 May", "May 3rd,
2026", "in May"), years ("in 2026"), names of weekdays ("on Monday": the newest one before today),
and relative words ("today", "last week", "three days ago", "last weekend"). A date without a year
is the newest that is not in the future. Weeks begin on Monday. Not read, because they mean
different days in different countries: 3/5/2026. Texts in other languages have no spans, but for ISO
dates.
"""

from __future__ import annotations

from calendar import isleap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import regex

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_NUMBERS = (
    *("one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
_MONTH = "(?P<month>" + "|".join(f"{name}|{name[:3]}\\.?" for name in _MONTHS) + r"|sept\.?)"
_DAY = r"(?P<day>3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_COUNT = r"(?P<count>\d{1,3}|an?|" + "|".join(_NUMBERS) + ")"
_MONTHS_A_YEAR = 12
_SATURDAY = 5
_LEAP_DAY = (2, 29)
_LEAP_YEARS = 4
_ALSO_A_VERB = {"march", "mar", "may"}
# tried in this order at each place; the longer form comes first
_EXPRESSION = regex.compile(
    rf"(?<![\w-])(?:{_YEAR}-(?P<month>0[1-9]|1[0-2])-(?P<day>0[1-9]|[12]\d|3[01])"
    rf"|{_DAY}(?: of)? {_MONTH}(?:,? {_YEAR})?"
    rf"|{_MONTH} {_DAY}(?!\d)(?:,? {_YEAR})?"
    rf"|{_MONTH},? {_YEAR}"
    rf"|(?P<in>(?:in|during|since|last|this|of|early|late|mid)[ -])?{_MONTH}"
    rf"|(?:in|during|since|of) {_YEAR}"
    rf"|(?P<word>the day before yesterday|yesterday|last night|today|tonight"
    rf"|this (?:morning|afternoon|evening)|last weekend)"
    rf"|(?P<which>last|this|past|previous) (?P<unit>week|month|year)"
    rf"|{_COUNT} (?P<unit>day|week|month|year)s? ago"
    rf"|(?:on|last|this) (?P<weekday>{'|'.join(_WEEKDAYS)}))(?![\w-])",
    regex.IGNORECASE,
)
_BACK = {"yesterday": 1, "last night": 1, "the day before yesterday": 2}


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """Days from `first` to `last`, both included."""

    first: date
    last: date

    def holds(self, moment: float, *, days_after: int = 0) -> bool:
        """Return whether a moment is on one of these days or so many after them.

        Args:
            moment: in seconds since 1970, which fall on days in this machine's time zone.
            days_after: that are added at the end.
        """
        day = datetime.fromtimestamp(moment).astimezone().date()
        return self.first <= day and (day - self.last).days <= days_after


def time_spans(text: str, today: date) -> tuple[TimeSpan, ...]:
    """Return the days that a text speaks of, in the order of the text.

    Args:
        text: a question.
        today: what "yesterday" and dates without a year are counted from.
    """
    return tuple(span for span, _ in _spans(text, today))


def without_time(text: str, today: date) -> str:
    """Return a text without the words that `time_spans` reads."""
    for _, (start, end) in reversed(list(_spans(text, today))):
        text = f"{text[:start]} {text[end:]}"
    return text


def _spans(text: str, today: date) -> Iterator[tuple[TimeSpan, tuple[int, int]]]:
    for match in _EXPRESSION.finditer(text):
        try:
            span = _span(match, today)
        except (ValueError, OverflowError):  # 31 June, or before the year 1: no day
            continue
        if span is not None:
            yield span, match.span()


def _span(expression: regex.Match[str], today: date) -> TimeSpan | None:
    found = {key: value.lower() for key, value in expression.groupdict().items() if value}
    match found:
        case {"month": _}:
            span = _calendar(found, today)
        case {"year": year}:
            span = TimeSpan(date(int(year), 1, 1), date(int(year), 12, 31))
        case {"weekday": name}:
            span = _weekday(name, today)
        case {"count": count, "unit": unit}:
            span = _ago(count, unit, today)
        case {"which": which, "unit": unit}:
            span = _unit(unit, 0 if which == "this" else 1, today)
        case _:
            span = _named(found["word"], today)
    return span


def _named(word: str, today: date) -> TimeSpan:
    """Return the days of a word such as "yesterday"."""
    if word != "last weekend":
        return _one_day(today - timedelta(days=_BACK.get(word, 0)))
    saturday = today - timedelta(days=(today.weekday() - _SATURDAY - 1) % 7 + 1)
    saturday -= timedelta(days=7 * (today.weekday() > _SATURDAY))  # on a Sunday, the one before
    return TimeSpan(saturday, saturday + timedelta(days=1))


def _weekday(name: str, today: date) -> TimeSpan:
    """Return the newest such day before today."""
    return _one_day(today - timedelta(days=(today.weekday() - _WEEKDAYS.index(name) - 1) % 7 + 1))


def _calendar(found: dict[str, str], today: date) -> TimeSpan | None:
    name = found["month"].rstrip(".")
    month = int(name) if name.isdigit() else [m[:3] for m in _MONTHS].index(name[:3]) + 1
    bare = "day" not in found and "year" not in found
    if bare and name in _ALSO_A_VERB and "in" not in found:
        return None
    year = int(found["year"]) if "year" in found else today.year
    day = int(found.get("day", 1))
    if "year" not in found:
        while (month, day) == _LEAP_DAY and not isleap(year):
            year -= 1
        if date(year, month, day) > today:
            year -= _LEAP_YEARS if (month, day) == _LEAP_DAY else 1
    first = date(year, month, day)
    return _one_day(first) if "day" in found else TimeSpan(first, _month_end(first))


def _ago(count: str, unit: str, today: date) -> TimeSpan:
    if count.isdigit():
        number = int(count)
    else:
        number = _NUMBERS.index(count) + 1 if count in _NUMBERS else 1
    if unit == "day":
        return _one_day(today - timedelta(days=number))
    return _unit(unit, number, today)


def _unit(unit: str, back: int, today: date) -> TimeSpan:
    """Return a whole week, month or year, so many before the present one."""
    if unit == "week":
        monday = today - timedelta(days=today.weekday() + 7 * back)
        return TimeSpan(monday, monday + timedelta(days=6))
    if unit == "year":
        return TimeSpan(date(today.year - back, 1, 1), date(today.year - back, 12, 31))
    months = today.year * _MONTHS_A_YEAR + today.month - 1 - back
    first = date(months // _MONTHS_A_YEAR, months % _MONTHS_A_YEAR + 1, 1)
    return TimeSpan(first, _month_end(first))


def _month_end(first: date) -> date:
    following = (first.replace(day=28) + timedelta(days=4)).replace(day=1)
    return following - timedelta(days=1)


def _one_day(day: date) -> TimeSpan:
    return TimeSpan(day, day)
