"""The pages on architecture and decisions: their tree is the package, nothing is left unsaid."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "templora_memory"
PAGE = (TOP / "docs/explanation/architecture.md").read_text("utf-8")
(TREE,) = re.findall(r"## Tree\n+```text\n(.*?)```", PAGE, re.DOTALL)
LINES = [line.partition(": ") for line in TREE.splitlines() if line]
MODULES = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
DECISIONS = (TOP / "docs/explanation/decisions.md").read_text("utf-8").split("\n## ")[1:]
PAGES = [PAGE, (TOP / "CONTRIBUTING.md").read_text("utf-8")]
NAMES = sorted({pair for page in PAGES for pair in re.findall(r"`([\w/]+\.py)::(\w+)`", page)})
FILES = sorted(set(re.findall(r"`([\w/]+\.py)(?:::\w+)?`", PAGE)))


def test_every_module_of_the_package_stands_in_the_tree():
    missing = sorted(MODULES - {path for path, _, _ in LINES})
    assert not missing, "\n".join(["", *missing])


def test_nothing_else_stands_in_the_tree():
    gone = sorted({path for path, _, _ in LINES} - MODULES)
    assert not gone, "\n".join(["", *gone])


def test_every_module_stands_there_once_with_a_line_of_its_own():
    assert [
        path for path, count in Counter(path for path, _, _ in LINES).items() if count > 1
    ] == []
    assert [path for path, _, text in LINES if not text.strip()] == []


@pytest.mark.parametrize("path", FILES)
def test_a_file_that_the_page_names_exists(path):
    assert path in MODULES


@pytest.mark.parametrize(("path", "name"), NAMES)
def test_a_name_that_the_page_gives_is_defined_in_its_file(path, name):
    defined = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
    assert name in defined


@pytest.mark.parametrize("section", [pytest.param(d, id=d.split("\n")[0]) for d in DECISIONS])
def test_a_decision_has_a_date_alternatives_and_a_price(section):
    assert re.search(r"^\*Since \d{4}-\d\d-\d\d \(", section, re.MULTILINE)
    assert re.search(r"^\*Instead:\* ", section, re.MULTILINE)
    assert re.search(r"^\*Price:\* ", section, re.MULTILINE)
