"""HTML as text, by the standard library's parser: what is shown stays, where it stood apart.

A card is a mixture of HTML, Markdown and marks of its own (``<START>``, ``<ada@example.org>``,
``I <3 ale``), so in a fragment only elements of HTML are markup. Whatever could make the parser
look ahead again and again (a tag or a comment without its end) is text, and costs linear time.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

_PARAGRAPHS = frozenset(
    "p h1 h2 h3 h4 h5 h6 blockquote pre ul ol dl table hr figure article section".split()
)
_LINES = frozenset(
    "address aside body caption center dd details dialog div dt fieldset figcaption footer form "
    "header hgroup legend li main nav optgroup option search summary tbody tfoot thead tr".split()
)
_CELLS = frozenset({"td", "th"})
_UNSEEN = frozenset({"script", "style", "template", "title", "noscript"})
_INLINE = frozenset(
    "a abbr acronym area audio b base basefont bdi bdo big br button canvas cite code col colgroup "
    "data datalist del dfn dir em embed font frame frameset head html i iframe img input ins kbd "
    "label link map mark marquee menu meta meter nobr noframes object output param picture "
    "progress q rp rt ruby s samp select slot small source span strike strong sub sup svg textarea "
    "time track tt u var video wbr".split()
)
_ELEMENTS = _PARAGRAPHS | _LINES | _CELLS | _UNSEEN | _INLINE
_NAME = re.compile(r"</?([a-zA-Z][a-zA-Z0-9:-]*)(?=[\s/>])")
_DECLARATION = re.compile(r"<(?:!doctype\b|!\[CDATA\[|\?xml\b)[^<>]*>", re.IGNORECASE)
_REFERENCE = re.compile(r"&(?!(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});)")
_LESS = "\ue001"  # a sign that begins no markup; shorter for the parser than a reference
_SPACES = re.compile(r"[ \t\r\n\f]+")


def fragment(text: str) -> str:
    """A text that may have HTML in it: white space stays as it is, other marks stay, too."""
    reader = _Reader(collapse=False)
    reader.feed(_safe(text, _ELEMENTS))
    reader.close()
    return reader.text


def document(text: str) -> tuple[str, str]:
    """A page as text, and its title."""
    reader = _Reader(collapse=True)
    reader.feed(_safe(text, None))
    reader.close()
    return reader.text, " ".join(reader.title.split())


def _safe(text: str, elements: frozenset[str] | None) -> str:
    """The text with everything escaped that is not markup: what the parser then finds is whole."""
    text = text.replace(_LESS, "")
    if "&" in text:
        text = _REFERENCE.sub("&amp;", text)
    first, *pieces = text.split("<")
    parts, position = [first], len(first)
    commented = 0  # up to here a comment reaches
    endless = False
    for piece in pieces:
        start = position
        position += 1 + len(piece)
        if start < commented:
            if position > commented:
                parts.append(text[commented:position])
            continue
        if piece.startswith("!--") and not endless:
            end = text.find("-->", start + 2)
            if end >= 0:
                commented = end + 3
                parts.append(text[commented:position])
                continue
            endless = True  # no later one has an end either
        parts.append(_piece("<" + piece, elements))
    return "".join(parts)


def _piece(text: str, elements: frozenset[str] | None) -> str:
    """A text that begins with ``<`` and has no other one: with its tag, or escaped."""
    if ">" not in text:
        return _LESS + text[1:]
    if declaration := _DECLARATION.match(text):
        return text[declaration.end() :]
    name = _NAME.match(text)
    if name and (elements is None or name[1].lower() in elements):
        return text
    return _LESS + text[1:]


class _Reader(HTMLParser):
    """Collects what is shown."""

    def __init__(self, *, collapse: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self._collapse = collapse
        self._parts: list[str] = []
        self._break = 0  # line ends that the next text has to be after
        self._unseen: list[str] = []
        self._kept = 0  # depth of elements whose white space matters

    @property
    def text(self) -> str:
        return "".join(self._parts).replace(_LESS, "<")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if tag in _UNSEEN:
            self._unseen.append(tag)
        self._kept += tag == "pre"
        self._separate(tag)
        if tag in _CELLS and not self._break:
            self._parts.append(" ")
        if tag == "br":
            self._parts.append("\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self._separate(tag)
        if tag == "br":
            self._parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            del self._unseen[self._unseen.index(tag) :]
        self._kept -= tag == "pre" and self._kept > 0
        self._separate(tag)

    def _separate(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self._break = max(self._break, 2)
        elif tag in _LINES:
            self._break = max(self._break, 1)

    def handle_data(self, data: str) -> None:
        if self._unseen:
            if self._unseen[0] == "title":
                self.title += data[:500]
            return
        if self._collapse and not self._kept:
            data = _SPACES.sub(" ", data)
            if not data.strip(" ") and (self._break or not self._parts):
                return
        if self._break and data.strip():
            written = self._parts[-1] if self._parts else ""
            ended = len(written) - len(written.rstrip("\n"))
            begun = len(data) - len(data.lstrip("\n"))
            if self._parts:
                self._parts.append("\n" * (self._break - ended - begun))
            self._break = 0
            if self._collapse and not self._kept:
                data = data.lstrip(" ")
        self._parts.append(data)
