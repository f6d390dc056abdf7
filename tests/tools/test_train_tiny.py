"""The way from a corpus to the embedded model's folder, with a model of a few weights."""

# ruff: noqa: S311  (tests want a seeded generator)

from __future__ import annotations

import json
import lzma
from dataclasses import replace
from random import Random

import pytest

pytest.importorskip("numpy")
pytest.importorskip("tqdm")
pytest.importorskip("tools.train_tiny", reason="tools are only in the repository")

import torch
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from tools.train_tiny import data, evaluate, export, persona_world as world, settings, train

PHASES = (settings.Phase(1.0, 32, 2, {"repeat": 0.2, "persona": 0.4, "stories": 0.2, "chat": 0.2}),)
TINY = replace(
    settings.load(),
    tokenizer=settings.TokenizerSettings(vocabulary=600, sample_characters=60_000),
    data=settings.DataSettings(70_000, 40, 4, 20, 0.02),
    model=settings.ModelSettings(16, 32, 2, 2, 1, 256, 10000.0),
    run=settings.RunSettings(steps=3, checkpoint_every=2, compile=False, note=""),
    phase=PHASES,
)
CHAT = [
    {"role": "system", "content": "You are Bo.\nBo is a duck."},
    {"role": "user", "content": "  What are you? "},
    {"role": "assistant", "content": "A duck, 12 years old."},
    {"role": "user", "content": ""},
]


def write_rows(path, rows):
    with lzma.open(path, "wt", encoding="utf-8", preset=0) as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Prepared files and the checkpoint of a short training."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = Random(1)
    books = ["\n\n".join(world.tale(rng) for _ in range(60)) for _ in range(3)]
    chats = [
        [
            {"role": "user", "content": f"Is {number} a number?"},
            {"role": "assistant", "content": f"Yes, {number} is one."},
        ]
        for number in range(60)
    ]
    write_rows(folder / "stories.jsonl.xz", [{"text": book} for book in books])
    write_rows(
        folder / "chat.jsonl.xz", [{"source": "chatterbot_en", "messages": chat} for chat in chats]
    )
    data.prepare(folder, folder / "work", TINY)
    train.train(folder / "work", TINY, minutes=None)
    return folder / "work"


@pytest.fixture(scope="module")
def figures(work):
    return evaluate.evaluate(work, TINY, people=2, each=1, windows=2, dialogues=2)


@pytest.fixture(scope="module")
def exported(work, figures, tmp_path_factory):
    assert figures["step"] == TINY.run.steps  # the card needs them first
    folder = tmp_path_factory.mktemp("exported") / "model"
    export.export(work, folder, TINY)
    return folder


@pytest.fixture(scope="module")
def tokenizer(exported):
    return AutoTokenizer.from_pretrained(exported)


def test_logits_are_those_of_the_checkpoint(work, exported):
    model = train.build_model(TINY, 1, 0).eval()
    step = train.load_checkpoint(work / "checkpoint", model, ())
    loaded = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        expected, found = model(input_ids=ids).logits, loaded(input_ids=ids).logits

    assert step == TINY.run.steps
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02)


def test_weights_are_stored_in_bfloat16(exported):
    assert AutoModelForCausalLM.from_pretrained(exported, dtype="auto").dtype == torch.bfloat16


def test_special_ids(exported, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(exported)
    assert model.generation_config.eos_token_id == [1, 0]
    assert model.generation_config.pad_token_id == 0
    assert model.generation_config.bos_token_id is None
    assert model.config.bos_token_id is None
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (1, 0, None)
    assert tokenizer.model_max_length == 256


def test_template_is_the_training_encoding(work, tokenizer):
    trained_with = data.Tokenizer.from_file(str(work / "tokenizer.json"))
    turns = [(message["role"], message["content"]) for message in CHAT]
    encoded, _ = data.encode(trained_with, turns, 3)

    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == data.render(turns)
    assert tokenizer.apply_chat_template(CHAT, return_dict=False) == encoded[:-1]
    prompt = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert prompt == [*encoded[:-1], trained_with.token_to_id(data.ASSISTANT)]


def test_template_shows_tool_messages_as_system(tokenizer):
    chat = [{"role": "tool", "content": "42"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<|system|>42<|end|>"


def test_template_refuses_unknown_roles(tokenizer):
    with pytest.raises(Exception, match="unknown role narrator"):
        tokenizer.apply_chat_template([{"role": "narrator", "content": "x"}], tokenize=False)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_survives_without_added_tokens(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {0, 1, 2, 3, 4} & set(ids) or "<|" in text


def test_card_has_the_figures_and_credits(exported, figures):
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert f"| stories | {figures['perplexity']['stories']:.1f} |" in card
    for licence in ("CC-BY-SA-4.0", "CC-BY-4.0", "Apache-2.0", "MIT", "BSD-3-Clause"):
        assert licence in card


def test_card_shows_no_figures_of_another_step(work, tmp_path, figures):
    (work / "evaluation.json").write_text(json.dumps({**figures, "step": 1}), encoding="utf-8")
    export.export(work, tmp_path, TINY)
    (work / "evaluation.json").write_text(json.dumps(figures), encoding="utf-8")
    assert "Not measured" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_evaluation_counts_every_set(figures):
    assert figures["step"] == TINY.run.steps
    assert all(row["asked"] == 2 and 0 <= row["right"] <= 2 for row in figures["questions"])
    assert len(figures["samples"]) == 8


def test_a_right_answer_contains_the_whole_fact():
    question = evaluate.Question([], "a red hat")
    assert question.accepts("My treasure is A RED HAT.")
    assert not question.accepts("I own a red hatbox.")


def test_export_without_checkpoint_says_what_to_run(work, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "ATTEMPTS", 1)
    (tmp_path / "tokenizer.json").write_bytes((work / "tokenizer.json").read_bytes())
    with pytest.raises(FileNotFoundError, match="run train first"):
        export.export(tmp_path, tmp_path / "model", TINY)


def test_settings_name_a_misspelt_key(tmp_path):
    text = settings.DEFAULT.read_text(encoding="utf-8").replace("warmup_steps", "warm_steps")
    (tmp_path / "settings.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="warm_steps"):
        settings.load(tmp_path / "settings.toml")
