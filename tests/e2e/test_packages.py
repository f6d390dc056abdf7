"""The wheels, as somebody installs them who has no checkout."""

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_distribution_installs_into_an_empty_environment_and_imports():
    done = subprocess.run(
        [sys.executable, "-m", "tools.check_packages"],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = ("templora-memory", "langchain-templora", "llama-index-memory-templora")
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(names)
