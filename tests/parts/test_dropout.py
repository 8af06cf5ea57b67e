"""Coordinated dropout: seen and learned are disjoint, and the seen keeps its mean."""

from __future__ import annotations

import torch

from lvmzoo.parts.dropout import blocked, coordinated_dropout


def test_what_is_kept_keeps_the_mean_and_the_rest_is_zero() -> None:
    torch.manual_seed(0)
    signal = torch.full((400, 400), 3.0)
    seen, keep = coordinated_dropout(signal, torch.rand(400, 400), 0.3)
    assert abs(float(keep.float().mean()) - 0.7) < 0.01
    assert torch.equal(seen != 0, keep)
    assert abs(float(seen.mean()) - 3.0) < 0.03


def test_nothing_is_learned_from_blocked_values() -> None:
    values = torch.randn(5, 4, requires_grad=True)
    learn = torch.rand(5, 4) < 0.5
    result = blocked(values, learn, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert torch.equal(result, values)
    (gradient,) = torch.autograd.grad(result.sum(), values)
    assert torch.equal(gradient, learn * torch.tensor([1.0, 2.0, 3.0, 4.0]))
