"""Translation memories -> `Segments`: TMX, XLIFF, PO, TBX, SDLTM, tab-separated lines.

Every reader makes units (text by language), and the two languages are chosen here. A translation
tool's own marks inside a segment are left out, the text around and below them stays.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from templora_memory.domain.messages import Message
from templora_memory.importers import _languages, _xml
from templora_memory.importers._text import repaired
from templora_memory.importers._values import FileRefused, Limits, Segment, Segments

_ANY = {"*all*", ""}
UNNAMED = ("source", "target")
"""What stands for the languages where nobody names them."""
_SQLITE = b"SQLite format 3\0"


@dataclass(slots=True)
class Units:
    """What a reader found.

    Args:
        units: text by language, in the order of the file.
        source: the source language that the file names.
        kind: the format, in words.
        cut: whether there were more than may be read.
        notes: what was left out or guessed.
        incomplete: units that were left out for lack of a translation.
    """

    kind: str
    units: list[dict[str, str]] = field(default_factory=list)
    source: str = ""
    cut: bool = False
    notes: list[str] = field(default_factory=list)
    incomplete: int = 0

    def add(self, unit: dict[str, str], limits: Limits) -> None:
        """Keep a unit, unless there are too many."""
        if len(self.units) < limits.segments:
            self.units.append(unit)
        else:
            self.cut = True


def load_segments(
    data: bytes | os.PathLike[str],
    *,
    source: str = "",
    target: str = "",
    limits: Limits | None = None,
) -> Segments:
    """Segments and their approved translations.

    From TMX, XLIFF 1.2 and 2, PO (needs the extra `translation`), TBX, SDLTM, and tab-separated
    lines: a segment and its translation, a first line may name the columns. Languages are matched
    by BCP 47: ``en`` finds ``en-GB``, ``fr-CA`` finds ``fr``.

    Args:
        data: the bytes, or a path to read them from.
        source: language to translate from; "": the one that the file names, or its first.
        target: language to translate into; "": the only other one.
        limits: what a file may ask for at most; None: the defaults.

    Raises:
        FileRefused: `too_large`, `unsupported_type`, `bad_xml`, `bad_file`, `bad_encoding`,
            `which_language`, `needs_extra`, `empty`.
        OSError: the path cannot be read.
    """
    most = limits or Limits()
    if not isinstance(data, bytes):
        with Path(data).open("rb") as stream:
            data = stream.read(most.file + 1)
    if len(data) > most.file:
        raise FileRefused("too_large", f"This file is larger than {most.file / 1e6:.0f} MB.")
    found = _units(data, most, (source, target))
    first, second, warnings = _languages.choose(
        found.units,
        named="" if found.source in _ANY else found.source,
        source=source.strip(),
        target=target.strip(),
    )
    pairs, skipped = [], found.incomplete
    for unit in found.units:
        pair = _pair(unit, first, second)
        if pair is None:
            skipped += 1
        else:
            pairs.append(pair)
    if not pairs:
        raise FileRefused(
            "empty",
            "This file has no segment with a translation. Use TMX, XLIFF, PO, TBX, or lines of a "
            "segment, a tab and its translation.",
        )
    return Segments(
        pairs=tuple(pairs),
        source_language=first if first != UNNAMED[0] else "",
        target_language=second if second != UNNAMED[1] else "",
        skipped=skipped,
        source_format=found.kind,
        warnings=(*found.notes, *warnings, *_counted(skipped, cut=found.cut, limits=most)),
    )


def _units(data: bytes, limits: Limits, asked: tuple[str, str]) -> Units:
    # imported here: these readers use the classes above
    from templora_memory.importers import _bilingual  # noqa: PLC0415

    if data.startswith(_SQLITE):
        return _bilingual.sdltm(data, limits)
    if _xml.is_xml(data):
        readers: dict[str, Callable[[bytes, Limits], Units]] = {
            "tmx": tmx,
            "xliff": _bilingual.xliff,
            "martif": _bilingual.tbx,
            "tbx": _bilingual.tbx,
        }
        reader = readers.get(_xml.root_of(data))
        if reader is None:
            _xml.trees(data, limits, frozenset(), lambda _: None)  # damaged is another complaint
            raise FileRefused(
                "unsupported_type", "This XML is no translation memory (TMX, XLIFF, TBX)."
            )
        return reader(data, limits)
    return _bilingual.lines(data, limits, asked)


def is_segments(data: bytes, filename: str = "") -> bool:
    """Whether a file is a translation memory, by its content; lines with tabs by their name."""
    from templora_memory.importers import _bilingual  # noqa: PLC0415

    if data.startswith(_SQLITE):
        return True
    if _xml.is_xml(data):
        return _xml.root_of(data) in {"tmx", "xliff", "martif", "tbx"}
    return filename.lower().endswith((".tsv", ".tab")) or _bilingual.is_po(data)


def _pair(unit: dict[str, str], source: str, target: str) -> Segment | None:
    """The two texts of a unit; they are never of one and the same language."""
    second = _languages.best(target, unit) if target else None
    left = [name for name in unit if name != second]
    first = _languages.best(source, left)
    if first is None or second is None:
        return None
    text, translated = unit[first], unit[second]
    return Segment(text, translated) if text and translated else None


def turns(pairs: Iterable[Segment]) -> tuple[Message, ...]:
    """Each segment as a turn, its translation the answer: what the recipe "pairs" learns from."""
    return tuple(
        message
        for pair in pairs
        for message in (Message("user", pair.source), Message("assistant", pair.target))
    )


def _counted(skipped: int, *, cut: bool, limits: Limits) -> tuple[str, ...]:
    noted = [f"{skipped} segments have no translation and were left out."] if skipped else []
    noted += [f"Only the first {limits.segments:,} segments were read."] if cut else []
    return tuple(noted)


# --- the text of a segment ------------------------------------------------------------------------

_GONE = frozenset({"bpt", "ept", "it", "ph", "ut"})  # what they hold is the tool's, not text
_POINTS = frozenset({"ph", "ut", "x", "bx", "ex"})  # stand for something at this place
_PARTING = re.compile(r"(?i)\b(?:br|lb|tab|p|li|td|tr|div|cell|para\w*)\b|\\[nt]|\n")
_BEFORE = frozenset("([{<¿¡«„“‘-/'’")
_BREAK = "\ue000"  # a mark that stands for something, until it is known what is beside it


def one_line(text: str) -> str:
    """A segment on one line."""
    return " ".join(filter(None, (line.strip() for line in repaired(text).splitlines())))


def segment_text(node: _xml.Node) -> str:
    """The text of a segment without its tool's marks, which part words like a space."""
    parts: list[str] = []
    todo: list[tuple[_xml.Node | str, bool]] = [(item, True) for item in node.inside[::-1]]
    while todo:
        item, shown = todo.pop()
        if isinstance(item, str):
            if shown:
                parts.append(item.replace(_BREAK, ""))
            continue
        if item.name == "sub":  # text of its own, such as a footnote's or a picture's
            todo.append((_xml.Node("end", {}), True))
            todo += [(inner, True) for inner in item.inside[::-1]]
            parts.append(_BREAK)
        elif item.name == "end":
            parts.append(_BREAK)
        elif item.name == "cp":
            parts.append(_code_point(item.attribute("hex")))
        elif item.name in _GONE or item.name in _POINTS:
            if item.name in _POINTS or _PARTING.search(item.text):
                parts.append(_BREAK)
            todo += [(inner, False) for inner in item.inside[::-1]]
        else:
            todo += [(inner, shown) for inner in item.inside[::-1]]
    return one_line(_joined("".join(parts)))


