"""Use a service for a long time with more and more memories, and look for what grows.

::

    python -m tools.soak --minutes 60 --out build/soak.json
    python -m tools.soak --minutes 10 --encrypted

Threads and open files must not grow at all after the first quarter of the time, and each memory may
cost so many bytes of RAM (`--per-memory`) and no more. Exit code 1 and one line that says what grew
if something does. The backend is the fake one: what is tried is the service and its store.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from templora_memory import Message, ParametricMemory, Policy
from templora_memory.stores import DirectoryStore, Key
from templora_memory.testing import FakeBackend

POLICY = Policy(window=64, reply_tokens=24, chunk=12, keep_revisions=3)
SAMPLES = 40
MIN_SAMPLES = 8


@dataclass(frozen=True)
class Sample:
    """The threads, files and memory of a process at one moment."""

    seconds: float
    memories: int
    threads: int
    files: int
    resident: int


def measure(began: float, memories: int) -> Sample:
    """Take a sample of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return Sample(
        seconds=round(time.monotonic() - began, 1),
        memories=memories,
        threads=threading.active_count(),
        files=len(list(Path("/proc/self/fd").iterdir())),
        resident=pages * os.sysconf("SC_PAGE_SIZE"),
    )


def live(memory: ParametricMemory, rng: random.Random) -> Iterator[str]:
    """Verbs without an end: each round makes a memory, and uses some of those there are."""
    number = 0
    while True:
        name = f"soak-{number}"
        number += 1
        memory[name].absorb(f"Number {number} keeps {number * 7919 % 10007} bees on a roof.")
        talk = [Message("user", f"Of what does number {number} speak?")]
        for _ in range(4):
            answer = memory[name].reply(talk).text
            talk += [Message("assistant", answer), Message("user", "And then, what came of it?")]
            yield "reply"
        memory[name].wait()
        old = f"soak-{rng.randrange(number)}"
        if old in memory.list():
            yield _use(memory, rng, old, number)
        yield "absorb"


def _use(memory: ParametricMemory, rng: random.Random, old: str, number: int) -> str:
    verb = rng.choice(("forget", "fork", "rebuild", "rollback", "export", "search", "stream"))
    with tempfile.TemporaryDirectory() as folder:
        if verb == "forget" and rng.random() < 0.5:  # more are made than go
            memory[old].forget()
        elif verb == "fork":
            memory[old].fork(f"fork-{number}")
        elif verb == "rebuild":
            memory[old].rebuild()
        elif verb == "rollback" and (known := memory[old].revisions()):
            memory[old].rollback(known[0].name)
        elif verb == "export":
            memory.import_(memory[old].export(Path(folder) / "memory"), f"back-{number}")
        elif verb == "search":
            memory[old].search("bees roof")
        else:  # a consumer who goes away
            with closing(memory[old].stream([Message("user", "Who are you, and why?")])) as stream:
                next(iter(stream), None)
    return verb


def soak(
    root: Path,
    *,
    seconds: float,
    seed: int = 0,
    key: Key | None = None,
    backend: Callable[[], FakeBackend] = FakeBackend,
) -> tuple[list[Sample], int]:
    """Use memories for so long; samples at equal distances, and how many verbs were called.

    However short it is, there are `MIN_SAMPLES` samples.
    """
    rng, calls = random.Random(seed), 0
    samples: list[Sample] = []
    fake = backend()
    with ParametricMemory(fake, DirectoryStore(root, key=key), POLICY) as memory:
        began = time.monotonic()
        for _ in live(memory, rng):
            calls += 1
            for notes in (fake.learned, fake.hurried, fake.requests, fake.released):
                notes.clear()  # what the fake keeps for tests is no leak
            now = time.monotonic() - began
            if now >= (len(samples) + 1) * seconds / SAMPLES:
                samples.append(measure(began, len(memory.list())))
            if now >= seconds and len(samples) >= MIN_SAMPLES:
                break
    return samples, calls


def growth(samples: Sequence[Sample], per_memory: int) -> list[str]:
    """Return a sentence for everything that grew.

    Raises:
        ValueError: too few samples to tell.
    """
    if len(samples) < MIN_SAMPLES:
        raise ValueError(
            f"{len(samples)} samples are too few, {MIN_SAMPLES} are needed: take more time."
        )
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    complaints = []
    for what in ("threads", "files"):
        before, after = (max(getattr(sample, what) for sample in part) for part in (early, late))
        if after > before:
            complaints.append(f"open {what} grew from {before} to {after}")
    more = max(1, late[-1].memories - early[0].memories)
    before, after = (
        statistics.median_low([sample.resident for sample in part]) for part in (early, late)
    )
    if after - before > per_memory * more:
        complaints.append(
            f"resident memory grew by {(after - before) // more:,} bytes for each of {more} new "
            f"memories, {per_memory:,} are allowed"
        )
    return complaints


def main(words: list[str] | None = None) -> int:
    """Run and report; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--encrypted", action="store_true", help="with a key for the memories")
    parser.add_argument("--per-memory", type=int, default=32_768, help="bytes of RAM for each")
    parser.add_argument("--out", type=Path, default=Path("build/soak.json"))
    arguments = parser.parse_args(words)
    if not Path("/proc/self/statm").exists():
        parser.error("this system has no /proc: threads and files cannot be counted here")
    key = Key(os.urandom(32)) if arguments.encrypted else None
    with tempfile.TemporaryDirectory() as folder:
        samples, calls = soak(
            Path(folder) / "root", seconds=arguments.minutes * 60, seed=arguments.seed, key=key
        )
    complaints = growth(samples, arguments.per_memory)
    report = {
        "settings": vars(arguments) | {"out": str(arguments.out)},
        "calls": calls,
        "grew": complaints,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(sample) for sample in samples]
    arguments.out.write_text(
        json.dumps({**report, "samples": rows}, indent=1) + "\n", encoding="utf-8"
    )
    for sample in (samples[len(samples) // 4], samples[-1]):
        print(
            f"after {sample.seconds:,.0f} s: {sample.memories:,} memories, {sample.threads} "
            f"threads, {sample.files} open files, {sample.resident / 2**20:.1f} MiB resident"
        )
    print(
        f"{calls:,} calls; grew: {'; '.join(complaints) or 'nothing'}. All samples: {arguments.out}."
    )
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
