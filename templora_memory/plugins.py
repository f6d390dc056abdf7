"""Plugins: backends, stores, recipes and importers of other distributions, by name.

A distribution announces them as entry points (https://packaging.python.org, "Entry points") in one
of four groups::

    [project.entry-points."templora.recipes"]
    lines = "my_package:lines"

The names of what is installed are read from the metadata of the distributions. A plugin is
imported when it is asked for by its name, never before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeAlias, TypeVar

from templora_memory.errors import InvalidSetting

Group: TypeAlias = Literal["backends", "stores", "recipes", "importers"]
T = TypeVar("T")


class WithPlugins(Mapping[str, T]):
    """A mapping of names to objects, and behind it the installed plugins of a group.

    What the mapping has itself goes first. A plugin is imported when it is looked up by its name;
    asking for all names, or whether one is there, imports nothing.
    """

    def __init__(self, group: Group, known: Mapping[str, T]) -> None:
        self._group = group
        self._known = dict(known)

    def __getitem__(self, name: str) -> T:
        """Return the object of this name.

        Raises:
            KeyError: there is none.
            InvalidSetting: as for `load`.
        """
        if name in self._known:
            return self._known[name]
        if name not in names(self._group):
            raise KeyError(name)
        plugin: T = load(self._group, name)  # type: ignore[assignment]  # its contract says so
        return plugin

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in names(self._group)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._known, *names(self._group))))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def names(group: Group) -> tuple[str, ...]:
    """Return the names of the installed plugins of a group, sorted. Nothing is imported."""
    return tuple(sorted({entry.name for entry in _entries(group)}))


def backend(name: str) -> Callable[..., Any]:
    """Return what makes a backend: a callable that returns a `templora_memory.ports.Backend`.

    Raises:
        InvalidSetting: as for `load`.
    """
    return load("backends", name)


def store(name: str) -> Callable[..., Any]:
    """Return what makes a store: a callable that returns a `templora_memory.ports.Store`.

    Raises:
        InvalidSetting: as for `load`.
    """
    return load("stores", name)


def recipe(name: str) -> Callable[..., Any]:
    """Return a recipe, a function of (request, tools) that returns examples in training order.

    `templora_memory.backends.local.recipes` describes its arguments.

    Raises:
        InvalidSetting: as for `load`.
    """
    return load("recipes", name)


def importer(name: str) -> Callable[..., Any]:
    """Return an importer, a function of (data, filename, limits) that returns a value.

    The value is a `Character` or a `ChatLog` of `templora_memory.importers`. An importer is named
    after its format; a name that is a file suffix without its dot ("epub") also makes
    `importers.load` use it for such files.

    Raises:
        InvalidSetting: as for `load`.
    """
    return load("importers", name)


def load(group: Group, name: str) -> Callable[..., Any]:
    """Import a plugin and return it.

    Raises:
        InvalidSetting: no plugin has this name, several have it, it cannot be imported, or it is
            not callable.
    """
    entries = [entry for entry in _entries(group) if entry.name == name]
    if not entries:
        installed = ", ".join(names(group)) or "none"
        raise InvalidSetting(
            f"No plugin {name!r} in the group templora.{group}; installed are: {installed}. "
            "Install the distribution that has it, or correct the name."
        )
    if len(entries) > 1:
        rivals = " and ".join(sorted(_origin(entry) for entry in entries))
        raise InvalidSetting(
            f"Several plugins in the group templora.{group} have the name {name!r}: {rivals}. "
            "Uninstall all but one of them."
        )
    (entry,) = entries
    try:
        plugin = entry.load()
    except Exception as error:
        raise InvalidSetting(
            f"The plugin {name!r} ({_origin(entry)}) of the group templora.{group} cannot be "
            f"imported: {type(error).__name__}: {error}. Repair or uninstall it."
        ) from error
    if not callable(plugin):
        raise InvalidSetting(
            f"The plugin {name!r} ({_origin(entry)}) of the group templora.{group} is of type "
            f"{type(plugin).__name__}, which cannot be called: its entry point should name a "
            "function or a class."
        )
    return plugin  # type: ignore[no-any-return]  # what a stranger's module holds


def _entries(group: Group) -> list[EntryPoint]:
    return list(entry_points(group=f"templora.{group}"))


def _origin(entry: EntryPoint) -> str:
    """Return distribution and object of a plugin, for an error."""
    distribution = "an unknown distribution" if entry.dist is None else entry.dist.name
    return f"{entry.value} of {distribution}"
