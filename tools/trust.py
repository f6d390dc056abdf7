"""Run the suites that try to break the promises, count what they tried, and write it down.

::

    python -m tools.trust --places 400 --examples 60 --out build/trust.json
    python -m tools.trust faults --seed 7
    python -m tools.trust --page docs/explanation/trust.md     # the figures of that page
    python -m tools.trust --from build/a.json build/b.json --page docs/explanation/trust.md

Exit code 1 if a test failed: a promise was broken. The same numbers and seed try the same places.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

SUITES = {
    "faults": [
        "tests/faults",
        "tests/local/test_faults.py",
        "tests/fs",
        "tests/stores/directory/test_store.py",
        "tests/stores/directory/test_journal.py",
        "tests/stores/test_archive.py",
    ],
    "forget": ["tests/local/test_forget.py", "tests/server/test_forget.py"],
    "isolation": ["tests/local/test_isolation.py", "tests/service/test_histories.py"],
    "hostile": [
        "tests/service/test_admission.py",
        "tests/local/test_hostile.py",
        "tests/importers/test_hostile.py",
    ],
    "offline": ["tests/e2e/test_offline.py"],
}
BEGIN, END = "<!-- figures: python -m tools.trust -->", "<!-- end of figures -->"
COLUMNS = {
    "lost": "text lost",
    "half": "half states",
    "unclear": "unclear errors",
    "found": "found",
}


class Counts:
    """A pytest plugin: adds up what tests recorded under "trust", and how the tests ended."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Counter[str]] = {}
        self.ended: Counter[str] = Counter()
        self.broken: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the outcome of a test, and what it recorded."""
        if report.failed:
            self.ended["failed"] += 1
            self.broken.append(f"{report.nodeid} ({report.when})")
        elif report.when == "call" or report.skipped:
            self.ended["skipped" if report.skipped else "passed"] += 1
        if report.when != "teardown":
            return  # what a fixture records is there by then, and each row once
        for name, value in report.user_properties:
            if name == "trust" and isinstance(value, dict):
                row = dict(value)
                counter = self.rows.setdefault((row.pop("suite"), row.pop("kind")), Counter())
                for column, number in row.items():
                    counter[column] += number

    def add(self, suites: dict[str, list[dict[str, Any]]]) -> None:
        """Take in what another run counted."""
        for suite, rows in suites.items():
            for row in rows:
                counter = self.rows.setdefault((suite, row["kind"]), Counter())
                for column in row.keys() - {"kind"}:
                    counter[column] += row[column]

    def as_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Return the counts by suite, one row for each kind."""
        suites: dict[str, list[dict[str, Any]]] = {}
        for (suite, kind), row in sorted(self.rows.items()):
            suites.setdefault(suite, []).append({"kind": kind, **row})
        return suites


def table(suites: dict[str, list[dict[str, Any]]]) -> str:
    """The figures as Markdown."""
    lines = ["| suite | what | tried | broken |", "| --- | --- | ---: | --- |"]
    for suite, rows in suites.items():
        for row in rows:
            counts = [f"{name}: {row[key]}" for key, name in COLUMNS.items() if key in row]
            tried = f"{row['tried']:,}"
            lines.append(f"| {suite} | {row['kind']} | {tried} | {', '.join(counts) or '0'} |")
    return "\n".join(lines)


def _into_page(page: Path, reports: Sequence[dict[str, Any]]) -> None:
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    parts = [_summary(report) for report in reports]
    every = Counts()
    for report in reports:
        every.add(report["suites"])
    parts += [table(every.as_dict())]
    body = "\n\n".join(parts)
    page.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")


def _summary(report: dict[str, Any]) -> str:
    tests, used = report["tests"], report["settings"]
    words = " ".join([*report.get("run", report["suites"]), "--places", str(used["places"])])
    early = "" if report.get("complete") else " It was stopped before its end."
    return (
        f"`python -m tools.trust {words} --examples {used['examples']} --seed {used['seed']}`, "
        f"{report['when'][:10]}, Python {report['python']}: {tests.get('passed', 0)} tests passed, "
        f"{tests.get('failed', 0)} failed, {tests.get('skipped', 0)} skipped, in "
        f"{report['seconds']:,.0f} seconds.{early}"
    )


def main(words: list[str] | None = None) -> int:
    """Run and report; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("suites", nargs="*", help=f"some of {', '.join(SUITES)}, or test files")
    parser.add_argument("--places", type=int, default=16, help="random places for each fault")
    parser.add_argument("--examples", type=int, default=6, help="random orders, in tens of steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/trust.json"))
    parser.add_argument("--page", type=Path, help="a page whose figures are replaced")
    parser.add_argument("--from", nargs="+", type=Path, dest="reports", help="run nothing")
    arguments = parser.parse_args(words)
    if arguments.reports is not None and arguments.page is None:
        parser.error("--from needs --page")
    if unknown := {
        name for name in arguments.suites if name not in SUITES and not Path(name).exists()
    }:
        parser.error(f"there is no suite {sorted(unknown)}: use {', '.join(SUITES)}")
    if arguments.reports is not None:
        reports = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.reports]
        if broken := [test for report in reports for test in report["broken"]]:
            parser.error(f"these reports hold broken promises: {broken}")
        _into_page(arguments.page, reports)
        return 0
    os.environ["TEMPLORA_PLACES"] = str(arguments.places)
    os.environ["TEMPLORA_EXAMPLES"] = str(arguments.examples)
    os.environ["TEMPLORA_SEED"] = str(arguments.seed)
    paths = [path for suite in arguments.suites or SUITES for path in SUITES.get(suite, [suite])]
    counts, began = Counts(), time.monotonic()
    # thousands of places take longer than one test may
    code = pytest.main(["-q", "--timeout=0", "--no-header", *paths], plugins=[counts])
    report = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "complete": code in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED},
        "run": arguments.suites,
        "settings": {
            "places": arguments.places,
            "examples": arguments.examples,
            "seed": arguments.seed,
        },
        "seconds": round(time.monotonic() - began, 1),
        "tests": dict(counts.ended),
        "broken": counts.broken,
        "suites": counts.as_dict(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(report["suites"]))
    print(f"The whole report is in {arguments.out}.")
    if arguments.page is not None and code == 0:
        _into_page(arguments.page, [report])
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
