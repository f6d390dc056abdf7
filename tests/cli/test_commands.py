"""The command line over the fake backend: what it prints, where, and how it exits."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from templora_memory import Message, ParametricMemory, Policy
from templora_memory.cli import main
from templora_memory.cli._commands import app
from templora_memory.stores import KEY_FILE_VARIABLE, KEY_VARIABLE, DirectoryStore
from templora_memory.testing import FakeBackend

BIO = "Ada keeps bees on the roof. Her cat is called Pim. She fears deep water.\n"
SMALL = {"window": 96, "reply_tokens": 24, "chunk": 16}
COMMANDS = (
    "absorb",
    "chat",
    "generate",
    "list",
    "show",
    "probe",
    "forget",
    "fork",
    "rollback",
    "rebuild",
    "remove",
    "correct",
    "texts",
    "pin",
    "export",
    "import",
    "search",
    "config",
    "bench perplexity",
    "bench recall",
    "bench conversation",
    "bench retrieval",
    "bench translation",
    "bench speed",
)


class Line:
    """Runs commands in one store and keeps what they wrote."""

    def __init__(self, root, capsys):
        self.root = root
        self.loaded = []
        self._capsys = capsys

    def open(self, model, *, root, policy, device, dtype, key):
        self.loaded.append((model, str(root), policy, device, dtype))
        backend = FakeBackend(name=model)
        return ParametricMemory(backend, DirectoryStore(root, key=key), policy.changed(**SMALL))

    def __call__(self, *words, code=0):
        self._capsys.readouterr()
        found = main([*words, "--root", str(self.root)])
        out, err = self._capsys.readouterr()
        assert found == code, err
        return out, err

    def json(self, *words, code=0):
        out, _ = self(*words, "--json", code=code)
        return json.loads(out)

    def service(self):
        service = ParametricMemory(FakeBackend(name="templora/tiny"), DirectoryStore(self.root))
        return service.load()


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    line = Line(tmp_path / "root", capsys)
    monkeypatch.setattr(ParametricMemory, "from_pretrained", line.open)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TEMPLORA_CONFIG", str(tmp_path / "config.json"))
    for name in ("TEMPLORA_ROOT", "TEMPLORA_MODEL", KEY_VARIABLE, KEY_FILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return line


@pytest.fixture
def bio(tmp_path):
    path = tmp_path / "bio.txt"
    path.write_text(BIO, encoding="utf-8")
    return str(path)


@pytest.fixture
def say(monkeypatch):
    """Give standard input: text, or bytes for what reads the buffer."""

    def feed(text):
        read, write = os.pipe()
        os.write(write, text.encode())
        os.close(write)
        monkeypatch.setattr(sys, "stdin", os.fdopen(read, encoding="utf-8"))
        return sys.stdin

    opened = []
    yield lambda text: opened.append(feed(text))
    for file in opened:
        file.close()


# --- help and shape ----------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("run")
def test_every_command_explains_itself_with_an_example(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "Examples" in out
    assert f"templora {command}" in out.split("Examples")[1]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "option", ["--model", "--root", "--preset", "--set", "--device", "--dtype", "--json"]
)
def test_every_command_takes_the_common_options(command, option):
    group = typer.main.get_command(app)
    for word in command.split():
        group = group.commands[word]
    assert option in [name for parameter in group.params for name in parameter.opts]


@pytest.mark.usefixtures("run")
def test_only_the_command_that_is_called_is_built(monkeypatch):
    built = []
    of_typer = typer.main.get_command_from_info

    def build(command_info, **options):
        built.append(command_info.name)
        return of_typer(command_info, **options)

    monkeypatch.setattr(typer.main, "get_command_from_info", build)
    assert main(["list"]) == 0
    assert built == ["list"]
    assert main(["lisst"]) == 2  # what is near is named
    assert {"list", "absorb", "serve"} < set(built)


@pytest.mark.usefixtures("run")
def test_without_arguments_the_help_is_shown(capsys):
    assert main([]) == 0
    assert "Exit codes" in capsys.readouterr().out


def test_the_version_is_one_line(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("templora ")


HEAVY = (
    "torch", "transformers", "peft", "gradio", "safetensors", "tokenizers", "fastapi", "numpy",
    "langcodes", "charset_normalizer", "prompt_toolkit", "boto3", "cryptography", "httpx",
    "requests", "filelock", "regex", "sentencex", "snowballstemmer", "rich.progress",
    "templora_memory.backends.local", "templora_memory.evaluation", "templora_memory.importers",
    "templora_memory.server", "templora_memory.stores.bucket",
)  # fmt: skip
NOT_FOR_HELP = (*HEAVY, "pydantic", "templora_memory.service", "templora_memory.stores.directory")


@pytest.mark.parametrize("line", ["--version", "--help", "list", "show ada"])
def test_what_only_looks_loads_nothing_heavy(run, bio, line):
    run("absorb", "ada", bio)
    heavy = NOT_FOR_HELP if line == "--help" else HEAVY
    code = (
        "import sys; from templora_memory.cli import main; code = main(sys.argv[1:]); "
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    environment = {**os.environ, "TEMPLORA_ROOT": str(run.root)}
    command = [sys.executable, "-c", code, *line.split()]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.splitlines()[-1] == "[]"


# --- the verbs ---------------------------------------------------------------------------------


def test_absorb_learns_files_and_prints_a_receipt(run, bio):
    out, err = run("absorb", "ada", bio)
    assert "15 tokens" in out
    assert "73 characters" in out
    assert err == ""


def test_absorb_as_json_is_one_document_with_the_receipt(run, bio):
    document = run.json("absorb", "ada", bio)
    assert document["id"] == "ada"
    assert document["tokens"] == document["absorbed_tokens"] == 15
    assert document["files"] == [bio]
    assert document["perplexity_after"] < document["perplexity_before"]


def test_absorbing_the_same_file_again_learns_nothing(run, bio):
    run("absorb", "ada", bio)
    assert run.json("absorb", "ada", bio)["tokens"] == 0
    assert "nothing new" in run("absorb", "ada", bio)[0]


def test_absorb_reads_standard_input(run, say):
    say(BIO)
    assert run.json("absorb", "ada", "-")["tokens"] == 15


def test_a_byte_order_mark_and_windows_line_ends_are_not_learned(run, tmp_path):
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbfOne line.\r\nAnother.\r\n")
    run("absorb", "ada", str(path))
    shown = run.json("show", "ada", "--text")
    assert shown["text"]["documents"][0]["text"] == "One line.\nAnother.\n"


def test_chat_answers_one_message_and_goes_on_from_the_journal(run):
    run("chat", "ada", "-m", "My boat is called Heron.")
    out, _ = run("chat", "ada", "-m", "What is my boat called?")
    assert "Heron" in out
    assert [m["role"] for m in run.json("show", "ada", "--text")["text"]["messages"]] == [
        "user",
        "assistant",
    ] * 2


def test_chat_as_json_is_the_reply(run, bio):
    run("absorb", "ada", bio)
    document = run.json("chat", "ada", "-m", "What is the cat called?")
    assert "Pim" in document["text"]
    assert document["absorbed_tokens"] == 15
    assert document["finish_reason"] == "stop"


def test_chat_without_a_message_reads_lines_until_the_end_of_input(run, say):
    say("First words.\n\nSecond words.\n")
    out, _ = run("chat", "ada")
    assert len(out.splitlines()) == 2
    messages = run.json("show", "ada", "--text")["text"]["messages"]
    assert [m["content"] for m in messages if m["role"] == "user"] == [
        "First words.",
        "Second words.",
    ]


def test_chat_drops_a_question_that_never_got_its_answer(run):
    with run.service() as service:
        stream = service["ada"].stream([Message("user", "Interrupted question.")])
        stream.close()
        assert stream.reply.finish_reason == "cancelled"
    run("chat", "ada", "-m", "A new question.")
    messages = run.json("show", "ada", "--text")["text"]["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant"]


def test_chat_puts_retrieved_text_into_the_prompt_and_never_into_the_memory(run):
    fact = "The ferry leaves at six."
    out, _ = run("chat", "ada", "-m", "When does the ferry leave?", "--context", fact)
    assert "at six" in out
    shown = run.json("show", "ada", "--text")
    assert shown["text"]["documents"] == []
    assert fact not in [m["content"] for m in shown["text"]["messages"]]


def test_chat_at_strength_zero_is_the_base_model(run, bio):
    run("absorb", "ada", bio)
    text = run.json("chat", "ada", "-m", "What is the cat called?", "--strength", "0")["text"]
    assert "Pim" not in text


def test_chat_learns_what_leaves_the_window(run):
    for number in range(6):
        run("chat", "ada", "-m", f"Line {number} has quite a few words of its own, I think.")
    assert run.json("show", "ada")["absorbed_messages"] > 0


def test_generate_writes_the_number_of_tokens_and_learns_them(run):
    document = run.json("generate", "novel", "Once upon a time", "--tokens", "40")
    assert document["completion_tokens"] == 40
    assert run.json("show", "novel")["absorbed_tokens"] > 0


def test_generate_streams_plain_text(run):
    out, _ = run("generate", "novel", "--tokens", "4")
    assert out == "word0 word1 word2 word3 \n"


def test_list_shows_every_memory(run, bio):
    assert "no memories yet" in run("list")[0]
    run("absorb", "ada", bio)
    run("absorb", "ben", bio)
    assert [row["id"] for row in run.json("list")["memories"]] == ["ada", "ben"]
    assert "ben" in run("list")[0]


@pytest.mark.parametrize("width", ["50", "60", "140"])
def test_tables_fit_the_width_that_there_is(run, bio, monkeypatch, width):
    name = "a-long-name-of-a-memory@somebody"
    for one in ("ada", name):
        run("absorb", one, bio)
    monkeypatch.setenv("COLUMNS", width)
    for line in ("list", f"show {name}"):
        out, _ = run(*line.split())
        assert max(map(len, out.splitlines())) <= int(width)
        assert name in out  # not cut in pieces
        assert "templora/tiny" in out


@pytest.mark.parametrize("line", ["chat {} -m hello", "absorb {} FILE", "generate {} --tokens 4"])
def test_a_mistyped_id_makes_no_memory(run, bio, line):
    run("absorb", "ada", bio)
    words = line.format("adda").replace("FILE", bio).split()
    _, err = run(*words, code=2)
    assert "Did you mean 'ada'?" in err
    assert "--new" in err
    assert [row["id"] for row in run.json("list")["memories"]] == ["ada"]
    run(*words, "--new")
    assert [row["id"] for row in run.json("list")["memories"]] == ["ada", "adda"]


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("show adda", "'ada'"),
        ("lst", "'list'"),
        ("list --modell x", "--model"),
        ("list --preset refrence", "'reference'"),
        ("list --set learning.learning_rat=1", "'learning.learning_rate'"),
        ("absorb ada bio.txt --lore recal", "'recall'"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_name(run, bio, line, meant):
    run("absorb", "ada", bio)
    _, err = run(*line.replace("bio.txt", bio).split(), code=2)
    assert meant in err


def test_list_shows_a_damaged_memory_beside_the_others(run, bio):
    run("absorb", "ada", bio)
    run("absorb", "ben", bio)
    (run.root / "ada" / "manifest.json").write_text("{", encoding="utf-8")
    out, err = run("list", "--json")
    rows = json.loads(out)["memories"]
    assert "damaged" in rows[1]["error"]
    assert "damaged" in err


def test_show_lists_counts_and_revisions(run, bio):
    run("absorb", "ada", bio)
    document = run.json("show", "ada")
    assert document["head"] == document["revisions"][0]["name"]
    assert "text" not in document
    assert document["head"][:12] in run("show", "ada")[0]
    assert "Pim" in run("show", "ada", "--text")[0]


def test_search_finds_what_a_memory_was_told(run, bio):
    run("absorb", "ada", bio)
    (passage, *_) = run.json("search", "ada", "cat Pim")["passages"]
    assert "Pim" in passage["text"]
    found = run("search", "ada", "cat")[0]
    assert "Pim" in found
    assert "0.00" not in found  # how often a word stands in one text says nothing
    assert "Nothing it was told" in run("search", "ada", "zebra")[0]


def test_chat_may_recall_passages_into_the_prompt(run, bio):
    run("absorb", "ada", bio)
    document = run.json("chat", "ada", "-m", "What is the cat called?", "--recall", "40")
    assert "Pim" in document["recalled"][0]["text"]


def test_probe_compares_the_answer_with_and_without_the_memory(run, bio):
    run("absorb", "ada", bio)
    document = run.json("probe", "ada", "-q", "What is the cat called?", "-a", "Pim")
    assert document["with_memory"] > document["without_memory"]
    assert document["gain"] > 0
    assert "gain" in run("probe", "ada", "-q", "What is the cat called?", "-a", "Pim")[0]


def test_fork_copies_and_the_copy_goes_its_own_way(run, bio):
    run("absorb", "ada", bio)
    assert run.json("fork", "ada", "eve")["absorbed_tokens"] == 15
    run("forget", "ada", "--yes")
    assert [row["id"] for row in run.json("list")["memories"]] == ["eve"]


def test_rollback_and_fork_take_the_beginning_of_a_revision(run, bio, tmp_path):
    run("absorb", "ada", bio)
    first = run.json("show", "ada")["head"]
    more = tmp_path / "more.txt"
    more.write_text("The honey is dark this year.", encoding="utf-8")
    run("absorb", "ada", str(more))
    assert run.json("fork", "ada", "old", "--revision", first[:8])["head"] == first
    assert run.json("rollback", "ada", first[:8])["head"] == first


def test_rebuild_learns_everything_again(run, bio):
    run("absorb", "ada", bio)
    before = run.json("show", "ada")["head"]
    assert run.json("rebuild", "ada")["tokens"] == 15
    assert run.json("show", "ada")["head"] != before


def test_an_exported_memory_can_be_imported_under_another_id(run, bio, tmp_path):
    run("absorb", "ada", bio)
    path = tmp_path / "ada.templora"
    exported = run.json("export", "ada", str(path))
    assert exported["bytes"] == path.stat().st_size
    assert run.json("import", str(path), "--as", "eve")["absorbed_tokens"] == 15
    run("forget", "ada", "--yes")
    assert run.json("import", str(path))["id"] == "ada"


def test_an_export_touches_no_file_that_is_there_unless_forced(run, bio, tmp_path):
    run("absorb", "ada", bio)
    for name in ("thesis.txt", "link"):
        path = tmp_path / name
        if name == "link":
            path.symlink_to(tmp_path / "nowhere")
        else:
            path.write_text("years of work", encoding="utf-8")
        _, err = run("export", "ada", str(path), code=2)
        assert "exists" in err
        assert "--force" in err
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    run("export", "ada", str(tmp_path / "thesis.txt"), "--force")
    assert run.json("import", str(tmp_path / "thesis.txt"), "--as", "eve")["id"] == "eve"


def test_forget_removes_every_file_and_lists_them(run, bio):
    run("absorb", "ada", bio)
    run("absorb", "ada@bob", bio)
    receipt = run.json("forget", "ada", "--yes")
    assert receipt["ids"] == ["ada", "ada@bob"]
    assert [path for path in run.root.rglob("*") if path.is_file()] == []


def test_forget_of_a_user_spares_the_others(run, bio):
    for name in ("ada", "ada@bob", "cat@bob"):
        run("absorb", name, bio)
    run("forget", "--user", "bob", "--yes")
    assert [row["id"] for row in run.json("list")["memories"]] == ["ada"]


def test_bench_perplexity_measures_and_leaves_nothing_behind(run, tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(" ".join(f"word{n % 90}" for n in range(240)), encoding="utf-8")
    document = run.json("bench", "perplexity", str(path))
    first, *later = document["chunks"]
    assert set(first) == {"start", "tokens", "base_nll", "memory_nll", "seconds", "kl"}
    assert first["base_nll"] == first["memory_nll"]
    assert any(chunk["memory_nll"] < chunk["base_nll"] for chunk in later)
    assert document["memory_ppl"] < document["base_ppl"]
    assert document["tokens"] == 239
    assert document["preset"] == "default"
    assert run.json("list")["memories"] == []


def test_bench_perplexity_reports_several_files_and_their_total(run, bio, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("A quite different text about boats and their names.", encoding="utf-8")
    document = run.json("bench", "perplexity", bio, str(other))
    assert [row["file"] for row in document["files"]] == [bio, str(other)]
    assert sum(row["tokens"] for row in document["files"]) == document["tokens"]
    assert "total" in run("bench", "perplexity", bio, str(other))[0]


def test_settings_of_the_preset_can_be_changed(run, bio):
    run("absorb", "ada", bio, "--set", "learning.r=4", "--set", "recipe=statements")
    policy = run.loaded[-1][2]
    assert (policy.learning.r, policy.recipe) == (4, "statements")
    assert policy.learning.lora_alpha == Policy().learning.lora_alpha
    for change in ("rank=4", "learning.rang=4", "window", "=3", "window=-1", "learning=3"):
        _, err = run("list", "--set", change, code=2)
        assert change.partition("=")[0] in err


# --- the model is loaded only where it is needed -----------------------------------------------


def test_commands_on_files_load_no_model(run, bio, tmp_path):
    run("absorb", "ada", bio)
    run.loaded.clear()
    head = run.json("show", "ada")["head"]
    run("list")
    run("fork", "ada", "eve")
    run("rollback", "ada", head)
    run("export", "ada", str(tmp_path / "x"))
    run("import", str(tmp_path / "x"), "--as", "kim")
    run("forget", "ada", "--yes")
    assert run.loaded == []


def test_common_options_reach_the_service(run, bio):
    options = ("--model", "some/model", "--preset", "reference", "--device", "cpu")
    run("absorb", "ada", bio, *options, "--dtype", "float32")
    reference = Policy.preset("reference")
    assert run.loaded == [("some/model", str(run.root), reference, "cpu", "float32")]


def test_root_and_model_come_from_the_environment(run, bio, monkeypatch, tmp_path):
    monkeypatch.setenv("TEMPLORA_ROOT", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("TEMPLORA_MODEL", "other/model")
    assert main(["absorb", "ada", bio]) == 0
    assert run.loaded[0][:2] == ("other/model", str(tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere" / "ada").is_dir()


def test_defaults_are_kept_in_a_file_and_options_go_first(run, bio, tmp_path, monkeypatch):
    assert run.json("config")["settings"] == {}
    run("config", "model", "some/model")
    run("config", "root", str(tmp_path / "kept"))
    assert main(["absorb", "ada", bio]) == 0
    assert run.loaded[-1][:2] == ("some/model", str(tmp_path / "kept"))
    monkeypatch.setenv("TEMPLORA_MODEL", "other/model")
    assert main(["absorb", "ben", bio]) == 0
    assert run.loaded[-1][0] == "other/model"
    assert main(["absorb", "zoe", bio, "--model", "third/model"]) == 0
    assert run.loaded[-1][0] == "third/model"
    run("config", "root", "--unset")
    assert run.json("config")["settings"] == {"model": "some/model"}
    _, err = run("config", "modle", "x", code=2)
    assert "Did you mean 'model'?" in err
    (tmp_path / "config.json").write_text("[", encoding="utf-8")
    _, err = run("list", code=2)
    assert "config.json cannot be read" in err


def test_no_learn_keeps_nothing_of_a_conversation(run, bio):
    run("absorb", "ada", bio)
    out, _ = run("chat", "ada", "-m", "What is the cat called?", "--no-learn")
    assert "Pim" in out
    assert run.json("show", "ada", "--text")["text"]["messages"] == []
    run("chat", "nobody", "-m", "Hello?", "--no-learn", code=2)


def test_a_message_and_a_prompt_may_come_from_standard_input(run, bio, say):
    run("absorb", "ada", bio)
    say("What is\nthe cat called?\n")
    assert "Pim" in run("chat", "ada", "-m", "-")[0]
    say("Once upon a time")
    assert run.json("generate", "novel", "-", "--tokens", "4")["completion_tokens"] == 4


@pytest.mark.parametrize("line", ["chat ada -m ' '", "chat ada -m '\x1b[A'"])
def test_an_empty_message_is_refused_and_not_journalled(run, line):
    _, err = run(*shlex.split(line), code=2)
    assert "The message is empty" in err
    assert run.json("list")["memories"] == []


# --- misuse and failure ------------------------------------------------------------------------


MISUSE = {
    "unknown command": "remember ada",
    "unknown option": "list --colour",
    "missing argument": "absorb ada",
    "missing file": "absorb ada nowhere.txt",
    "folder without a file": "absorb ada nothing",
    "binary file": "absorb ada photo.txt",
    "folder to bench": "bench perplexity .",
    "zero byte": "absorb ada zero.txt",
    "empty file": "absorb ada empty.txt",
    "bad id": "absorb ../ada good.txt",
    "unknown memory": "show nobody",
    "unknown preset": "absorb ada good.txt --preset fancy",
    "unknown memory to probe": "probe nobody -q a -a b",
    "forget without confirmation": "forget ada",
    "forget nothing": "forget --yes",
    "forget twice": "forget ada --user bob --yes",
    "bad temperature": "chat ada -m hello --temperature -1",
    "json without a message": "chat ada --json",
    "bad token count": "generate ada --tokens 0",
    "import of nothing": "import nowhere.templora",
    "unfinished group": "bench",
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_exits_with_2_and_one_line_on_standard_error(run, tmp_path, monkeypatch, name, say):
    say("")
    monkeypatch.chdir(tmp_path)
    Path("good.txt").write_text(BIO, encoding="utf-8")
    Path("photo.txt").write_bytes(b"\x89PNG\r\n")
    Path("zero.txt").write_bytes(b"text\0text")
    Path("empty.txt").write_bytes(b" \n")
    Path("nothing").mkdir()
    line = shlex.split(MISUSE[name])
    out, err = _bare(run, line) if name == "unfinished group" else run(*line, code=2)
    assert err.startswith("templora: ")
    assert err.count("\n") == 1
    if "--json" not in line:
        assert out == ""


def _bare(run, line):
    assert main(line) == 2
    return run._capsys.readouterr()


def test_an_unknown_revision_is_misuse(run, bio):
    run("absorb", "ada", bio)
    _, err = run("rollback", "ada", "00000000", code=2)
    assert "no revision" in err


def test_a_text_over_the_limit_is_refused_before_anything_is_learned(run, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("word " * 2_000_001, encoding="utf-8")
    _, err = run("absorb", "ada", str(path), code=2)
    assert "10,000,000" in err
    assert run.json("list")["memories"] == []


def test_one_bad_file_among_several_learns_none(run, bio, tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"\xff\xfe")
    run("absorb", "ada", bio, str(bad), code=2)
    assert run.json("list")["memories"] == []


def test_failures_exit_with_1(run, tmp_path):
    poison = tmp_path / "poison.txt"
    poison.write_text("This ends in NaN! as a loss.", encoding="utf-8")
    _, err = run("absorb", "ada", str(poison), code=1)
    assert err.count("\n") == 1
    assert "NaN" in err


def test_a_fork_onto_an_existing_memory_fails(run, bio):
    run("absorb", "ada", bio)
    run("absorb", "eve", bio)
    run("fork", "ada", "eve", code=1)


def test_an_import_of_a_text_file_fails(run, bio):
    run("import", bio, code=1)


def test_an_error_as_json_is_one_document_on_standard_output(run):
    out, err = run("show", "nobody", "--json", code=2)
    assert json.loads(out)["error"]["type"] == "UnknownMemory"
    assert json.loads(out)["error"]["message"] in err
    out, _ = run("list", "--json", "--colour", code=2)
    assert json.loads(out)["error"]["type"] == "Usage"


def test_a_failure_while_learning_in_the_background_is_told_and_costs_no_answer(run):
    for number in range(3):
        said = f"Line {number} ends in NaN! and has more words than that."
        out, err = run("chat", "ada", "-m", said)
        assert out.startswith("I see")
        if err:
            break
    assert err.count("\n") == 1
    assert "learning in the background failed" in err


def test_forget_asks_a_person_and_takes_no_for_an_answer(run, bio, monkeypatch):
    run("absorb", "ada", bio)
    monkeypatch.setattr(sys, "stdin", Person("n\n"))
    _, err = run("forget", "ada", code=1)
    assert "nothing was forgotten" in err
    monkeypatch.setattr(sys, "stdin", Person("y\n"))
    run("forget", "ada")
    assert run.json("list")["memories"] == []


class Person:
    """A terminal with somebody who types."""

    def __init__(self, typed):
        self._typed = typed

    def isatty(self):
        return True

    def readline(self):
        return self._typed


# --- interrupting ------------------------------------------------------------------------------

SLOW = """
import pathlib, signal, sys, time
from templora_memory import ParametricMemory, Policy
from templora_memory.cli import main
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

