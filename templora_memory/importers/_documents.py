"""Characters and books as documents: text, Markdown, YAML, PDF, DOCX, RTF, EPUB, HTML."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import PurePath
from posixpath import dirname, join, normpath
from typing import Any
from urllib.parse import unquote

from templora_memory.importers import _markup, _xml, _zip
from templora_memory.importers._cards import character, is_card
from templora_memory.importers._encoding import decode
from templora_memory.importers._text import one_line, plain, repaired, tidy
from templora_memory.importers._values import Character, FileRefused, Limits

_HEADING = re.compile(r"\s{0,1000}#{1,3}[ \t]+(.{1,200})")
_HEADING_MARKS = re.compile(r"^ {0,3}#{1,6}[ \t]+", re.MULTILINE)
_PAGE_LINE = re.compile(
    r"(?:(?:page|seite|página|pagina|pág\.|p\.)[ \t]*)?[-–]?[ \t]*\d{1,4}"
    r"(?:[ \t]*(?:/|of|von|de|sur|di)[ \t]*\d{1,4})?[ \t]*[-–]?",
    re.IGNORECASE,
)
_TITLE_LETTERS = 60
_FRONT = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_NAME_LINE = re.compile(r"^name[ \t]*:[ \t]*(.{1,200})$", re.MULTILINE | re.IGNORECASE)
_FIELD = re.compile(r"^([a-z_]{2,30})[ \t]*:", re.MULTILINE)
_NAMES = frozenset({"name", "bot", "char_name", "spec"})
_FIELDS = frozenset(
    "context greeting char_persona char_greeting description personality first_mes scenario "
    "mes_example example_dialogue system_prompt data persona world_scenario".split()
)
_SECTIONS = frozenset(
    "about appearance backstory background basics bio biography character description details "
    "example examples family general goals greeting history info information introduction "
    "likes looks lore notes outfit overview personality profile relationships scenario setting "
    "skills speech story summary traits".split()
)
_GUESSED = "The encoding was guessed; check that special characters are right."


def stem(filename: str) -> str:
    """A file's name as a name for a person."""
    return one_line(PurePath(filename.replace("\\", "/")).stem.replace("_", " "))


def looks_like_yaml(text: str) -> bool:
    """Whether a text has the fields of a YAML character at its left margin."""
    found = {hit[1] for hit in _FIELD.finditer(text[:20_000])}
    return bool(found & _NAMES) and bool(found & _FIELDS)


def read_text(data: bytes, filename: str, limits: Limits) -> Character:
    """A bio as text or Markdown; its name is a front matter's, the first heading's, the file's.

    Raises:
        FileRefused: `too_large`, `unsupported_type`, `bad_encoding`, `empty`.
    """
    if len(data) > limits.text:
        raise FileRefused(
            "too_large",
            f"This text has {len(data) / 1e6:.1f} MB, the limit is {limits.text / 1e6:.0f} MB.",
        )
    text, guessed = decode(data)
    if looks_like_yaml(text) and (found := read_yaml(text, filename, limits)) is not None:
        return found
    return from_text(text, filename, guessed=guessed)


def from_text(text: str, filename: str, *, guessed: bool = False) -> Character:
    """A text as a bio.

    Raises:
        FileRefused: `empty`.
    """
    name = ""
    text = repaired(text)
    if front := _FRONT.match(text):
        hit = _NAME_LINE.search(front[1])
        name = one_line(hit[1].strip("\"' ")) if hit else ""
        text = text[front.end() :]
    if heading := _HEADING.match(text):  # a later one is about a part
        title = one_line(heading[1].strip("*_ #"))
        name = name or ("" if title.lower().strip(":") in _SECTIONS else title)
    kind = "Markdown" if filename.lower().endswith((".md", ".markdown")) else "text"
    body = plain(_HEADING_MARKS.sub("", text) if kind == "Markdown" else text)
    if not body:
        raise FileRefused("empty", "This file has no text: there is nothing to absorb.")
    return Character(
        name=name or stem(filename) or "Nameless",
        description=body,
        source_format=kind,
        warnings=(_GUESSED,) if guessed else (),
    )


def read_yaml(  # noqa: C901  # what is hostile has many forms
    text: str, filename: str, limits: Limits
) -> Character | None:
    """A character as YAML; None if it is a text after all. Every scalar is text.

    Raises:
        FileRefused: `needs_extra`, `too_large`, `bad_file`, and what a card is refused for.
    """
    named = filename.lower().endswith((".yaml", ".yml"))
    try:
        import yaml  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise FileRefused(
            "needs_extra", "Reading YAML needs PyYAML: pip install 'templora-memory[importers]'."
        ) from error
    if len(text) > limits.yaml:
        raise FileRefused(
            "too_large", f"This YAML has over {limits.yaml / 1e6:.1f} MB: save it as JSON or text."
        )
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise FileRefused("bad_file", "This YAML has anchors or aliases: write it without.")
            if "python/" in (getattr(event, "tag", None) or ""):
                raise FileRefused("bad_file", "This YAML has tags of a program: write it without.")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > limits.depth:
                raise FileRefused("bad_file", "This YAML is nested too deeply for a character.")
        value: Any = yaml.load(text, Loader=loader)  # noqa: S506  # makes only text
    except (yaml.YAMLError, RecursionError) as error:
        if not named:
            return None
        raise FileRefused("bad_file", "This YAML is damaged: check its indentation.") from error
    if not is_card(value):
        if not named:
            return None
        raise FileRefused("not_a_card", "This YAML has no name with a context or a greeting.")
    return character(value, source="YAML", filename=stem(filename))


