"""Evidence of questions and the gate, on two short conversations in LoCoMo's form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from templora_memory.cli._save import markdown
from templora_memory.cli._show import retrieved
from templora_memory.errors import InvalidText
from templora_memory.evaluation.retrieval import ARMS, load_dated, retrieval

DATES = ("9:00 am on 3 May, 2023", "8:15 pm on 20 June, 2023")


def talk(first, second, sessions, questions):
    conversation = {"speaker_a": first, "speaker_b": second}
    for number, lines in enumerate(sessions, start=1):
        conversation[f"session_{number}_date_time"] = DATES[number - 1]
        conversation[f"session_{number}"] = [
            {"speaker": who, "dia_id": f"D{number}:{place}", "text": text}
            for place, (who, text) in enumerate(lines, start=1)
        ]
    asked = [
        {"question": text, "evidence": evidence, "category": category}
        for text, evidence, category in questions
    ]
    return {"sample_id": first, "conversation": conversation, "qa": asked}


TALKS = [
    talk(
        "Ada", "Ben",
        [
            [("Ada", "We sailed to the red island."), ("Ben", "My goose guards the mill.")],
            [
                ("Ada", "We sailed to the blue island."),
                ("Ben", "I repaired nine clocks in the tower and wound them all."),
            ],
        ],
        [
            ("Which island did Ada sail to on 20 June 2023?", ["D2:1"], 4),
            ("What guards the mill of Ben?", ["D1:2"], 1),
            ("What guards the mill of Ada?", ["D1:2"], 5),
        ],
    ),
    talk(
        "Cleo", "Dan",
        [[("Cleo", "The zebras left Zanzibar."), ("Dan", "A pity.")]],
        [("What left Zanzibar with Cleo?", ["D1:1; D1:2"], 4)],
    ),
]  # fmt: skip


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "locomo.json"
    path.write_text(json.dumps(TALKS), encoding="utf-8")
    return path


def test_every_arm_finds_evidence_and_time_tells_two_sessions_apart(file):
    ada, _ = retrieval(load_dated(file)).conversations
    assert list(ada.arms) == list(ARMS)
    assert ada.messages == 4
    assert {score.questions for score in ada.arms.values()} == {2}
    assert ada.arms["words"].recall[3] == 1.0
    assert ada.dated_arms["speaker and time"].recall[1] == 1.0
    assert ada.dated_arms["words"].recall[1] == 0.0


def test_the_gate_knows_who_was_told_about_and_what_was_not_told(file):
    ada, _ = retrieval(load_dated(file)).conversations
    coverage = ada.gates["coverage"]
    assert coverage.auc == coverage.auc_foreign == 1.0
    assert coverage.below[0.15] == (0.0, 1.0, 1.0)
    # who said it is what tells them apart
    assert ada.gates["best passage"].auc < 1.0
    assert ada.gates["anywhere"].auc == 0.5


def test_progress_is_told_and_the_report_becomes_json(file):
    seen = []
    report = retrieval(load_dated(file), progress=lambda *now: seen.append(now))
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert json.loads(json.dumps(report.as_dict()))["conversations"][0]["name"] == "Ada"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "no JSON of LoCoMo"),
        ("[1, 2]", "no JSON of LoCoMo"),
        ('[{"qa": []}]', "'conversation'"),
        (json.dumps(TALKS[:1]), "two conversations"),
        (json.dumps([talk("A", "B", [], [("Who?", [], 1)])]), "no messages"),
    ],
)
def test_other_files_are_refused(tmp_path, content, words):
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidText, match=words):
        load_dated(path)
    with pytest.raises(InvalidText, match="no JSON of LoCoMo"):
        load_dated(Path(tmp_path / "missing.json"))


def test_the_report_is_shown_as_tables(file):
    shown = markdown(retrieved(retrieval(load_dated(file))))
    assert "| looked for by | questions | recall@1 |" in shown
    assert "| coverage | 1.000 | 1.000 |" in shown
    assert "| 0.15 | 0% | 100% | 100% |" in shown


def test_a_conversation_without_answers_in_it_has_no_arms(tmp_path):
    path = tmp_path / "locomo.json"
    rows = [talk(name, "Ben", [[("Ada", "Hello.")]], [("Who?", [], 5)]) for name in ("Ada", "Cleo")]
    path.write_text(json.dumps(rows), encoding="utf-8")
    report = retrieval(load_dated(path))
    assert report.conversations[0].arms == {}
    assert report.conversations[0].gates["coverage"].auc == 0.5
    assert retrieved(report)
