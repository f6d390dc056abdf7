"""Pictures of measured curves, as SVG; drawn by matplotlib, which is an extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from templora_memory.errors import InvalidSetting

Points = Sequence[Mapping[str, float]]


def lines(
    target: Path,
    curves: Mapping[str, tuple[Points, str, str]],
    *,
    title: str,
    x: str,
    y: str,
    log_x: bool = True,
) -> Path:
    """Draw curves into one picture and return its path.

    Args:
        target: an SVG file; it is replaced.
        curves: by name: points, and the keys of the two values to draw.
        title: of the picture.
        x: name and unit of the horizontal axis.
        y: of the vertical one, which begins at 0.
        log_x: whether the horizontal axis is logarithmic.

    Raises:
        InvalidSetting: matplotlib is not installed.
    """
    figure, axes = _figure()
    for name, (points, horizontal, vertical) in curves.items():
        axes.plot(
            [point[horizontal] for point in points],
            [point[vertical] for point in points],
            marker="o",
            label=name,
        )
    if log_x:
        axes.set_xscale("log")
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    return _saved(figure, target)


def _figure() -> tuple[Any, Any]:
    """Return an empty picture and its axes."""
    try:
        from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415  # an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise InvalidSetting(
            "Plots need matplotlib: pip install 'templora-memory[plots]'."
        ) from error
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _saved(figure: Any, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, format="svg", metadata={"Date": None})
    return target


def bars(
    target: Path,
    values: Mapping[str, tuple[float, float, float]],
    *,
    title: str,
    y: str,
) -> Path:
    """Draw values with their intervals (low and high) as bars, and return the picture's path.

    Raises:
        InvalidSetting: matplotlib is not installed.
    """
    figure, axes = _figure()
    middle = [value for value, _, _ in values.values()]
    reach = [
        [max(0.0, value - low) for value, low, _ in values.values()],
        [max(0.0, high - value) for value, _, high in values.values()],
    ]
    axes.bar(list(values), middle, yerr=reach, capsize=3)
    axes.set(title=title, ylabel=y)
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", labelrotation=30)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("right")  # the end of a name below its bar
    axes.grid(visible=True, axis="y", alpha=0.3)
    return _saved(figure, target)
