"""The code in the documentation runs."""

import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from langchain_templora.middleware import ParametricMemoryMiddleware
from openai import OpenAI
from starlette.testclient import TestClient

from templora_memory import ParametricMemory, Policy
from templora_memory.server import create_app
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

TOP = Path(__file__).parents[2]
PAGES = ["README.md", *(str(path.relative_to(TOP)) for path in TOP.glob("docs/**/*.md"))]
POLICY = Policy(window=96, chunk=16)


def blocks(language):
    """Blocks of this language on all pages, as parameters."""
    return [
        pytest.param(block, id=f"{page}-{number}")
        for page in PAGES
        for number, block in enumerate(
            re.findall(rf"```{language}\n(.*?)```", (TOP / page).read_text("utf-8"), re.DOTALL)
        )
    ]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Whatever model a page names, it gets the fake one, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    made = []

    def make(model, *, root=None, **_):
        backend = FakeBackend(name=model)
        made.append(ParametricMemory(backend, DirectoryStore(root or tmp_path / "root"), POLICY))
        return made[-1]

    monkeypatch.setattr(ParametricMemory, "from_pretrained", make)
    yield make
    for one in made:
        one.close()


SHELL = """
import sys
from templora_memory import ParametricMemory, Policy
from templora_memory.cli import main
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

def make(model, *, root, **_):
    policy = Policy(window=96, chunk=16)
    return ParametricMemory(FakeBackend(name=model), DirectoryStore(root), policy)

ParametricMemory.from_pretrained = make
sys.exit(main(sys.argv[1:]))
"""


def test_the_tutorial_runs_in_a_shell_from_an_empty_folder(tmp_path):
    """All of its commands one after the other, but those that install; on the fake backend."""
    page = (TOP / "docs/tutorial.md").read_text("utf-8")
    _, *commands = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    program = tmp_path / "program" / "templora.py"
    program.parent.mkdir()
    program.write_text(SHELL, "utf-8")
    define = f'templora() {{ {shlex.quote(sys.executable)} {shlex.quote(str(program))} "$@"; }}\n'
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment["TEMPLORA_CONFIG"] = str(tmp_path / "no-config.json")
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", define + "\n".join(commands)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "nats per token" in ran.stdout  # what the fake one answers says nothing
    assert "forgotten" in ran.stdout
    assert list((folder / "memories").iterdir()) == []


def test_the_tutorial_runs_in_python_from_an_empty_folder(fake, tmp_path, capsys):
    """All of its blocks one after the other, over one root, as a reader runs them."""
    page = (TOP / "docs/tutorial.md").read_text("utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, {})  # noqa: S102  # our own page
    assert "memories left: ()" in capsys.readouterr().out
    assert fake
    assert list((tmp_path / "memories").iterdir()) == []


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("block", blocks("python"))
def test_the_python_on_this_page_runs_over_the_fake_backend(block, capsys):
    exec(block, {})  # noqa: S102  # our own pages
    assert capsys.readouterr().out


@pytest.mark.parametrize("block", blocks("py"))
def test_a_part_of_a_program_runs_in_what_its_page_takes_for_granted(
    block, fake, tmp_path, monkeypatch
):
    """Such blocks name things that the reader has: a server, a loaded model, a memory."""
    launched = []
    monkeypatch.setattr("templora_memory.backends.local.LocalBackend", named)
    monkeypatch.setattr("templora_memory.backends.vllm.VllmBackend", vllm)
    monkeypatch.setattr("templora_memory.backends.llama_cpp.export_lora", lora)
    monkeypatch.setattr("gradio.Blocks.launch", lambda _, **options: launched.append(options))
    given = {
        "ParametricMemory": ParametricMemory,
        "ParametricMemoryMiddleware": ParametricMemoryMiddleware,
        "MyBackend": named,
        "memory": fake("mine"),
    }
    given["memory"]["ada"].absorb("Ada keeps bees.")
    Path("Qwen3-0.6B").mkdir()
    Path("Qwen3-0.6B/config.json").write_text("{}", "utf-8")
    block = block.replace("/shared/memories", str(tmp_path / "shared"))
    with TestClient(create_app(FakeBackend(name="templora/tiny"), tmp_path / "served")) as client:
        monkeypatch.setattr("openai.OpenAI", partial(OpenAI, http_client=client))
        exec(block, given)  # noqa: S102  # our own pages
    assert len(launched) == block.count(".launch(")
    for name in re.findall(r"^(\w+) = ", block, re.MULTILINE):
        assert given[name] is not None
        if name == "memory" and isinstance(given[name], ParametricMemory):
            given[name].close()


def lora(folder, into, *, model):
    """The fake's adapters are not PEFT's."""
    assert folder.is_dir()
    assert into.suffix == ".gguf"
    assert model == {}


def named(model):
    return FakeBackend(name=model)


def vllm(trainer, url, *, max_rank):
    """Where a page connects to vLLM: the model that trains answers, too."""
    assert url.startswith("http://127.0.0.1")
    assert max_rank > 0
    return trainer


def test_the_first_example_of_the_readme_prints_what_stands_below_it(tmp_path, monkeypatch, capsys):
    text = (TOP / "README.md").read_text("utf-8")
    example, shown = re.search(
        r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL
    ).groups()
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102  # our own, on the embedded model
    printed = capsys.readouterr().out
    assert "Button" in printed.splitlines()[0]
    # the last digits of a sum may differ elsewhere, and with them the words of the base model
    assert printed.splitlines()[0] == shown.splitlines()[0]


def test_the_readme_shows_every_command():
    from templora_memory.cli._commands import app  # noqa: PLC0415

    text = (TOP / "README.md").read_text(encoding="utf-8")
    names = [command.name for command in app.registered_commands]
    assert [name for name in names if not re.search(rf"(`|templora ){name}\b", text)] == []


def test_the_reference_of_the_command_line_is_what_its_help_says():
    """Stale? `python -m tools.command_reference > docs/reference/command-line.md`."""
    from tools.command_reference import page  # noqa: PLC0415  # imports the command line

    assert (TOP / "docs/reference/command-line.md").read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("name", PAGES)
def test_every_link_to_a_file_leads_to_one(name):
    """mkdocs checks the pages of the site among each other; the README is not one of them."""
    text = re.sub(r"```.*?```", "", (TOP / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    here = (TOP / name).parent
    files = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in files if not (here / target).exists()] == []


def test_the_readme_and_the_make_file_name_every_application():
    names = re.findall(r"`(\w+)\.py`", (TOP / "docs/how-to/applications.md").read_text("utf-8"))
    assert len(set(names)) == 5
    readme, make = (TOP / f for f in ("README.md", "Makefile"))
    assert all(f"demos/{name}.py" in readme.read_text("utf-8") for name in names)
    assert all(name in make.read_text("utf-8") for name in names)
