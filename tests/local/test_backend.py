"""Whole absorbs, answers and scores through the backend."""

from __future__ import annotations

import math
import threading
import weakref

import pytest
import torch

from templora_memory import Document, Learning, Message, ParametricMemory, Policy, Sampling
from templora_memory.backends.local.lora.peft_files import (
    WEIGHTS,
    load_weights,
)
from templora_memory.backends.local.recipes import (
    RECIPES,
    Example,
)
from templora_memory.backends.local.scheduler import (
    DEFAULT_PRIORITY,
    never,
)
from templora_memory.domain.settings import RECIPES as NAMES
from templora_memory.errors import (
    Cancelled,
    InvalidSetting,
    InvalidText,
    LearningFailed,
    PromptTooLong,
    UnknownRevision,
)
from templora_memory.ports import GenerateRequest, LearningControl, LearnRequest
from templora_memory.stores import DirectoryStore
from tests.local.generate_requests import ask


def test_a_prompt_longer_than_the_model_is_refused(make_backend):
    with pytest.raises(PromptTooLong, match="256"):
        make_backend().stream(ask("x" * 250))


def test_scores_are_the_models_log_probabilities(make_backend, score):
    backend = make_backend()
    text = backend.loaded.tokenizer
    ids = [*text.encode("context and "), *text.encode("target")]
    with torch.no_grad():
        logits = backend.loaded.base.model(torch.tensor([ids])).logits.log_softmax(-1)[0]
    expected = torch.tensor([logits[i - 1, ids[i]] for i in range(len(ids) - 6, len(ids))])
    assert torch.allclose(
        score(backend, None, "target", context="context and "), expected, atol=1e-5
    )
    assert len(score(backend, None, "target")) == 5  # nothing predicts the first token


def test_a_score_beyond_the_models_length_is_refused(make_backend, score):
    with pytest.raises(PromptTooLong, match="256"):
        score(make_backend(), None, "x" * 300)
    with pytest.raises(InvalidText, match="empty"):
        score(make_backend(), None, "")


SETTINGS = Learning(r=4, lora_alpha=8, learning_rate=1e-2, context=16)


def test_the_same_request_gives_the_same_bytes(make_backend, learn, tmp_path):
    one, _ = learn(make_backend(), tmp_path / "one")
    two, _ = learn(make_backend(), tmp_path / "two")
    for path in one.folder.iterdir():
        assert path.read_bytes() == (two.folder / path.name).read_bytes()


def test_dropout_is_the_same_again_for_the_same_seed(make_backend, learn, tmp_path):
    backend = make_backend()
    one, _ = learn(backend, tmp_path / "one", lora_dropout=0.3)
    torch.rand(5)  # somebody else draws in between
    two, _ = learn(backend, tmp_path / "two", lora_dropout=0.3)
    three, _ = learn(backend, tmp_path / "three", lora_dropout=0.3, seed=1)
    name = WEIGHTS
    assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()
    assert (one.folder / name).read_bytes() != (three.folder / name).read_bytes()


def test_a_short_document_is_passed_over_until_it_had_its_steps(
    make_backend, learn, score, tmp_path
):
    backend = make_backend()
    few, _ = learn(backend, tmp_path / "few", "x" * 30)
    many, _ = learn(backend, tmp_path / "many", "x" * 30, min_steps=20)
    text = "x" * 30
    assert score(backend, many, text).mean() > score(backend, few, text).mean() + 0.05


def test_only_tool_text_cannot_be_learned(make_backend, learn, tmp_path):
    with pytest.raises(LearningFailed, match="nothing to train on"):
        learn(make_backend(), tmp_path / "a", items=(Message("tool", "rain"),))


def test_a_loss_that_is_no_number_stops_learning(make_backend, learn, tmp_path):
    backend = make_backend()
    with torch.no_grad():
        backend.loaded.base.lm_head.weight.fill_(float("nan"))
    with pytest.raises(LearningFailed, match=r"learning\.learning_rate"):
        learn(backend, tmp_path / "a")
    assert not list((tmp_path / "a").iterdir())


def test_a_diverging_loss_stops_learning(make_backend, learn, tmp_path):
    with pytest.raises(LearningFailed, match=r"Lower learning\.learning_rate"):
        learn(make_backend(), tmp_path / "a", learning_rate=50.0, steps_per_chunk=8)


def test_an_adapter_with_a_value_that_is_not_finite_is_never_written(make_backend, learn, tmp_path):
    with pytest.raises(LearningFailed, match="not finite"):
        learn(
            make_backend(),
            tmp_path / "a",
            "short",
            learning_rate=1e39,
            steps_per_chunk=1,
            measure=False,
        )
    assert not list((tmp_path / "a").iterdir())


def test_a_chunk_longer_than_the_model_is_refused(make_backend, learn, tmp_path):
    with pytest.raises(InvalidSetting, match="256"):
        learn(make_backend("gpt2"), tmp_path / "a", "word " * 100, chunk=300)


