"""`main`: runs a command and turns what it raises into a line of text and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from copy import copy
from typing import Any

import typer

from templora_memory.cli import (
    _config,
    _serve,  # noqa: F401  # registers its commands
)
from templora_memory.cli._call import write_json
from templora_memory.cli._clean import clean
from templora_memory.cli._commands import app
from templora_memory.errors import InputError, TemploraError, UnknownMemory, UnknownRevision

FAILURE, MISUSE, INTERRUPTED = 1, 2, 130
_log, _silent = logging.getLogger("templora_memory"), logging.NullHandler()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0: done. 1: failed. 2: misuse (unknown option, unusable id, file or setting, unknown memory or
    revision). 130: interrupted; what was learned by then is kept, the rest is in the journal.
    An error is one line on standard error; with ``--json`` also the one document on standard
    output, ``{"error": {"type": ..., "message": ..., "retry": ...}}``.
    """
    _log.addHandler(_silent)  # what it would say is said below, in one line
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        commands = _commands(given)
        code = commands.main(
            given or ["--help"],
            prog_name="templora",
            standalone_mode=False,
            default_map=_config.defaults(commands, _file_defaults(given)),
        )
    except typer.TyperException as error:
        return _fail(error.format_message(), "Usage", error.exit_code, given)
    except (InputError, UnknownMemory, UnknownRevision) as error:
        return _fail(str(error), type(error).__name__, MISUSE, given, retry=error.retry)
    except TemploraError as error:
        return _fail(str(error), type(error).__name__, FAILURE, given, retry=error.retry)
    if code == INTERRUPTED:
        message = (
            "Interrupted: what was committed stays, the rest of the text is in the journal. "
            "Run the same command again to go on."
        )
        return _fail(message, "Interrupted", INTERRUPTED, given, retry=True)
    return int(code or 0)


def _commands(arguments: Sequence[str]) -> Any:
    """Return the commands as typer builds them: all, or only the one that is called.

    Typer works out the options of everything it is given, which takes longer than most commands.
    """
    name = next(iter(arguments), None)
    chosen = copy(app)
    chosen.registered_commands = [one for one in app.registered_commands if one.name == name]
    chosen.registered_groups = [one for one in app.registered_groups if one.name == name]
    known = chosen.registered_commands or chosen.registered_groups
    return typer.main.get_command(chosen if known else app)


def _file_defaults(arguments: Sequence[str]) -> dict[str, str]:
    """Return the defaults of the file; `templora config` must run also where it is damaged."""
    return {} if arguments[:1] == ["config"] else _config.load()


def _fail(
    message: str, kind: str, code: int, arguments: Sequence[str], *, retry: bool = False
) -> int:
    line = " ".join(clean(message).split())
    sys.stderr.write(f"templora: {line}\n")
    if "--json" in arguments:
        write_json({"error": {"type": kind, "message": line, "retry": retry}})
    return code
