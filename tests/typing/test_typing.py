"""The types of the public interface, as a user's type checker sees them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
EXPECTED = re.compile(r"  # error: (?P<code>[a-z-]+)$")
REPORTED = re.compile(r"^(?P<path>[^:]+):(?P<line>\d+): error: .*  \[(?P<code>[a-z-]+)\]$")


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """Errors of both files by (file name, line): their codes; one run of mypy for all tests."""
    files = [str(HERE / name) for name in ("right_calls.py", "wrong_calls.py")]
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--no-pretty",
            "--config-file", str(ROOT / "pyproject.toml"), "--hide-error-context",
            "--cache-dir", str(tmp_path_factory.mktemp("mypy")), *files,
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        if match := REPORTED.match(line):
            found[Path(match["path"]).name, int(match["line"])] = match["code"]
        else:
            assert ": note: " in line, line
    return found


@pytest.mark.slow
def test_right_calls_have_no_type_errors(errors):
    assert not {at: code for at, code in errors.items() if at[0] != "wrong_calls.py"}


@pytest.mark.slow
def test_a_misspelt_or_wrong_argument_is_a_type_error(errors):
    lines = (HERE / "wrong_calls.py").read_text(encoding="utf-8").splitlines()
    expected = {
        ("wrong_calls.py", number): match["code"]
        for number, line in enumerate(lines, start=1)
        if (match := EXPECTED.search(line))
    }
    assert len(expected) == 18
    assert {at: code for at, code in errors.items() if at[0] != "right_calls.py"} == expected