root, mark = sys.argv[1:3]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

def slowly():
    pathlib.Path(mark).touch()
    time.sleep(0.2)

def open_service(*_, **__):
    policy = Policy(window=96, reply_tokens=24, chunk=16)
    return ParametricMemory(
        FakeBackend(name="templora/tiny", on_learn=slowly), DirectoryStore(root), policy
    )

ParametricMemory.from_pretrained = open_service
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_an_interrupt_cancels_the_absorb_keeps_the_text_and_exits_with_130(run, tmp_path, how):
    book, mark = tmp_path / "book.txt", tmp_path / "mark"
    book.write_text(" ".join(f"word{n}" for n in range(2000)), encoding="utf-8")
    command = [sys.executable, "-c", SLOW, str(run.root), str(mark)]
    with subprocess.Popen(
        [*command, "absorb", "ada", str(book), *how, "--root", str(run.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.startswith("templora: Interrupted")
    assert "Run the same command again to go on." in err
    assert err.count("\n") == 1
    if how:
        assert json.loads(out)["error"]["type"] == "Interrupted"
    else:
        assert out == ""
    shown = run.json("show", "ada")
    assert (shown["documents"], shown["absorbed_documents"]) == (1, 0)
    assert list((run.root / "ada").glob(".staging-*")) == []
    assert run.json("absorb", "ada", str(book))["tokens"] == 2000


# --- encryption --------------------------------------------------------------------------------


def test_memories_are_encrypted_with_the_key_of_a_file_or_the_environment(
    run, bio, tmp_path, monkeypatch
):
    key = tmp_path / "memories.key"
    key.write_text(f"{'5e' * 32}\n")
    assert run.json("absorb", "ada", bio, "--encryption-key", str(key))["tokens"]
    held = [path.read_bytes() for path in run.root.rglob("*") if path.is_file()]
    assert not any(b"Ada" in content or b"digest" in content for content in held)
    _, said = run("list", code=2)
    assert "is encrypted: give the key" in said
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(key))
    assert [row["id"] for row in run.json("list")["memories"]] == ["ada"]
    assert "key.json" in " ".join(run("forget", "ada", "--yes", "--json")[0].split())
    monkeypatch.setenv(KEY_FILE_VARIABLE, bio)
    _, said = run("list", code=2)
    assert "does not hold a key for memories" in said
