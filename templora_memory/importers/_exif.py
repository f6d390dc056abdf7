"""Cards in WebP and JPEG pictures: text in their Exif fields or comments. No pixel is decoded.

SillyTavern and its forerunner write the card's JSON, or its bytes as decimal numbers, into the
field UserComment.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

JPEG = b"\xff\xd8\xff"
_FIELDS = {0x010E, 0x9286, 0x9C9C}  # ImageDescription, UserComment, XPComment
_POINTERS = {0x8769}  # of the directory with the camera's fields
_CODES = (b"ASCII\0\0\0", b"UNICODE\0", b"JIS\0\0\0\0\0", b"\0" * 8, b"Undefined")
_NUMBERS = re.compile(rb"\s*\d{1,3}(?:\s*,\s*\d{1,3})+\s*")
_SEGMENTS = 1000
_ENTRIES = 200
_END = b"\xda\xd9"  # start of the pixels, end of the picture


def is_webp(data: bytes) -> bool:
    """Whether a file is a WebP picture."""
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def texts(data: bytes) -> Iterator[bytes]:
    """Every text that could be a card, the Exif fields first."""
    blocks = list(_webp(data) if is_webp(data) else _jpeg(data))
    for kind, body in blocks:
        if kind == "exif":
            yield from _exif(body)
    for kind, body in blocks:
        if kind == "text":
            yield _unpacked(body)


def _webp(data: bytes) -> Iterator[tuple[str, bytes]]:
    position = 12
    for _ in range(_SEGMENTS):
        if position + 8 > len(data):
            return
        kind, size = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 : position + 8], "little"),
        )
        body = data[position + 8 : position + 8 + size]
        if kind == b"EXIF":
            yield "exif", body
        position += 8 + size + size % 2


def _jpeg(data: bytes) -> Iterator[tuple[str, bytes]]:
    position = 2
    for _ in range(_SEGMENTS):
        if position + 4 > len(data) or data[position] != 0xFF:  # noqa: PLR2004  # a marker
            return
        kind = data[position + 1]
        if kind in _END:
            return
        size = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + size]
        if kind == 0xE1 and body.startswith(b"Exif\0\0"):  # noqa: PLR2004  # APP1
            yield "exif", body
        elif kind == 0xFE:  # noqa: PLR2004  # a comment
            yield "text", body
        position += 2 + size


def _exif(body: bytes) -> Iterator[bytes]:
    """The texts of the fields that can hold a card."""
    body = body.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(body[:2])
    if order is None or len(body) < 8:  # noqa: PLR2004  # of a header
        return
    todo, seen = [struct.unpack_from(order + "I", body, 4)[0]], set()
    while todo:
        start = todo.pop()
        if start in seen or start + 2 > len(body):
            continue
        seen.add(start)
        count = struct.unpack_from(order + "H", body, start)[0]
        for number in range(min(count, _ENTRIES)):
            entry = start + 2 + 12 * number
            if entry + 12 > len(body):
                break
            field, kind, size, place = struct.unpack_from(order + "HHII", body, entry)
            if field in _POINTERS and len(seen) < 8:  # noqa: PLR2004  # more is nonsense
                todo.append(place)
            elif field in _FIELDS and kind in {1, 2, 7}:
                at = place if size > 4 else entry + 8  # noqa: PLR2004  # short ones stand here
                yield _unpacked(body[at : at + size], order)


def _unpacked(text: bytes, order: str = "<") -> bytes:
    """A field without its code and its zeros; numbers become the bytes that they name."""
    for code in _CODES:
        if text.startswith(code):
            text = text[len(code) :]
            if code == b"UNICODE\0":
                name = "utf-16-le" if order == "<" else "utf-16-be"
                wide = text.decode(name, errors="replace")
                text = wide.encode("utf-8", errors="replace") if b"\0" in text[:4] else text
            break
    text = text.strip(b"\0 \r\n\t")
    if _NUMBERS.fullmatch(text):
        numbers = [int(number) for number in text.split(b",")]
        if max(numbers) < 256:  # noqa: PLR2004  # of a byte
            return bytes(numbers)
    return text
