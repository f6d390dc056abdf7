"""Neutral text, and what an adapter changes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from templora_memory import Document, Learning, Message
from templora_memory.backends.local.lora.batched import (
    LoraLayout,
    LoraWeights,
    choose_targets,
    use_adapters,
)
from templora_memory.backends.local.neutral import everyday_chat, neutral_text
from templora_memory.backends.local.recipes.facts import facts_of
from templora_memory.backends.local.train.kl_regularizer import (
    BEGINNING,
    HELD_OUT_EVERY,
    PIECE_TOKENS,
    Held,
    NeutralText,
)
from templora_memory.backends.local.train.optimizer import TrainableAdapter, trainable_batch
from templora_memory.ports import LearningControl, LearnRequest
from tests.local.conftest import TEXT

SETTINGS = Learning(r=4, lora_alpha=8, learning_rate=1e-3, context=16)
PROSE = neutral_text("en")
CHAT = everyday_chat("en")


@pytest.fixture
def base(make_backend):
    return make_backend().loaded.base


@pytest.fixture
def neutral(make_backend):
    loaded = make_backend().loaded
    return loaded.base, NeutralText(loaded.base, loaded.tokenizer, PROSE[:1000])


@pytest.fixture
def roomy(make_backend):
    """A model that several questions fit."""
    return make_backend(max_position_embeddings=2048).loaded


@pytest.fixture
def held(monkeypatch):
    """Where the memories that are learned are held to the base, step by step."""
    where = []
    monkeypatch.setattr(
        NeutralText,
        "kl_penalty",
        lambda *args: where.extend(args[-1]) or torch.zeros((), requires_grad=True),
    )
    return where


def pieces_of(text):
    return [text.piece(number) for number in range(len(text))]


def loud(base):
    """An adapter that changes a lot."""
    layout = LoraLayout(choose_targets(base.layers, "all-linear"), 4)
    flat = torch.randn(layout.size, generator=torch.Generator().manual_seed(0)) * 0.1
    return TrainableAdapter(LoraWeights(layout, flat, 8.0, use_rslora=False), SETTINGS)


def begun(tokenizer, answer):
    """The first tokens of an answer; of a short one with its end."""
    return tokenizer.decode(tokenizer.encode(answer)[:BEGINNING])


def is_chat(piece):
    return bool(piece.segments)


def test_an_adapter_that_changes_nothing_diverges_by_nothing(neutral):
    base, text = neutral
    state = loud(base)
    assert text.kl_penalty([0], trainable_batch([state])).item() > 1e-3
    with torch.no_grad():
        state._flat.zero_()
    assert text.kl_penalty([0], trainable_batch([state])).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_divergence_is_that_of_the_models_own_logits(make_backend, family):
    """Also of a model that changes its logits after the head."""
    loaded = make_backend(family).loaded
    text = NeutralText(loaded.base, loaded.tokenizer, PROSE[:1000])
    state = loud(loaded.base)
    found = text.kl_penalty([1], trainable_batch([state]))
    found.backward()
    gradient = state._grad.clone()
    state.clear()
    ids = torch.tensor([text.piece(text._training[1]).input_ids])
    with torch.no_grad():
        wanted = loaded.base.model(ids).logits.log_softmax(-1)
    with use_adapters(trainable_batch([state])):
        got = loaded.base.model(ids).logits.log_softmax(-1)
    own = (wanted.exp() * (wanted - got)).sum(-1).mean()
    own.backward()
    assert found.item() == pytest.approx(own.item(), rel=1e-3)
    assert torch.allclose(gradient, state._grad, atol=1e-5)


def test_of_questions_only_the_beginnings_of_the_answers_count(roomy):
    """The divergence of a piece is the mean over turns of that of each answer alone."""
    base, tokenizer = roomy.base, roomy.tokenizer
    turns = CHAT[:3]
    together = NeutralText(base, tokenizer, "", turns)
    (piece,) = pieces_of(together)
    assert tokenizer.decode(piece.labels) == "".join(begun(tokenizer, a) for _, a in turns)
    state = loud(base)
    alone = [
        NeutralText(base, tokenizer, "", [turn]).kl_penalty([0], trainable_batch([state])).item()
        for turn in turns
    ]
    found = together.kl_penalty([0], trainable_batch([state])).item()
    assert found == pytest.approx(sum(alone) / len(alone), rel=1e-3)


def test_every_piece_comes_behind_every_lead(roomy):
    text = NeutralText(roomy.base, roomy.tokenizer, PROSE, CHAT)
    leads = ((), (Message("system", "You are Ada."),))
    read = []
    text._kl_divergence = lambda keys, *_: read.extend(keys) or torch.zeros(())
    rounds = range(2 * len(text._training))
    for turn in rounds:
        text.kl_penalty([turn], None, [Held(leads, ("I row.",))])
    assert set(read) == {(piece, lead, ("I row.",)) for piece in text._training for lead in leads}
    assert [read[turn][1] == () for turn in range(4)] == [True, False, True, False]


def test_a_lead_stands_before_the_questions_of_its_pieces_and_before_no_prose(roomy):
    text = NeutralText(roomy.base, roomy.tokenizer, PROSE, CHAT)
    lead = (Message("system", "You are Ada."),)
    for number in range(len(text)):
        plain, led = text.piece(number), text.piece(number, lead)
        said = roomy.tokenizer.decode(led.input_ids)
        assert ("You are Ada." in said) == is_chat(plain)
        assert led.labels == plain.labels
    state = loud(roomy.base)
    (number,) = [n for n in text._training if is_chat(text.piece(n))][:1]
    turn = text._training.index(number)
    found = [
        text.kl_penalty([turn], trainable_batch([state]), [Held((one,))]).item()
        for one in ((), lead)
    ]
    assert found[0] != pytest.approx(found[1], rel=1e-3)
    both = text.kl_penalty(
        [turn, turn], trainable_batch([state, state]), [Held(), Held((lead,))]
    ).item()
    assert both == pytest.approx(sum(found), rel=1e-3)


def test_a_character_is_held_to_the_base_behind_their_own_name_too(
    make_backend, learn, tmp_path, held
):
    backend = make_backend()
    document = Document("Ada lives in Salt Harbour.", character="Ada")
    learn(backend, tmp_path / "ada", items=(document,), min_steps=4, measure=False)
    learn(backend, tmp_path / "nobody", min_steps=30, measure=False)
    ada = Held(((), (Message("system", "You are Ada."),)), ("I live in Salt Harbour.",))
    assert set(held) == {ada, Held(((),), facts_of(Document(TEXT)).facts)}


def test_a_text_that_is_learned_again_is_held_too(make_backend, tmp_path, held):
    backend = make_backend()
    ada = Document("Ada lives in Salt Harbour.", character="Ada")
    ben = Document("Ben lives in Oak Hill.", character="Ben")
    request = LearnRequest(
        items=(ben,), before=(), start=None, chunk=32, recipe="study", min_steps=12,
        settings=replace(SETTINGS, measure=False), replay=((ada,),),
    )  # fmt: skip
    (tmp_path / "ben").mkdir()
    backend.learn(request, into=tmp_path / "ben", control=LearningControl())
    leads = ((), (Message("system", "You are Ben."),), (Message("system", "You are Ada."),))
    assert set(held) == {Held(leads, ("I live in Oak Hill.", "I live in Salt Harbour."))}


def test_every_other_question_is_followed_by_the_beginning_of_what_was_learned(roomy):
    """There the base model's predictions count: of what is not to be said to everything."""
    answers = ("I live in Salt Harbour with my seven cats.", "I have been afraid of thunder.")
    text = NeutralText(roomy.base, roomy.tokenizer, "", CHAT[:4])
    plain, held = text.piece(0), text.piece(0, (), answers)
    own = [begun(roomy.tokenizer, answer) for _, answer in CHAT[:4]]
    first, second = (begun(roomy.tokenizer, answer) for answer in answers)
    assert roomy.tokenizer.decode(plain.labels) == "".join(own)
    assert roomy.tokenizer.decode(held.labels) == "".join([own[0], first, own[2], second])


