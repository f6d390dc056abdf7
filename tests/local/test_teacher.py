"""The base model as a teacher."""

from __future__ import annotations

import pytest
import torch

from templora_memory.backends.local.scheduler import DEFAULT_PRIORITY, never
from templora_memory.errors import Cancelled


def test_what_the_base_model_expects_is_the_same_with_and_without_a_shared_beginning(make_backend):
    backend = make_backend(max_position_embeddings=1024)
    encode = backend.loaded.tokenizer.encode
    texts = [(encode(f"Ada keeps bees. {end}"), 5) for end in ("They buzz.", "Where? There.")]
    both = backend._teacher_targets(texts, top_k=7, priority=DEFAULT_PRIORITY, cancelled=never)
    for (ids, count), found in zip(texts, both, strict=True):
        (alone,) = backend._teacher_targets(
            [(ids, count)], top_k=7, priority=DEFAULT_PRIORITY, cancelled=never
        )
        assert found.ids.shape == (5, 7)
        assert torch.equal(found.ids, alone.ids)
        assert torch.allclose(found.p, alone.p, atol=1e-5)
        given = torch.tensor([ids])
        logits = backend.loaded.base.logits(given, last=False, use_cache=False)[0, -6:-1]
        best = logits.softmax(-1).topk(7).values
        assert torch.allclose(found.p, best / best.sum(-1, keepdim=True), atol=1e-5)
    with pytest.raises(Cancelled):
        backend._teacher_targets(texts, top_k=7, priority=DEFAULT_PRIORITY, cancelled=lambda: True)
