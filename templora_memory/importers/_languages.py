"""Languages as files name them: by BCP 47, in both directions, whatever case (langcodes)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache

from langcodes import Language, standardize_tag, tag_distance
from langcodes.tag_parser import LanguageTagError

from templora_memory.importers._values import FileRefused

_LONGEST = 60
_CODE = re.compile(r"[A-Za-z]{2,8}(?:[-_][A-Za-z0-9]{1,8}){0,6}")
_NEAR = 10  # from here on langcodes thinks that a reader of the one does not read the other
_EQUAL = 1  # a language and the macrolanguage that stands for it: nb and no
_SHOWN = 10
WORDS = {
    "arabic": "ar", "bulgarian": "bg", "catalan": "ca", "chinese": "zh", "croatian": "hr",
    "czech": "cs", "danish": "da", "dutch": "nl", "english": "en", "estonian": "et",
    "finnish": "fi", "french": "fr", "german": "de", "greek": "el", "hebrew": "he", "hindi": "hi",
    "hungarian": "hu", "indonesian": "id", "irish": "ga", "italian": "it", "japanese": "ja",
    "korean": "ko", "latin": "la", "latvian": "lv", "lithuanian": "lt", "norwegian": "no",
    "persian": "fa", "polish": "pl", "portuguese": "pt", "romanian": "ro", "russian": "ru",
    "serbian": "sr", "slovak": "sk", "slovenian": "sl", "spanish": "es", "swedish": "sv",
    "thai": "th", "turkish": "tr", "ukrainian": "uk", "vietnamese": "vi", "welsh": "cy",
    "deutsch": "de", "englisch": "en", "français": "fr", "anglais": "en", "español": "es",
    "inglés": "en", "italiano": "it", "português": "pt", "nederlands": "nl", "polski": "pl",
    "中文": "zh", "日本語": "ja", "한국어": "ko", "русский": "ru",
}  # fmt: skip
"""Names of languages that stand above columns."""

Unit = Mapping[str, str]
"""Text by language, in the order of the file."""


@lru_cache(maxsize=4096)
def normal(tag: str) -> str:
    """The tag in its usual form (en_us: en-US, iw: he); what is none, in small letters."""
    tag = tag.strip().partition(".")[0].partition("@")[0].replace("_", "-")
    if len(tag) > _LONGEST or not _CODE.fullmatch(tag):
        return tag.lower()
    try:
        return str(standardize_tag(tag))
    except LanguageTagError:
        return tag.lower()


@lru_cache(maxsize=4096)
def rank(wanted: str, found: str) -> int | None:
    """How well a language is the wanted one: 0 the same, larger is worse, None: another one.

    1: one of the two names a region or script that the other leaves open (en, en-US), or that goes
    without saying (zh-CN, zh-Hans). From 2: the same language of another region, the nearer the
    smaller.
    """
    one, other = normal(wanted), normal(found)
    if one == other:
        return 0
    short, long = sorted((one.lower(), other.lower()), key=len)
    if long.startswith(f"{short}-"):
        return 1
    if not (_CODE.fullmatch(one) and _CODE.fullmatch(other)):
        return None
    try:
        first, second = Language.get(one).maximize(), Language.get(other).maximize()
        distance = int(tag_distance(one, other))
    except (LanguageTagError, ValueError):
        return None
    near = first.language == second.language and distance < _NEAR
    if first.script != second.script or not (near or distance <= _EQUAL):
        return None
    return 1 + distance


def best(wanted: str, given: Iterable[str]) -> str | None:
    """The language among these that is the wanted one, or the nearest to it."""
    ranked = [(place, name) for name in given if (place := rank(wanted, name)) is not None]
    return min(ranked, key=lambda pair: pair[0])[1] if ranked else None


def choose(
    units: Sequence[Unit], *, named: str, source: str, target: str
) -> tuple[str, str, list[str]]:
    """Which two languages of a file are meant, and warnings.

    Args:
        units: the file's texts.
        named: the source language that the file itself names; "" if it names none.
        source: as asked for; "" for the file's own.
        target: the same.

    Raises:
        FileRefused: `which_language`.
    """
    languages = list(dict.fromkeys(name for unit in units for name in unit))
    if not languages:
        return source or named, target, []
    groups = _groups(languages, units)
    warnings: list[str] = []
    for wanted in (source, target):
        if not wanted:
            continue
        nearest = best(wanted, languages)
        if nearest is None:
            raise FileRefused(
                "which_language", f"This file has no {wanted!r}: it has {_shown(languages)}."
            )
        if (rank(wanted, nearest) or 0) > 1:
            warnings.append(
                f"{wanted} was asked for, {_shown([nearest])} was taken: it is nearest."
            )
    if not source:
        source = _own_source(groups, named, target)
    if not target:
        others = [group for group in groups if not any(rank(source, name) is not None and
                  _is_source(source, name, languages) for name in group)]  # fmt: skip
        if len(others) > 1:
            raise FileRefused(
                "which_language",
                "This file has translations into several languages: name one of them "
                f"({_shown([group[0] for group in others])}).",
            )
        target = others[0][0] if others else ""
    return source, target, warnings


def _is_source(source: str, name: str, languages: Collection[str]) -> bool:
    """Whether a language is taken for the source: as near to it as any in the file."""
    nearest = best(source, languages)
    return nearest is not None and (rank(source, name) or 0) <= max(1, rank(source, nearest) or 0)


def _own_source(groups: Sequence[Sequence[str]], named: str, target: str) -> str:
    """The source language where only the file says which: never the language that is wanted."""
    names = [name for group in groups for name in group]
    taken = best(target, names) if target else None
    mine = next((group for group in groups if taken in group), [])
    left = [name for name in names if name not in mine]
    if named and (found := best(named, left or names)) is not None and found in left:
        return named if taken is None or rank(named, taken) is None else found
    open_groups = [group for group in groups if group is not mine]
    if target and len(open_groups) > 1:
        raise FileRefused(
            "which_language",
            "This file has several languages to translate from: name one of them "
            f"({_shown([group[0] for group in open_groups])}).",
        )
    return open_groups[0][0] if open_groups else ""


def _groups(languages: Sequence[str], units: Sequence[Unit]) -> list[list[str]]:
    """Names of the same language together: also en and en-US, if no unit has both."""
    groups: list[list[str]] = []
    both = {frozenset(unit) for unit in units}
    for name in languages:
        for group in groups:
            places = [rank(name, other) for other in group]
            together = any(name in names and not names.isdisjoint(group) for names in both)
            if all(p == 0 for p in places) or (not together and all(p in {0, 1} for p in places)):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _shown(languages: Sequence[str]) -> str:
    names = [name for name in languages if _CODE.fullmatch(name)]
    return ", ".join(names[:_SHOWN]) or "languages without a code"


def is_code(word: str) -> bool:
    """Whether a word is a language code that could stand above a column: en, de-AT, not Yes."""
    return _COLUMN.fullmatch(word) is not None and rank(word, word) == 0


_COLUMN = re.compile(r"(?:[a-z]{2}|[A-Z]{2})(?:[-_][A-Za-z0-9]{1,8}){0,4}")
