"""Cross entropy in pieces: the tokens-by-vocabulary matrix never exists whole.

The head is frozen, so the gradient with respect to the hidden states is computed in forward,
piece by piece, and only that [n, hidden] is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

PIECE = 256  # positions whose logits exist at once


def _pieces(sizes: Sequence[int]) -> list[slice]:
    """Slices of at most PIECE positions that never span two rows.

    A piece over two rows would round differently from the rows alone, and Adam amplifies it.
    """
    cuts, start = [], 0
    for size in sizes:
        stop = start + size
        cuts += [slice(begin, min(begin + PIECE, stop)) for begin in range(start, stop, PIECE)]
        start = stop
    return cuts


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # torch calls it by position
        ctx: Any, hidden: Tensor, head: nn.Module, targets: Targets, cuts: list[slice]
    ) -> tuple[Tensor, Tensor]:
        nll = hidden.new_empty(len(targets.labels), dtype=torch.float32)
        loss = hidden.new_zeros((), dtype=torch.float32)
        grad = torch.empty_like(hidden)
        for cut in cuts:
            logits = head(hidden[cut]).float()
            log_p = logits.log_softmax(-1)
            nll[cut] = -log_p.gather(1, targets.labels[cut, None]).squeeze(1)
            loss += (targets.losses(log_p, cut) * targets.weight[cut]).sum()
            p = log_p.exp_().scatter_add_(1, targets.ids[cut], -targets.p[cut])
            p *= targets.weight[cut, None]
            grad[cut] = p.to(hidden.dtype) @ head.weight.to(hidden.dtype)
        ctx.save_for_backward(grad)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, loss: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * loss.to(grad.dtype), None, None, None


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What n positions are to predict.

    Args:
        labels: the next tokens [n].
        weight: of each loss [n], float32.
        ids, p: what is learned: tokens and their probabilities [n, k]; of a bare token the token
            itself with 1, and any others with 0.
    """

    labels: Tensor
    weight: Tensor
    ids: Tensor
    p: Tensor

    def losses(self, log_p: Tensor, cut: slice) -> Tensor:
        """Cross entropy of each of some positions, whose log-probabilities these are [m, V]."""
        return -(log_p.gather(1, self.ids[cut]) * self.p[cut]).sum(1)


def weighted_loss(
    hidden: Tensor, head: nn.Module, targets: Targets, sizes: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Sum of weighted losses, and the loss of each next token (not differentiable).

    Args:
        hidden: hidden states of the labelled positions only [n, hidden].
        head: frozen output head, a linear layer.
        targets: what they are to predict.
        sizes: how many of the n positions belong to each row of the batch, in order.
    """
    result: tuple[Tensor, Tensor] = _CrossEntropy.apply(hidden, head, targets, _pieces(sizes))  # type: ignore[no-untyped-call]
    return result


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(  # torch calls it by position
        ctx: Any, hidden: Tensor, teacher: Tensor, head: nn.Module, cuts: list[slice]
    ) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        grad = torch.empty_like(hidden)
        for cut in cuts:
            log_p = head(hidden[cut]).float().log_softmax(-1)
            log_q = head(teacher[cut]).float().log_softmax(-1)
            q = log_q.exp()
            total += (q * (log_q - log_p)).sum()
            grad[cut] = (log_p.exp_() - q).to(hidden.dtype) @ head.weight.to(hidden.dtype)
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, loss: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * loss.to(grad.dtype), None, None, None


def divergence(hidden: Tensor, teacher: Tensor, head: nn.Module, rows: int) -> Tensor:
    """Sum over positions of KL(teacher || student), in nats, over the whole vocabulary.

    Args:
        hidden: hidden states of the student [n, hidden].
        teacher: those of the teacher at the same positions, without gradient.
        head: the frozen output head of both.
        rows: how many rows of equal length the n positions are.
    """
    result: Tensor = _Divergence.apply(  # type: ignore[no-untyped-call]
        hidden, teacher, head, _pieces([len(hidden) // rows] * rows)
    )
    return result


def token_losses(hidden: Tensor, head: nn.Module, labels: Tensor) -> Tensor:
    """Loss of each position [n], without gradient."""
    out = hidden.new_empty(len(labels), dtype=torch.float32)
    for cut in _pieces([len(labels)]):
        log_p = head(hidden[cut]).float().log_softmax(-1)
        out[cut] = -log_p.gather(1, labels[cut, None]).squeeze(1)
    return out
