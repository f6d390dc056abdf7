"""XML from strangers, by expat: no entity is declared, nothing outside the file is opened.

Encodings are decided here and not by expat, which knows four: the text is decoded, and the parser
is handed UTF-8 whatever the file declares.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from xml.parsers import expat

from templora_memory.importers._encoding import declared as byte_order_mark
from templora_memory.importers._values import FileRefused, Limits

_DECLARED = re.compile(r"""\A\s*<\?xml[^>]{0,100}?encoding\s*=\s*["']([\w.:-]{1,40})["']""")
_NAMES = re.compile(
    r"utf-?8(?:-sig)?|utf-?16(?:-?[lb]e)?|utf-?32(?:-?[lb]e)?|ucs-?[24]|us-ascii|ascii|latin-?1|iso-?8859-\d\d?"
    r"|windows-(?:125\d|874|31j)|cp-?(?:125\d|932|936|949|950|866|874)|koi8-[ru]"
    r"|shift[_-]?jis|sjis|x-sjis|euc-(?:jp|kr|cn)|iso-2022-jp|gb2312|gbk|gb18030|big5(?:-?hkscs)?"
    r"|macintosh|x-mac-roman|tis-620|ks_c_5601-1987",
    re.IGNORECASE,
)
"""Encodings that may be declared: any other would be looked up among Python's codecs."""
_ALIASES = {
    "windows-31j": "cp932",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "sjis": "cp932",
    "x-sjis": "cp932",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "ks_c_5601-1987": "cp949",
    "euc-kr": "cp949",
    "windows-874": "cp874",
    "ucs-2": "utf-16",
    "ucs2": "utf-16",
    "ucs-4": "utf-32",
    "ucs4": "utf-32",
    "macintosh": "mac_roman",
    "x-mac-roman": "mac_roman",
    "iso-8859-1": "cp1252",
    "latin1": "cp1252",
    "latin-1": "cp1252",
}
"""Names as tools use them: the larger encoding that the declared one is a part of."""
_PIECE = 1 << 16
_DAMAGED = "The XML in this file is damaged: export it again."


def text_of(data: bytes) -> str:
    """XML as text: by its byte order mark, else by its zeros, else as it declares.

    Raises:
        FileRefused: `bad_xml`.
    """
    encoding = byte_order_mark(data)
    if encoding is None and b"\0" in data[:4]:
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    if encoding is None:
        hit = _DECLARED.match(data[:400].decode("latin-1"))
        encoding = hit[1] if hit else "utf-8"
        if encoding.lower().startswith(("utf-16", "utf16", "utf-32", "utf32", "ucs")):
            encoding = "utf-8"  # it was read without a zero so far, so this cannot be
    return decoded(data, encoding).removeprefix("\ufeff")


def decoded(data: bytes, encoding: str) -> str:
    """Bytes in an encoding that a file declares.

    Raises:
        FileRefused: `bad_xml`: an encoding that no such file has, or bytes that it has not.
    """
    name = encoding.lower()
    if not _NAMES.fullmatch(name):
        raise FileRefused("bad_xml", "This file has a strange encoding: save it as UTF-8.")
    try:
        return data.decode(_ALIASES.get(name, name))
    except LookupError as error:
        raise FileRefused(
            "bad_xml", "This file has a strange encoding: save it as UTF-8."
        ) from error
    except UnicodeDecodeError as error:
        raise FileRefused(
            "bad_xml", "This file has bytes that its encoding does not have: save it as UTF-8."
        ) from error


def is_xml(data: bytes) -> bool:
    """Whether a file begins with a tag, in any encoding that XML may have."""
    head = data[:400]
    for mark in (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        head = head.removeprefix(mark)
    return head.replace(b"\0", b"").lstrip().startswith(b"<")


def root_of(data: bytes) -> str:
    """The local name of the first element, "" if there is none near the beginning."""
    head = data[:4000].replace(b"\0", b"").decode("latin-1")
    for hit in re.finditer(r"<([A-Za-z_][\w:.-]{0,60})|<!--.{0,2000}?-->", head, re.DOTALL):
        if hit[1]:
            return hit[1].rpartition(":")[2].lower()
    return ""


def parse(
    data: bytes,
    limits: Limits,
    *,
    begin: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    said: Callable[[str], None],
) -> None:
    """Call the handlers for every element and its text. Names come without their namespace.

    Raises:
        FileRefused: `bad_xml`, and what the handlers raise.
    """
    depth = 0

    def start(name: str, given: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > limits.depth:
            raise FileRefused("bad_xml", "The XML in this file is nested too deeply.")
        begin(name.rpartition(":")[2], given)

    def stop(name: str) -> None:
        nonlocal depth
        depth -= 1
        end(name.rpartition(":")[2])

    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = stop
    parser.CharacterDataHandler = said
    parser.EntityDeclHandler = _refuse_entity
    parser.SkippedEntityHandler = _refuse_entity
    text = text_of(data).lstrip()  # some writers begin with an empty line
    try:
        for position in range(0, len(text), _PIECE):
            parser.Parse(text[position : position + _PIECE].encode("utf-8", "replace"), False)  # noqa: FBT003
        parser.Parse(b"", True)  # noqa: FBT003  # expat takes it by position
    except FileRefused:
        raise
    except (expat.ExpatError, ValueError) as error:
        raise FileRefused("bad_xml", _DAMAGED) from error


def _refuse_entity(*_: object) -> None:
    raise FileRefused("bad_xml", "This XML has entities of its own, which are not read.")


@dataclass(slots=True)
class Node:
    """An element: its name without namespace, attributes, and what is in it, in order."""

    name: str
    given: dict[str, str]
    inside: list[Node | str] = field(default_factory=list)

    @property
    def nodes(self) -> list[Node]:
        """The elements in it."""
        return [item for item in self.inside if isinstance(item, Node)]

    def all(self, name: str) -> list[Node]:
        """The elements in it with a name."""
        return [node for node in self.nodes if node.name == name]

    def first(self, *path: str) -> Node | None:
        """The first element along a path of names."""
        node: Node | None = self
        for name in path:
            node = next(iter(node.all(name)), None) if node else None
        return node

    def attribute(self, name: str) -> str:
        """An attribute by its name, whatever its namespace; "" if it is missing."""
        return next((v for k, v in self.given.items() if k.rpartition(":")[2] == name), "")

    @property
    def text(self) -> str:
        """All text in it."""
        parts: list[str] = []
        todo: list[Node | str] = [self]
        while todo:
            node = todo.pop()
            if isinstance(node, str):
                parts.append(node)
            else:
                todo += node.inside[::-1]
        return "".join(parts)


def _pass_over(_name: str, _attributes: dict[str, str]) -> None:
    """Take no notice of an element."""


def trees(
    data: bytes,
    limits: Limits,
    wanted: frozenset[str],
    each: Callable[[Node], None],
    outside: Callable[[str, dict[str, str]], None] = _pass_over,
) -> None:
    """Call `each` with every outermost element of these names, one after the other.

    What stands outside of them goes to `outside` as it opens: its name and attributes.
    """
    open_nodes: list[Node] = []

    def begin(name: str, given: dict[str, str]) -> None:
        if open_nodes or name in wanted:
            node = Node(name, given)
            if open_nodes:
                open_nodes[-1].inside.append(node)
            open_nodes.append(node)
        else:
            outside(name, given)

    def end(name: str) -> None:
        del name
        if open_nodes:
            node = open_nodes.pop()
            if not open_nodes:
                each(node)

    def add_text(text: str) -> None:
        if open_nodes:
            open_nodes[-1].inside.append(text)

    parse(data, limits, begin=begin, end=end, said=add_text)
