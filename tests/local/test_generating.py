"""Answers and endless text: streams, stops, caches, and who gets which adapter."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from templora_memory import Message, Sampling
from templora_memory.backends.local.decode.batch import DecodeBatch
from templora_memory.backends.local.decode.request import DecodeRequest
from templora_memory.backends.local.decode.sampler import TokenSampler
from templora_memory.backends.local.decode.stream import Channel
from templora_memory.backends.local.scheduler import AbsorbPriority, never
from templora_memory.errors import Closed, InvalidSetting, InvalidText, ModelError, PromptTooLong
from templora_memory.ports import GenerateRequest

ENDLESS = Sampling(ignore_end=True)


def ask(text="Who is Pim?", **changes):
    request = GenerateRequest(
        messages=(Message("user", text),), adapter=None, strength=1.0, sampling=ENDLESS,
        max_tokens=12,
    )  # fmt: skip
    return replace(request, **changes)


# --- choosing tokens ---------------------------------------------------------------------------


def greedy_by_hand(backend, ids, count):
    base = backend.loaded.base
    ids = list(ids)
    for _ in range(count):
        with torch.no_grad():
            logits = base.model(torch.tensor([ids])).logits[0, -1]
        logits[list(base.eos_token_ids)] = -torch.inf
        ids.append(int(logits.argmax()))
    return ids


def test_greedy_decoding_is_the_models_own_argmax(make_backend):
    backend = make_backend()
    prompt = backend.loaded.tokenizer.prompt(ask().messages)
    expected = greedy_by_hand(backend, prompt, 12)[len(prompt) :]
    done = backend.stream(ask()).completion
    assert done.text == backend.loaded.tokenizer.decode(expected)
    assert (done.finish_reason, done.prompt_tokens, done.completion_tokens) == (
        "length", len(prompt), 12,
    )  # fmt: skip


def test_a_seed_repeats_a_draw_and_other_seeds_give_others(make_backend):
    backend = make_backend()

    def draw(seed, **how):
        sampling = Sampling(temperature=1.5, seed=seed, ignore_end=True, **how)
        return backend.stream(ask(sampling=sampling)).completion.text

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(6)}) > 1
    assert len({draw(None) for _ in range(6)}) > 1
    greedy = backend.stream(ask()).completion.text
    assert draw(3, top_k=1) == greedy
    assert draw(3, top_p=1e-6) == greedy


@pytest.mark.parametrize("setting", ["temperature", "repetition_penalty"])
def test_a_whole_number_is_as_good_as_a_fraction(make_backend, setting):
    backend = make_backend()
    texts = {
        backend.stream(
            ask(sampling=replace(ENDLESS, **{"temperature": 0.7, "seed": 1, setting: value}))
        ).completion.text
        for value in (2, 2.0)
    }
    assert len(texts) == 1


def test_a_repetition_penalty_changes_what_is_repeated(make_backend):
    backend = make_backend()
    plain = backend.stream(ask(max_tokens=30)).completion.text
    penalised = backend.stream(
        ask(max_tokens=30, sampling=replace(ENDLESS, repetition_penalty=5.0))
    ).completion.text
    assert len(set(penalised)) > len(set(plain))


def test_the_end_token_ends_an_answer_and_is_no_text(make_backend):
    backend = make_backend()
    base = backend.loaded.base
    end = next(iter(base.eos_token_ids))
    with torch.no_grad():
        base.lm_head.weight[end] = 0
        base.lm_head.weight[:end] = -base.model.model.norm.weight.mean() * 1e-3
    sure = backend.stream(ask(sampling=Sampling())).completion
    endless = backend.stream(ask()).completion
    assert endless.finish_reason == "length"
    if sure.finish_reason == "stop":
        assert "<|end|>" not in sure.text
        assert sure.completion_tokens <= 12


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_stop_text_ends_an_answer_even_across_tokens(make_backend, cut):
    backend = make_backend()
    whole = backend.stream(ask()).completion.text
    stop = whole[cut : cut + 2]
    stream = backend.stream(ask(sampling=replace(ENDLESS, stop=(stop,))))
    pieces = list(stream)
    assert "".join(pieces) == whole[: whole.index(stop)] == stream.completion.text
    assert stream.completion.finish_reason == "stop"


def test_pieces_join_to_the_text_and_never_hold_half_a_character(make_backend):
    backend = make_backend()
    sampling = Sampling(temperature=5.0, seed=4, ignore_end=True)
    stream = backend.stream(ask(sampling=sampling, max_tokens=100))
    pieces = list(stream)
    assert "".join(pieces) == stream.completion.text
    ids_text = backend.loaded.tokenizer
    decoder_input = "héllo wörld 你好 👋 end"
    from templora_memory.backends.local.detokenizer import IncrementalDetokenizer  # noqa: PLC0415

    decoder = IncrementalDetokenizer(ids_text, ())
    shown = [decoder.push(token) for token in ids_text.encode(decoder_input)]
    assert "\ufffd" not in "".join(shown)
    assert "".join(shown) + decoder.finish() == decoder_input


# --- callers -----------------------------------------------------------------------------------


def test_closing_stops_soon_from_any_thread_and_twice(make_backend):
    backend = make_backend()
    stream = backend.stream(ask(max_tokens=200))
    next(iter(stream))
    closer = threading.Thread(target=stream.close)
    closer.start()
    closer.join()
    stream.close()
    done = stream.completion
    assert done.finish_reason == "cancelled"
    assert done.completion_tokens < 200


def test_a_caller_who_goes_away_stops_the_model(make_backend):
    backend = make_backend()
    stream = backend.stream(ask(max_tokens=200))
    channel = stream._channel
    del stream
    assert channel.closed.is_set()
    assert backend.stream(ask()).completion.finish_reason == "length"


def test_two_interleaved_streams_equal_their_solo_runs(make_backend, learn, tmp_path):
    """L3: a generator that keeps a context variable set would answer with the other's adapter."""
    backend = make_backend()
    first, _ = learn(backend, tmp_path / "a", "red red red")
    second, _ = learn(backend, tmp_path / "b", "blue blue blue")
    requests = [ask(adapter=first, max_tokens=20), ask(adapter=second, max_tokens=20)]
    alone = [backend.stream(request).completion.text for request in requests]
    streams = [backend.stream(request) for request in requests]
    readers = [iter(stream) for stream in streams]
    for _ in range(3):
        for reader in readers:
            next(reader)
    assert [stream.completion.text for stream in streams] == alone
    assert alone[0] != alone[1]


