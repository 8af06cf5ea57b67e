"""Solvers against exact solutions, torchdiffeq and finite differences."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torchdiffeq import odeint

from lvmzoo.errors import UserError
from lvmzoo.inference.ode import METHODS, hermite, solve, solve_adaptive
from lvmzoo.inference.tanh_ode import solve_tanh
from lvmzoo.parts.vector_fields import TanhField
from lvmzoo.simulate.planar import van_der_pol_field

START = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=torch.float64)


def oscillator(z, u=None):
    x, y = z.unbind(-1)
    return torch.stack([y, (1 - x**2) * y - x], -1)


def exact(times):
    return np.stack(
        [
            solve_ivp(lambda _, s: van_der_pol_field(s), (0, times[-1]), z, "DOP853", times, rtol=1e-13, atol=1e-13).y.T
            for z in START.numpy()
        ]
    )


def field(latents=3, hidden=7, inputs=0, seed=0):
    torch.manual_seed(seed)
    made = TanhField(latents, hidden, inputs).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


@pytest.mark.parametrize(("method", "ratio"), [("euler", 2.0), ("heun", 4.0), ("rk4", 16.0)])
def test_n1_halving_the_step_divides_the_error(method, ratio):
    span, errors = 2.0, []
    for steps in (80, 160, 320):
        solution = solve(oscillator, START, steps + 1, span / steps, METHODS[method])
        errors.append(np.abs(solution[:, -1].numpy() - exact([0, span])[:, -1]).max())
    found = [a / b for a, b in itertools.pairwise(errors)]
    assert found == pytest.approx([ratio, ratio], rel=1.5 / 16)


@pytest.mark.parametrize("stride", [2, 5])
def test_interpolation_between_steps_is_of_fourth_order(stride):
    span, errors = 2.0, []
    for knots in (20, 40):
        bins = knots * stride
        times = span * np.arange(bins + 1) / bins
        solution = solve(oscillator, START, bins + 1, span / bins, METHODS["rk4"], stride)
        errors.append(np.abs(solution.numpy() - exact(times)).max())
    assert errors[0] / errors[1] == pytest.approx(16, abs=3)


def test_a_cubic_is_interpolated_exactly():
    def cubic(t):
        return 1 + 2 * t - t**2 + 0.5 * t**3

    def slope(t):
        return 2 - 2 * t + 1.5 * t**2

    knots = torch.arange(4, dtype=torch.float64)[:, None, None] * 0.4
    between = 0.4 * torch.arange(13, dtype=torch.float64) / 4
    torch.testing.assert_close(hermite(cubic(knots), slope(knots), 0.4, 4)[:, 0, 0], cubic(between))


@pytest.mark.parametrize("bins", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("stride", [2, 3, 10])
def test_a_stride_returns_the_bins_that_were_asked_for(bins, stride):
    whole = solve(oscillator, START, 20, 0.05, METHODS["rk4"], stride)
    cut = solve(oscillator, START, bins, 0.05, METHODS["rk4"], stride)
    assert cut.shape == (2, bins, 2)
    torch.testing.assert_close(cut, whole[:, :bins])
    assert torch.equal(cut[:, 0], START)


def test_a_linear_field_gives_the_matrix_exponential():
    made = field()
    with torch.no_grad():
        made.outer[:, :7] = 0
        made.outer_offset.zero_()
    start, step = torch.randn(4, 3, dtype=torch.float64), 0.02
    powers = torch.stack([torch.linalg.matrix_exp(made.linear.detach() * step * t) for t in range(30)])
    expected = torch.einsum("tij,bj->bti", powers, start)
    with torch.no_grad():
        torch.testing.assert_close(made.trajectory(start, 30, step, METHODS["rk4"]), expected, atol=1e-7, rtol=0)
        torch.testing.assert_close(solve_adaptive(made, start, 30, step, 1e-9), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("stride", "inputs"), [(1, 0), (3, 0), (1, 2)])
def test_n2_the_fast_solver_and_its_gradient_are_those_of_automatic_differentiation(method, stride, inputs):
    made, bins = field(inputs=inputs), 11
    start = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    u = torch.randn(5, bins, inputs, dtype=torch.float64) if inputs else None
    weights = torch.randn(5, bins, 3, dtype=torch.float64)
    fast = made.trajectory(start, bins, 0.2, METHODS[method], stride, u)
    slow = solve(made, start, bins, 0.2, METHODS[method], stride, u)
    torch.testing.assert_close(fast, slow, atol=1e-12, rtol=1e-12)
    wanted = [start, *made.parameters()]
    for a, b in zip(*(torch.autograd.grad((z * weights).sum(), wanted) for z in (fast, slow)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("stride", [1, 3])
def test_n2_the_gradient_is_that_of_finite_differences(stride):
    made, start = field(), torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    parameters = [made.inner, made.outer, made.inner_offset, made.outer_offset]

    def loss(start, inner, outer, push, drift):
        return solve_tanh(start, inner, outer, push, drift, 9, 0.2, METHODS["rk4"], stride).square().sum()

    assert torch.autograd.gradcheck(loss, [start, *parameters], eps=1e-6, atol=1e-6, rtol=1e-6)


def test_n2_solution_and_gradient_are_those_of_torchdiffeq():
    made, step, bins = field(), 0.05, 40
    start = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    times = step * torch.arange(bins, dtype=torch.float64)
    ours = made.trajectory(start, bins, step, METHODS["rk4"])
    peer = odeint(lambda _, z: made(z), start, times, method="dopri5", rtol=1e-11, atol=1e-11).transpose(0, 1)
    torch.testing.assert_close(ours, peer, atol=1e-6, rtol=0)
    wanted = [start, *(p for p in made.parameters())]
    for a, b in zip(*(torch.autograd.grad(z.square().sum(), wanted) for z in (ours, peer)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)


def test_inputs_act_within_their_bin_alone():
    """dz/dt = u is a running sum: the input of a bin moves the latents to the next bin, and no step crosses an edge."""

    def follow(z, u):
        return u

    u = torch.randn(3, 12, 2, dtype=torch.float64)
    start = torch.zeros(3, 2, dtype=torch.float64)
    expected = torch.cat([start[:, None], 0.1 * u.cumsum(1)[:, :-1]], 1)
    for method in METHODS.values():
        torch.testing.assert_close(solve(follow, start, 12, 0.1, method, inputs=u), expected)
    torch.testing.assert_close(solve_adaptive(follow, start, 12, 0.1, 1e-8, u), expected, atol=1e-7, rtol=0)
    made = field(2, 5, 2)
    late = u.clone()
    late[:, 6:] += 1
    with torch.no_grad():
        one, other = (made.trajectory(start, 12, 0.1, METHODS["rk4"], inputs=x) for x in (u, late))
        adaptive = solve_adaptive(made, start, 12, 0.1, 1e-8, u)
    assert torch.equal(one[:, :7], other[:, :7])
    assert not torch.equal(one[:, 7], other[:, 7])
    torch.testing.assert_close(adaptive, one, atol=1e-4, rtol=0)
    for refuse in (lambda: solve(made, start, 12, 0.1, stride=2, inputs=u), lambda: made.trajectory(
        start, 12, 0.1, METHODS["rk4"], 2, u
    )):  # fmt: skip
        with pytest.raises(ValueError, match="stride=1"):
            refuse()


def test_the_adaptive_solver_meets_its_tolerance_on_every_trial():
    times = 0.1 * np.arange(30)
    for tolerance in (1e-4, 1e-8):
        with torch.no_grad():
            error = np.abs(solve_adaptive(oscillator, START, 30, 0.1, tolerance).numpy() - exact(times)).max()
        assert error < 100 * tolerance


def test_a_missing_torchdiffeq_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(UserError, match="pip install torchdiffeq"):
        solve_adaptive(oscillator, START, 3, 0.1)


def test_an_untrained_field_contracts():
    torch.manual_seed(0)
    made = TanhField(6, 64)
    with torch.no_grad():
        one, other = made.trajectory(5 * torch.randn(2, 50, 6)[0], 2, 1.0, METHODS["rk4"]).unbind(1)
        assert float(other.norm(dim=1).max()) < float(one.norm(dim=1).max())
        distance = torch.pdist(other) / torch.pdist(one)
    assert float(distance.max()) < 0.6  # exp(-1) without the small nonlinear part
    assert float(distance.min()) > math.exp(-2)
