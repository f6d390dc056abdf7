"""PNG files as a list of chunks. Pixels are never decoded here."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Iterator

from templora_memory.importers._values import FileRefused, Limits

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_PICTURE = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_ASSET = b"chara-ext-asset_"
_KEYWORDS = frozenset({"ccv3", "chara"})
_HEAD = struct.Struct(">I4s")


def _chunks(data: bytes, limits: Limits) -> Iterator[tuple[bytes, bytes]]:
    """Type and body of every whole chunk; stops quietly where a file is cut off.

    Pixels and the pictures that cards add as text do not count: a file can be full of them.
    """
    position, counted = len(SIGNATURE), 0
    while position + 12 <= len(data):
        size, kind = _HEAD.unpack_from(data, position)
        start = position + 8
        if start + size > len(data):
            return
        position += 12 + size
        if kind == b"tEXt" and data.startswith(_ASSET, start):
            continue
        counted += kind != b"IDAT"
        if counted > limits.chunks:
            break
        yield kind, data[start : start + size]
        if kind == b"IEND":
            return
    else:
        return
    raise FileRefused("bad_file", f"This picture has over {limits.chunks} parts: it is no card.")


def _text(kind: bytes, body: bytes, limits: Limits) -> tuple[str, bytes]:
    """Keyword and value of a text chunk; ("", b"") for a broken or oversized one."""
    keyword, mark, value = body.partition(b"\0")
    if not mark or len(keyword) > 79:  # noqa: PLR2004  # the format allows 79 bytes
        return "", b""
    name = keyword.decode("latin-1").lower()
    packed = False
    if kind == b"zTXt":
        packed, value = True, value[1:]
    elif kind == b"iTXt":
        packed, value = value[:1] == b"\1", value[2:]
        value = value.partition(b"\0")[2].partition(b"\0")[2]  # language, translated keyword
    if not packed or name not in _KEYWORDS:
        return name, value
    most = limits.text * 4 // 3 + 4
    unpacker = zlib.decompressobj()
    try:
        value = unpacker.decompress(value, most + 1)
    except zlib.error:
        return "", b""
    if len(value) > most:
        raise FileRefused(
            "too_large",
            f"The card in this picture unpacks to over {limits.text / 1e6:.0f} MB of text.",
        )
    return name, value


def read(data: bytes, limits: Limits) -> tuple[dict[str, bytes], bytes | None, tuple[str, ...]]:
    """The text chunks by keyword (lower case, the last one wins), the bare picture, and warnings.

    Only a card's own text is decompressed, within bounds; other compressed text is not looked at.

    Raises:
        FileRefused: `bad_file` for too many chunks, `too_large`.
    """
    texts: dict[str, bytes] = {}
    picture, ended = [SIGNATURE], False
    pixels = 0
    for kind, body in _chunks(data, limits):
        if kind in _TEXTS:
            keyword, value = _text(kind, body, limits)
            if keyword and (value or keyword not in texts):
                texts[keyword] = value
        ended |= kind == b"IEND"
        if kind == b"IHDR" and len(body) >= 8:  # noqa: PLR2004  # width and height
            width, height = struct.unpack_from(">II", body)
            pixels = width * height
        if kind in _PICTURE:
            picture.append(_chunk(kind, body))
    warnings = []
    if texts.keys() - _KEYWORDS:
        warnings.append("Other text in the picture was ignored.")
    if not ended:
        warnings.append("The picture is cut off; the portrait was left out.")
    if pixels > limits.portrait:
        warnings.append("The picture is too large to show; the portrait was left out.")
    shown = ended and 0 < pixels <= limits.portrait
    return texts, b"".join(picture) if shown else None, tuple(warnings)


def from_base64(value: bytes, limits: Limits) -> bytes:
    """Decode, tolerating line breaks, missing padding and the url-safe alphabet.

    Raises:
        FileRefused: `too_large`, `bad_base64`.
    """
    if len(value) > limits.text * 4 // 3 + 4:
        raise FileRefused(
            "too_large", f"The card in this picture has over {limits.text / 1e6:.0f} MB of text."
        )
    packed = b"".join(value.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FileRefused(
            "bad_base64", "The card in this picture is damaged: export the character again."
        ) from error


def _chunk(kind: bytes, body: bytes) -> bytes:
    return _HEAD.pack(len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body))


def write(picture: bytes, texts: dict[str, bytes], limits: Limits) -> bytes:
    """A PNG with only its picture and these texts as base64, just before its end."""
    kept = [(kind, body) for kind, body in _chunks(picture, limits) if kind in _PICTURE]
    parts = [_chunk(kind, body) for kind, body in kept if kind != b"IEND"]
    for keyword, text in texts.items():
        parts.append(_chunk(b"tEXt", keyword.encode("latin-1") + b"\0" + base64.b64encode(text)))
    return b"".join([SIGNATURE, *parts, _chunk(b"IEND", b"")])


def blank(width: int = 256, height: int = 384) -> bytes:
    """A quiet picture for characters without a portrait."""
    rows = bytearray()
    for y in range(height):
        shade = 90 + 90 * y // height
        rows += b"\0" + bytes((shade // 2, shade, shade * 3 // 4)) * width
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        [
            SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(bytes(rows))),
            _chunk(b"IEND", b""),
        ]
    )
