"""The reference of the command line, written from the commands' own help.

python -m tools.command_reference > docs/reference/command-line.md
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from templora_memory.cli import _serve  # noqa: F401  # registers its commands
from templora_memory.cli._commands import app

COMMON = "Common options"
HEAD = """# Command line

Made from `templora --help` and checked by a test. How to use it: [The command line](../how-to/command-line.md).
"""


def page() -> str:
    """The whole page."""
    root: Any = typer.main.get_command(app)
    commands = dict(_commands(root, "templora"))
    shared = [p for p in commands["templora absorb"].params if _panel(p) == COMMON]
    parts = [
        HEAD,
        "## Common options\n\nOf every command; `demo` has its own, `--json` among them.\n\n"
        + _options(shared),
    ]
    for name, command in commands.items():
        parameters = [p for p in command.params if _panel(p) != COMMON and p.name != "help"]
        usage = " ".join(
            [name, *(_argument(p) for p in parameters if p.param_type_name == "argument")]
        )
        options = [p for p in parameters if p.param_type_name == "option"]
        text = [f"## {name}", f"```text\n{usage}{' [OPTIONS]' if options else ''}\n```"]
        text.append((command.help or "").strip())
        if parameters:
            text.append(_options(parameters))
        parts.append("\n\n".join(text))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def _panel(parameter: Any) -> str | None:
    return getattr(parameter, "rich_help_panel", None)


def _argument(parameter: Any) -> str:
    metavar = str(parameter.metavar or parameter.name.upper())
    return metavar + ("..." if parameter.nargs == -1 else "")


def _options(parameters: list[Any]) -> str:
    rows = ["| | default | |", "| --- | --- | --- |"]
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            name = _argument(parameter)
        else:
            name = ", ".join([*parameter.opts, *parameter.secondary_opts])
        shown = _default(parameter)
        about = (parameter.help or "").replace("|", "\\|")
        if parameter.param_type_name == "option" and parameter.envvar:
            about += f" Also `${parameter.envvar}`."
        rows.append(f"| `{name}` | {shown} | {about} |")
    return "\n".join(rows)


def _default(parameter: Any) -> str:
    value = parameter.default
    nothing = value is None or value is False or callable(value) or value in ("", (), [])
    return "" if parameter.required or nothing else f"`{value}`"


if __name__ == "__main__":
    print(page(), end="")
