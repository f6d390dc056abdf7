"""The next token of an answer, from its logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from templora_memory.backends.local.base_model import BaseModel
from templora_memory.backends.local.decode.json_grammar import GrammarFactory
from templora_memory.domain.settings import Sampling
from templora_memory.errors import ModelError


class TokenSampler:
    """Chooses the tokens of one answer: greedily, or by chance with a generator of its own.

    Args:
        sampling: temperature and so on.
        base: the model, for its end tokens.
        grammars: for an answer that follows a JSON schema.

    Raises:
        InvalidSetting: the schema cannot be followed.
    """

    def __init__(self, sampling: Sampling, base: BaseModel, grammars: GrammarFactory) -> None:
        self._sampling = sampling
        self._grammar = grammars.grammar(sampling.schema) if sampling.schema else None
        self._suppressed = sorted(base.eos_token_ids) if sampling.ignore_end else []
        self._penalty = (
            RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty))
            if sampling.repetition_penalty != 1
            else None
        )
        self._warpers = []
        if sampling.temperature > 0:
            self._warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
            if sampling.top_k:
                self._warpers.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                self._warpers.append(TopPLogitsWarper(sampling.top_p))
            if sampling.min_p:
                self._warpers.append(MinPLogitsWarper(float(sampling.min_p)))
        self._counts_output = bool(sampling.frequency_penalty or sampling.presence_penalty)
        self._deductions: Tensor | None = None  # [V], from the logits of what the answer has
        self._counted: set[int] = set()
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def sample(self, logits: Tensor, prompt: Sequence[int], output_ids: Sequence[int]) -> int:
        """Return the next token from logits [V] and the tokens before; only a penalty needs these.

        Raises:
            ModelError: a logit is no number.
        """
        scores = logits.float().cpu()[None]  # [1, V]
        if scores.isnan().any():
            raise ModelError(
                "The model's output is no number: its weights or the memory's are unusable in this "
                "precision. Try dtype='float32', or roll the memory back."
            )
        if self._suppressed:
            scores[:, self._suppressed] = -torch.inf
        if self._grammar is not None:
            scores[:, self._grammar.forbidden(scores.shape[1])] = -torch.inf
        ids = torch.tensor([[*prompt, *output_ids]] if self._penalty else [[]], dtype=torch.long)
        if self._penalty is not None:
            scores = self._penalty(ids, scores)
        if self._deductions is not None:
            scores -= self._deductions
        token = self._draw(ids, scores)
        if self._counts_output:
            self._count(token, scores.shape[1])
        if self._grammar is not None:
            self._grammar.accept(token)
        return token

    def _count(self, token: int, size: int) -> None:
        """Deduct the penalties of a token from the logits [V] to come; `size` is V."""
        if self._deductions is None:
            self._deductions = torch.zeros(size)
        if token not in self._counted:
            self._counted.add(token)
            self._deductions[token] += self._sampling.presence_penalty
        self._deductions[token] += self._sampling.frequency_penalty

    def _draw(self, ids: Tensor, scores: Tensor) -> int:
        if self._sampling.temperature == 0:
            return int(scores.argmax())
        for warper in self._warpers:
            scores = warper(ids, scores)
        return int(torch.multinomial(scores.softmax(-1)[0], 1, generator=self._generator))
