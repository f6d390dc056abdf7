"""The part every command shares: the common options, the service, and where output goes."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from templora_memory.cli import _show
from templora_memory.cli._clean import clean
from templora_memory.domain.settings import PRESETS, Policy
from templora_memory.errors import InvalidSetting
from templora_memory.models import TINY
from templora_memory.stores import KEY_FILE_VARIABLE, KEY_VARIABLE, Key

if TYPE_CHECKING:  # not for help
    from templora_memory.service.parametric_memory import ParametricMemory

P = ParamSpec("P")
_PANEL = "Common options"
WIDTH = 100
"""Columns of a table where the output is not a terminal and $COLUMNS says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """The options that every command takes."""

    model: Annotated[
        str,
        typer.Option(
            envvar="TEMPLORA_MODEL",
            help="Base model: templora/tiny, templora/smollm2 (fetched once), auto (smollm2 where "
            "it can be had, else tiny), a hub id, a folder or a .gguf file.",
            rich_help_panel=_PANEL,
        ),
    ] = TINY
    root: Annotated[
        Path | None,
        typer.Option(
            envvar="TEMPLORA_ROOT",
            help="Folder of the memories. Default: ~/.templora.",
            rich_help_panel=_PANEL,
            file_okay=False,
        ),
    ] = None
    encryption_key: Annotated[
        Path | None,
        typer.Option(
            help="File with the key that the memories are encrypted with. Default: "
            f"${KEY_FILE_VARIABLE} or ${KEY_VARIABLE}; without one nothing is encrypted.",
            rich_help_panel=_PANEL,
            dir_okay=False,
        ),
    ] = None
    preset: Annotated[
        str,
        typer.Option(help=f"How to learn: {' or '.join(PRESETS)}.", rich_help_panel=_PANEL),
    ] = PRESETS[0]
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change one setting of the preset: window=512, learning.kl_weight=0.4. May be "
            "repeated.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1, mps or auto. Default: the first GPU, or cpu.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16 or float16 for the base model. Default: what suits it.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Write one JSON document to standard output, and nothing else.",
            rich_help_panel=_PANEL,
        ),
    ] = False

    @property
    def key(self) -> Key | None:
        """The key that the memories are encrypted with.

        Raises:
            InvalidSetting: there is no key where one should be.
        """
        return Key.load(self.encryption_key) if self.encryption_key else Key.from_environment()

    def policy(self, **changes: Any) -> Policy:
        """Return the preset with what `--set` changes, and then these changes.

        Raises:
            InvalidSetting: unknown preset or setting, or no value.
        """
        settings: dict[str, Any] = {}
        for text in self.changes or ():
            name, equals, value = text.partition("=")
            if not (name and equals):
                raise InvalidSetting(f"--set {text}: expected NAME=VALUE, such as window=512.")
            try:
                parsed = json.loads(value)
            except ValueError:
                parsed = value  # a plain word
            if isinstance(parsed, list):
                parsed = tuple(parsed)
            scope, dot, inner = name.partition(".")
            if dot and scope == "learning":
                settings.setdefault("learning", {})[inner] = parsed
            else:
                settings[name] = parsed
        return Policy.preset(self.preset, **{**settings, **changes})


class Call:
    """One call of the command line: its common options, its service, its output.

    Results go to standard output, progress and warnings to standard error.
    """

    def __init__(self, common: Common) -> None:
        self.common = common
        self.err = Console(stderr=True, highlight=False, markup=False)

    @property
    def json(self) -> bool:
        """True if output is JSON."""
        return self.common.as_json

    @contextmanager
    def service(self, **changes: Any) -> Iterator[ParametricMemory]:
        """The service with its model loaded; closed afterwards, cancelling if interrupted.

        `changes`: of the policy's fields.
        """
        from templora_memory.service.parametric_memory import ParametricMemory

        common = self.common
        memory = ParametricMemory.from_pretrained(
            common.model,
            root=common.root,
            policy=common.policy(**changes),
            device=common.device,
            dtype=common.dtype,
            key=common.key,
        )
        if self.err.is_terminal:
            with self.err.status(f"Loading {common.model} ..."):
                memory.load()
        with memory:
            yield memory

    @contextmanager
    def files(self) -> Iterator[ParametricMemory]:
        """The service without a model, for what only moves text and files."""
        from templora_memory.cli._no_model import NoModel
        from templora_memory.service.parametric_memory import ParametricMemory
        from templora_memory.stores import DirectoryStore

        common = self.common
        store = DirectoryStore(common.root or Path.home() / ".templora", key=common.key)
        policy = common.policy()
        with ParametricMemory(NoModel(policy.recipe), store, policy) as memory:
            yield memory

    def say(self, document: Mapping[str, Any], *shown: RenderableType) -> None:
        """The result: one JSON document, or what a person reads."""
        if self.json:
            write_json(document)
            return
        out = Console(highlight=False, markup=False)
        if not out.is_terminal and "COLUMNS" not in os.environ:
            out = Console(highlight=False, markup=False, width=WIDTH)
        for part in shown:
            fitted = _show.fitted(part, out) if isinstance(part, Table) else part
            out.print(fitted, soft_wrap=isinstance(part, Text))

    def piece(self, text: str) -> None:
        """Text as it comes, unless JSON was asked for."""
        if not self.json:
            sys.stdout.write(clean(text))
            sys.stdout.flush()

    def warn(self, text: str) -> None:
        """Print a warning on standard error."""
        self.err.print(f"templora: {clean(text)}", soft_wrap=True)


def write_json(document: Mapping[str, Any]) -> None:
    """Print a value as JSON on standard output."""
    text = json.dumps(document, ensure_ascii=False, indent=2)
    # JSON escapes the other control characters itself
    text = re.sub(r"[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def command(
    app: typer.Typer, name: str | None = None
) -> Callable[[Callable[Concatenate[Call, P], None]], Callable[Concatenate[Call, P], None]]:
    """Register a command; its first parameter is filled with a `Call` from the common options."""

    def register(
        function: Callable[Concatenate[Call, P], None],
    ) -> Callable[Concatenate[Call, P], None]:
        app.command(name or function.__name__)(_Runner(function))
        return function

    return register


class _Runner:
    """A command as typer calls it; its options are worked out when typer asks for them."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__

    @cached_property
    def __signature__(self) -> inspect.Signature:
        specific = list(inspect.signature(self._function, eval_str=True).parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature([one.replace(kind=keyword) for one in (*specific, *_shared())])

    @property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]  # read, never written
        return {one.name: one.annotation for one in self.__signature__.parameters.values()}

    def __call__(self, **given: Any) -> None:
        common = Common(**{one.name: given.pop(one.name) for one in _shared()})
        self._function(Call(common), **given)


@cache
def _shared() -> tuple[inspect.Parameter, ...]:
    """Return the options that every command takes."""
    return tuple(inspect.signature(Common, eval_str=True).parameters.values())
