"""From a bare machine to a character's first answer: `make app` in a fresh clone, in a browser.

python -m tools.first_reply

Clones what is committed into a temporary folder, starts `make app` there as the README says, opens
the page in a headless Chromium, lets the first bundled character be absorbed, asks it one question,
and prints as JSON after how many seconds each of these was done. Needs the group `browser` and
Chromium (`make test-browser` installs both), and what pip needs: a package index or its cache.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

TOP = Path(__file__).parents[1]
QUESTION = "What pet do you have?"
_TIMEOUT_MS = 900_000


def main() -> int:
    """Clone, start, measure, print; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "clone")
        copy = ["git", "clone", "--quiet", str(TOP), str(clone)]
        subprocess.run(copy, check=True)  # noqa: S603  # our own checkout
        environment = {**os.environ, "TEMPLORA_DEMO_ROOT": str(Path(folder, "root"))}
        start_time = time.monotonic()
        program = subprocess.Popen(
            ["make", "app"],  # noqa: S607  # what the README says
            cwd=clone,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            report = _measure(program, start_time)
        finally:
            os.killpg(program.pid, signal.SIGTERM)
            program.wait()
    sys.stdout.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return 0


def _measure(program: subprocess.Popen[str], start_time: float) -> dict[str, object]:
    """Use the page; return the seconds since the start at each step, and the answer."""
    report: dict[str, object] = {}

    def record(step: str) -> None:
        report[step] = round(time.monotonic() - start_time, 1)

    for line in program.stderr or ():
        if line.startswith("Loading"):
            record("installed")
        if match := re.search(r"open (http://\S+)", line):
            record("served")
            address = match[1]
            break
    else:
        raise SystemExit(f"`make app` ended with {program.wait()} before it served a page.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.set_default_timeout(_TIMEOUT_MS)
        page.goto(address)
        page.get_by_role("button", name="Meet Orla").click()
        record("page")
        page.get_by_role("button", name="Absorb into weights").click()
        learned = page.locator("#progress")
        expect(learned).to_contain_text("is in the weights", timeout=_TIMEOUT_MS)
        record("absorbed")
        page.get_by_label("Your message").fill(QUESTION)
        page.get_by_label("Your message").press("Enter")
        expect(page.locator("#status")).to_contain_text("tokens in the prompt", timeout=_TIMEOUT_MS)
        record("answered")
        report["answer"] = page.locator("#chat [data-testid=bot]").last.inner_text().strip()
        browser.close()
    return report


if __name__ == "__main__":
    sys.exit(main())
