"""What no model takes part in: starting the command line, opening a root, the absorb number N."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from templora_memory.domain.messages import Document
from templora_memory.domain.settings import Policy
from templora_memory.service.parametric_memory import ParametricMemory
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

NEAR = 5
"""Absorbs on either side of number N whose median is the time of number N."""
_COMMAND = "import sys; from templora_memory.cli import main; sys.exit(main())"


def start_seconds(arguments: Sequence[str] | None, repeats: int) -> float:
    """Return the median seconds of a new process that runs `templora`; None: that does nothing."""
    program = ["pass"] if arguments is None else [_COMMAND, *arguments]
    # as installed: what was imported before is not compiled again
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        subprocess.run(  # noqa: S603  # our own interpreter, fixed arguments
            [sys.executable, "-c", *program],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])  # the first one may compile


def open_seconds(memories: int, repeats: int) -> float:
    """Return the median seconds to open a root of so many memories and to list their ids."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with _service(root) as service:
            service["one"].absorb("Ada keeps bees.")
        for number in range(1, memories):
            shutil.copytree(root / "one", root / f"copy-{number}", copy_function=os.link)
        for _ in range(repeats):
            began = time.perf_counter()
            with _service(root) as service:
                found = len(service.list())
            times.append(time.perf_counter() - began)
            assert found == memories  # noqa: S101  # otherwise times mean nothing
    return statistics.median(times)


def absorb_seconds(documents: int) -> tuple[float, float]:
    """Return the seconds of an absorb near number 10 of a memory, and near this number."""
    times = []
    with tempfile.TemporaryDirectory() as root, _service(Path(root)) as service:
        for number in range(documents + NEAR):
            began = time.perf_counter()
            service["one"].absorb(Document(f"On day {number} the harbour is closed.", str(number)))
            times.append(time.perf_counter() - began)
    first, last = (times[near - NEAR : near + NEAR] for near in (10, documents))
    return statistics.median(first), statistics.median(last)


def _service(root: Path) -> ParametricMemory:
    policy = Policy(window=96, reply_tokens=24, chunk=16)  # what the fake backend has room for
    return ParametricMemory(FakeBackend(), DirectoryStore(root), policy)