def test_neutral_text_stays_likely_while_a_short_one_is_learned(
    make_backend, learn, score, tmp_path
):
    backend, drift, kl = make_backend(template=None), {}, {}
    other = PROSE[300:420]
    for weight in (0.0, 2.0):
        adapter, stats = learn(
            backend, tmp_path / str(weight), min_steps=80, kl_weight=weight, learning_rate=3e-3,
            layers_to_transform="all",
        )  # fmt: skip
        kl[weight] = stats.kl
        drift[weight] = (score(backend, adapter, other) - score(backend, None, other)).mean()
        assert score(backend, adapter).mean() > score(backend, None).mean()
    assert drift[2.0].abs() < drift[0.0].abs() / 2
    assert kl[2.0] < kl[0.0] / 2


def test_a_chat_model_is_held_to_the_base_model_on_everyday_answers(make_backend, learn, tmp_path):
    backend, kls = make_backend(max_position_embeddings=2048), []
    for weight in (0.0, 2.0):
        _, stats = learn(
            backend, tmp_path / str(weight), min_steps=30, kl_weight=weight, learning_rate=3e-3
        )
        kls.append(stats.kl)
    assert kls[1] < 0.7 * kls[0]


def test_the_bundled_text_fills_several_pieces(make_backend):
    loaded = make_backend().loaded
    pieces = pieces_of(NeutralText(loaded.base, loaded.tokenizer, PROSE))
    assert {len(piece.input_ids) for piece in pieces} == {PIECE_TOKENS}
    assert len(pieces) > 8


