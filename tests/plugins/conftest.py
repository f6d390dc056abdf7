"""A made distribution on the path, as pip would have installed it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MODULE = '''
"""Notes that it was imported."""

import pathlib

pathlib.Path(__file__).with_suffix(".imported").touch()


def call(*arguments, **named):
    return arguments, named


CONSTANT = 3
'''

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that makes a distribution of one module; it returns the folder."""

    def make(distribution: str, *entries: tuple[str, str, str], source: str = MODULE) -> Path:
        folder = tmp_path / distribution
        info = folder / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n", "utf-8"
        )
        lines = [f"[templora.{group}]\n{name} = {target}\n" for group, name, target in entries]
        (info / "entry_points.txt").write_text("\n".join(lines), "utf-8")
        (folder / f"{distribution}.py").write_text(source, "utf-8")
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, distribution, raising=False)
        return folder

    before = set(sys.modules)
    yield make
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
