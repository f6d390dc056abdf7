"""A text in sentences."""

from __future__ import annotations

import re

_END = re.compile(r"""(?<=[.!?])\s+|(?<=[.!?]["')\]])\s+|\s*\n\s*""")


def sentences(text: str) -> list[str]:
    """Sentences and lines; what stood between them is left out."""
    return [piece.strip() for piece in _END.split(text) if piece.strip()]


def states(sentence: str) -> bool:
    """Whether it states something: questions do not, and neither do scraps without a letter."""
    return not sentence.rstrip("\"')]").endswith("?") and any(map(str.isalpha, sentence))
