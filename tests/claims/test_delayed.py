"""What tests of processes with delays hold: intervals from few samples, and nulls of trials of unlike length."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lvmzoo.claims.delayed_exchange import Predicted, exchange, exchangeable, orders
from lvmzoo.claims.delayed_latents import latents_alone, same_latents
from lvmzoo.claims.delayed_study import around
from lvmzoo.claims.nulls import log_exchanges, p_value
from lvmzoo.inference import delayed_expectations
from lvmzoo.inference.delayed_expectations import posterior_means
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.inference.delayed_refits import Recordings


@pytest.mark.parametrize(("samples", "coverage"), [(10, 9 / 11), (38, 37 / 39), (39, 0.95), (200, 0.95)])
def test_another_sample_lies_in_the_interval_that_often(samples: int, coverage: float) -> None:
    """95 %, or what so few samples span at most; doi:10.1080/00031305.1996.10473566."""
    generator = torch.Generator().manual_seed(0)
    hits = []
    for _ in range(4000):
        *drawn, new = torch.randn(samples + 1, generator=generator, dtype=torch.float64).tolist()
        low, high = around(drawn[0], drawn)
        hits.append(low <= new <= high)
    assert sum(hits) / len(hits) == pytest.approx(coverage, abs=0.012)


def test_the_interval_holds_the_value() -> None:
    assert around(3.0, [1.0, 2.0]) == (1.0, 3.0)
    assert around(0.0, torch.tensor([1.0, 2.0])) == (0.0, 2.0)
    assert around(1.0, [2.0]) == (1.0, 2.0)


def test_trials_stay_in_their_fold_condition_and_neighborhood() -> None:
    fold = torch.arange(60) // 30
    condition = torch.tensor([0, 1, -1] * 20)
    cell = exchangeable(fold, condition)
    assert log_exchanges(cell) == pytest.approx(4 * math.log(24) + 8 * math.log(6))  # blocks of 10: 3 or 4 of each
    drawn = orders(cell, [0, 2, 5], 50, torch.Generator().manual_seed(0))
    place = torch.arange(60)
    assert bool((drawn[0] == place).all())
    for region in (2, 5):
        assert bool((fold[drawn[region]] == fold).all())
        assert bool((condition[drawn[region]] == condition).all())
        assert bool(((drawn[region] - place).abs() < 10 + 1).all())
        assert bool((drawn[region][:, condition < 0] == place[condition < 0]).all())
        assert 0 < float((drawn[region] != place).double().mean()) < 1
    assert not torch.equal(drawn[2], drawn[5])


def ragged(seed: int, lengths: np.ndarray, units: int = 3, rho: float = 0.9) -> tuple[Predicted, Predicted]:
    """Return two independent autoregressive series: each is a region, and what predicts the other."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(2, len(lengths), int(lengths.max()), units))
    for t in range(1, x.shape[2]):
        x[:, :, t] = rho * x[:, :, t - 1] + (1 - rho**2) ** 0.5 * x[:, :, t]
    shown = np.broadcast_to((np.arange(x.shape[2]) < lengths[:, None])[..., None], x.shape[1:])
    one, other = (torch.from_numpy(np.where(shown, values, 0.0)) for values in x)
    mask = torch.from_numpy(shown.copy())
    return Predicted(one, other, mask), Predicted(other, one, mask)


def test_exchanged_trials_correlate_over_what_both_have() -> None:
    """By definition, bin by bin."""
    there, back = ragged(0, np.array([4, 9, 6, 9, 3]))
    place = torch.arange(5)
    order = torch.tensor([[2, 0, 1, 4, 3], [0, 1, 2, 3, 4]])
    found = exchange(there, back, None, place.expand(2, 5), order)

    def clean(values: torch.Tensor) -> np.ndarray:  # five trials are too few for a drift: the mean of each unit
        mask = there.shown.numpy()
        return np.where(mask, values.numpy() - values.numpy().sum((0, 1)) / mask.sum((0, 1)), 0.0)

    def correlation(x: list[np.ndarray], y: list[np.ndarray]) -> float:
        one, other = np.concatenate(x), np.concatenate(y)
        return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))

    for draw in range(2):
        values = []
        for which, rows, columns in ((there, place, order[draw]), (back, order[draw], place)):
            x, y, mask = clean(which.prediction), clean(which.target), which.shown.numpy()
            both = [mask[i] & mask[j] for i, j in zip(rows, columns, strict=True)]
            pairs = list(zip(rows, columns, both, strict=True))
            met = correlation([x[i][m] for i, _, m in pairs], [y[j][m] for _, j, m in pairs])
            each = [(k, m) for i, j, m in pairs for k in (i, j)]
            itself = correlation([x[k][m] for k, m in each], [y[k][m] for k, m in each])
            values.append(correlation([x], [y]) + met - itself)
        assert float(found.null[draw]) == pytest.approx(np.mean(values), rel=1e-9)
    assert float(found.null[1]) == pytest.approx(found.observed, rel=1e-12)
    assert found.resampled(place) == pytest.approx(found.observed, rel=1e-12)


