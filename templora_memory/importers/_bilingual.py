"""Other files of translators -> units: XLIFF, TBX, PO, SDLTM, tab-separated lines."""

from __future__ import annotations

import csv
import io
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing, redirect_stdout
from typing import Any

from templora_memory.importers import _languages, _xml
from templora_memory.importers._encoding import decode
from templora_memory.importers._segments import UNNAMED, Units, one_line, segment_text
from templora_memory.importers._values import FileRefused, Limits

# --- XLIFF ----------------------------------------------------------------------------------------

_OPEN_STATES = frozenset({"new", "initial", "needs-translation", "needs-l10n", "needs-adaptation"})


def xliff(data: bytes, limits: Limits) -> Units:  # one handler for two versions
    """The units of an XLIFF file, version 1.2 or 2.

    What is marked as not yet translated is left out, alternatives and notes are not read.
    """
    units = Units("XLIFF")
    languages = ["", ""]

    def note_languages(name: str, given: dict[str, str]) -> None:
        if name == "xliff":
            languages[:] = given.get("srcLang", ""), given.get("trgLang", "")
            units.kind = f"XLIFF {given.get('version', '')[:3]}".strip()
        elif name == "file" and "source-language" in given:
            languages[:] = given["source-language"], given.get("target-language", "")
        units.source = units.source or languages[0]

    _xml.trees(
        data,
        limits,
        frozenset({"trans-unit", "segment"}),
        lambda node: _xliff_unit(node, languages, units, limits),
        outside=note_languages,
    )
    return units


def _xliff_unit(node: _xml.Node, languages: Sequence[str], units: Units, limits: Limits) -> None:
    source, target = node.first("source"), node.first("target")
    state = (target.attribute("state") if target else "") or node.attribute("state")
    if source is None or target is None or state in _OPEN_STATES:
        units.incomplete += 1
        return
    names = (
        source.attribute("lang") or languages[0] or UNNAMED[0],
        target.attribute("lang") or languages[1] or UNNAMED[1],
    )
    if names[0] == names[1]:
        names = (names[0], f"{names[1]}-x-target")
    divided, translated = node.first("seg-source"), target
    parts = _parts(divided) if divided else {}
    others = _parts(translated)
    if parts and parts.keys() == others.keys():
        for key, text in parts.items():
            units.add({names[0]: text, names[1]: others[key]}, limits)
        return
    units.add({names[0]: segment_text(source), names[1]: segment_text(target)}, limits)


def _parts(node: _xml.Node) -> dict[str, str]:
    """The sentences that a tool has divided a unit into."""
    marks = [mark for mark in node.all("mrk") if mark.attribute("mtype") == "seg"]
    return {mark.attribute("mid"): segment_text(mark) for mark in marks}


# --- TBX ------------------------------------------------------------------------------------------


def tbx(data: bytes, limits: Limits) -> Units:
    """The terms of a TBX file: of each concept the first term of each language."""
    found = Units("TBX terms")
    other = 0

    def each(entry: _xml.Node) -> None:
        nonlocal other
        unit: dict[str, str] = {}
        for part in (*entry.all("langSet"), *entry.all("langSec")):
            terms = _terms(part)
            if terms:
                unit.setdefault(part.attribute("lang").strip(), terms[0])
                other += len(terms) - 1
        found.add(unit, limits)

    _xml.trees(data, limits, frozenset({"termEntry", "conceptEntry"}), each)
    if other:
        found.notes.append(f"{other} further terms for the same concept were left out.")
    return found


def _terms(node: _xml.Node) -> list[str]:
    terms, todo = [], node.nodes[::-1]
    while todo:
        one = todo.pop()
        if one.name == "term":
            terms.append(one_line(one.text))
        elif one.name in {"tig", "ntig", "termGrp", "termSec"}:
            todo += one.nodes[::-1]
    return [term for term in terms if term]


# --- PO -------------------------------------------------------------------------------------------

_PO_LINE = re.compile(r"^(?:msgid|msgid_plural|msgstr(?:\[\d+\])?|msgctxt) +\"", re.MULTILINE)
_PO_DATE = re.compile(r'^"(?:POT-Creation|PO-Revision)-Date:[^\n]*\n', re.MULTILINE)
_PO_CHARSET = re.compile(rb"charset=([\w.:-]{1,40})\\n")


def is_po(data: bytes) -> bool:
    """Whether a file is a catalogue of gettext."""
    head = data[:20_000].decode("utf-8", errors="replace")
    return len(_PO_LINE.findall(head)) > 1


