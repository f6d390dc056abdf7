"""The measurements that write files, on the embedded model with few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Group
from rich.table import Table
from rich.text import Text

from templora_memory import Document, Message, ParametricMemory, Policy
from templora_memory.backends.local import LocalBackend
from templora_memory.cli import _bench
from templora_memory.cli._save import markdown
from templora_memory.errors import InvalidSetting, InvalidText
from templora_memory.evaluation import ChunkScore, PerplexityReport, by_length, cost, damage
from templora_memory.evaluation.cost import Shape, shape_of
from templora_memory.evaluation.recall import ARMS, PEOPLE, bundled_people
from templora_memory.stores import DirectoryStore

STORY = "The rain came over the hill and the old dog went home. " * 400


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    policy = Policy(recipe="statements").changed(learning={"document_steps": 4})
    store = DirectoryStore(tmp_path_factory.mktemp("root"))
    with ParametricMemory(LocalBackend(), store, policy) as memory:
        yield memory


@pytest.mark.slow
def test_damage_compares_with_the_answers_of_the_base_model(service):
    people = bundled_people()[:2]
    report = damage(service, people, other=STORY, questions=["Why is the sky blue?", "And snow?"])
    assert set(report.arms) == {"memory", "half"}
    own = report.arms["memory"]
    assert own.asked == 4
    assert own.strength == 1
    assert own.other_text is not None
    assert own.other_text > 0
    assert report.arms["half"].same >= own.same
    assert not service.list()


def test_damage_needs_a_question(service):
    with pytest.raises(InvalidText, match="question"):
        damage(service, bundled_people()[:2], questions=[])


@pytest.mark.slow
def test_a_turn_of_a_memory_costs_the_same_however_long_the_history_is(service):
    report = cost(service, STORY, shape_of(service), lengths=(200, 400, 1600), repeats=1)
    memory, whole = report.arm("memory"), report.arm("full_history")
    assert [turn.history for turn in memory] == [200, 400, 1600]
    assert len({turn.prompt_tokens for turn in memory}) == 1
    assert len({turn.flops for turn in memory}) == 1
    assert all(turn.learn_flops > 0 and turn.learn_seconds > 0 for turn in memory)
    assert [turn.history for turn in whole] == [200, 400]  # more do not fit
    assert whole[1].prompt_tokens > whole[0].prompt_tokens + 150
    assert report.arm("sliding_window")[-1].prompt_tokens < 400
    assert not service.list()


def test_cost_asks_for_growing_lengths_and_enough_text(service):
    shape = Shape(parameters=10, layers=1, width=4)
    with pytest.raises(InvalidSetting, match="grow"):
        cost(service, STORY, shape, lengths=(10, 10))
    with pytest.raises(InvalidText, match="longer one"):
        cost(service, "short", shape, lengths=(10,))


def test_operations_are_counted():
    shape = Shape(parameters=100, layers=2, width=8)
    assert shape.forward(1) == 2 * 100 + 4 * 2 * 8
    assert shape.forward(3) == sum(shape.forward(1, before) for before in range(3))
    assert shape.learn(3, context=5, epochs=2) > 2 * shape.forward(3, 5)


def test_a_gate_lowers_the_strength_of_a_memory_that_is_not_sure(tmp_path):
    strengths = {}
    for gate in (None, 1000.0, 1.0, 1e-6):
        policy = Policy(recipe="statements", gate=gate).changed(learning={"document_steps": 8})
        root = DirectoryStore(tmp_path / str(gate))
        with ParametricMemory(LocalBackend(), root, policy) as memory:
            memory["oda"].absorb(Document("Oda Marn keeps the light at Vellin."))
            asked = [Message("user", "What does Oda Marn keep?")]
            found = [
                memory["oda"].reply(asked, revision="head", max_tokens=12, strength=strength)
                for strength in (1.0, 0.0)
            ]
            assert found[1].strength == 0
            assert memory.without_memory.reply(asked, max_tokens=2).strength == 1
        strengths[gate] = found[0].strength
        if found[0].strength == 0:
            assert found[0].text == found[1].text
    assert strengths[None] == strengths[1000.0] == 1
    assert 0 <= strengths[1.0] <= 1
    assert strengths[1e-6] == 0


def test_rows_by_length_hold_every_token_once():
    chunks = tuple(
        ChunkScore(start=start, tokens=50, base_nll=2.0, memory_nll=1.0 + start / 1000, seconds=1)
        for start in range(0, 250, 50)
    )
    report = PerplexityReport(
        model="m", policy={}, chunks=chunks, version="0", commit=None, machine={}
    )
    rows = by_length([report, report], step=100)
    assert [row["after_tokens"] for row in rows] == [0, 100, 200]
    assert sum(row["tokens"] for row in rows) == 500
    assert rows[0]["memory_ppl"] < rows[0]["mean_of_chunks_memory"] < rows[0]["base_ppl"]
    with pytest.raises(InvalidSetting, match="step"):
        by_length([report], step=0)


def test_a_result_becomes_markdown():
    table = Table()
    table.add_column("arm")
    table.add_column("right")
    table.add_row(Text("a|b"), Text("3"))
    found = markdown(Group(table, Text("Two people.")))
    assert found == "| arm | right |\n| --- | --- |\n| a\\|b | 3 |\n\nTwo people."


@pytest.mark.slow
def test_files_are_written(tmp_path, monkeypatch, capsys):
    from templora_memory.cli import main  # noqa: PLC0415

    book, out = tmp_path / "book.txt", tmp_path / "out"
    book.write_text(STORY, encoding="utf-8")
    monkeypatch.setenv("TEMPLORA_ROOT", str(tmp_path / "root"))
    arguments = ["bench", "perplexity", str(book), "--tokens", "700", "--out", str(out), "--json"]
    monkeypatch.setattr("sys.argv", ["templora", *arguments])
    assert main() == 0
    said = json.loads(capsys.readouterr().out)
    assert json.loads((out / "perplexity.json").read_text(encoding="utf-8")) == said
    assert "base ppl" in (out / "perplexity.md").read_text(encoding="utf-8")
    assert Path(out / "perplexity.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_the_command_line_names_the_people_and_arms_that_there_are():
    assert tuple(PEOPLE) == _bench.PEOPLE
    assert _bench.ARMS == ARMS