def test_a_chat_model_reads_questions_with_prose_in_between(roomy):
    prose = pieces_of(NeutralText(roomy.base, roomy.tokenizer, PROSE))
    mixed = pieces_of(NeutralText(roomy.base, roomy.tokenizer, PROSE, CHAT))
    kinds = [is_chat(piece) for piece in mixed]
    assert kinds.count(True) > kinds.count(False) > 0
    assert {piece.input_ids for piece in mixed if not is_chat(piece)} <= {
        piece.input_ids for piece in prose
    }
    said = [roomy.tokenizer.decode(piece.input_ids) for piece in mixed if is_chat(piece)]
    assert all(any(question in text for text in said) for question, _ in CHAT)


def test_a_model_without_a_chat_template_reads_prose_alone(make_backend):
    loaded = make_backend(template=None).loaded
    prose = pieces_of(NeutralText(loaded.base, loaded.tokenizer, PROSE))
    mixed = pieces_of(NeutralText(loaded.base, loaded.tokenizer, PROSE, CHAT))
    assert [piece.input_ids for piece in mixed] == [piece.input_ids for piece in prose]


def test_a_short_text_is_one_piece(make_backend):
    loaded = make_backend().loaded
    assert len(NeutralText(loaded.base, loaded.tokenizer, "A few words.")) == 1


def test_receipts_are_measured_on_pieces_that_are_never_read(roomy):
    text = NeutralText(roomy.base, roomy.tokenizer, PROSE, CHAT)
    assert len(text._held_out) >= 3
    assert not set(text._held_out) & set(text._training)
    assert len(text._held_out) + len(text._training) == len(text)
    state = loud(roomy.base)
    wanted = [
        text._kl_divergence([(piece, (), ())], trainable_batch([state])).item()
        for piece in text._held_out
    ]
    assert text.kl_to_base(trainable_batch([state])) == pytest.approx(sum(wanted) / len(wanted))


def test_no_question_that_is_measured_on_is_trained_on(roomy):
    text = NeutralText(roomy.base, roomy.tokenizer, PROSE, CHAT)
    read = []
    text._kl_divergence = lambda keys, *_: (
        read.extend(piece for piece, *_ in keys) or torch.zeros(())
    )
    for turn in range(3 * len(text)):
        text.kl_penalty([turn], None)
    assert set(read) == set(text._training)
    kinds = [is_chat(text.piece(piece)) for piece in text._held_out]
    assert any(kinds)
    chats = {text.piece(n).input_ids for n in text._training if is_chat(text.piece(n))}
    assert not chats & {text.piece(n).input_ids for n in text._held_out}


def test_prose_that_is_measured_on_is_trained_on_nowhere(roomy):
    text = NeutralText(roomy.base, roomy.tokenizer, PROSE, CHAT)
    trained = {text.piece(n).input_ids for n in text._training}
    held = {text.piece(n).input_ids for n in text._held_out}
    assert len(text) > HELD_OUT_EVERY
    assert not trained & held