def po(data: bytes, limits: Limits, asked: tuple[str, str]) -> Units:
    """The messages of a gettext catalogue; those marked as fuzzy are not approved."""
    try:
        from babel.messages.pofile import PoFileError, read_po  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise FileRefused(
            "needs_extra", "Reading PO needs Babel: pip install 'templora-memory[translation]'."
        ) from error
    hit = _PO_CHARSET.search(data[:20_000])
    name = hit[1].decode("ascii") if hit else "utf-8"
    text = _xml.decoded(data, name if name != "CHARSET" else "utf-8")
    found = Units("PO")
    text = text.removeprefix("\ufeff")
    text = _PO_DATE.sub("", text)  # Babel refuses a file whose dates it cannot read
    try:
        try:
            catalog = read_po(io.StringIO(text), abort_invalid=True, ignore_obsolete=True)
        except (PoFileError, ValueError):
            with redirect_stdout(io.StringIO()):  # Babel prints what it passes over
                catalog = read_po(io.StringIO(text), ignore_obsolete=True)
            found.notes.append("The file has faulty entries, which were passed over.")
    except (PoFileError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise FileRefused("bad_file", "This PO file is damaged: export it again.") from error
    source = asked[0] or UNNAMED[0]
    target = dict(catalog.mime_headers).get("Language") or asked[1] or UNNAMED[1]
    fuzzy = 0
    for message in catalog:
        if not message.id:
            continue
        if message.fuzzy:
            fuzzy += 1
            continue
        ids = message.id if isinstance(message.id, (tuple, list)) else (message.id,)
        texts = message.string if isinstance(message.string, (tuple, list)) else (message.string,)
        pairs = zip(ids, (texts[0], texts[-1])[: len(ids)], strict=False) if texts else ()
        if not any(texts):
            found.incomplete += 1
            continue
        for text, translated in pairs:
            found.add({source: one_line(text or ""), target: one_line(translated or "")}, limits)
    found.source = source
    if fuzzy:
        found.notes.append(f"{fuzzy} translations are marked as fuzzy and were left out.")
    return found


# --- SDLTM ----------------------------------------------------------------------------------------

_STEPS = 50_000_000  # of SQLite's machine
_OFTEN = 10_000


def sdltm(data: bytes, limits: Limits) -> Units:
    """The units of a Trados translation memory that is plain SQLite.

    The file is read in memory; whatever it would run (views, triggers) is bounded and untrusted.
    """
    found = Units("SDLTM")
    steps = 0

    def enough() -> int:
        nonlocal steps
        steps += _OFTEN
        return int(steps > _STEPS)

    try:
        with closing(sqlite3.connect(":memory:")) as base:
            base.deserialize(data)
            base.set_progress_handler(enough, _OFTEN)
            base.execute("PRAGMA trusted_schema = OFF")
            base.execute("PRAGMA query_only = ON")
            memories = base.execute(
                "SELECT source_language, target_language FROM translation_memories LIMIT 2"
            ).fetchall()
            languages = [str(value)[:40] for value in memories[0]] if memories else list(UNNAMED)
            rows = base.execute(
                "SELECT source_segment, target_segment FROM translation_units LIMIT ?",
                (limits.segments + 1,),
            )
            for row in rows:
                texts = [_sdl_text(cell, limits) for cell in row]
                found.add(dict(zip(languages, texts, strict=True)), limits)
    except (sqlite3.Error, OverflowError, ValueError) as error:
        if isinstance(error, FileRefused):
            raise
        raise FileRefused(
            "bad_file", "This database is no translation memory of Trados (SDLTM), or damaged."
        ) from error
    found.source = languages[0]
    return found


def _sdl_text(cell: Any, limits: Limits) -> str:
    """The text of a segment as Trados keeps it: XML with texts and tags."""
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", errors="replace")
    if not isinstance(cell, str):
        return ""
    if not cell.lstrip("\ufeff").startswith("<"):
        return one_line(cell)
    parts: list[str] = []

    def each(node: _xml.Node) -> None:
        for inner in node.nodes:
            if inner.name == "Text":
                value = inner.first("Value")
                parts.append(value.text if value else inner.text)
            elif inner.name == "Tag" and "TextPlaceholder" in inner.text:
                equivalent = inner.first("TextEquivalent")
                parts.append(equivalent.text if equivalent else " ")

    _xml.trees(cell.encode("utf-8", "replace"), limits, frozenset({"Elements"}), each)
    return one_line("".join(parts))


# --- tab-separated lines --------------------------------------------------------------------------

_SOURCE_WORDS = frozenset(
    "source src original quelle quelltext ausgangstext origen origine fuente 原文 "
    "source_text source_segment sourcetext".split()
)
_TARGET_WORDS = frozenset(
    "target tgt translation translated übersetzung ziel zieltext destino cible traduction "
    "traducción 译文 翻译 訳文 target_text target_segment targettext mt reference".split()
)
_ALL_QUOTED = 0.9


def lines(data: bytes, limits: Limits, asked: tuple[str, str]) -> Units:
    """Segments as lines; a first line may name the columns, cells may be quoted."""
    if is_po(data):
        return po(data, limits, asked)
    if len(data) > limits.text * 8:
        raise FileRefused(
            "too_large",
            f"This text has {len(data) / 1e6:.1f} MB, the limit is {limits.text * 8 / 1e6:.0f} MB: "
            "split it.",
        )
    text, guessed = decode(data)
    found = Units("tab-separated lines")
    if re.search(r"^msg(?:id|str)\b", text[:5000], re.MULTILINE):
        raise FileRefused(
            "unsupported_type",
            "This is a damaged PO file, not lines of a segment and a translation.",
        )
    rows = _rows(text.removeprefix("\ufeff"), limits)
    columns, names = (0, 1), asked
    if rows and (header := _header(rows[0], asked)) is not None:
        columns, names = header
        rows = rows[1:]
    found.source = first = names[0] or UNNAMED[0]
    second = names[1] or UNNAMED[1]
    if _languages.normal(first) == _languages.normal(second):
        second = UNNAMED[1]
    for row in rows:
        cells = [one_line(row[place]) if place < len(row) else "" for place in columns]
        if all(cells):
            found.add({first: cells[0], second: cells[1]}, limits)
        else:
            found.incomplete += 1
    if guessed:
        found.notes.append("The encoding was guessed; check that special characters are right.")
    return found


def _rows(text: str, limits: Limits) -> list[list[str]]:
    """The cells of every line that is not empty; quotes are a spreadsheet's only if all fit."""
    split = [line.split("\t") for line in text.split("\n", limits.segments * 4) if line.strip()]
    if '"' not in text:
        return split
    try:
        quoted = [row for row in csv.reader(io.StringIO(text, newline=""), "excel-tab", strict=True)
                  if any(cell.strip() for cell in row)]  # fmt: skip
    except csv.Error:
        return split
    cells = [cell.strip() for row in split for cell in row if cell.strip()]
    whole = sum(cell.startswith('"') and cell.endswith('"') for cell in cells) / max(1, len(cells))
    needed = '""' in text or len(quoted) != len(split)
    return quoted if needed or whole >= _ALL_QUOTED else split


def _header(
    row: list[str], asked: tuple[str, str]
) -> tuple[tuple[int, int], tuple[str, str]] | None:
    """Which columns hold source and target, and their languages, if a line names them."""
    cells = [one_line(cell) for cell in row]
    words = [cell.casefold().replace(" ", "_") for cell in cells]
    left = next((i for i, word in enumerate(words) if word in _SOURCE_WORDS), None)
    right = next((i for i, word in enumerate(words) if word in _TARGET_WORDS), None)
    if left is not None and right is not None:
        return (left, right), asked
    codes = [cell if _languages.is_code(cell) else _languages.WORDS.get(word.partition("_")[0])
             for cell, word in zip(cells, words, strict=True)]  # fmt: skip
    named = [(place, code) for place, code in enumerate(codes) if code]
    if len(named) < 2 or len(named) < len([cell for cell in cells if cell]):  # noqa: PLR2004  # a pair
        return None
    return _asked_columns(named, asked)


def _asked_columns(
    named: list[tuple[int, str]], asked: tuple[str, str]
) -> tuple[tuple[int, int], tuple[str, str]]:
    """The columns of the asked languages; refuses a file of other languages."""
    source, target = asked
    known = [code for _, code in named]
    left = _languages.best(source, known) if source else None
    right = _languages.best(target, known) if target else None
    if (source and left is None) or (target and right is None):
        shown = " and ".join(known[:10])
        raise FileRefused("which_language", f"This file translates between {shown}.")
    others = [code for code in known if code not in {left, right}]
    left = left or (others.pop(0) if others else known[0])
    if right is None:
        if len(others) > 1:
            raise FileRefused(
                "which_language",
                "This file has translations into several languages: name one of them "
                f"({', '.join(others[:10])}).",
            )
        right = others[0] if others else next(code for code in known if code != left)
    places = {code: place for place, code in reversed(named)}
    return (places[left], places[right]), (left, right)
