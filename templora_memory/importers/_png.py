"""PNG files as a list of chunks. Pixels are never decoded here."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Iterator

from templora_memory.importers._values import FileRefused, Limits

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PICTURE = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_COMPRESSED = {b"zTXt", b"iTXt"}
_HEAD = struct.Struct(">I4s")


def _chunks(data: bytes, limits: Limits) -> Iterator[tuple[bytes, bytes]]:
    """Type and body of every whole chunk; stops quietly where a file is cut off."""
    position = len(SIGNATURE)
    for _ in range(limits.chunks):
        if position + 12 > len(data):
            return
        size, kind = _HEAD.unpack_from(data, position)
        body = data[position + 8 : position + 8 + size]
        if len(body) < size:
            return
        yield kind, body
        position += 12 + size
        if kind == b"IEND":
            return
    raise FileRefused("bad_file", f"This picture has over {limits.chunks} parts: it is no card.")


def read(data: bytes, limits: Limits) -> tuple[dict[str, bytes], bytes | None, tuple[str, ...]]:
    """The text chunks by keyword (lower case, the last one wins), the bare picture, and warnings.

    Compressed text chunks are ignored: cards do not use them, bombs do.

    Raises:
        FileRefused: `bad_file` for too many chunks.
    """
    texts: dict[str, bytes] = {}
    picture, compressed, ended = [SIGNATURE], False, False
    pixels = 0
    for kind, body in _chunks(data, limits):
        if kind == b"tEXt":
            keyword, mark, value = body.partition(b"\0")
            if mark and len(keyword) < 80:  # noqa: PLR2004  # the format allows 79 bytes
                texts[keyword.decode("latin-1").lower()] = value
        compressed |= kind in _COMPRESSED
        ended |= kind == b"IEND"
        if kind == b"IHDR" and len(body) >= 8:  # noqa: PLR2004  # width and height
            width, height = struct.unpack_from(">II", body)
            pixels = width * height
        if kind in _PICTURE:
            picture.append(_chunk(kind, body))
    warnings = ["Compressed text in the picture was ignored."] if compressed else []
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
