"""Lorebooks: of cards, and world files of SillyTavern, NovelAI, KoboldAI, Risu and Agnai.

What an entry asks for is obeyed where it concerns which texts belong together: keys, secondary keys
and their logic, constant, whole words. What concerns chance, time and place in a prompt is not, and
is named in the warnings.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import regex

from templora_memory.domain.segmentation import contains_words
from templora_memory.importers._text import one_line, plain
from templora_memory.importers._values import FileRefused, LoreEntry, SecondaryLogic, World

_MAX_ENTRIES = 5000
_MAX_KEYS = 200
_LOGIC: dict[int, SecondaryLogic] = {0: "any", 1: "not_all", 2: "not_any", 3: "all"}
_PATTERN = re.compile(r"/(.{1,500})/([a-z]{0,8})", re.DOTALL)
_COUNT = re.compile(r"(\d{1,9})\}")
_MAX_REPEATED = 500
_META = frozenset("\\[](){}|*+?^$")
_PATTERN_SECONDS = 0.02
_ALL_SECONDS = 0.5  # that all regular expressions of one search get
_SCANNED = 100_000  # characters that a regular expression is tried on
_DECORATOR = re.compile(r"@@@?([a-z_]{1,40})[ \t]*(.*)")
_TRUE, _FALSE = {True, "true"}, {False, "false"}
_CERTAIN = 100

_UNOBEYED = {
    "probability": "chance, which is not thrown (when mentioned they always join)",
    "timed": "sticky, cooldown or delay, which are not counted",
    "place": "a place in the prompt (depth, role), which is not kept",
    "group": "an inclusion group, which is not used",
    "recursion": "rules for entries that mention one another, which are not used",
    "vector": "a wish to be found by vectors (they are found by their keys)",
    "decorator": "decorators that need the state of a chat, which are not used",
}


def book(value: object) -> tuple[tuple[LoreEntry, ...], list[str]]:
    """The entries of a lorebook in the order of the prompt, and what of it is not used."""
    rows = _rows(value)
    noted = []
    if len(rows) > _MAX_ENTRIES:
        noted.append(f"Only the first {_MAX_ENTRIES} of {len(rows)} lorebook entries were read.")
    ignored: Counter[str] = Counter()
    entries = [made for row in rows[:_MAX_ENTRIES] if (made := _entry(row, ignored)) is not None]
    if missing := min(len(rows), _MAX_ENTRIES) - len(entries):
        noted.append(f"Lorebook: {_entries(missing)} without text, left out.")
    for reason, text in _UNOBEYED.items():
        if ignored[reason]:
            noted.append(f"Lorebook: {_entries(ignored[reason])} with {text}.")
    if unmatched := sum(entry.enabled and not _reachable(entry) for entry in entries):
        noted.append(f"Lorebook: {_entries(unmatched)} without a key, never used.")
    if disabled := sum(not entry.enabled for entry in entries):
        noted.append(f"Lorebook: {_entries(disabled)} switched off, and kept so.")
    if isinstance(value, Mapping):
        settings = [name for name in _SETTINGS if value.get(name) not in (None, False, 0, "")]
        if settings:
            noted.append(f"Lorebook: its settings {', '.join(settings)} are not used.")
    return tuple(sorted(entries, key=lambda entry: entry.order)), noted


def rows_of(value: object) -> tuple[list[Any], list[int]]:
    """The rows of a lorebook as they are, and where in them the entries of `book` come from."""
    rows = _rows(value)
    parsed = [(made.order, at) for at, row in enumerate(rows) if (made := entry_of(row))]
    return rows, [at for _, at in sorted(parsed, key=lambda item: item[0])]


def entry_of(row: object) -> LoreEntry | None:
    """The entry of one row of any tool; None if it has no text."""
    return _entry(row, Counter())


def with_texts(row: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """A row with these fields of a Character Card, and everything else that it has.

    Decorators before its text stay there.
    """
    written = _first_text(row, "content", "text", "entry", "value")
    marks = written[: len(written) - len(_decorators(written)[0])]
    changed = {**row, **entry, "content": marks + entry["content"]}
    if "disable" in row:
        changed["disable"] = not entry["enabled"]
    return changed


_SETTINGS = ("scan_depth", "token_budget", "recursive_scanning", "scanDepth", "tokenBudget")


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{number} entries"


def _reachable(entry: LoreEntry) -> bool:
    return entry.constant or bool(entry.keys)


def _rows(value: object) -> list[Any]:
    if isinstance(value, Mapping):
        value = value.get("entries")
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []


def _entry(row: object, ignored: Counter[str]) -> LoreEntry | None:
    """An entry of any tool; None if it has no text."""
    if not isinstance(row, Mapping):
        return None
    more = row.get("extensions")
    more = more if isinstance(more, Mapping) else {}
    written = _first_text(row, "content", "text", "entry", "value")
    content, marks = _decorators(written)
    content = plain(content)
    if not content:
        return None
    keys = _keys(row, "keys", "key", "keywords", "triggers")
    secondary = _keys(row, "secondary_keys", "keysecondary", "secondkey", "secondaryKeys")
    selective = row.get("selective")
    logic = _LOGIC.get(_number(more.get("selectiveLogic", row.get("selectiveLogic", 0))), "any")
    if selective is not None and selective not in _TRUE:
        secondary = ()
    if "additional_keys" in marks:
        secondary, logic = (*secondary, *_split(marks["additional_keys"])), "any"
    if not secondary and (without := _keys(row, "keyanti")):
        secondary, logic = without, "not_any"
    if "exclude_keys" in marks and not secondary:
        secondary, logic = _split(marks["exclude_keys"]), "not_any"
    enabled = _switched_on(row) and "dont_activate" not in marks
    chance = _chance(row, more)
    if chance <= 0:
        enabled = False
    constant = _yes(row.get("constant", row.get("alwaysActive", row.get("forceActivation"))))
    constant = constant or "activate" in marks
    _note_ignored(row, more, marks, chance, ignored)
    return LoreEntry(
        content=content,
        keys=keys,
        secondary_keys=secondary,
        logic=logic,
        name=one_line(_first_text(row, "name", "comment", "displayName")),
        enabled=enabled,
        constant=constant,
        case_sensitive=_yes(
            row.get("case_sensitive", more.get("case_sensitive", row.get("caseSensitive")))
        ),
        whole_words=_yes(more.get("match_whole_words", row.get("matchWholeWords"))),
        regex=any(
            _is_pattern(key, used=_yes(row.get("use_regex", row.get("useRegex")))) for key in keys
        ),
        order=_order(row),
    )


def _yes(value: object) -> bool:
    return isinstance(value, (bool, int, str)) and value in _TRUE


def _switched_on(row: Mapping[str, Any]) -> bool:
    for name, meaning in (("enabled", True), ("disable", False), ("disabled", False)):
        value = row.get(name)
        if isinstance(value, (bool, int, str)) and value in _TRUE | _FALSE:
            return (value in _TRUE) is meaning
    return True


def _number(value: object) -> int:
    return int(value) if isinstance(value, (int, float)) and abs(value) < 1e9 else 0  # noqa: PLR2004


def _order(row: Mapping[str, Any]) -> int:
    for name in ("insertion_order", "insertorder", "order"):
        if name in row:
            return _number(row[name])
    config = row.get("contextConfig")  # NovelAI: a higher priority stands further up
    return -_number(config.get("budgetPriority")) if isinstance(config, Mapping) else 0


def _chance(row: Mapping[str, Any], more: Mapping[str, Any]) -> int:
    for place in (more, row):
        if "probability" in place:
            used = place.get("useProbability", True)
            return _number(place["probability"]) if used is not False else _CERTAIN
    return _CERTAIN


def _note_ignored(
    row: Mapping[str, Any],
    more: Mapping[str, Any],
    marks: Mapping[str, str],
    chance: int,
    ignored: Counter[str],
) -> None:
    def given(*names: str) -> bool:
        return any(place.get(name) for place in (more, row) for name in names)

    ignored["probability"] += 0 < chance < _CERTAIN
    ignored["timed"] += given("sticky", "cooldown", "delay")
    ignored["place"] += (
        given("depth") and _number(more.get("position", row.get("position", 0))) == _AT_DEPTH
    )
    ignored["group"] += given("group")
    ignored["recursion"] += given(*_RECURSION)
    ignored["vector"] += given("vectorized")
    ignored["decorator"] += bool(marks.keys() - _OBEYED_MARKS)


_RECURSION = (
    "exclude_recursion",
    "prevent_recursion",
    "delay_until_recursion",
    "excludeRecursion",
    "preventRecursion",
    "delayUntilRecursion",
)
_AT_DEPTH = 4  # SillyTavern's position within the chat
_OBEYED_MARKS = {"activate", "dont_activate", "additional_keys", "exclude_keys"}


def _decorators(text: str) -> tuple[str, dict[str, str]]:
    """The text without the decorators that it begins with, and those."""
    lines = text.lstrip().split("\n")
    marks: dict[str, str] = {}
    for number, line in enumerate(lines):
        hit = _DECORATOR.fullmatch(line.strip())
        if hit is None:
            return ("\n".join(lines[number:]) if marks else text), marks
        marks[hit[1]] = hit[2]
    return "", marks


def _first_text(row: Mapping[str, Any], *names: str) -> str:
    return next(
        (row[name] for name in names if isinstance(row.get(name), str) and row[name].strip()), ""
    )


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _keys(row: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    value = next((row[name] for name in names if row.get(name)), None)
    if isinstance(value, str):
        given: list[Any] = [value] if _PATTERN.fullmatch(value.strip()) else value.split(",")
    else:
        given = value if isinstance(value, list) else []
    keys = (clean_key(key) for key in given[:_MAX_KEYS] if isinstance(key, (str, int, float)))
    return tuple(filter(None, keys))


def clean_key(key: object) -> str:
    """A key on one line; a regular expression stays as it is written."""
    text = str(key).strip()
    return text if _PATTERN.fullmatch(text) else one_line(text)


def _is_pattern(key: str, *, used: bool) -> bool:
    return bool(_PATTERN.fullmatch(key)) or (used and not _META.isdisjoint(key))


# --- world files ----------------------------------------------------------------------------------


def is_world(value: object) -> bool:
    """Whether parsed JSON is a lorebook of its own."""
    return _world_kind(value) is not None


def _world_kind(value: object) -> str | None:  # noqa: C901, PLR0911  # a table of tools
    if isinstance(value, list):
        rows = [row for row in value[:20] if isinstance(row, Mapping)]
        kobold = [row for row in rows if "content" in row and ("key" in row or "keys" in row)]
        return "KoboldAI world info" if rows and len(kobold) == len(rows) else None
    if not isinstance(value, Mapping):
        return None
    if value.get("spec") == "lorebook_v3" and isinstance(value.get("data"), Mapping):
        return "lorebook V3"
    if "lorebookVersion" in value:
        return "NovelAI lorebook"
    if value.get("type") == "risu" and isinstance(value.get("data"), list):
        return "Risu lorebook"
    if "worldinfo" in value and isinstance(value["worldinfo"], list):
        return "KoboldAI world info"
    rows = _rows(value)
    if value.get("kind") == "memory" or (rows and all(_has(row, "entry") for row in rows)):
        return "Agnai memory book"
    if isinstance(value.get("entries"), (list, Mapping)) and not any(
        key in value for key in ("first_mes", "description_html", "mes_example")
    ):
        if "folders" in value and isinstance(value.get("entries"), Mapping):
            return "KoboldAI world info"
        if all(_has(row, "key", "keys", "keywords", "content", "text") for row in rows[:20]):
            return "SillyTavern world info"
    return None


def _has(row: object, *names: str) -> bool:
    return isinstance(row, Mapping) and any(name in row for name in names)


def world(value: object, *, filename: str = "") -> World:
    """The entries of a world file.

    Raises:
        FileRefused: `empty`.
    """
    kind = _world_kind(value) or "world"
    body: object = value
    if isinstance(value, Mapping):
        if kind in {"lorebook V3", "Risu lorebook"}:
            body = value["data"]
        elif "worldinfo" in value:
            body = value["worldinfo"]
    raw = value if isinstance(value, Mapping) else {"entries": value}
    lore, noted = book(body)
    if not lore:
        raise FileRefused("empty", "This world file has no entry with text: nothing can be used.")
    inner = body if isinstance(body, Mapping) else raw
    name = one_line(_first_text(inner, "name")) or one_line(_first_text(raw, "name"))
    return World(
        name=name or one_line(filename) or "World",
        lore=lore,
        source_format=kind,
        warnings=tuple(noted),
        raw=raw,
    )


# --- which entries a text mentions ----------------------------------------------------------------


def matching_lore(
    lore: Iterable[LoreEntry], texts: Sequence[str], *, most: int = 4000
) -> tuple[LoreEntry, ...]:
    """The enabled entries that these texts mention, and the constant ones, in the book's order.

    Together they have at most `most` characters of content. Regular expressions get half a second
    together; what was not tried by then is not mentioned.
    """
    said = _Said("\n".join(texts))
    found, size = [], 0
    for entry in lore:
        if not entry.enabled or not (entry.constant or _mentioned(entry, said)):
            continue
        size += len(entry.content)
        if size > most:
            break
        found.append(entry)
    return tuple(found)


class _Said:
    """What was said, and the time that is left for regular expressions."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.folded = text.casefold()
        self._seconds = _ALL_SECONDS

    def has(self, key: str, entry: LoreEntry) -> bool:
        hit = _PATTERN.fullmatch(key)
        if hit is not None:
            return self._matches(hit[1], hit[2])
        if entry.regex and not _META.isdisjoint(key):
            return self._matches(key, "" if entry.case_sensitive else "i")
        if entry.whole_words:
            return contains_words(self.text, key, case_sensitive=entry.case_sensitive)
        return key in self.text if entry.case_sensitive else key.casefold() in self.folded

    def _matches(self, pattern: str, flags: str) -> bool:
        if self._seconds <= 0 or _repetitions(pattern) > _MAX_REPEATED:
            return False
        given = regex.V0
        for letter, flag in (("i", regex.I), ("m", regex.M), ("s", regex.S)):
            given |= flag if letter in flags else 0
        begin = time.monotonic()
        try:
            compiled = regex.compile(pattern, given)
            text = self.text[-_SCANNED:]
            return compiled.search(text, timeout=_PATTERN_SECONDS) is not None
        except (regex.error, TimeoutError, RecursionError, ValueError, OverflowError):
            return False
        finally:
            self._seconds -= time.monotonic() - begin


def _repetitions(pattern: str) -> int:
    """How often the counts of a pattern together repeat a part: compiling writes that out."""
    return math.prod(int(number) or 1 for number in _COUNT.findall(pattern))


def _mentioned(entry: LoreEntry, said: _Said) -> bool:
    if not any(said.has(key, entry) for key in entry.keys):
        return False
    if not entry.secondary_keys:
        return True
    hits = [said.has(key, entry) for key in entry.secondary_keys]
    return {
        "any": any(hits),
        "not_all": not all(hits),
        "not_any": not any(hits),
        "all": all(hits),
    }[entry.logic]
