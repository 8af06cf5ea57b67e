"""How Gaussian processes are fitted: the search within a box, and steps that are taken back."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from lvmzoo.inference.gaussian_process import Sums, zero_sums
from lvmzoo.inference.gaussian_process_dimension import fewest_within_one_error
from lvmzoo.inference.gaussian_process_fit import EM_PASSES, HALVINGS, Fitting, scoring_step, smallest_noise
from lvmzoo.inference.gaussian_process_search import Search
from tests.inference.test_gaussian_process import LATENTS, UNITS, random_process

ONE = ((slice(None), False),)  # session, of continuous activity


def rosenbrock(x: Tensor) -> Tensor:
    return -(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def ill_conditioned(x: Tensor) -> Tensor:
    scale = torch.logspace(-2, 2, len(x), dtype=torch.float64)
    return -0.5 * (scale * (x - torch.arange(len(x)) / 2) ** 2).sum()


def ascend(
    function: Callable[[Tensor], Tensor], start: Tensor, lower: Tensor, upper: Tensor, passes: int
) -> tuple[Search, list[float]]:
    longest = torch.full_like(start, 0.5)
    search, accepted = Search(len(start)), []

    def value_and_slope(point: Tensor) -> tuple[float, Tensor]:
        free = point.clone().requires_grad_()
        value = function(free)
        return float(value.detach()), torch.autograd.grad(value, free)[0]

    point = search.start(start, *value_and_slope(start), lower, upper, longest)
    for _ in range(passes):
        assert bool(((point >= lower) & (point <= upper)).all())
        assert float((point - search.position).abs().max()) <= 0.5 + 1e-12
        point, _ = search.advance(point, *value_and_slope(point), lower, upper, longest)
        accepted.append(float(search.numbers[0]))
    return search, accepted


@pytest.mark.parametrize("function", [rosenbrock, ill_conditioned])
@pytest.mark.parametrize("bound", [10.0, 0.6])
def test_search_finds_what_scipy_finds(function: Callable[[Tensor], Tensor], bound: float) -> None:
    start = torch.full((5,), -0.5, dtype=torch.float64)
    lower, upper = torch.full_like(start, -bound), torch.full_like(start, bound)
    search, accepted = ascend(function, start, lower, upper, 150)
    best = minimize(
        lambda x: -float(function(torch.from_numpy(x))),
        start.numpy(),
        method="L-BFGS-B",
        bounds=[(-bound, bound)] * 5,
        options={"ftol": 1e-15, "gtol": 1e-10},
    )
    np.testing.assert_allclose(search.position.numpy(), best.x, atol=1e-4)
    assert (np.diff(accepted) >= 0).all()


def test_search_ends_where_nothing_is_gained() -> None:
    """A gradient that promises what the value does not keep: steps get shorter, and then there are none."""
    search, wall = Search(2), torch.ones(2, dtype=torch.float64)
    start, slope = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    point = search.start(start, 0.0, slope, -wall, wall, wall)
    for _ in range(60):
        point, accepted = search.advance(point, -1.0, slope, -wall, wall, wall)
        assert not accepted
    assert search.exhausted
    assert torch.equal(search.position, start)


def sums(value: float, slope: float = 1.0) -> Sums:
    """Return sums whose log-likelihood and slope by the timescales are given."""
    nothing = zero_sums(UNITS, torch.zeros(LATENTS, dtype=torch.float64))
    eye = torch.eye(LATENTS + 1, dtype=torch.float64).expand(UNITS, -1, -1) * 100
    return nothing._replace(
        log_likelihood=torch.tensor(100 * value, dtype=torch.float64),
        bins=torch.tensor(100.0, dtype=torch.float64),
        readout=eye,
        squares=torch.full((UNITS,), 100.0, dtype=torch.float64),
        activity=torch.ones(UNITS, LATENTS + 1, dtype=torch.float64),
        slope=torch.full((LATENTS,), slope, dtype=torch.float64),
        information=10 * torch.eye(LATENTS, dtype=torch.float64),
    )


def test_a_step_that_lowers_the_likelihood_is_halved_and_then_dropped() -> None:
    fitting, process = Fitting(UNITS, LATENTS), random_process("squared_exponential")
    fitting.begin(50, float("inf"))
    tested = process.timescales
    after, objective = fitting.update(process, sums(-3.0), ONE)
    assert float(objective) == -3.0
    step = (after.timescales / tested).log()
    torch.testing.assert_close(step, torch.full_like(step, 0.1), rtol=2e-3, atol=0.0)
    torch.testing.assert_close(fitting.accepted(after).timescales, tested)
    for rejection in range(1, HALVINGS + 1):
        before = after
        after, objective = fitting.update(after, sums(-4.0), ONE)
        assert float(objective) == -3.0
        share = 0.5**rejection if rejection < HALVINGS else 0.0
        torch.testing.assert_close(after.timescales, tested * (share * step).exp())
        assert torch.equal(after.readout, before.readout)
    after, objective = fitting.update(after, sums(-2.5), ONE)
    assert float(objective) == -2.5
    assert not fitting.settled


def test_steps_are_bounded() -> None:
    assert float(scoring_step(sums(0.0, slope=1e6)).abs().max()) == pytest.approx(0.5)
    fitting, process = Fitting(UNITS, LATENTS), random_process("squared_exponential")
    fitting.begin(50, 9.0)
    for k in range(EM_PASSES):
        process, _ = fitting.update(process, sums(-10.0 + k, slope=1e6), ONE)
    assert float(process.timescales.max()) <= 9.0


def test_a_failed_search_leaves_the_best_parameters() -> None:
    fitting, process = Fitting(UNITS, LATENTS), random_process("squared_exponential")
    fitting.begin(50, float("inf"))
    for k in range(EM_PASSES):
        process, _ = fitting.update(process, sums(-10.0 + 0.1 * k), ONE)
    best = process
    process, objective = fitting.update(process, sums(-1.0), ONE)
    for value in (-5.0, float("nan"), -2.0):
        process, objective = fitting.update(process, sums(value), ONE)
        assert float(objective) == -1.0
        assert not fitting.settled
    for name in ("timescales", "readout", "offset", "noise"):
        torch.testing.assert_close(getattr(fitting.accepted(process), name), getattr(best, name))


def test_a_fit_goes_on_bit_for_bit() -> None:
    fitting, process = Fitting(UNITS, LATENTS), random_process("squared_exponential")
    fitting.begin(50, float("inf"))
    for k in range(EM_PASSES + 4):
        process, _ = fitting.update(process, sums(-10.0 + 0.1 * k), ONE)
    other = Fitting(UNITS, LATENTS)
    other.load_state_dict(copy.deepcopy(fitting.state_dict()))
    for value in (-4.0, -6.0, -3.9, -3.8):
        one, two = fitting.update(process, sums(value), ONE), other.update(process, sums(value), ONE)
        for a, b in zip((*one[0][:4], one[1]), (*two[0][:4], two[1]), strict=True):
            assert torch.equal(a, b)
        process = one[0]


def test_floors_of_a_session_do_not_see_the_scale_of_another() -> None:
    """Nor a unit one a million times its own; a silent one is like the others; counts have a floor of their own."""
    found = sums(0.0)
    squares = torch.tensor([100.0, 1e-10, 1e14, 2e14, 0.0], dtype=torch.float64)
    found = found._replace(squares=squares, activity=torch.zeros_like(found.activity))
    floor = smallest_noise(found, ((slice(0, 2), False), (slice(2, 5), False)))
    torch.testing.assert_close(floor, torch.tensor([1e-2, 1e-14, 1e10, 2e10, 1e10], dtype=torch.float64))
    of_counts = smallest_noise(found, ((slice(0, 2), True), (slice(2, 5), False)))
    torch.testing.assert_close(of_counts[:2], torch.full((2,), 0.025, dtype=torch.float64))


def test_fewest_within_one_error() -> None:
    """The difference to the best is judged fold by fold, not against how folds differ."""
    folds = np.array([0.0, 10.0, 20.0])[:, None]
    falling = folds + np.array([3.0, 1.0, 0.5, 0.5])
    assert fewest_within_one_error(falling, [1, 2, 3, 4]) == 3
    noisy = falling.copy()
    noisy[:, 1] += [-1.0, 0.6, 0.0]
    assert fewest_within_one_error(noisy, [1, 2, 3, 4]) == 2
