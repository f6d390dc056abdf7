"""Cross entropy and divergence in pieces, and their gradients."""

from __future__ import annotations

import pytest
import torch

from templora_memory.backends.local.train.loss import (
    LossTargets,
    _pieces,
    kl_divergence,
    weighted_loss,
)


def test_the_loss_in_pieces_is_the_models_loss_with_the_same_gradient():
    torch.manual_seed(0)
    hidden = torch.randn(700, 16, requires_grad=True)
    head = torch.nn.Linear(16, 50)
    head.requires_grad_(requires_grad=False)
    labels = torch.randint(50, (700,))
    weight = torch.rand(700)
    targets = LossTargets(labels, weight)
    loss, nll = weighted_loss(hidden, head, targets, [300, 400])
    loss.backward()
    again = hidden.detach().requires_grad_()
    plain = torch.nn.functional.cross_entropy(head(again), labels, reduction="none")
    (plain * weight).sum().backward()
    assert torch.allclose(nll, plain.detach(), atol=1e-5)
    assert torch.allclose(hidden.grad, again.grad, atol=1e-6)


def test_the_divergence_in_pieces_is_the_weighted_sum_with_its_gradient():
    torch.manual_seed(0)
    hidden = torch.randn(300, 16, requires_grad=True)
    teacher = torch.randn(300, 16)
    head = torch.nn.Linear(16, 50)
    head.requires_grad_(requires_grad=False)
    weight = torch.rand(300)
    found = kl_divergence(hidden, teacher, head, weight, [260, 40])
    found.backward()
    again = hidden.detach().requires_grad_()
    log_p, log_q = head(again).log_softmax(-1), head(teacher).log_softmax(-1)
    plain = ((log_q.exp() * (log_q - log_p)).sum(-1) * weight).sum()
    plain.backward()
    assert found.item() == pytest.approx(plain.item(), rel=1e-5)
    assert torch.allclose(hidden.grad, again.grad, atol=1e-5)


def test_pieces_never_span_two_rows():
    cuts = _pieces([300, 10, 256])
    assert [(cut.start, cut.stop) for cut in cuts] == [(0, 256), (256, 300), (300, 310), (310, 566)]
