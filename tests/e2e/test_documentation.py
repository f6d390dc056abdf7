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
