"""Questions about conversations: all arms over the fake backend."""

from __future__ import annotations

import json

import pytest

from templora_memory import Memory, Message, ParametricMemory, Policy
from templora_memory.errors import InvalidText
from templora_memory.evaluation.conversation import ARMS, conversation, load_talks
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend


def row(name, place, fill=12):
    chatter = [
        turn
        for number in range(fill)
        for turn in (
            {"role": "user", "content": f"Small talk {number} on and on about the weather."},
            {"role": "assistant", "content": f"Yes, talk {number} goes on and on."},
        )
    ]
    told = [
        {"role": "user", "content": f"{name} lives in {place}."},
        {"role": "assistant", "content": "I see."},
    ]
    asked = [{"ask": f"Where does {name} live in?", "fact": place}]
    return {"sessions": [told, chatter], "questions": asked}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "talks.jsonl"
    rows = [row("Ada", "Salt Harbour"), row("Ben", "Oak Hill")]
    path.write_text("\n".join(json.dumps(one) for one in rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def service(tmp_path):
    made = ParametricMemory(
        FakeBackend(context=512), DirectoryStore(tmp_path / "root"), Policy(window=160, chunk=50)
    )
    with made:
        yield made


def test_memory_and_passages_answer_what_the_newest_turns_do_not_hold(service, file):
    seen = []
    report = conversation(
        service, load_talks(file), progress=lambda done, count: seen.append((done, count))
    )
    accuracy = {name: arm.accuracy for name, arm in report.arms.items()}
    right = {"memory", "bm25", "memory_bm25"}
    assert accuracy == {arm: float(arm in right) for arm in ARMS}
    assert report.arms["last"].prompt_tokens <= 160 - 48
    assert report.arms["last"].prompt_tokens > report.arms["memory_bm25"].prompt_tokens
    assert (report.talks, report.messages) == (2, 52)
    assert report.gain > 0
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert json.loads(json.dumps(report.as_dict()))["arms"]["memory"]["asked"] == 2
    assert service.list() == ()


def test_an_error_leaves_no_memory_behind(service, file, monkeypatch):
    monkeypatch.setattr(Memory, "probe", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        conversation(service, load_talks(file))
    assert service.list() == ()


def test_sessions_become_one_conversation_without_system_messages(tmp_path):
    path = tmp_path / "talks.jsonl"
    one = row("Ada", "Salt Harbour", fill=1)
    one["sessions"][0].insert(0, {"role": "system", "content": "Be kind."})
    path.write_text(f"{json.dumps(one)}\n\n{json.dumps(one)}\n", encoding="utf-8")
    talk, _ = load_talks(path)
    assert talk.messages[0] == Message("user", "Ada lives in Salt Harbour.")
    assert len(talk.messages) == 4


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[",
        json.dumps(row("Ada", "Salt Harbour")),
        '{"sessions": []}\n{}',
        '{"sessions": [[]], "questions": [{"ask": "a", "fact": "b"}]}\n{}',
        '{"sessions": [[{"role": "owl", "content": "a"}]], "questions": []}\n{}',
    ],
)
def test_a_file_that_holds_no_conversations_is_refused(tmp_path, content):
    path = tmp_path / "talks.jsonl"
    path.write_text(content)
    with pytest.raises(InvalidText, match=r"talks\.jsonl"):
        load_talks(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InvalidText, match=r"none\.jsonl"):
        load_talks(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidText, match=r"latin\.jsonl"):
        load_talks(tmp_path / "latin.jsonl")
