"""Cross entropy in pieces, and its gradient."""

from __future__ import annotations

import pytest
import torch

from templora_memory.backends.local.train.loss import LossTargets, _pieces, weighted_loss


def test_the_loss_in_pieces_is_the_models_loss_with_the_same_gradient():
    torch.manual_seed(0)
    hidden = torch.randn(700, 16, requires_grad=True)
    head = torch.nn.Linear(16, 50)
    head.requires_grad_(requires_grad=False)
    labels = torch.randint(50, (700,))
    weight = torch.rand(700)
    targets = LossTargets(labels, weight, labels[:, None], torch.ones(700, 1))
    loss, nll = weighted_loss(hidden, head, targets, [300, 400])
    loss.backward()
    again = hidden.detach().requires_grad_()
    plain = torch.nn.functional.cross_entropy(head(again), labels, reduction="none")
    (plain * weight).sum().backward()
    assert torch.allclose(nll, plain.detach(), atol=1e-5)
    assert torch.allclose(hidden.grad, again.grad, atol=1e-6)


def test_expectations_give_the_cross_entropy_with_them_and_its_gradient():
    torch.manual_seed(0)
    hidden = torch.randn(300, 16, requires_grad=True)
    head = torch.nn.Linear(16, 50)
    head.requires_grad_(requires_grad=False)
    ids = torch.stack([torch.randperm(50)[:5] for _ in range(300)])
    p = torch.rand(300, 5).softmax(-1)
    weight = torch.rand(300)
    targets = LossTargets(ids[:, 0], weight, ids, p)
    loss, nll = weighted_loss(hidden, head, targets, [300])
    loss.backward()
    again = hidden.detach().requires_grad_()
    whole = torch.zeros(300, 50).scatter(1, ids, p)
    plain = torch.nn.functional.cross_entropy(head(again), whole, reduction="none")
    (plain * weight).sum().backward()
    assert loss.item() == pytest.approx((plain * weight).sum().item(), rel=1e-5)
    assert torch.allclose(hidden.grad, again.grad, atol=1e-5)
    bare = torch.nn.functional.cross_entropy(head(again), ids[:, 0], reduction="none")
    assert torch.allclose(nll, bare.detach(), atol=1e-5)


def test_pieces_never_span_two_rows():
    cuts = _pieces([300, 10, 256])
    assert [(cut.start, cut.stop) for cut in cuts] == [(0, 256), (256, 300), (300, 310), (310, 566)]
