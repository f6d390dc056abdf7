import json
from importlib.util import find_spec

import pytest

from templora_memory.apps.roleplay import serve
from templora_memory.cli import main as command_line


def test_what_visitors_of_a_killed_server_had_sent_is_removed(tmp_path):
    for name in ("killed", "own"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text("planted")
    serve._clear(tmp_path, but=tmp_path / "own")
    assert [item.parent.name for item in tmp_path.rglob("*") if item.is_file()] == ["own"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "--auth"),  # noqa: S104  # refused
        (["--auth", "name"], "NAME:PASSWORD"),
        (["--prot", "7000"], "--prot"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(capsys, arguments, said):
    assert serve.main(arguments) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.startswith("templora: ")
    if find_spec("gradio") is None:  # which takes long to import
        pytest.skip("the command line refuses before it asks the page")
    assert command_line(["demo", *arguments, "--json"]) == 2
    assert said in json.loads(capsys.readouterr().out)["error"]["message"]


def test_where_it_is_served_is_told_to_programs_too(capsys, tmp_path):
    for as_json in (False, True):
        options = serve.parser().parse_args(
            ["--root", str(tmp_path), *(["--json"] if as_json else [])]
        )
        serve._say_ready(options, "http://127.0.0.1:7860", "templora/tiny", 3.21)
    shown = capsys.readouterr()
    assert "open http://127.0.0.1:7860" in shown.err
    assert json.loads(shown.out) == {
        "url": "http://127.0.0.1:7860",
        "model": "templora/tiny",
        "root": str(tmp_path),
        "seconds": 3.2,
    }