def test_cancelling_takes_effect_between_steps(make_backend, tmp_path):
    backend = make_backend()
    asked = []
    request = LearnRequest(
        items=(Document("word " * 100),), before=(), start=None, chunk=32, recipe="continue",
        settings=SETTINGS,
    )  # fmt: skip
    with pytest.raises(Cancelled):
        backend.learn(
            request,
            into=tmp_path,
            control=LearningControl(cancelled=lambda: asked.append(1) or len(asked) > 3),
        )
    assert len(asked) == 4
    assert not list(tmp_path.iterdir())


def test_what_a_reply_waits_for_goes_before_older_absorbs(make_backend, tmp_path, monkeypatch):
    backend = make_backend()
    thread, seen = backend.loaded.thread, []
    learn, waited = thread.learn, threading.Event()
    monkeypatch.setattr(thread, "learn", lambda run: (seen.append(run.priority), learn(run)))
    request = LearnRequest(
        items=(Document("word " * 20),), before=(), start=None, chunk=32, recipe="continue",
        settings=SETTINGS,
    )  # fmt: skip
    for number, urgent in enumerate((never, waited.is_set, never)):
        (into := tmp_path / str(number)).mkdir()
        backend.learn(request, into=into, control=LearningControl(urgent=urgent))
    older, between, newer = seen
    assert older.rank < between.rank < newer.rank
    waited.set()  # also one that nobody waited for when it began
    assert between.rank < older.rank < newer.rank


def test_the_receipt_counts_tokens_and_what_is_now_recalled(make_backend, learn, score, tmp_path):
    backend = make_backend()
    with torch.no_grad():
        backend.loaded.base.lm_head.weight.mul_(10)  # so that a token can be certain at all
    text = "abc " * 15
    adapter, stats = learn(
        backend, tmp_path / "a", text, steps_per_chunk=150, chunk=60, learning_rate=3e-3
    )
    assert stats.tokens == 59  # the first token has nothing before it
    (chunk,) = stats.chunks
    likely = score(backend, adapter, text)
    assert chunk.nll_after == pytest.approx(-likely.mean().item(), abs=1e-4)
    assert chunk.nll_after < chunk.nll_before
    assert chunk.recalled == int((likely > math.log(0.5)).sum()) > 0
    assert chunk.seconds > 0


RUNS = "templora_memory.backends.local.train.runs"


def test_nobody_reads_neutral_text_before_it_is_needed(make_backend, learn, tmp_path, monkeypatch):
    monkeypatch.setattr(f"{RUNS}.NeutralText", lambda *_: pytest.fail("read too early"))
    learn(make_backend(), tmp_path / "a", measure=False)


