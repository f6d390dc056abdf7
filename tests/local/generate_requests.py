"""Requests to answer, and the greedy answer computed token by token."""

from __future__ import annotations

from dataclasses import replace

import torch

from templora_memory import Message, Sampling
from templora_memory.ports import GenerateRequest

ENDLESS = Sampling(ignore_end=True)


def ask(text="Who is Pim?", **changes):
    request = GenerateRequest(
        messages=(Message("user", text),), adapter=None, strength=1.0, sampling=ENDLESS,
        max_tokens=12,
    )  # fmt: skip
    return replace(request, **changes)


def greedy_by_hand(backend, ids, count):
    base = backend.loaded.base
    ids = list(ids)
    for _ in range(count):
        with torch.no_grad():
            logits = base.model(torch.tensor([ids])).logits[0, -1]
        logits[list(base.eos_token_ids)] = -torch.inf
        ids.append(int(logits.argmax()))
    return ids