def test_streams_join_and_leave_a_batch_without_changing_the_others(make_backend):
    backend = make_backend()
    texts = ["Hi", "Who is Pim, and where does he live?", "Bees?", "One two three four"]
    requests = [ask(text, max_tokens=6 + 9 * i) for i, text in enumerate(texts)]
    alone = [backend.stream(request).completion for request in requests]
    streams = [backend.stream(request) for request in reversed(requests)]
    streams[1].close()
    got = [stream.completion for stream in streams]
    assert got[0] == alone[3]
    assert got[2:] == [alone[1], alone[0]]


def test_one_failing_prompt_fails_its_own_caller_alone(make_backend, learn, tmp_path):
    backend = make_backend()
    adapter, _ = learn(backend, tmp_path / "a")
    broken = backend._weights(adapter)
    bad = ask(adapter=adapter)
    good = backend.stream(ask(max_tokens=30))
    object.__setattr__(broken, "lora_alpha", "not a number")
    with pytest.raises(TypeError):
        backend.stream(bad).completion  # noqa: B018
    assert good.completion.finish_reason == "length"


def test_prompts_that_come_together_do_not_stop_the_others(make_backend):
    backend = make_backend()
    base, text = backend.loaded.base, backend.loaded.tokenizer
    read = []
    backend.close()
    batch = DecodeBatch(base, text)
    hook = base.model.register_forward_pre_hook(
        lambda _, __, named: read.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    for _ in range(3):
        batch.add(
            DecodeRequest(
                prompt=(65, 66), weights=None, version="", strength=1.0, sampling=ENDLESS,
                stop=(), max_tokens=9, channel=Channel(),
            )
        )  # fmt: skip
    for _ in range(4):
        batch.step()
    hook.remove()
    assert read == [2, 1, 2, 1, 2, 1, 1]


def test_drafts_of_the_oldest_absorb_begin_first_and_only_so_many_at_once(make_backend):
    backend = make_backend()
    base, text = backend.loaded.base, backend.loaded.tokenizer
    backend.close()
    batch = DecodeBatch(base, text, max_requests=2)
    begun, prefill = [], batch._prefill
    batch._prefill = lambda request: (begun.append(request.priority.number), prefill(request))
    drafts = [
        DecodeRequest(
            prompt=(65, 66), weights=None, version="", strength=1.0, sampling=ENDLESS,
            stop=(), max_tokens=4, channel=Channel(), priority=AbsorbPriority(number, never),
        )
        for number in (3, 2, 2, 1)
    ]  # fmt: skip
    for draft in drafts:
        batch.add(draft)
    assert batch.first.number == 1
    most = 0
    while batch.busy:
        if len(begun) == 2 and not drafts[0].abandoned:
            drafts[0].channel.closed.set()  # nobody wants it: it needs no room
        batch.step()
        most = max(most, len(batch._slots))
    assert begun == [1, 2, 3, 2]
    assert most == 2
    assert drafts[0].channel.queue.get().finish_reason == "cancelled"


def test_an_answer_that_fails_in_the_middle_leaves_the_batch_alone(make_backend, monkeypatch):
    backend = make_backend()
    request = ask(max_tokens=60)
    alone = backend.stream(request).completion
    sample = TokenSampler.sample

    def sometimes(self, logits, prompt, output_ids):
        if self._sampling.seed == 13 and len(prompt) + len(output_ids) > alone.prompt_tokens + 5:
            raise ZeroDivisionError
        return sample(self, logits, prompt, output_ids)

    monkeypatch.setattr(TokenSampler, "sample", sometimes)
    good = backend.stream(request)
    bad = backend.stream(replace(request, sampling=replace(ENDLESS, seed=13)))
    with pytest.raises(ZeroDivisionError):
        bad.completion  # noqa: B018
    assert good.completion == alone


def test_closing_the_backend_ends_open_streams_with_an_error(make_backend):
    backend = make_backend()
    stream = backend.stream(ask(max_tokens=240))
    next(iter(stream))
    backend.close()
    with pytest.raises(Closed):
        stream.completion  # noqa: B018
    with pytest.raises(Closed):
        backend.stream(ask())


def test_a_prompt_longer_than_the_model_is_refused(make_backend):
    with pytest.raises(PromptTooLong, match="256"):
        make_backend().stream(ask("x" * 250))


# --- text of unlimited length ------------------------------------------------------------------


def run(session, adapters, *, chunk=20, reuse, strength=1.0):
    texts = []
    for adapter in adapters:
        stream = session.generate(
            adapter=adapter, strength=strength, sampling=ENDLESS, max_tokens=chunk, reuse=reuse
        )
        texts.append(stream.completion.text)
    return texts


def test_chunks_of_one_adapter_equal_one_long_run(make_backend):
    """Bookkeeping of the cache: the last chosen token was never fed (K8)."""
    backend = make_backend()
    prompt = backend.loaded.tokenizer.encode("Once upon a time")
    expected = greedy_by_hand(backend, prompt, 80)[len(prompt) :]
    for reuse in (True, False):
        session = backend.open_text("Once upon a time", window=200)
        assert "".join(run(session, [None] * 4, reuse=reuse)) == backend.loaded.tokenizer.decode(
            expected
        )


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_full_window_is_computed_again_from_its_newest_tokens(family, make_backend):
    """K4, K5: after a slide the text equals a fresh prefill of the same tokens."""
    backend = make_backend(family)
    text = backend.loaded.tokenizer
    session = backend.open_text("Once upon a time there was a cat", window=64)
    shown = []
    send = session._send

    def watch(answer):
        shown.append(answer)
        send(answer)

    session._send = watch
    run(session, [None] * 6, reuse=True)
    for answer in shown:
        assert len(answer.prompt) + 20 <= 64
        assert greedy_by_hand(backend, answer.prompt, 20) == [*answer.prompt, *answer.output_ids]
    assert sum(answer.cache is not None for answer in shown) >= 2
    assert shown[0].prompt == tuple(text.encode("Once upon a time there was a cat"))
    assert shown[0].cache is None


def test_without_reuse_a_new_adapter_sees_the_window_computed_by_itself(
    make_backend, learn, tmp_path
):
    """K9, K10: reuse is an approximation, its absence an equality."""
    backend = make_backend()
    adapters = [
        None,
        learn(backend, tmp_path / "a", "blue birds sing", steps_per_chunk=8)[0],
        learn(backend, tmp_path / "b", "red cats sleep", steps_per_chunk=8)[0],
    ]
    prompt = "Once upon a time"
    exact = run(backend.open_text(prompt, window=200), adapters, reuse=False)
    reused = run(backend.open_text(prompt, window=200), adapters, reuse=True)
    session = backend.open_text(prompt, window=200)
    for adapter, piece in zip(adapters, exact, strict=True):
        fresh = backend.open_text("x", window=200)
        fresh._ids, fresh._undecoded = list(session._ids), session._undecoded
        assert run(fresh, [adapter], reuse=False) == [piece]
        run(session, [adapter], reuse=False)
        session._take_over()
    assert exact[0] == reused[0]
    assert exact != reused


def test_reuse_never_crosses_to_another_adapter_unasked(make_backend, learn, tmp_path):
    backend = make_backend()
    adapter, _ = learn(backend, tmp_path / "a", steps_per_chunk=8)
    session = backend.open_text("Once upon a time", window=200)
    run(session, [adapter], reuse=False)
    session._take_over()
    assert session._cache.versions == {"m/a*1.0"}
    run(session, [None], reuse=False)
    session._take_over()
    assert session._cache.versions == {""}


def test_a_window_of_text_longer_than_the_model_is_refused(make_backend):
    with pytest.raises(InvalidSetting, match="256"):
        make_backend("gpt2").open_text("Once", window=257)


def test_what_a_text_keeps_of_a_batch_is_its_own_row_alone(make_backend):
    backend = make_backend()
    other = backend.stream(ask(max_tokens=200))
    next(iter(other))
    session = backend.open_text("Once upon a time", window=200)
    run(session, [None], reuse=True)
    other.close()
    session._take_over()
    for kept in (tensor for pair in session._cache.key_values for tensor in pair):
        assert kept.untyped_storage().nbytes() == kept.nbytes


def test_an_empty_prompt_begins_after_the_end_token_or_is_refused(make_backend):
    backend = make_backend()
    session = backend.open_text("", window=64)
    assert run(session, [None], reuse=True)[0]
    ends = backend.loaded.base.eos_token_ids
    object.__setattr__(backend.loaded.base, "eos_token_ids", frozenset())
    with pytest.raises(InvalidText, match="prompt"):
        backend.open_text("", window=64)
    object.__setattr__(backend.loaded.base, "eos_token_ids", ends)


# --- scores ------------------------------------------------------------------------------------


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


def test_the_prompt_is_fed_once_and_then_one_token_at_a_time(make_backend):
    """K6, K7: a broken cache would feed the whole prompt again on top of itself."""
    backend = make_backend()
    lengths = []
    decoder = backend.loaded.base.model.get_decoder()
    decoder.register_forward_pre_hook(
        lambda _, __, inputs: lengths.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    done = backend.stream(ask(max_tokens=4)).completion
    assert lengths == [done.prompt_tokens, 1, 1, 1]


def test_output_that_is_no_number_is_an_error_and_not_a_token(make_backend):
    backend = make_backend()
    with torch.no_grad():
        backend.loaded.base.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="no number"):
        backend.stream(ask()).completion  # noqa: B018
