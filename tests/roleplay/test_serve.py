import pytest

from templora_memory.apps.roleplay import serve


def test_what_visitors_of_a_killed_server_had_sent_is_removed(tmp_path):
    for name in ("killed", "own"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text("planted")
    serve._clear(tmp_path, but=tmp_path / "own")
    assert [item.parent.name for item in tmp_path.rglob("*") if item.is_file()] == ["own"]


def test_another_address_needs_a_password(capsys):
    with pytest.raises(SystemExit) as caught:
        serve.main(["--host", "0.0.0.0"])  # noqa: S104  # refused
    assert caught.value.code == 2
    assert "--auth" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        serve.main(["--auth", "name"])


def test_the_command_line_finds_the_page_in_a_checkout():
    pytest.importorskip("gradio")
    from templora_memory.cli._demo import find_demo  # noqa: PLC0415

    assert find_demo().__module__ == "templora_memory.apps.roleplay.serve"
