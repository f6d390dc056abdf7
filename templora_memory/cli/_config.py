"""Defaults of the command line in a file: model, root, device."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from platformdirs import user_config_path

from templora_memory.domain.suggestions import did_you_mean
from templora_memory.errors import InvalidSetting
from templora_memory.fs.files import make_folder, replace_file

if TYPE_CHECKING:  # not for help
    from templora_memory.stores import DirectoryStore

NAMES = ("model", "root", "device")
VARIABLE = "TEMPLORA_CONFIG"


def file() -> Path:
    """Return the file: ``$TEMPLORA_CONFIG``, or ``config.json`` in the user's configuration."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given else user_config_path("templora") / "config.json"


def load() -> dict[str, str]:
    """Return what the file says; nothing if there is none.

    Raises:
        InvalidSetting: it is not such a file; names it.
    """
    try:
        values = json.loads(file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"{file()} cannot be read: {error}. Mend it or remove it.") from error
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise InvalidSetting(f"{file()} is not an object of texts. Mend it or remove it.")
    for name in values:
        check(name)
    return values


def check(name: str) -> None:
    """Refuse a name that is none of `NAMES`.

    Raises:
        InvalidSetting: names the nearest one.
    """
    if name not in NAMES:
        raise InvalidSetting(
            f"There is no setting {name!r} in {file()}: use one of {', '.join(NAMES)}."
            f"{did_you_mean(name, NAMES)}"
        )


def save(values: Mapping[str, str]) -> None:
    """Write the file, or remove it if nothing is left to say.

    Raises:
        StoreWriteFailed.
    """
    if values:
        make_folder(file().parent)
        replace_file(file(), (json.dumps(dict(values), indent=2) + "\n").encode())
    else:
        file().unlink(missing_ok=True)


def defaults(group: Any, values: Mapping[str, str]) -> dict[str, Any]:
    """Return the default map of a group of commands: the same values for each of them."""
    return {
        name: defaults(one, values) if hasattr(one, "commands") else dict(values)
        for name, one in group.commands.items()
    }


def complete_id(context: typer.Context, incomplete: str) -> list[str]:
    """Return the memory ids that begin like this, for the completion of a shell."""
    return [name for name in _store(context).ids() if name.startswith(incomplete)]


def complete_text_id(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the ids of the memory's texts that begin like this, each with the text's beginning."""
    from templora_memory.cli._show import shortened

    journal = _store(context).journal(str(context.params.get("memory_id") or ""))
    found = []
    for name in journal.ids_like(incomplete):
        entry = journal.entry(journal.digest_of(name) or "")
        found.append((name, shortened(entry.text)))
    return found


def _store(context: typer.Context) -> DirectoryStore:
    from templora_memory.stores import DirectoryStore, Key

    given = context.params.get("root") or os.environ.get("TEMPLORA_ROOT") or load().get("root")
    return DirectoryStore(given or Path.home() / ".templora", key=Key.from_environment())
