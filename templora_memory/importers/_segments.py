"""Translation memories -> `Segments`: TMX, and tab-separated lines.

TMX is read by expat, told to trust nothing: no entity may be declared, nothing outside the file is
ever opened, and depth and number of units are bounded. A translation tool's own marks inside a
segment (``bpt``, ``ph`` and so on) are left out, the text around them stays.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias
from xml.parsers import expat

from templora_memory.domain.messages import Message
from templora_memory.importers._text import decode, repaired
from templora_memory.importers._values import FileRefused, Limits, Segment, Segments

_MARKS = frozenset({"bpt", "ept", "it", "ph", "ut"})
_LANGUAGE = re.compile(r"(?:[a-z]{2,3}|[A-Z]{2,3})(?:[-_][A-Za-z0-9]{1,8}){0,4}")
_HEADER = re.compile(r"(?:[a-z]{2}|[A-Z]{2})(?:[-_][A-Za-z0-9]{1,8}){0,4}")
_ENCODING = re.compile(rb"""\A<\?xml[^>]{0,80}?encoding=["']([\w.-]{1,40})["']""")
_PLAIN = re.compile(rb"utf-?8|utf-?16|us-ascii|iso-8859-\d\d?|windows-125\d|cp125\d", re.IGNORECASE)
"""Encodings that may be declared: any other would be looked up among Python's codecs."""
_ANY = "*all*"
_SHOWN = 10
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")

_Unit: TypeAlias = dict[str, str]
"""Text by language, in the order of the file."""


def load_segments(
    data: bytes | os.PathLike[str],
    *,
    source: str = "",
    target: str = "",
    limits: Limits | None = None,
) -> Segments:
    """Segments and their approved translations, from TMX or tab-separated lines.

    Tab-separated lines are a segment and its translation, further columns are ignored; a first
    line of two language codes names them. In TMX ``en`` finds ``en-GB`` as well.

    Args:
        data: the bytes, or a path to read them from.
        source: language to translate from; "": the one that the file names, or its first.
        target: language to translate into; "": the only other one.
        limits: what a file may ask for at most; None: the defaults.

    Raises:
        FileRefused: `too_large`, `unsupported_type`, `bad_xml`, `which_language`, `empty`.
        OSError: the path cannot be read.
    """
    most = limits or Limits()
    if not isinstance(data, bytes):
        with Path(data).open("rb") as stream:
            data = stream.read(most.file + 1)
    if len(data) > most.file:
        raise FileRefused("too_large", f"This file is larger than {most.file / 1e6:.0f} MB.")
    read = _tmx if _is_xml(data) else _tsv
    found = read(data, source, target, most)
    if not found.pairs:
        raise FileRefused(
            "empty",
            "This file has no segment with a translation. Use TMX, or lines of a segment, a tab "
            "and its translation.",
        )
    return found


def turns(pairs: Iterable[Segment]) -> tuple[Message, ...]:
    """Each segment as a turn, its translation the answer: what the recipe "pairs" learns from."""
    return tuple(
        message
        for pair in pairs
        for message in (Message("user", pair.source), Message("assistant", pair.target))
    )


def _is_xml(data: bytes) -> bool:
    """Whether the file begins with a tag, in any encoding that XML may have."""
    return _head(data).startswith(b"<")


def _head(data: bytes) -> bytes:
    head = data[:400]
    for mark in _BOMS:
        head = head.removeprefix(mark)
    return head.replace(b"\0", b"").lstrip()


# --- TMX ----------------------------------------------------------------------------------------


def _tmx(data: bytes, source: str, target: str, limits: Limits) -> Segments:
    declared = _ENCODING.match(_head(data))
    if declared and not _PLAIN.fullmatch(declared[1]):
        raise FileRefused("bad_xml", "This XML has a strange encoding: save it as UTF-8.")
    reader = _Reader(limits)
    try:
        reader.parser.Parse(data, True)  # noqa: FBT003  # expat takes it by position
    except FileRefused:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise FileRefused(
            "bad_xml", "The XML in this file is damaged: export the translation memory again."
        ) from error
    languages = list(dict.fromkeys(name for unit in reader.units for name in unit))
    first = source or (reader.source if reader.source != _ANY else "")
    first = first or next(iter(languages), "")
    second = target or _only_other(languages, first)
    pairs, skipped = [], 0
    for unit in reader.units:
        text, translated = _spoken(unit, first), _spoken(unit, second)
        if text and translated:
            pairs.append(Segment(text, translated))
        else:
            skipped += 1
    return Segments(
        pairs=tuple(pairs),
        source_language=first,
        target_language=second,
        skipped=skipped,
        source_format="TMX",
        warnings=_warnings(skipped, cut=reader.cut, limits=limits),
    )


def _only_other(languages: Iterable[str], source: str) -> str:
    others = [name for name in languages if not _matches(source, name)]
    if len(others) > 1:
        shown = ", ".join(name for name in others[:_SHOWN] if _LANGUAGE.fullmatch(name))
        raise FileRefused(
            "which_language",
            f"This file has translations into several languages: name one of them ({shown}).",
        )
    return next(iter(others), "")


def _matches(wanted: str, found: str) -> bool:
    wanted, found = _normal(wanted), _normal(found)
    return found == wanted or found.startswith(f"{wanted}-")


def _normal(language: str) -> str:
    return language.strip().replace("_", "-").lower()


def _spoken(unit: Mapping[str, str], language: str) -> str:
    return next((text for name, text in unit.items() if _matches(language, name)), "")


class _Reader:
    """Collects the units of a TMX file while expat finds its parts."""

    def __init__(self, limits: Limits) -> None:
        self.units: list[_Unit] = []
        self.source = ""
        self.cut = False
        self._limits = limits
        self._path: list[str] = []
        self._unit: _Unit = {}
        self._language = ""
        self._text: list[str] | None = None
        self._marks = 0
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._begin
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._said
        self.parser.EntityDeclHandler = self._refuse_entity
        self.parser.SkippedEntityHandler = self._refuse_entity

    def _refuse_entity(self, *_: object) -> None:
        raise FileRefused("bad_xml", "This XML has entities of its own, which are not read.")

    def _begin(self, name: str, given: dict[str, str]) -> None:
        if not self._path and name != "tmx":
            raise FileRefused("unsupported_type", "This XML is no translation memory (TMX).")
        if len(self._path) >= self._limits.depth:
            raise FileRefused("bad_xml", "The XML is nested too deeply for a translation memory.")
        self._path.append(name)
        if name == "header":
            self.source = given.get("srclang", "").strip()
        elif name == "tu":
            self._unit = {}
        elif name == "tuv":
            self._language = given.get("xml:lang", given.get("lang", "")).strip()
        elif name == "seg":
            self._text = []
        elif name in _MARKS:
            self._marks += 1

    def _said(self, text: str) -> None:
        if self._text is not None and not self._marks:
            self._text.append(text)

    def _end(self, name: str) -> None:
        self._path.pop()
        if name in _MARKS:
            self._marks -= 1
        elif name == "seg" and self._text is not None:
            self._unit.setdefault(self._language, _one_line("".join(self._text)))
            self._text = None
        elif name == "tu" and len(self.units) < self._limits.segments:
            self.units.append(self._unit)
        elif name == "tu":
            self.cut = True


# --- tab-separated lines ------------------------------------------------------------------------


def _tsv(data: bytes, source: str, target: str, limits: Limits) -> Segments:
    if len(data) > limits.text:
        raise FileRefused(
            "too_large",
            f"This text has {len(data) / 1e6:.1f} MB, the limit is {limits.text / 1e6:.0f} MB.",
        )
    text, guessed = decode(data)
    pairs: list[Segment] = []
    languages, skipped, cut = (source, target), 0, False
    swapped = False
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n")):
        if not line.strip():
            continue
        cells = [_one_line(cell) for cell in line.split("\t", 2)[:2]]
        if number == 0 and len(cells) == len(languages) and all(map(_HEADER.fullmatch, cells)):
            swapped = _backwards(cells, source, target)
            languages = (cells[1], cells[0]) if swapped else (cells[0], cells[1])
            continue
        if len(cells) < len(languages) or not all(cells):
            skipped += 1
        elif len(pairs) >= limits.segments:
            cut = True
            break
        else:
            pairs.append(Segment(cells[1], cells[0]) if swapped else Segment(cells[0], cells[1]))
    noted = _warnings(skipped, cut=cut, limits=limits)
    if guessed:
        noted += ("The encoding was guessed; check that special characters are right.",)
    return Segments(
        pairs=tuple(pairs),
        source_language=languages[0],
        target_language=languages[1],
        skipped=skipped,
        source_format="tab-separated lines",
        warnings=noted,
    )


def _backwards(header: list[str], source: str, target: str) -> bool:
    """Whether the columns stand the other way round; refuses a file of other languages."""
    for first, second in (header, header[::-1]):
        if (not source or _matches(source, first)) and (not target or _matches(target, second)):
            return first != header[0]
    raise FileRefused(
        "which_language", f"This file translates between {header[0]} and {header[1]}."
    )


def _one_line(text: str) -> str:
    return " ".join(filter(None, (line.strip() for line in repaired(text).splitlines())))


def _warnings(skipped: int, *, cut: bool, limits: Limits) -> tuple[str, ...]:
    noted = [f"{skipped} segments have no translation and were left out."] if skipped else []
    noted += [f"Only the first {limits.segments:,} segments were read."] if cut else []
    return tuple(noted)
