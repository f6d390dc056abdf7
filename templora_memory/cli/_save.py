"""A measurement as files: JSON, Markdown tables, pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from templora_memory.cli._call import Call


def finish(
    call: Call,
    name: str,
    document: Mapping[str, Any],
    shown: RenderableType,
    *,
    out: Path | None,
    plot: Callable[[Path], object],
) -> None:
    """Say a measurement, after writing `name`.json, .md and pictures into a folder if one is given.

    Args:
        call: whose output.
        name: of the files, without ending.
        document: the whole result.
        shown: the result for people: tables and text.
        out: folder, made if it does not exist; None: no files.
        plot: draws into that folder.

    Raises:
        InvalidSetting: matplotlib, which draws, is not installed; JSON and Markdown are written.
    """
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        body = json.dumps(document, ensure_ascii=False, indent=1)
        (out / f"{name}.json").write_text(body + "\n", encoding="utf-8")
        (out / f"{name}.md").write_text(markdown(shown) + "\n", encoding="utf-8")
        plot(out)
    call.say(document, shown)


def markdown(shown: RenderableType) -> str:
    """Tables and text as Markdown."""
    return "\n\n".join(_blocks(shown))


def _blocks(shown: RenderableType) -> Iterable[str]:
    if isinstance(shown, Group):
        for part in shown.renderables:
            yield from _blocks(part)
    elif isinstance(shown, Table):
        rows = zip(*(column.cells for column in shown.columns), strict=True)
        head = [str(column.header) for column in shown.columns]
        lines = [head, ["---"] * len(head), *([_cell(c) for c in row] for row in rows)]
        yield "\n".join(f"| {' | '.join(line)} |" for line in lines)
    else:
        yield _cell(shown)


def _cell(shown: RenderableType) -> str:
    plain = shown.plain if isinstance(shown, Text) else str(shown)
    return plain.replace("|", "\\|").replace("\n", " ")
