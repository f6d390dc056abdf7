"""What somebody may have meant who mistyped a name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_ALIKE = 0.75
"""Share of letters from which two names are taken for one, mistyped."""


def nearest(word: str, names: Iterable[str]) -> str | None:
    """Return the name that is most like a mistyped one; None if none is.

    Names that differ in digits alone (``npc1``, ``npc2``) are different on purpose.
    """
    others = [name for name in names if _without_digits(name) != _without_digits(word)]
    return next(iter(get_close_matches(word, others, n=1, cutoff=_ALIKE)), None)


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return the question whether another name was meant, with a space before it, or ""."""
    name = nearest(word, names)
    return "" if name is None else f" Did you mean {name!r}?"


def _without_digits(name: str) -> str:
    return re.sub(r"\d", "", name)
