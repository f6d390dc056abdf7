"""Answers in one batch: who joins, who leaves, and whose fault an error is."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
import torch

from templora_memory.backends.local import LocalBackend
from templora_memory.backends.local.base_model import BaseModel
from templora_memory.backends.local.decode import batch as batch_module
from templora_memory.backends.local.decode.batch import DecodeBatch
from templora_memory.backends.local.decode.request import DecodeRequest
from templora_memory.backends.local.decode.sampler import TokenSampler
from templora_memory.backends.local.decode.stream import Channel
from templora_memory.backends.local.scheduler import AbsorbPriority, never
from tests.local.generate_requests import ENDLESS, ask


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


def test_answers_that_end_together_or_apart_are_those_that_end_alone(make_backend, learn, tmp_path):
    backend = make_backend()
    adapters = [None, *(learn(backend, tmp_path / name)[0] for name in "ab"), None]
    lengths = (9, 3, 3, 12, 5)  # the first one leaves a hole that the last one fills
    requests = [
        ask(f"Who is number {i}?", adapter=adapters[i % 4], max_tokens=count)
        for i, count in enumerate(lengths)
    ]
    alone = [backend.stream(request).completion for request in requests]
    streams = [backend.stream(request) for request in requests]
    assert [stream.completion for stream in streams] == alone


def test_padding_changes_no_answer(make_backend, monkeypatch):
    backend = make_backend()
    requests = [ask("Who is Pim?", max_tokens=5), ask("And who keeps bees on the roof?")]
    plain = [backend.stream(request).completion for request in requests]
    monkeypatch.setattr(BaseModel, "decode_padding", 1)
    alone = [backend.stream(request).completion for request in requests]
    streams = [backend.stream(request) for request in requests]
    assert [stream.completion for stream in streams] == alone == plain


def test_half_precision_on_a_processor_is_decoded_with_a_mask(make_model, make_tokenizer):
    model, read = make_model("llama").to(torch.bfloat16), []
    backend = LocalBackend.of(model, make_tokenizer(), name="half")
    backend.open()
    with closing(backend):
        model.register_forward_pre_hook(
            lambda _, __, named: read.append(named.get("attention_mask")), with_kwargs=True
        )
        prompt = backend.stream(ask(max_tokens=3)).completion.prompt_tokens
    assert [None if mask is None else mask[0].tolist() for mask in read] == [
        None, [0] + [1] * (prompt + 1), [0] + [1] * (prompt + 2)
    ]  # fmt: skip


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


def test_prompts_that_come_together_do_not_stop_the_others(make_backend, monkeypatch):
    monkeypatch.setattr(batch_module, "PREFILL_TOKENS", 4)
    backend = make_backend()
    base, text = backend.loaded.base, backend.loaded.tokenizer
    read = []
    backend.close()
    batch = DecodeBatch(base, text)
    hook = base.model.register_forward_pre_hook(
        lambda _, __, named: read.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    for prompt in ((65, 66), (65, 66), (65, 66, 67), (65, 66), (65,) * 5, (65, 66)):
        batch.add(
            DecodeRequest(
                prompt=prompt, weights=None, version="", strength=1.0, sampling=ENDLESS,
                stop=(), max_tokens=9, channel=Channel(),
            )
        )  # fmt: skip
    for _ in range(6):
        batch.step()
    hook.remove()
    assert read == [2, 2, 1, 3, 1, 2, 1, 5, 1, 2, 1, 1]


def test_drafts_of_the_oldest_absorb_begin_first_and_only_so_many_at_once(make_backend):
    backend = make_backend()
    base, text = backend.loaded.base, backend.loaded.tokenizer
    backend.close()
    batch = DecodeBatch(base, text, max_requests=2)
    begun, prefill = [], batch._prefill
    batch._prefill = lambda request: (begun.append(request.priority.number), prefill(request))[1]
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