def test_the_items_of_a_request_are_learned_beside_others(make_backend, learn, score, tmp_path):
    """Through the backend, from several threads."""
    backend, done = make_backend(), {}
    texts = [
        f"The {name} is number {n}." for n, name in enumerate(["goose", "lamp", "boat", "hat"])
    ]

    def absorb(n):
        done[n] = learn(backend, tmp_path / str(n), items=(Document(texts[n]),), steps_per_chunk=8)[
            0
        ]

    threads = [threading.Thread(target=absorb, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, text in enumerate(texts):
        own = score(backend, done[n], text).mean()
        assert own > score(backend, None, text).mean()
        assert own > score(backend, done[(n + 1) % 4], text).mean()


def weights_of(backend, adapter):
    return backend._weights(adapter)


@pytest.fixture
def two(make_backend, learn, tmp_path):
    backend = make_backend()
    first, _ = learn(backend, tmp_path / "a")
    second, _ = learn(backend, tmp_path / "b", "The harbour is closed on Mondays.", r=8)
    return backend, weights_of(backend, first), weights_of(backend, second), (first, second)


def test_opening_again_does_not_apply_an_adapter_twice(make_backend, learn, score, tmp_path):
    backend = make_backend()
    adapter, _ = learn(backend, tmp_path / "a")
    before = score(backend, adapter)
    backend.close()
    backend.open()
    assert torch.equal(score(backend, adapter), before)


def test_four_threads_with_four_adapters_never_get_a_neighbours_answer(
    make_backend, learn, tmp_path
):
    backend = make_backend()
    adapters = [
        learn(backend, tmp_path / str(i), text, scale_short=False, layers_to_transform="all")[0]
        for i, text in enumerate(["red red red", "blue blue", "green green green", "grey grey"])
    ]
    asked = [
        GenerateRequest(
            messages=(Message("user", "Which colour?"),), adapter=adapter, strength=1.0,
            sampling=Sampling(ignore_end=True), max_tokens=6,
        )
        for adapter in adapters
    ]  # fmt: skip
    alone = [backend.stream(request).completion.text for request in asked]
    assert len(set(alone)) == len(alone)
    wrong = []

    def ask(index):
        wrong.extend(
            index for _ in range(15) if backend.stream(asked[index]).completion.text != alone[index]
        )

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_forgotten_adapter_answers_neither_as_itself_nor_as_a_neighbour(two):
    backend, _, _, (first, second) = two
    for file in first.folder.iterdir():
        file.unlink()
    first.folder.rmdir()
    backend.release("m/a")
    request = GenerateRequest(
        messages=(Message("user", "Hi"),), adapter=first, strength=1.0, sampling=Sampling(),
        max_tokens=4,
    )  # fmt: skip
    with pytest.raises(UnknownRevision):
        backend.stream(request)
    assert list(backend._adapters) == [second.version]


def test_ids_that_begin_alike_keep_their_own_weights(make_backend, learn, tmp_path):
    backend = make_backend()
    long, _ = learn(backend, tmp_path / "u10")
    before = weights_of(backend, long).flat.clone()
    short, _ = learn(backend, tmp_path / "u1", "Something else altogether.")
    weights_of(backend, short)
    backend.release("m/u1/")
    assert torch.equal(weights_of(backend, long).flat, before)


def test_loaded_adapters_keep_within_their_bytes_and_leave_nothing_behind(
    make_backend, learn, score, tmp_path
):
    backend = make_backend()
    adapters = [learn(backend, tmp_path / str(i), f"text {i}")[0] for i in range(4)]
    size = weights_of(backend, adapters[0]).bytes
    backend._adapters._max_size = 2 * size
    expected = [score(backend, adapter) for adapter in adapters]
    assert len(backend._adapters) == 2
    assert all(torch.equal(score(backend, a), e) for a, e in zip(adapters, expected, strict=True))
    reference = weakref.ref(weights_of(backend, adapters[0]).flat)
    backend.release("m/")
    assert not backend._adapters
    assert reference() is None


def test_an_adapter_released_while_it_is_loaded_is_not_kept(
    make_backend, learn, score, tmp_path, monkeypatch
):
    backend = make_backend()
    adapter, _ = learn(backend, tmp_path / "a")
    load = load_weights

    def meanwhile(*given):
        weights = load(*given)
        backend.release("m/")
        return weights

    monkeypatch.setattr("templora_memory.backends.local.backend.load_weights", meanwhile)
    score(backend, adapter)
    assert not backend._adapters


def test_the_policy_knows_every_recipe():
    assert sorted(RECIPES) == sorted(NAMES)


def write(backend, prompts, *, max_tokens, **control):
    return backend._generate_texts(
        prompts,
        max_tokens=max_tokens,
        priority=DEFAULT_PRIORITY,
        control=LearningControl(**control),
    )


def test_the_backend_lets_the_base_model_write_in_one_batch(make_backend):
    backend = make_backend(max_position_embeddings=1024)
    prompts = [(Message("user", f"Tell me about day {n} of the week."),) for n in range(20)]
    alone = [write(backend, [prompt], max_tokens=9)[0] for prompt in prompts]
    phases = []
    assert write(backend, prompts, max_tokens=9, phase=phases.append) == alone
    assert str(phases[-1]) == "writing 19 of at most 20"
    with pytest.raises(Cancelled):
        write(backend, prompts, max_tokens=9, cancelled=lambda: True)


def test_a_cancelled_absorb_does_not_wait_for_what_it_lets_the_model_write(make_backend):
    backend = make_backend(max_position_embeddings=4096)
    prompts = [(Message("user", f"Tell me about day {n} of the week."),) for n in range(4)]
    asked = iter([False] * 3)
    cut = []
    leave = backend.loaded.thread._drafts._leave
    backend.loaded.thread._drafts._leave = lambda ended: (
        cut.extend(why for _, why in ended),
        leave(ended),
    )
    with pytest.raises(Cancelled):
        write(backend, prompts, max_tokens=3000, cancelled=lambda: next(asked, True))
    backend.close()  # ends what is left, also the draft that was cut off
    assert "length" not in cut


def shouted(request, tools):
    ids = tuple(tools.tokenizer.encode(request.items[0].text.upper())[: request.chunk])
    return [Example(context=(), ids=ids, weights=(1.0,) * len(ids))]


def test_a_recipe_of_ones_own_is_used(make_backend, tmp_path):
    backend = make_backend(recipes={"shouted": shouted})
    policy = Policy(recipe="shouted", learning=Learning(r=4, lora_alpha=8), window=64, chunk=32)
    with ParametricMemory(backend, DirectoryStore(tmp_path), policy) as memory:
        assert memory["ada"].absorb("Ada keeps bees.").tokens == len("Ada keeps bees.") - 1


def test_an_unknown_recipe_is_refused_when_the_service_is_opened(make_backend, tmp_path):
    policy = Policy(recipe="shouted")
    service = ParametricMemory(make_backend(), DirectoryStore(tmp_path), policy)
    with pytest.raises(InvalidSetting, match="recipe is 'shouted': use one of"):
        service.load()