# --- documents that are read in a process of their own --------------------------------------------

_WAITED = 12  # times its processor time may a reader take on a busy machine
_PACKAGES = {"pdf": "pypdf", "docx": "mammoth", "rtf": "striprtf"}
_EXTRAS = {"pdf": "importers", "docx": "documents", "rtf": "documents"}


def _isolated(kind: str, data: bytes, limits: Limits) -> dict[str, Any]:
    """What the reader of this kind of document answers.

    Raises:
        FileRefused: `needs_extra`, `bad_file`.
    """
    shown = kind.upper()
    order = {
        "kind": kind,
        "pages": limits.pages,
        "text": limits.text,
        "seconds": limits.pdf_seconds,
    }
    command = [sys.executable, "-m", "templora_memory.importers._isolated", json.dumps(order)]
    try:
        done = subprocess.run(  # noqa: S603  # our own module
            command,
            input=data,
            capture_output=True,
            timeout=limits.pdf_seconds * _WAITED,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise FileRefused(
            "bad_file", f"This {shown} takes too long to read: save it as text."
        ) from error
    answer: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 and done.stdout else {}
    if answer.get("error") == "needs_extra":
        raise FileRefused(
            "needs_extra",
            f"Reading {shown} needs {_PACKAGES[kind]}: "
            f"pip install 'templora-memory[{_EXTRAS[kind]}]'.",
        )
    if not {"text", "html", "pages"} & answer.keys():
        raise FileRefused(
            "bad_file",
            f"This {shown} is damaged, encrypted or too costly to read: save it as text.",
        )
    return answer


def _bounded(text: str, limits: Limits) -> str:
    if len(text) > limits.text:
        raise FileRefused(
            "too_large",
            f"This document has {len(text) / 1e6:.1f} million characters, the limit is "
            f"{limits.text / 1e6:.0f}: split it.",
        )
    return text


def read_pdf(data: bytes, filename: str, limits: Limits) -> Character:
    """The text of a PDF as a bio, without the numbers of its pages.

    Its name is the document's title, a first line that reads as one, or the file's.

    Raises:
        FileRefused: `needs_extra`, `bad_file`, `pdf_no_text`.
    """
    answer = _isolated("pdf", data, limits)
    pages = [_without_page_lines(str(page)) for page in answer["pages"]]
    body = plain("\n\n".join(page for page in pages if page))
    if not body:
        raise FileRefused("pdf_no_text", "This PDF has no text, only pictures: paste the bio.")
    cut = (f"Only the first {limits.pages} pages were read.",) if answer.get("cut") else ()
    return Character(
        name=one_line(str(answer.get("title") or ""))
        or _title(body)
        or stem(filename)
        or "Nameless",
        description=body,
        source_format="PDF",
        warnings=cut,
    )


def _without_page_lines(page: str) -> str:
    """Return the text of a page without lines at its edges that only number it."""
    lines = page.strip().split("\n")
    while lines and _PAGE_LINE.fullmatch(lines[0].strip()):
        del lines[0]
    while lines and _PAGE_LINE.fullmatch(lines[-1].strip()):
        del lines[-1]
    return "\n".join(lines).strip()


def _title(body: str) -> str:
    """Return the first line if it reads as a title; empty if it is a sentence, or all there is."""
    first, _, rest = body.partition("\n")
    line = one_line(first)
    reads_so = rest.strip() and len(line) <= _TITLE_LETTERS and line[-1:].isalnum()
    return line if reads_so and line.lower() not in _SECTIONS else ""


def read_docx(data: bytes, filename: str, limits: Limits) -> Character:
    """The text of a DOCX as a bio.

    Raises:
        FileRefused: `needs_extra`, `bad_file`, `too_large`, `empty`.
    """
    answer = _isolated("docx", data, limits)
    text, _ = _markup.document(_bounded(str(answer["html"]), limits))
    left = int(answer.get("pictures", 0))
    noted = (f"Left out: {left} picture{'' if left == 1 else 's'}.",) if left else ()
    return _document(text, "", filename, "DOCX", noted)


def read_rtf(data: bytes, filename: str, limits: Limits) -> Character:
    """The text of an RTF as a bio.

    Raises:
        FileRefused: `needs_extra`, `bad_file`, `too_large`, `empty`.
    """
    if len(data) > limits.text * 4:
        raise FileRefused("too_large", f"This RTF is larger than {limits.text * 4 / 1e6:.0f} MB.")
    answer = _isolated("rtf", data, limits)
    return _document(_bounded(str(answer["text"]), limits), "", filename, "RTF")


def read_html(data: bytes, filename: str, limits: Limits) -> Character:
    """What a page shows, as a bio.

    Raises:
        FileRefused: `too_large`, `bad_encoding`, `empty`.
    """
    if len(data) > limits.text:
        raise FileRefused("too_large", f"This page is larger than {limits.text / 1e6:.0f} MB.")
    text, guessed = _html_text(data)
    body, title = _markup.document(text)
    return _document(body, title, filename, "HTML", (_GUESSED,) if guessed else ())


_META = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?([\w.:-]{1,40})""", re.IGNORECASE)


def _html_text(data: bytes) -> tuple[str, bool]:
    """A page as text, in the encoding that it declares, if that fits."""
    hit = _META.search(data[:4000])
    if hit and b"\0" not in data[:1000]:
        try:
            return _xml.decoded(data, hit[1].decode("ascii")), False
        except FileRefused:
            pass  # declared wrongly: a guess is better
    return decode(data)


def _document(
    text: str, title: str, filename: str, kind: str, warnings: tuple[str, ...] = ()
) -> Character:
    body = tidy(repaired(text).replace("\u00a0", " "))
    if not body:
        raise FileRefused(
            "empty", f"This {kind} has no text, perhaps only pictures: paste the text."
        )
    return Character(
        name=one_line(title) or stem(filename) or "Nameless",
        description=body,
        source_format=kind,
        warnings=warnings,
    )


# --- EPUB -----------------------------------------------------------------------------------------

_ROOM = 16  # of a page with its markup, to its text


def read_epub(archive: zipfile.ZipFile, filename: str, limits: Limits) -> Character:
    """The chapters of a book, in the order in which they are read.

    Raises:
        FileRefused: `bad_file`, `bad_xml`, `encrypted_zip`, `too_large`, `empty`.
    """
    names = set(archive.namelist())
    if "META-INF/rights.xml" in names or _locked(archive, names, limits):
        raise FileRefused(
            "encrypted_zip", "This book is locked against copying and cannot be read."
        )
    package = _package(archive, names, limits)
    chapters: list[str] = []
    room, missing = limits.text, 0
    for path in package.chapters:
        if path not in names:
            missing += 1
            continue
        page, _ = _html_text(_zip.member(archive, path, limits.text * _ROOM))
        text, _ = _markup.document(page)
        room -= len(text)
        if room < 0:
            raise FileRefused(
                "too_large",
                f"This book has over {limits.text / 1e6:.0f} million characters: split it.",
            )
        if text.strip():
            chapters.append(text.strip())
    noted = (f"{missing} parts that the book names are not in it.",) if missing else ()
    return _document("\n\n".join(chapters), package.title, filename, "EPUB", noted)


def _locked(archive: zipfile.ZipFile, names: set[str], limits: Limits) -> bool:
    """Whether more than fonts is encrypted."""
    if "META-INF/encryption.xml" not in names:
        return False
    found: list[str] = []
    body = _zip.member(archive, "META-INF/encryption.xml", limits.text)
    _xml.trees(
        body, limits, frozenset({"CipherReference"}), lambda n: found.append(n.attribute("URI"))
    )
    return any(not path.lower().endswith((".ttf", ".otf", ".woff", ".woff2")) for path in found)


class _Package:
    def __init__(self) -> None:
        self.title = ""
        self.chapters: list[str] = []


def _package(archive: zipfile.ZipFile, names: set[str], limits: Limits) -> _Package:
    """The title of a book and the paths of its chapters."""
    places: list[str] = []
    if "META-INF/container.xml" in names:
        body = _zip.member(archive, "META-INF/container.xml", limits.text)
        wanted = frozenset({"rootfile"})
        _xml.trees(body, limits, wanted, lambda n: places.append(n.attribute("full-path")))
    path = next((place for place in places if place in names), None)
    path = path or next((name for name in sorted(names) if name.endswith(".opf")), None)
    if path is None:
        raise FileRefused("bad_file", "This EPUB has no list of its chapters: it is damaged.")
    package, items, spine = _Package(), dict[str, str](), list[str]()

    def each(node: _xml.Node) -> None:
        if node.name == "title":
            package.title = package.title or one_line(node.text)
        elif node.name == "item":
            target = normpath(join(dirname(path), unquote(node.attribute("href"))))
            items[node.attribute("id")] = target
        else:
            spine.append(node.attribute("idref"))

    body = _zip.member(archive, path, limits.text)
    _xml.trees(body, limits, frozenset({"title", "item", "itemref"}), each)
    package.chapters = [items[name] for name in spine if name in items]
    return package
