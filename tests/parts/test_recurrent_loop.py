"""The hand-written loop of controller and generator against torch's GRU cells under autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lvmzoo.parts.recurrent_loop import controlled_generator

Arguments = tuple


def arguments(external: int, bins: int = 9) -> Arguments:
    torch.manual_seed(0)
    trials, code, inputs, latents, controller, generator = 4, 6, 2, 3, 5, 7
    double = torch.float64
    return (
        nn.GRUCell(code + latents, controller, dtype=double),
        nn.GRUCell(inputs + external, generator, dtype=double),
        nn.Linear(controller, 2 * inputs, dtype=double),
        torch.randn(latents, generator, dtype=double, requires_grad=True),
        torch.randn(bins, trials, code, dtype=double, requires_grad=True),
        torch.randn(bins, trials, external, dtype=double, requires_grad=True),
        torch.randn(bins, trials, inputs, dtype=double),
        (
            torch.randn(trials, controller, dtype=double, requires_grad=True),
            torch.randn(trials, generator, dtype=double, requires_grad=True),
        ),
    )


def by_cells(given: Arguments) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    controller, generator, to_inputs, factors, codes, external, noise, (c, g) = given
    states, moments, drawn = [], [], []
    for t in range(len(codes)):
        c = controller(torch.cat([codes[t], g @ factors.T], -1), c)
        moments.append(to_inputs(c))
        mean, log_variance = moments[-1].chunk(2, -1)
        drawn.append(mean + torch.exp(0.5 * log_variance) * noise[t])
        g = generator(torch.cat([drawn[-1], external[t]], -1), g)
        states.append(g)
    return torch.stack(states), torch.stack(moments), torch.stack(drawn)


@pytest.mark.parametrize("external", [0, 2])
def test_values_and_gradients_are_those_of_autograd(external: int) -> None:
    """L5: to 1e-12 in float64."""
    given = arguments(external)
    *modules, factors, codes, known, _, start = given
    leaves = [p for module in modules for p in module.parameters()] + [
        factors,
        codes,
        *start,
        *([known] if external else []),
    ]
    weights = [torch.randn(9, 4, n, dtype=torch.float64) for n in (7, 4, 2)]
    results = []
    for run in (lambda: controlled_generator(*given), lambda: by_cells(given)):
        values = run()
        loss = sum((w * v.sin()).sum() for w, v in zip(weights, values, strict=True))
        results.append((values, torch.autograd.grad(loss, leaves)))
    for one, other in zip(*(values for values, _ in results), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    for one, other in zip(*(gradients for _, gradients in results), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_backward_pass_can_be_run_twice() -> None:
    given = arguments(0)
    loss = controlled_generator(*given)[0].square().sum()
    (first,) = torch.autograd.grad(loss, given[4], retain_graph=True)
    (second,) = torch.autograd.grad(loss, given[4])
    assert torch.equal(first, second)


def test_later_bins_do_not_change_earlier_ones() -> None:
    controller, generator, to_inputs, factors, codes, external, noise, start = arguments(2)
    long = controlled_generator(controller, generator, to_inputs, factors, codes, external, noise, start)
    short = controlled_generator(controller, generator, to_inputs, factors, codes[:5], external[:5], noise[:5], start)
    for one, other in zip(long, short, strict=True):
        torch.testing.assert_close(one[:5], other, rtol=1e-13, atol=1e-13)