@pytest.mark.parametrize("course", [0.0, 1.5])
def test_trials_of_unlike_length_do_not_pass_for_communication(course: float) -> None:
    """One trial in five has 80 bins, the others 8; both regions may repeat the courses of four conditions.

    At 5 %, .11 were rejected when exchanged trials counted as long ones, and with courses nearly all when what long
    trials alone repeat was scaled away, or taken for drift.
    """
    fold, cases = torch.ones(40, dtype=torch.int64), 300
    rejections = 0
    for seed in range(cases):
        random = np.random.default_rng([seed, 1])
        lengths = np.where(random.random(40) < 0.2, 80, 8)
        lengths[0] = 80
        condition = torch.from_numpy(random.integers(0, 4, 40)) if course else None
        cell = exchangeable(fold, condition)
        order = orders(cell, [0, 1], 59, torch.Generator().manual_seed(seed))
        pair = ragged(seed, lengths)
        if condition is not None:
            shared = torch.from_numpy(course * random.normal(size=(4, 80, 3)).cumsum(1) / 6)[condition]
            pair = tuple(Predicted(p.prediction + shared, p.target + shared, p.shown) for p in pair)
        found = exchange(*pair, condition, order[0], order[1])
        rejections += p_value(found.observed, found.null) <= 0.05
    assert 4 <= rejections <= 24


def two_latents(seed: int) -> DelayedProcesses:
    """Return two regions of three units that see two latents; directions of the latents are not orthogonal."""
    generator = torch.Generator().manual_seed(seed)
    return DelayedProcesses(
        torch.tensor([3.0, 2.0], dtype=torch.float64),
        torch.tensor([[0.0, 0.0], [0.0, 2.0]], dtype=torch.float64),
        1.0 + torch.randn(6, 2, generator=generator, dtype=torch.float64),
        torch.zeros(6, dtype=torch.float64),
        torch.full((6,), 0.5, dtype=torch.float64),
        (slice(0, 3), slice(3, 6)),
    )


def recordings(model: DelayedProcesses, seed: int) -> Recordings:
    activity = delayed_expectations.draw(model, 50, 20, seed)[1]
    shown = torch.ones(activity.shape, dtype=torch.bool)
    return Recordings(activity, shown[..., 0], shown)


def test_latents_are_known_again_in_another_order_and_sign() -> None:
    model = two_latents(0)
    turned = model._replace(
        timescales=model.timescales.flip(0), delays=model.delays.flip(1), readout=-model.readout.flip(1)
    )
    data = recordings(model, 0)
    assert same_latents(turned, model, data).tolist() == [1, 0]
    assert same_latents(model, model, data).tolist() == [0, 1]


def test_a_latent_alone_takes_nothing_from_another_one() -> None:
    """One that is silent is told of noise alone, where the posterior mean takes a part of the other for it."""
    model = two_latents(1)
    silent = model._replace(readout=model.readout * torch.tensor([1.0, 0.0]))
    x, activity = delayed_expectations.draw(silent, 50, 20, 1)
    data = recordings(silent, 1)._replace(activity=activity)
    alone = latents_alone(model, data, 0, torch.tensor([1, 0]))[..., 0]
    usual = posterior_means(model, *data.only(model.regions[0]))[..., 1]
    active = x[:, :, 0, 0].flatten()

    def leak(values: torch.Tensor) -> float:
        return abs(float(values[:, :, 0].flatten() @ active / active.square().sum()))

    assert leak(alone) < 0.3 * leak(usual)
    other = data._replace(activity=data.activity.clone())
    other.activity[..., 3:] += 10.0
    assert torch.equal(latents_alone(model, other, 0, torch.tensor([1, 0]))[..., 0], alone)
