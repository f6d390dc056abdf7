"""Pieces of HTML that every part of the page is made of."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape

_N, _AUTO = ' class="n"', ' dir="auto"'


def styled(body: str) -> str:
    """Return HTML in the look of the page."""
    return f'<div class="t">{body}</div>'


def table(name: str, caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls by itself; cells are HTML. A head that ends in # is for numbers."""
    numeric = [head.endswith("#") for head in heads]
    top = "".join(
        f'<th scope="col"{_N if right else ""}>{escape(head.rstrip("#"))}</th>'
        for head, right in zip(heads, numeric, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{_N if right else _AUTO}>{cell}</td>"
            for cell, right in zip(row, numeric, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(name)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def many(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, in the plural where it is one."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def file_size(count: int) -> str:
    """Return a number of bytes in the unit that says most."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"  # noqa: PLR2004


def clock(moment: float) -> str:
    """Return the time of day of a moment."""
    return time.strftime("%H:%M:%S", time.localtime(moment))


def quiet(text: str) -> str:
    """Return a sentence in a quiet colour; the text is HTML."""
    return f'<p class="quiet">{text}</p>'
