"""Progress on standard error, where that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from templora_memory.cli._call import Call


def bar(call: Call, unit: str = "chunks") -> Progress:
    """Return a progress bar on a console."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total} " + unit, markup=False),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
        console=call.err,
        transient=True,
        disable=not call.err.is_terminal,
    )


@contextmanager
def counting(call: Call, title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told what is done and how much there is."""
    with bar(call, unit) as shown:
        task = shown.add_task(title, total=None, note="")
        yield lambda done, count: shown.update(task, completed=done, total=count)
