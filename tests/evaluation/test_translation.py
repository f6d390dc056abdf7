"""Translating while approved translations are learned, over the fake backend."""

from __future__ import annotations

import json
import math

import pytest

from templora_memory import ParametricMemory, Policy
from templora_memory.errors import InvalidSetting, InvalidText
from templora_memory.evaluation.translation import BEFORE, SECTION, Pair, load_pairs, translation
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

SECTIONS = [
    [Pair(f"satz {section} {number}", f"sentence {section} {number}") for number in range(4)]
    for section in range(3)
]


@pytest.fixture
def backend():
    return FakeBackend(context=512)


@pytest.fixture
def service(tmp_path, backend):
    policy = Policy(window=200, reply_tokens=16, chunk=50, recipe="pairs")
    with ParametricMemory(backend, DirectoryStore(tmp_path / "root"), policy) as made:
        yield made


def test_every_sentence_is_translated_before_its_section_is_learned(service, backend):
    seen = []
    report = translation(service, SECTIONS, progress=lambda done, count: seen.append((done, count)))
    assert (report.pairs, report.sections) == (8, 3)
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    learned = [item.content for request in backend.learned for item in request.items]
    assert learned == [
        text for section in SECTIONS for p in section for text in (p.source, p.target)
    ]
    prompts = [request.messages for request in backend.requests]
    assert len(prompts) == 16  # both arms
    assert all(prompt[-1].role == "user" for prompt in prompts)
    assert max(len(prompt) for prompt in prompts) <= 2 + 2 * BEFORE
    assert service.list() == ()


def test_both_arms_see_the_same_prompts_and_are_scored(service):
    report = translation(service, SECTIONS)
    none, memory = report.arms["none"], report.arms["memory"]
    assert none.prompt_tokens == memory.prompt_tokens
    assert all(math.isfinite(arm.perplexity) and 0 <= arm.chrf <= 100 for arm in (none, memory))
    assert json.loads(json.dumps(report.as_dict()))["arms"]["memory"]["bleu"] is not None


def test_without_writing_there_is_only_the_perplexity(service, backend, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    report = translation(service, SECTIONS, write=False)
    assert report.arms["memory"].bleu is None
    assert backend.requests == []
    with pytest.raises(InvalidSetting, match="sacrebleu"):
        translation(service, SECTIONS)


def test_earlier_pairs_give_way_to_a_short_window(tmp_path, backend):
    policy = Policy(window=60, reply_tokens=16, chunk=16, recipe="pairs")
    with ParametricMemory(backend, DirectoryStore(tmp_path / "short"), policy) as service:
        report = translation(service, SECTIONS)
    assert report.arms["none"].prompt_tokens <= 60 - 16


def test_an_error_leaves_no_memory_behind(service, monkeypatch):
    monkeypatch.setattr(service.backend, "score", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        translation(service, SECTIONS)
    assert service.list() == ()


def test_tab_separated_lines_are_cut_into_sections(tmp_path):
    path = tmp_path / "novel.tsv"
    path.write_text("".join(f"satz {n}\tsentence {n}\n\n" for n in range(SECTION + 1)))
    sections = load_pairs(path)
    assert [len(section) for section in sections] == [SECTION, 1]
    assert sections[0][0] == Pair("satz 0", "sentence 0")


def test_guofeng_files_bring_their_sections(tmp_path):
    path = tmp_path / "novel.eval"
    rows = [
        {"contexts": {}, "inference": [{"zh": "好", "en": "Good"}, {"zh": " ", "en": ""}]},
        {"contexts": {}, "inference": [{"zh": "坏", "en": "Bad"}]},
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert load_pairs(path) == ((Pair("好", "Good"),), (Pair("坏", "Bad"),))


@pytest.mark.parametrize(
    "content",
    ["", "one column", "a\tb\tc", "a\t ", "[", "[1, 2]", '[{"inference": [{"zh": "a"}]}]', "a\tb"],
)
def test_a_file_that_holds_no_pairs_is_refused(tmp_path, content):
    path = tmp_path / "novel.tsv"
    path.write_text(content)
    with pytest.raises(InvalidText, match=r"novel\.tsv"):
        load_pairs(path)
