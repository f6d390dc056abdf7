"""Build the wheels of all distributions, install each into an empty environment, and import it.

python -m tools.check_packages

An empty environment is a new virtual environment with nothing but the wheel, the wheels of this
project it needs, and a `.pth` file that names this interpreter's site-packages: torch and the
frameworks are found there and are not downloaded again. A `.pth` file in that folder is not read a
second time, so the editable installs of a checkout stay invisible: what is imported is the wheel,
which is checked, too. Python runs isolated (`-I`): no PYTHONPATH, no current folder.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).parents[1]


@dataclass(frozen=True)
class Distribution:
    """One of this project: its folder, what is imported, and what must be and must not be inside."""

    name: str
    folder: str
    module: str
    needs: tuple[str, ...]
    inside: tuple[str, ...]
    only: tuple[str, ...]


CORE = "templora-memory"
DISTRIBUTIONS = (
    Distribution(
        CORE,
        ".",
        "templora_memory",
        (),
        (
            "templora_memory/py.typed",
            "templora_memory/tiny/model.safetensors",
            "templora_memory/tiny/tokenizer.json",
            "templora_memory/apps/roleplay/__init__.py",
            "templora_memory/evaluation/people.json",
            "templora_memory/backends/local/neutral/prose/en.txt",
            "templora_memory/backends/local/neutral/prose/zh.txt",
            "templora_memory/backends/local/neutral/everyday/en.json",
        ),
        ("templora_memory/",),
    ),
    Distribution(
        "langchain-templora",
        "integrations/langchain",
        "langchain_templora",
        (CORE,),
        ("langchain_templora/py.typed",),
        ("langchain_templora/",),
    ),
    Distribution(
        "llama-index-memory-templora",
        "integrations/llama_index",
        "llama_index.memory.templora",
        (CORE,),
        ("llama_index/memory/templora/py.typed",),
        ("llama_index/memory/templora/",),
    ),
)
LIGHT = """
import sys, templora_memory
heavy = {"torch", "transformers", "peft", "gradio", "fastapi", "langchain_core"} & set(sys.modules)
assert not heavy, heavy
"""
ANSWER = """
from templora_memory import Message, ParametricMemory
with ParametricMemory.from_pretrained("templora/tiny", root=sys.argv[1]) as memory:
    assert memory.without_memory.reply([Message("user", "Hello.")], max_tokens=4).completion_tokens
"""


def run(*command: str | Path) -> str:
    """Run a program; its standard output.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


def build(distribution: Distribution, into: Path) -> Path:
    """Build a wheel with the hatchling of this interpreter."""
    folder = into / distribution.name
    code = "import os, sys; os.chdir(sys.argv[1]); from hatchling.build import build_wheel as b; b(sys.argv[2])"
    folder.mkdir()
    run(sys.executable, "-c", code, TOP / distribution.folder, folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_names(distribution: Distribution, wheel: Path) -> None:
    """Check that everything that must be is inside the wheel, and nothing else.

    Raises:
        RuntimeError: what is missing or too much.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        metadata_file = next(
            name for name in archive.namelist() if name.endswith(".dist-info/METADATA")
        )
        metadata = archive.read(metadata_file).decode()
    missing = set(distribution.inside) - set(names)
    strange = [name for name in names if not name.startswith(distribution.only)]
    compiled = [name for name in names if name.endswith(".pyc") or "/tests/" in name]
    undeclared = [need for need in distribution.needs if f"Requires-Dist: {need}" not in metadata]
    if missing or strange or compiled or undeclared:
        raise RuntimeError(f"{wheel.name}: {missing=} {strange=} {compiled=} {undeclared=}")


def empty_environment(folder: Path, wheels: list[Path]) -> Path:
    """A new environment with these wheels alone; returns its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    install = (
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    )
    run(sys.executable, *install, "--disable-pip-version-check", *wheels)
    site = Path(run(python, "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def check_import(distribution: Distribution, python: Path) -> str:
    """Import it there; returns its version.

    Raises:
        RuntimeError: it does not import, or something else was imported than the wheel.
    """
    code = (
        f"import {distribution.module} as m, importlib.metadata as d, sys; "
        f"assert m.__file__.startswith(sys.prefix), m.__file__; "
        f"assert m.__version__ == d.version('{distribution.name}'); print(m.__version__)"
    )
    return run(python, "-I", "-c", code)


def main() -> int:
    """Build, inspect and import every wheel, and return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        top, wheels = Path(folder), {}
        for distribution in DISTRIBUTIONS:
            wheels[distribution.name] = build(distribution, top)
            check_names(distribution, wheels[distribution.name])
        for distribution in DISTRIBUTIONS:
            together = [wheels[name] for name in (*distribution.needs, distribution.name)]
            python = empty_environment(top / f"env-{distribution.name}", together)
            version = check_import(distribution, python)
            if distribution.name == CORE:
                run(python, "-I", "-c", LIGHT)
                run(python, "-I", "-c", f"import sys{ANSWER}", str(top / "root"))
                version_text = run(python.with_name("templora"), "--version")
                if version_text != f"templora {version}":
                    raise RuntimeError(f"`templora --version` says {version_text!r}.")
            print(
                f"{distribution.name} {version}: {wheels[distribution.name].stat().st_size / 1e6:.1f} MB, imports"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
