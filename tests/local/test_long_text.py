"""Text of unlimited length: windows, caches, and who gets which adapter."""

from __future__ import annotations

import pytest

from templora_memory.errors import InvalidSetting, InvalidText
from tests.local.generate_requests import ENDLESS, ask, greedy_by_hand


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
