"""Temp-LoRA as the released code does it, to compare with: plain transformers and PEFT.

The whole window goes forward and backward, with logits at every position; nothing is kept between
chunks (github.com/TemporaryLoRA/Temp-LoRA; arXiv 2401.11504). Rank, rate and epochs are those of
the settings that it is compared with, so that only the way of computing differs.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from templora_memory.domain.settings import ResolvedLearning

_IGNORED = -100  # label of a token that is seen, not learned


class ReferenceLoop:
    """One adapter that learns chunk after chunk.

    Args:
        model: a transformers causal language model; it is copied.
        settings: rank, alpha, rate, epochs, AdamW's numbers and clipping are used.
    """

    def __init__(self, model: Any, settings: ResolvedLearning) -> None:
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415  # slow, needed only here

        torch.manual_seed(settings.seed)
        config = LoraConfig(
            r=settings.r,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        self._model = get_peft_model(copy.deepcopy(model), config)
        self._model.train(settings.lora_dropout > 0)
        self._settings = settings
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            eps=settings.adam_epsilon,
            weight_decay=settings.weight_decay,
        )

    def learn(self, context: Sequence[int], chunk: Sequence[int]) -> float:
        """Learn one chunk after its context; returns the seconds it took."""
        began = time.perf_counter()
        device = self._parameters[0].device
        ids = torch.tensor([[*context, *chunk]], device=device)
        labels = torch.tensor([[*[_IGNORED] * len(context), *chunk]], device=device)
        for _ in range(self._settings.steps_per_chunk):
            self._model(input_ids=ids, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_grad_norm)
            self._optimizer.step()
            self._optimizer.zero_grad()
        return time.perf_counter() - began

    def save(self, folder: Path) -> None:
        """The adapter in PEFT's format."""
        self._model.save_pretrained(str(folder), save_embedding_layers=False)


def chunks(
    ids: Sequence[int], chunk: int, context: int
) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Chunks in order, each with the tokens before it."""
    for at in range(0, len(ids), chunk):
        yield ids[max(0, at - context) : at], ids[at : at + chunk]
