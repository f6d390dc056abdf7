"""Progress on standard error, where that is a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from templora_memory.cli._call import Call

if TYPE_CHECKING:
    from templora_memory.service.jobs import Job

R = TypeVar("R")
_POLL = 0.05


def bar(call: Call, unit: str = "steps") -> Progress:
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


def follow(call: Call, job: Job[R], title: str) -> R:
    """Wait for a job behind a progress bar; Ctrl-C cancels it and waits until it has stopped."""
    try:
        with bar(call) as shown:
            task = shown.add_task(title, total=None, note="")
            while not job.done:
                shown.update(task, description=f"{title}: {job.phase.name}")
                if (now := job.progress) is not None:
                    note = f"perplexity {now.perplexity:.2f}"
                    shown.update(task, completed=now.chunk, total=now.chunks, note=note)
                time.sleep(_POLL)
        return job.wait()
    except KeyboardInterrupt:
        job.cancel()
        job.finished()
        raise
