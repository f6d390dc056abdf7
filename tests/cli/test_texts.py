"""Texts one by one on the command line: listed, removed, corrected, pinned, completed."""

import io
import json
import sys
from types import SimpleNamespace

import pytest

from templora_memory import ParametricMemory
from templora_memory.cli import main
from templora_memory.cli._config import complete_text_id
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

BIO, CODE, LATER = "Ada keeps bees.", "The code is zanzibar.", "Ada moved to Leeds."


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """`run(words)`: what a command wrote, over a memory of three texts and the fake backend."""
    root = tmp_path / "root"

    def service(*_, root=root, key=None, **__):
        return ParametricMemory(FakeBackend(), DirectoryStore(root, key=key))

    monkeypatch.setattr(ParametricMemory, "from_pretrained", service)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TEMPLORA_CONFIG", str(tmp_path / "config.json"))
    with service() as memory:
        for text in (BIO, CODE, LATER):
            memory["ada"].absorb(text)

    def call(*words, code=0):
        capsys.readouterr()
        found = main([*words, "--root", str(root)])
        out, err = capsys.readouterr()
        assert found == code, err
        return out if code == 0 else err

    call.root = root
    return call


def listed(run, *words):
    return json.loads(run("texts", "ada", *words, "--json"))


def test_texts_shows_what_a_memory_was_told(run):
    out = run("texts", "ada", "--limit", "2")
    assert BIO in out
    assert CODE in out
    assert "learned" in out
    assert "1 more: --offset 2" in out
    page = listed(run, "--offset", "2")
    assert [text["text"] for text in page["texts"]] == [LATER]
    assert (page["total"], page["next_offset"]) == (3, None)
    assert [text["text"] for text in listed(run, "bee")["texts"]] == [BIO]
    assert "nothing of the kind" in run("texts", "ada", "submarine")


def test_remove_takes_a_text_out_and_gives_a_receipt(run):
    name = listed(run)["texts"][1]["id"]
    receipt = json.loads(
        run("remove", "ada", name[:8], "-q", "Which code?", "-a", "zanzibar", "--yes", "--json")
    )
    assert (receipt["id"], receipt["ids"]) == ("ada", [name])
    assert [change["over_base"] for change in receipt["changes"]] == [1.0, 1.0]
    assert [text["text"] for text in listed(run)["texts"]] == [BIO, LATER]
    assert not any(b"zanzibar" in p.read_bytes() for p in run.root.rglob("*") if p.is_file())
    assert "no text" in run("remove", "ada", name, "--yes", code=1)


def test_remove_asks_a_person_first(run, monkeypatch):
    name = listed(run)["texts"][1]["id"]
    assert "add --yes" in run("remove", "ada", name, code=2)
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert CODE in run("remove", "ada", name, code=1)  # what it asks about
    assert listed(run)["total"] == 3


def test_correct_shows_before_and_now(run):
    name = listed(run)["texts"][1]["id"]
    out = run("correct", "ada", name, "The code is marble.")
    assert name[:12] in out
    assert "base model" in out
    assert listed(run)["texts"][1]["text"] == "The code is marble."
    assert "Nothing was changed" in run("correct", "ada", name, "The code is marble.")
    assert "--answer" in run("correct", "ada", name, "x", "-q", "What?", code=2)


def test_pin_keeps_a_text_and_off_lets_it_go(run):
    name = listed(run)["texts"][0]["id"]
    assert "pinned" in run("pin", "ada", name)
    assert [text["pinned"] for text in listed(run)["texts"]] == [True, False, False]
    run("pin", "ada", name, "--off")
    assert not any(text["pinned"] for text in listed(run)["texts"])


def test_ids_of_texts_are_completed_with_their_beginning(run):
    name = listed(run)["texts"][0]["id"]
    context = SimpleNamespace(params={"root": str(run.root), "memory_id": "ada"})
    assert complete_text_id(context, name[:3]) == [(name, BIO)]
    assert len(complete_text_id(context, "")) == 3
