"""The code in the documentation runs."""

import re
from pathlib import Path

import pytest

from templora_memory import ParametricMemory, Policy
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

TOP = Path(__file__).parents[2]
PAGES = ["README.md", *(str(path.relative_to(TOP)) for path in TOP.glob("docs/**/*.md"))]
BLOCKS = [
    (page, number, block)
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", (TOP / page).read_text(encoding="utf-8"), re.DOTALL)
    )
]


@pytest.mark.parametrize(
    "block", [b for _, _, b in BLOCKS], ids=[f"{page}-{number}" for page, number, _ in BLOCKS]
)
def test_the_python_on_this_page_runs_over_the_fake_backend(block, tmp_path, monkeypatch, capsys):
    def fake(model, *, root, **_):
        return ParametricMemory(
            FakeBackend(name=model), DirectoryStore(root), Policy(window=96, chunk=16)
        )

    monkeypatch.setattr(ParametricMemory, "from_pretrained", fake)
    monkeypatch.chdir(tmp_path)
    exec(block, {})  # noqa: S102  # our own pages
    assert capsys.readouterr().out


def test_the_readme_shows_every_command():
    from templora_memory.cli._commands import app  # noqa: PLC0415

    text = (TOP / "README.md").read_text(encoding="utf-8")
    names = [command.name for command in app.registered_commands]
    assert [name for name in names if not re.search(rf"(`|templora ){name}\b", text)] == []


def test_the_reference_of_the_command_line_is_what_its_help_says():
    """Stale? `python -m tools.command_reference > docs/reference/command-line.md`."""
    from tools.command_reference import page  # noqa: PLC0415  # imports the command line

    assert (TOP / "docs/reference/command-line.md").read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("name", PAGES)
def test_every_link_to_a_file_leads_to_one(name):
    """mkdocs checks the pages of the site among each other; the README is not one of them."""
    text = re.sub(r"```.*?```", "", (TOP / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    here = (TOP / name).parent
    files = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in files if not (here / target).exists()] == []


def test_the_readme_and_the_make_file_name_every_application():
    names = re.findall(r"`(\w+)\.py`", (TOP / "docs/how-to/applications.md").read_text("utf-8"))
    assert len(set(names)) == 5
    readme, make = (TOP / f for f in ("README.md", "Makefile"))
    assert all(f"demos/{name}.py" in readme.read_text("utf-8") for name in names)
    assert all(name in make.read_text("utf-8") for name in names)
