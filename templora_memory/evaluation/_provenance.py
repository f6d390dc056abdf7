"""The circumstances of a measurement: package versions, commit, machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

_PACKAGES = ("torch", "transformers", "peft")


def commit() -> str | None:
    """Return the commit of this source tree, "-dirty" if it was changed; None if unknown."""
    top = Path(__file__).parents[2]
    git = shutil.which("git")
    if git is None or not (top / ".git").exists():
        return None
    command = (git, "-C", str(top), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    described = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # fixed words
    return described.stdout.strip() or None if described.returncode == 0 else None


def machine() -> dict[str, object]:
    """Return the facts about this machine that seconds are judged by."""
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def peak_bytes() -> int | None:
    """Return the most memory that this process has held; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415  # not everywhere

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
