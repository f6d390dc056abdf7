"""Text without control characters: what is typed into a chat, and what is shown in a terminal."""

from __future__ import annotations

import re

# escape sequences as a whole, then control characters of ASCII and Latin-1; tabs and lines stay
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[PX^_\]].*?(?:\x1b\\|\x07)|\x1b[ -~]"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """Return text without escape sequences and control characters other than tab and line feed."""
    return _CONTROLS.sub("", _SEQUENCES.sub("", text.replace("\r\n", "\n")))
