"""The licences of everything that is installed with templora-memory, as a table.

::

    python -m tools.licences                 # what the core needs
    python -m tools.licences app serve       # with these extras, too

Exit code 1 if a package names no licence, or one that would bind programs that use it (GPL, AGPL).
"""

from __future__ import annotations

import re
import sys
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

BINDING = re.compile(r"\b(A?GPL)", re.IGNORECASE)
FREED = re.compile(r"LGPL|Lesser|exception", re.IGNORECASE)
_LONG = 60


def closure(root: str, extras: set[str]) -> dict[str, metadata.Distribution]:
    """Distributions that are installed and needed, by name."""
    distributions: dict[str, metadata.Distribution] = {}
    waiting = [(root, frozenset(extras))]
    seen = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            distribution = distributions[canonicalize_name(name)] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # needed on other systems, or an extra that is not installed
        for line in distribution.requires or ():
            need = Requirement(line)
            for extra in wanted or {""}:
                if need.marker is None or need.marker.evaluate({"extra": extra}):
                    waiting += [(need.name, frozenset(need.extras))]
    distributions.pop(canonicalize_name(root), None)
    return dict(sorted(distributions.items()))


def licence(distribution: metadata.Distribution) -> str:
    """Return the licence that a distribution names: SPDX expression, classifiers, or free text."""
    about = distribution.metadata
    if expression := _first(about, "License-Expression"):
        return expression
    classes = [
        line.rpartition(" :: ")[2]
        for line in about.get_all("Classifier") or []
        if line.startswith("License ::")
    ]
    free = _first(about, "License").strip().partition("\n")[0]
    return "; ".join(classes) or free[:_LONG]


def _first(package: metadata.PackageMetadata, field: str) -> str:
    """Return the first value of a field of the metadata; "" if there is none."""
    return str((package.get_all(field) or [""])[0])


def main(extras: list[str]) -> int:
    """Print the table; returns the exit code."""
    wrong = []
    print("| package | version | licence |\n| --- | --- | --- |")
    for name, distribution in closure("templora-memory", set(extras)).items():
        text = licence(distribution)
        print(f"| {name} | {distribution.version} | {text} |")
        if not text or (BINDING.search(text) and not FREED.search(text)):
            wrong.append(f"{name}: {text or 'names no licence'}")
    if wrong:
        sys.stderr.write("\n".join(["", "To be looked at:", *wrong]) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