def _code_point(digits: str) -> str:
    try:
        return chr(int(digits, 16))
    except (ValueError, OverflowError):
        return ""


def _joined(text: str) -> str:
    pieces = re.split(f"{_BREAK}+", text)
    joined = pieces[0]
    for piece in pieces[1:]:
        before, after = joined[-1:], piece[:1]
        parts = (
            before and after and not before.isspace() and before not in _BEFORE
            and after.isalnum() and not _spaceless(before) and not _spaceless(after)
        )  # fmt: skip
        joined += (" " if parts else "") + piece
    return joined


def _spaceless(char: str) -> bool:
    """Whether a character is of a script that puts no spaces between words."""
    return "\u2e80" <= char <= "\ua4cf" or "\u0e00" <= char <= "\u0eff" or char >= "\uf900"


# --- TMX ------------------------------------------------------------------------------------------


def tmx(data: bytes, limits: Limits) -> Units:
    """The units of a TMX file, of any version."""
    found = Units("TMX")
    other = 0

    def each(node: _xml.Node) -> None:
        nonlocal other
        if node.name == "header":
            found.source = node.attribute("srclang").strip()
            return
        unit: dict[str, str] = {}
        for variant in node.all("tuv"):
            segment = variant.first("seg")
            if segment is None:
                continue
            language = variant.attribute("lang").strip()
            if language in unit:
                other += 1
            else:
                unit[language] = segment_text(segment)
        found.add(unit, limits)

    _xml.trees(data, limits, frozenset({"header", "tu"}), each)
    if other:
        found.notes.append(f"{other} further translations of the same segment were left out.")
    return found
