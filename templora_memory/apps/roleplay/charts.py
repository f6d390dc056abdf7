"""Line charts as inline SVG: no script, no request, and a caption that says the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 460, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 30
_DASHES = ("", "6 4", "2 4")
_INKS = ("var(--leaf)", "var(--amber)", "var(--quiet)")


@dataclass(frozen=True, slots=True)
class Series:
    """A named series; x is 1, 2, 3, ..."""

    name: str
    values: Sequence[float]


def chart(title: str, lines: Sequence[Series], *, x: str, caption: str, log: bool = False) -> str:
    """Return a figure with its caption. Lines differ in dashes too, not only in colour."""
    drawn = [line for line in lines if line.values]
    if not drawn:
        return (
            f'<figure class="chart"><h3>{escape(title)}</h3>'
            f'<p class="quiet">{escape(caption)}</p></figure>'
        )
    every = [value for line in drawn for value in line.values]
    low, high = _range(every, log=log)
    length = max(len(line.values) for line in drawn)

    def point(step: int, value: float) -> str:
        share = step / max(1, length - 1)
        up = (_scaled(value, log=log) - low) / (high - low)
        px = _LEFT + share * (_WIDTH - _LEFT - _RIGHT)
        py = _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)
        return f"{px:.1f},{py:.1f}"

    parts = [_grid(low, high, log=log), _axis(x, length)]
    for number, line in enumerate(drawn):
        ink, dash = _INKS[number % 3], _DASHES[number % 3]
        points = " ".join(point(n, v) for n, v in enumerate(line.values))
        parts.append(
            f'<polyline points="{points}" fill="none" style="stroke:{ink}" stroke-width="2.5" '
            f'stroke-dasharray="{dash}" stroke-linejoin="round"/>'
        )
        end = point(len(line.values) - 1, line.values[-1]).split(",")
        parts.append(f'<circle cx="{end[0]}" cy="{end[1]}" r="4" style="fill:{ink}"/>')
    legend = _legend(drawn) if len(drawn) > 1 else ""
    return (
        f'<figure class="chart"><h3>{escape(title)}</h3>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(caption)}">'
        f"{''.join(parts)}</svg>{legend}<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _scaled(value: float, *, log: bool) -> float:
    return math.log(max(value, 1e-9)) if log else value


def _range(values: Sequence[float], *, log: bool) -> tuple[float, float]:
    low = _scaled(min(values), log=log) if log else 0.0
    high = max(_scaled(max(values), log=log), low + 1e-6)
    room = (high - low) * 0.06 or 0.5
    bottom = max(0.0, low - room) if low >= 0 else low - room  # no perplexity is below one
    return (bottom if log else low), high + room


def _grid(low: float, high: float, *, log: bool) -> str:
    rows = []
    for step in range(4):
        level = low + (high - low) * step / 3
        py = _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * step / 3
        value = math.exp(level) if log else level
        text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004
        rows.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{py:.1f}" y2="{py:.1f}" '
            'style="stroke:var(--line)"/>'
            f'<text x="{_LEFT - 8}" y="{py + 4:.1f}" text-anchor="end" font-size="12" '
            f'style="fill:var(--quiet)">{text}</text>'
        )
    return "".join(rows)


def _axis(name: str, length: int) -> str:
    style = 'font-size="12" style="fill:var(--quiet)"'
    return (
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}" {style}>1</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end" {style}>{length}</text>'
        f'<text x="{(_LEFT + _WIDTH) / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle" {style}>'
        f"{escape(name)}</text>"
    )


def _legend(lines: Sequence[Series]) -> str:
    items = (
        f'<span class="chip"><svg width="26" height="8" viewBox="0 0 26 8" aria-hidden="true" '
        f'style="display:inline-block;width:26px;height:8px"><line x1="0" x2="26" y1="4" y2="4" '
        f'style="stroke:{_INKS[number % 3]}" stroke-width="3" '
        f'stroke-dasharray="{_DASHES[number % 3]}"/></svg> {escape(line.name)}</span>'
        for number, line in enumerate(lines)
    )
    return f'<div class="chips">{"".join(items)}</div>'
