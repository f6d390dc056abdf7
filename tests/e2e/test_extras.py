"""What is said where an extra is missing: its name, and how to install it.

Not `traces`: FastAPI itself needs OpenTelemetry's interface.
"""

import os
import subprocess
import sys

import pytest

CLI = "from templora_memory.cli import main; sys.exit(main({arguments}))"
YAML = """
from templora_memory.importers import load_character
load_character(b"name: Ada\\ncontext: Ada keeps bees.\\n", filename="ada.yaml")
"""
PDF = """
from templora_memory.importers import load_character
load_character(b"%PDF-1.4 nothing", filename="ada.pdf")
"""
PLOT = """
from pathlib import Path
from templora_memory.evaluation._plots import bars
bars(Path("x.svg"), {"a": (1.0, 1.0, 1.0)}, title="t", y="y")
"""
OBSERVE = """
from templora_memory.server import make_observers
make_observers(metrics_port=0, traces=False)
"""
SCHEMA = """
from templora_memory import Message, ParametricMemory, Sampling
with ParametricMemory.from_pretrained("templora/tiny", root="memories") as memory:
    sampling = Sampling(schema='{"type": "object"}')
    memory.without_memory.reply([Message("user", "Hi.")], sampling=sampling)
"""
KEY = """
from templora_memory.stores import Key
Key(b"k" * 32)
"""
PAIRS = "".join(f"satz {number}\tsentence {number}\n" for number in range(30))


def cli(*arguments):
    return CLI.format(arguments=repr(list(arguments)))


CASES = {
    "serve": ("fastapi", cli("serve"), "serve"),
    "serve without its server": ("uvicorn", cli("serve"), "serve"),
    "keys": ("fastapi", cli("key", "alice"), "serve"),
    "app": ("gradio", cli("demo"), "app"),
    "plots": ("matplotlib", PLOT, "plots"),
    "evaluation": ("sacrebleu", cli("bench", "translation", "pairs.tsv"), "evaluation"),
    "yaml": ("yaml", YAML, "importers"),
    "metrics": ("prometheus_client", OBSERVE, "metrics"),
    "json": ("llguidance", SCHEMA, "json"),
    "encryption": ("cryptography", KEY, "encryption"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_missing_extra_is_named_with_the_way_to_install_it(case, tmp_path):
    missing, code, extra = CASES[case]
    (tmp_path / "pairs.tsv").write_text(PAIRS)
    done = run(f"import sys; sys.modules[{missing!r}] = None\n{code}", tmp_path)
    assert done.returncode, done.stdout
    said = " ".join(done.stderr.split())
    assert f"pip install 'templora-memory[{extra}]'" in said


def test_a_missing_reader_of_pdf_is_named(tmp_path):
    """PDF is read in a process of its own: what is missing there is missing for everybody."""
    (tmp_path / "pypdf.py").write_text("raise ImportError('not here')")
    done = run(f"import sys\n{PDF}", tmp_path, PYTHONPATH=str(tmp_path))
    assert "pip install 'templora-memory[importers]'" in " ".join(done.stderr.split())


@pytest.mark.parametrize("arguments", [("serve",), ("demo",)])
def test_on_the_command_line_it_is_one_line_and_misuse(arguments, tmp_path):
    missing = {"serve": "fastapi", "demo": "gradio"}[arguments[0]]
    done = run(f"import sys; sys.modules[{missing!r}] = None\n{cli(*arguments)}", tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def run(code, folder, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
