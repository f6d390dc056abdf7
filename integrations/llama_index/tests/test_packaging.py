"""The distribution is a part of LlamaIndex's namespace, installed editable and from a wheel."""

import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAME = "llama-index-memory-templora"


def test_no_file_breaks_the_namespace():
    for folder in (ROOT, ROOT / "llama_index", ROOT / "llama_index" / "memory", ROOT / "tests"):
        assert not (folder / "__init__.py").exists()
    package = ROOT / "llama_index" / "memory" / "templora"
    assert (package / "py.typed").exists()


def test_it_stands_beside_the_core():
    code = (
        "import llama_index.core, llama_index.memory.templora as t; "
        "assert not hasattr(__import__('llama_index'), '__file__') "
        "or __import__('llama_index').__file__ is None; print(t.__version__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=True
    )
    assert done.stdout.strip() == metadata.version(NAME)


def test_the_public_names_are_these():
    from llama_index.memory import templora  # noqa: PLC0415

    assert templora.__all__ == [
        "PARAMETRIC_CONTEXT_PROMPT",
        "PARAMETRIC_REFINE_PROMPT",
        "ConversationStatus",
        "ParametricAbsorbEndEvent",
        "ParametricAbsorbStartEvent",
        "ParametricChatStore",
        "ParametricMemoryBlock",
        "TempLoraLLM",
        "TempLoraMemory",
        "__version__",
        "message_to_text",
    ]
    assert all(getattr(templora, name, None) is not None for name in templora.__all__)


def test_llamahub_finds_its_classes():
    from llama_index.memory import templora  # noqa: PLC0415

    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["llamahub"]
    assert told["import_path"] == templora.__name__
    assert all(hasattr(templora, name) for name in told["class_authors"])


@pytest.mark.slow
def test_a_wheel_holds_the_package_alone_and_imports(tmp_path):
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        timeout=250,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    own = [name for name in names if ".dist-info/" not in name]
    assert own
    assert all(name.startswith("llama_index/memory/templora/") for name in own)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); "
        "import llama_index.core; from llama_index.memory import templora; print(templora.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=True
    )
    assert done.stdout.startswith(str(tmp_path))
