"""The page on writing a plugin, followed by the letter: its files, an install, its programs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/how-to/write-a-plugin.md").read_text("utf-8")
FILES = dict(re.findall(r'```\w+ title="([\w.]+)"\n(.*?)```', PAGE, re.DOTALL))
OUTPUTS = dict(re.findall(r'```text title="output of ([\w.]+)"\n(.*?)```', PAGE, re.DOTALL))
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
CLI = "import sys; from templora_memory.cli import main; sys.exit(main(sys.argv[1:]))"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The reader's folder, with the distribution built and installed beside it."""
    folder = tmp_path_factory.mktemp("lines")
    for name, text in FILES.items():
        (folder / name).write_text(text, "utf-8")
    # into a folder, not into the environment of the tests, and without an index
    options = "--no-build-isolation --no-deps --no-index --quiet --disable-pip-version-check"
    command = [sys.executable, "-m", "pip", "install", *options.split(), "--target", "site", "."]
    run(command, folder)
    assert list(folder.glob("site/templora_lines-*.dist-info/entry_points.txt"))
    (folder / "templora_lines.py").unlink()  # what is imported is what was installed
    return folder


def run(command, folder):
    paths = [str(folder / "site"), os.environ.get("PYTHONPATH", ""), *sys.path]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_has_what_these_tests_follow():
    assert {"pyproject.toml", "templora_lines.py", "rules.txt", "test_timed.py"} < set(FILES)
    assert [line.split()[0] for line in COMMANDS] == ["pip", "templora", "pytest"]


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_program_of_the_page_prints_what_the_page_says(name, folder):
    assert run([sys.executable, name], folder) == OUTPUTS[name]


def test_the_command_of_the_page_learns_with_the_recipe(folder):
    _, *arguments = COMMANDS[1].split()
    assert "recipe=lines" in arguments
    run([sys.executable, "-c", CLI, *arguments], folder)
    assert run([sys.executable, "-c", CLI, "list", "--root", "memories"], folder).count("mill") == 1


def test_the_backend_of_the_page_keeps_the_contract(folder):
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", "."]
    _, name = COMMANDS[2].split()
    assert " passed" in run([sys.executable, "-m", "pytest", *options, name], folder)
