"""Text files as the commands read them."""

from __future__ import annotations

import sys
from pathlib import Path

from templora_memory.domain.messages import MAX_CHARACTERS
from templora_memory.errors import InvalidText

STDIN = "-"
_MAX_BYTES = 4 * MAX_CHARACTERS  # no UTF-8 text within the limit is larger


def read(path: Path) -> str:
    """Return a file as text, strictly UTF-8.

    Raises:
        InvalidText: too large, or not text.
    """
    try:
        if str(path) == STDIN:
            raw = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with path.open("rb") as file:
                raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidText(f"{path} cannot be read: {error.strerror}.") from error
    if len(raw) > _MAX_BYTES:
        raise InvalidText(
            f"{path} is larger than any text of {MAX_CHARACTERS:,} characters, the limit: split it."
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidText(
            f"{path} is not UTF-8 text (byte 0x{raw[error.start]:02x} at position {error.start}): "
            "save it as UTF-8."
        ) from error
    if "\0" in text:
        raise InvalidText(
            f"{path} is not text: it has a zero byte at position {text.find(chr(0))}."
        )
    if not text.strip():
        raise InvalidText(f"{path} is empty: there is nothing to learn.")
    return text.replace("\r\n", "\n")
