"""Answers that follow a JSON schema: only tokens that can still become such a JSON are allowed.

The grammar is that of llguidance, which is installed with the extra `json` and imported when the
first schema comes.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from templora_memory.backends.local.base_model import BaseModel
from templora_memory.errors import InvalidSetting

# one space after commas and colons and nothing else: a small model cannot pad for ever
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class GrammarFactory:
    """Makes grammars for one model; its vocabulary is read once, on the model thread."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._vocabulary: Any = None

    def grammar(self, schema: str) -> JsonGrammar:
        """Return a fresh grammar for a JSON schema.

        Raises:
            InvalidSetting: llguidance is missing, or cannot follow this schema.
        """
        try:
            import llguidance  # noqa: PLC0415  # an extra
            from llguidance.hf import from_tokenizer  # noqa: PLC0415
        except ImportError as error:
            raise InvalidSetting(
                "sampling.schema needs llguidance: pip install 'templora-memory[json]'."
            ) from error
        if self._vocabulary is None:
            size = int(self._base.model.get_input_embeddings().weight.shape[0])  # V
            ends = sorted(self._base.eos_token_ids)
            self._vocabulary = from_tokenizer(self._base.tokenizer, n_vocab=size, eos_token=ends)
        text = llguidance.LLMatcher.grammar_from_json_schema(
            json.dumps({**json.loads(schema), "x-guidance": _STYLE})
        )
        matcher = llguidance.LLMatcher(self._vocabulary, text, log_level=0)
        if matcher.is_error():
            raise InvalidSetting(
                f"sampling.schema cannot be followed: {matcher.get_error()}. Simplify the schema."
            )
        return JsonGrammar(matcher)


class JsonGrammar:
    """The state of one answer in its schema."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def forbidden(self, size: int) -> Tensor:
        """Return a mask [V] of the token ids that may not come next; `size` is V."""
        bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        allowed = (bits[:, None] >> torch.arange(8)) & 1  # [V / 8, 8], the lowest bit first
        flat = allowed.flatten()[:size].bool()
        forbidden = torch.ones(size, dtype=torch.bool)
        forbidden[: len(flat)] = ~flat
        return forbidden

    def accept(self, token: int) -> None:
        """Go on by the token that was chosen."""
        self._matcher.consume_token(token)
