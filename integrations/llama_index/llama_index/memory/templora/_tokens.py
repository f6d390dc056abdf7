"""Counting tokens exactly, and the budgets that follow from the model's window."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from templora_memory import Message, ParametricMemory

RETRIEVAL_SHARE = 0.25
PACKING = 704
"""LlamaIndex keeps 500 tokens free where it packs retrieved text; the rest is for its prompts."""
_log = logging.getLogger(__name__)
_MARGIN_SHARE = 1 / 32  # words of prompts around it all
_LEAST = 32
_LITTLE = 1 / 8  # of a window, for a conversation
_PACKS = 1024


def tokenizer_of(service: ParametricMemory) -> Callable[[str], list[Any]]:
    """The model's tokenizer: a text to a list with one entry for each token."""
    backend: Any = service.backend
    tokenize: Callable[[str], list[Any]] | None = getattr(backend, "token_ids", None)
    return tokenize or (lambda text: list(backend.split(text, 1)))


def message_overhead(service: ParametricMemory) -> int:
    """Tokens that the chat template adds to a message, beside its text; rounded up."""
    backend, tokens = service.backend, tokenizer_of(service)
    pair = (Message("user", "a"), Message("assistant", "b"))
    two = backend.count(pair + pair) - backend.count(pair)
    return max(0, -(-(two - len(tokens("a")) - len(tokens("b"))) // 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The shares of a window, in tokens.

    Args:
        history: `token_limit` of a memory: turns in the prompt, evicted ones not yet learned
            included.
        flush: `token_flush_size`: what leaves at once, small enough that it fits beside the turns
            that stay.
    """

    history: int
    flush: int

    @classmethod
    def of(
        cls,
        *,
        window: int,
        reply: int,
        ratio: float,
        retrieval: int | None = None,
        history: int | None = None,
        flush: int | None = None,
    ) -> Budget:
        """The budget of a window with room for an answer and for retrieved text.

        Raises:
            ValueError: no room is left for turns.
        """
        if not 0 < ratio < 1:
            raise ValueError(
                f"chat_history_token_ratio is {ratio!r}: it must be between 0 and 1, so that "
                "evicted turns fit beside the others until they are learned."
            )
        room = window - reply
        if retrieval is None and window < _PACKS:
            _log.warning(
                "a window of %d tokens is too small for LlamaIndex's retrieving engines: they keep "
                "500 free where they pack text, and end in 'Chunk size ... is not positive'. "
                "Without retrieval set rag_token_reserve=0; with it take a window of %d, or a "
                "query engine with response_mode='simple_summarize', which keeps nothing free",
                window, _PACKS,
            )  # fmt: skip
        if history is None:
            reserve = _retrieval(window) if retrieval is None else retrieval
            history = room - reserve - int(window * _MARGIN_SHARE)
            if history < min(_LEAST, window // 8):
                raise ValueError(
                    f"No room is left for the conversation: a window of {window} tokens, {reply} "
                    f"of them for answers and {reserve} for retrieved text (rag_token_reserve). "
                    "Lower one of these, or take a larger window."
                )
            if history < window * _LITTLE:
                _log.warning(
                    "only %d of %d tokens are left for the conversation: %d are kept for answers "
                    "and %d for retrieved text, so turns leave the prompt nearly at once. Give the "
                    "service fewer reply_tokens, lower rag_token_reserve (0 without retrieval), or "
                    "take a larger window",
                    history, window, reply, reserve,
                )  # fmt: skip
        elif not 0 < history <= room:
            raise ValueError(
                f"token_limit is {history!r}: it must be between 1 and {room}, the window of "
                f"{window} less {reply} for the answer."
            )
        return cls(history=history, flush=flush or max(1, int(min(0.3, 1 - ratio) * history)))


def _retrieval(window: int) -> int:
    share = int(window * RETRIEVAL_SHARE)
    # in smaller windows its packing cannot work at all, and nothing is to be gained
    return max(share, PACKING) if window >= _PACKS else share
