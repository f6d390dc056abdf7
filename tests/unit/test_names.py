"""One meaning for each class name: no two classes of the packages are called the same."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = (
    "templora_memory",
    "integrations/langchain/langchain_templora",
    "integrations/llama_index/llama_index/memory/templora",
)
ALLOWED: dict[str, str] = {}
"""Names that may stand twice, each with the reason."""


def classes():
    """Every class at the top of a module: its name, and the files that define one of this name."""
    found = defaultdict(list)
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    found[node.name].append(str(path.relative_to(ROOT)))
    return found


def test_a_class_name_has_one_meaning():
    defined = classes()
    assert len(defined) > 200
    twice = {name: files for name, files in defined.items() if len(files) > 1}
    assert not {name: files for name, files in twice.items() if name not in ALLOWED}
    assert not ALLOWED.keys() - twice.keys(), "an exception that is needed no more"
