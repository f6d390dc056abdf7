"""Cross entropy and KL divergence in pieces: the T-by-V matrix of logits never exists whole.

The LM head is frozen, so nothing but the hidden states needs a gradient, and that gradient has a
closed form. It is computed in forward, piece by piece, and only its [T, D] is kept for backward.
With hidden states h [T, D], the head's weight W [V, D], logits z = W h and p = softmax(z)::

    cross entropy   loss = sum_t w_t * -log p_t[label_t]
                    d loss / d z_t = w_t * (p_t - q_t)                 q_t one-hot at label_t
    divergence      KL(q || p) = sum_v q_v (log q_v - log p_v)
                    d KL / d z_t = p_t - q_t
    both            d / d h_t = (d / d z_t) W

In the divergence q is the base model's whole distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

PIECE = 256  # positions whose logits exist at once


def _pieces(sizes: Sequence[int]) -> list[slice]:
    """Return slices of at most PIECE positions that never span two rows.

    A piece over two rows would round differently from the rows alone, and Adam amplifies it.
    """
    cuts, start = [], 0
    for size in sizes:
        stop = start + size
        cuts += [slice(begin, min(begin + PIECE, stop)) for begin in range(start, stop, PIECE)]
        start = stop
    return cuts


@dataclass(frozen=True, slots=True, eq=False)
class LossTargets:
    """The tokens that T positions are to predict.

    Args:
        labels: the next tokens [T].
        weights: weight of each position's loss [T], float32.
    """

    labels: Tensor
    weights: Tensor


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # torch calls it by position
        ctx: Any, hidden: Tensor, lm_head: nn.Module, targets: LossTargets, cuts: list[slice]
    ) -> tuple[Tensor, Tensor]:
        nll = hidden.new_empty(len(targets.labels), dtype=torch.float32)  # [T]
        loss = hidden.new_zeros((), dtype=torch.float32)
        grad = torch.empty_like(hidden)  # [T, D]
        for cut in cuts:  # t positions
            logits = lm_head(hidden[cut]).float()  # [t, V]
            log_p = logits.log_softmax(-1)
            labels = targets.labels[cut, None]  # [t, 1]
            nll[cut] = -log_p.gather(1, labels).squeeze(1)
            loss += (nll[cut] * targets.weights[cut]).sum()
            # p - q in place: q is 1 at the label, else 0
            grad_logits = log_p.exp_().scatter_add_(1, labels, -torch.ones_like(labels).float())
            grad_logits *= targets.weights[cut, None]
            grad[cut] = grad_logits.to(hidden.dtype) @ lm_head.weight.to(hidden.dtype)
        ctx.save_for_backward(grad)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, loss: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * loss.to(grad.dtype), None, None, None  # chain rule with d / d loss


def weighted_loss(
    hidden: Tensor, lm_head: nn.Module, targets: LossTargets, sizes: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the sum of weighted losses, and the loss of each label [T] (not differentiable).

    Args:
        hidden: hidden states of the labelled positions only [T, D].
        lm_head: frozen output head, a linear layer.
        targets: what they are to predict.
        sizes: how many of the T positions belong to each row of the batch, in order.
    """
    result: tuple[Tensor, Tensor] = _CrossEntropy.apply(hidden, lm_head, targets, _pieces(sizes))  # type: ignore[no-untyped-call]
    return result


class _KLDivergence(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917  # torch calls it by position
        ctx: Any,
        hidden: Tensor,
        teacher: Tensor,
        lm_head: nn.Module,
        weights: Tensor,
        cuts: list[slice],
    ) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        grad = torch.empty_like(hidden)  # [T, D]
        for cut in cuts:
            log_p = lm_head(hidden[cut]).float().log_softmax(-1)  # [t, V], the student's
            log_q = lm_head(teacher[cut]).float().log_softmax(-1)  # [t, V], the teacher's
            q = log_q.exp()
            weight = weights[cut, None]  # [t, 1]
            total += (q * (log_q - log_p)).sum(1, keepdim=True).mul_(weight).sum()
            grad_logits = log_p.exp_().sub_(q).mul_(weight)  # [t, V]
            grad[cut] = grad_logits.to(hidden.dtype) @ lm_head.weight.to(hidden.dtype)
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, loss: Tensor) -> tuple[Tensor, None, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * loss.to(grad.dtype), None, None, None, None


def kl_divergence(
    hidden: Tensor, teacher: Tensor, lm_head: nn.Module, weights: Tensor, sizes: Sequence[int]
) -> Tensor:
    """Return the weighted sum over positions of KL(teacher || student), in nats.

    Args:
        hidden: hidden states of the student [T, D].
        teacher: those of the teacher at the same positions [T, D], without gradient.
        lm_head: the frozen output head of both.
        weights: of each position [T], float32.
        sizes: how many of the T positions belong to each row of the batch, in order.
    """
    result: Tensor = _KLDivergence.apply(hidden, teacher, lm_head, weights, _pieces(sizes))  # type: ignore[no-untyped-call]
    return result


def token_losses(hidden: Tensor, lm_head: nn.Module, labels: Tensor) -> Tensor:
    """Return the loss of each position [T], without gradient, from hidden states [T, D]."""
    losses = hidden.new_empty(len(labels), dtype=torch.float32)
    for cut in _pieces([len(labels)]):
        log_p = lm_head(hidden[cut]).float().log_softmax(-1)  # [t, V]
        losses[cut] = -log_p.gather(1, labels[cut, None]).squeeze(1)
    return losses
