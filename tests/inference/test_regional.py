"""Linear dynamics by region: likelihood against a dense covariance, M-steps against plain optimization and `lds`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from lvmzoo.inference.count_expectations import count_expectations
from lvmzoo.inference.emissions import CountEmissions, Emissions, GaussianEmissions
from lvmzoo.inference.linear_gaussian import LinearGaussian, Moments, expectations, log_likelihood, smoothed_means
from lvmzoo.inference.maximization import Constraints
from lvmzoo.inference.regional_canonical import regional_canonical
from lvmzoo.inference.regional_maximization import maximize_regional, solve_regional_dynamics
from lvmzoo.inference.regional_structure import Structure, shown_latents
from tests.models.multi_region_lds_world import layout

UNITS = {"A": 3, "B": 2, "C": 4}
PAIRS = (("A", "B"), ("B", "C"), ("C", "A"), ("A", "C"))


def system(structure: Structure, seed: int = 0, channels: int = 0) -> LinearGaussian:
    """Return random parameters that obey a structure, with a start of trials that mixes the whole state."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(random.normal(size=shape))

    size = structure.size
    shown = shown_latents(structure.regions, [layout(UNITS)], size)
    spread = normal(size, size)
    noise = torch.zeros(size, size, dtype=torch.float64)
    for rows in structure.regions.values():
        root = normal(structure.latents, structure.latents)
        noise[rows, rows] = 0.2 * root @ root.T + 0.3 * torch.eye(structure.latents)
    return LinearGaussian(
        torch.where(structure.allowed, 0.3 * normal(size, size), structure.shift),
        noise,
        normal(size),
        spread @ spread.T / size + 0.3 * torch.eye(size),
        normal(len(shown), size) * shown,
        normal(len(shown)),
        torch.from_numpy(random.uniform(0.5, 1.5, len(shown))),
        normal(size, channels) * (torch.arange(size) < structure.present)[:, None] if channels else None,
        normal(len(shown), channels) if channels else None,
    )


def data(seed: int, trials: int = 40, bins: int = 12, counts: bool = False, missing: bool = False) -> tuple[Any, ...]:
    random = np.random.default_rng(seed)
    slow = random.normal(size=(trials, bins, 3)).cumsum(1) * 0.4
    drive = slow @ random.normal(size=(3, sum(UNITS.values())))
    values = random.poisson(np.exp(0.3 * drive)) if counts else drive + random.normal(size=drive.shape)
    activity = torch.from_numpy(values.astype(np.float64))
    valid = torch.arange(bins) < torch.from_numpy(random.integers(bins // 2, bins + 1, trials))[:, None]
    observed = valid[..., None].expand(activity.shape).clone()
    if missing:
        observed &= torch.from_numpy(random.uniform(size=activity.shape) < 0.8)
    return activity, valid, observed


def joint(structure: Structure, model: LinearGaussian, bins: int) -> tuple[np.ndarray, ...]:
    """Return mean and covariance of (bin, unit), its covariance with (bin, latent), and the mean of that.

    All come from the lagged equations of the latents, one below the other.
    """
    names, p, deep = structure.names, structure.latents, structure.max_lag
    D = structure.present
    total = D * (deep - 1 + bins)  # latents from before the trial to its end
    lagged, mean, covariance = np.zeros((total, total)), np.zeros(total), np.zeros((total, total))
    held = np.zeros((structure.size, total))  # where the first state finds its elements
    for i, name in enumerate(names):
        for lag in range(1, 1 + (deep if name in structure.senders else 1)):
            for k in range(p):
                held[structure.place(name, lag).start + k, (deep - lag) * D + i * p + k] = 1.0
    mean += held.T @ model.initial_mean.numpy()
    covariance += held.T @ model.initial_covariance.numpy() @ held
    for t in range(deep, deep - 1 + bins):
        now = slice(t * D, (t + 1) * D)
        covariance[now, now] = model.dynamics_noise[:D, :D].numpy()
        for i, target in enumerate(names):
            rows = slice(t * D + i * p, t * D + (i + 1) * p)
            for j, source in enumerate(names):
                for lag in range(1, 1 + (1 if i == j else deep)):
                    if i == j or (source, target) in structure.connections:
                        columns = slice((t - lag) * D + j * p, (t - lag) * D + (j + 1) * p)
                        lagged[rows, columns] = structure.block(model.dynamics, source, target, lag).numpy()
    through = np.linalg.inv(np.eye(total) - lagged)[(deep - 1) * D :]
    latent = through @ covariance @ through.T
    C = np.kron(np.eye(bins), model.readout[:, :D].numpy())
    return (
        C @ through @ mean + np.tile(model.offset.numpy(), bins),
        C @ latent @ C.T + np.kron(np.eye(bins), np.diag(model.noise.numpy())),
        C @ latent,
        through @ mean,
    )


@pytest.mark.parametrize(("max_lag", "connections"), [(1, PAIRS), (3, PAIRS), (3, PAIRS[:1]), (2, ())])
@pytest.mark.parametrize("missing", [False, True])
def test_likelihood_and_posterior_are_those_of_the_lagged_equations(
    max_lag: int, connections: tuple[tuple[str, str], ...], missing: bool
) -> None:
    structure = Structure(tuple(UNITS), 2, connections, max_lag)
    model = system(structure)
    activity, valid, observed = data(1, trials=3, bins=7, missing=missing)
    likelihood = log_likelihood(model, activity, valid, observed)
    latents = smoothed_means(model, activity, valid, observed)[..., : structure.present]
    mean, covariance, across, prior = joint(structure, model, 7)
    for k, length in enumerate(valid.sum(1).tolist()):
        seen = (observed[k] & valid[k, :, None]).flatten().numpy()
        y, kept = activity[k].flatten().numpy()[seen], covariance[np.ix_(seen, seen)]
        expected = multivariate_normal.logpdf(y, mean[seen], kept)
        assert float(likelihood[k]) == pytest.approx(float(expected), rel=1e-10)
        posterior = prior + across[seen].T @ np.linalg.solve(kept, y - mean[seen])
        np.testing.assert_allclose(latents[k, :length].flatten(), posterior[: length * structure.present], atol=1e-9)


def unexplained(moments: Moments, structure: Structure, A: Tensor) -> Tensor:
    """Return the sum over regions of log |Q_i| with the best Q_i for some dynamics; EM's objective but for a factor."""
    explained = moments.cross @ A.T
    S = (moments.after - explained - explained.T + A @ moments.before @ A.T) / moments.transitions
    return torch.stack([torch.logdet(S[rows, rows]) for rows in structure.regions.values()]).sum()


@pytest.mark.parametrize(("max_lag", "rank"), [(1, None), (3, None), (1, 1), (2, 1)])
def test_dynamics_maximize_what_em_expects(max_lag: int, rank: int | None) -> None:
    """The optimum over free blocks, or over factors of low rank, as a general optimizer finds it from nearby."""
    structure = Structure(tuple(UNITS), 2, PAIRS, max_lag, rank)
    model = system(structure)
    moments = expectations(model, *data(2))
    regions, allowed, columns = structure.regions, structure.allowed, structure.columns
    values = []
    for _ in range(1 if rank is None else 60):  # one source after the other, until nothing changes
        A, _, Q = solve_regional_dynamics(model, moments, regions, allowed, rank, columns)
        model = model._replace(dynamics=A, dynamics_noise=Q)
        values.append(float(unexplained(moments, structure, A)))
    assert bool((np.diff(values) <= 1e-12).all())
    assert torch.equal(torch.where(allowed, 0.0, A), torch.where(allowed, 0.0, structure.shift))
    for rows in regions.values():
        explained = moments.cross[rows] @ A[rows].T
        left = moments.after[rows, rows] - explained - explained.T + A[rows] @ moments.before @ A[rows].T
        torch.testing.assert_close(Q[rows, rows], left / moments.transitions, rtol=1e-9, atol=1e-11)
    random = torch.Generator().manual_seed(0)
    free: list[Tensor] = []

    def parameter(start: Tensor) -> Tensor:
        free.append((start + 0.01 * torch.randn(start.shape, generator=random, dtype=torch.float64)).requires_grad_())
        return free[-1]

    factors: list[tuple[slice, Tensor, Tensor, Tensor]] = []
    if rank is None:
        whole = parameter(A.clone())
    else:
        for target, rows in regions.items():
            own = parameter(A[rows, rows].clone())
            factors.append((rows, torch.arange(rows.start, rows.stop), own, torch.eye(2).double()))
            for source in regions:
                if (source, target) in PAIRS:
                    U, s, Vh = torch.linalg.svd(A[rows][:, columns[source]], full_matrices=False)
                    assert float(s[1]) < 1e-12
                    factors.append((rows, columns[source], parameter(U[:, :1] * s[:1]), parameter(Vh[:1])))

    def dynamics() -> Tensor:
        if rank is None:
            return torch.where(allowed, whole, structure.shift)
        built = structure.shift.clone()
        for rows, where, left, right in factors:
            built[rows.start : rows.stop, where] = left @ right
        return built

    optimizer = torch.optim.LBFGS(free, max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = unexplained(moments, structure, dynamics())
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        best = float(unexplained(moments, structure, dynamics()))
    assert values[-1] == pytest.approx(best, abs=1e-8)


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("channels", [0, 2])
def test_one_region_is_a_plain_system(counts: bool, channels: int) -> None:
    """With one region there is nothing to constrain: the M-step is that of `lds`."""
    structure = Structure(("A",), 3, ())
    shown = torch.ones(9, 3, dtype=torch.bool)
    draw = np.random.default_rng(5)
    normal = [
        torch.from_numpy(draw.normal(size=shape)) for shape in [(3, 3), (9, 3), (9,), (3, channels), (9, channels)]
    ]
    A, C, d, B, D = normal
    identity = torch.eye(3, dtype=torch.float64)
    inputs = torch.from_numpy(draw.normal(size=(40, 12, channels))) if channels else None
    model = LinearGaussian(
        0.3 * A, identity, A[0], identity, 0.3 * C, 0.1 * d, d.abs() + 0.5, *((B, 0.1 * D) if channels else ())
    )
    activity, valid, observed = data(3, counts=counts, missing=True)
    emissions: Emissions = CountEmissions(poisson=True) if counts else GaussianEmissions([(slice(0, 9), False)])
    moments = emissions.expectations(model, activity, valid, observed, inputs)
    ours = maximize_regional(emissions, model, moments, structure.regions, structure.allowed, shown)
    plain = emissions.maximize(model, moments, Constraints())
    for one, other in zip(ours, plain, strict=True):
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
        else:
            assert one is other is None


def test_readouts_stay_within_their_region() -> None:
    """Each unit's readout is its regression on the latents of its own region."""
    structure = Structure(tuple(UNITS), 2, PAIRS, 2)
    model = system(structure)
    emissions = GaussianEmissions([(slice(0, 9), False)])
    moments = expectations(model, *data(3))
    shown = shown_latents(structure.regions, [layout(UNITS)], structure.size)
    found = maximize_regional(emissions, model, moments, structure.regions, structure.allowed, shown)
    assert bool((found.readout[~shown] == 0).all())
    for name, rows in structure.regions.items():
        units = layout(UNITS).region(name)
        kept = [*range(rows.start, rows.stop), structure.size]
        gram, cross = moments.readout[units][:, kept][:, :, kept], moments.activity[units][:, kept]
        solution = torch.linalg.solve(gram, cross[..., None])[..., 0]
        torch.testing.assert_close(found.readout[units, rows], solution[:, :-1], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(found.offset[units], model.offset[units] + solution[:, -1], rtol=1e-9, atol=1e-11)


def test_count_readouts_of_a_region_do_not_depend_on_latents_that_they_do_not_show() -> None:
    """The safe step of a unit is the same in a model without the other regions' columns."""
    structure = Structure(("A", "B"), 2, (("A", "B"),))
    units = {"A": 5, "B": 4}
    shown = shown_latents(structure.regions, [layout(units)], 4)
    identity, zeros = torch.eye(4).double(), torch.zeros(9).double()
    dynamics = torch.where(structure.allowed, 0.3, 0.0).double()
    model = LinearGaussian(dynamics, identity, zeros[:4], identity, 0.3 * shown.double(), zeros, zeros + 1)
    activity, valid, observed = data(4, counts=True)
    moments = count_expectations(model, activity, valid, observed, poisson=True)
    emissions = CountEmissions(poisson=True)
    found = maximize_regional(emissions, model, moments, structure.regions, structure.allowed, shown)
    for name, rows in structure.regions.items():
        own = layout(units).region(name)
        kept = [*range(rows.start, rows.stop), 4]
        part = moments._replace(
            reach=moments.reach[rows],
            spread=moments.spread[rows],
            samples=moments.samples[own],
            gain=moments.gain[own],
            rivals=moments.rivals[own],
            gradient=moments.gradient[own][:, kept],
            curvature=moments.curvature[own][:, kept][:, :, kept],
        )
        alone = model._replace(readout=model.readout[own, rows], offset=model.offset[own], noise=model.noise[own])
        expected = emissions.units(alone, part)
        torch.testing.assert_close(found.readout[own, rows], expected.readout, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(found.offset[own], expected.offset, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("max_lag", [1, 3])
def test_canonical_form_changes_the_coordinates_of_each_region_only(max_lag: int) -> None:
    structure = Structure(tuple(UNITS), 2, PAIRS, max_lag)
    model = system(structure)
    activity, valid, observed = data(1)
    moments = expectations(model, activity, valid, observed)
    moment = (moments.initial_moment + moments.after) / (moments.trials + moments.transitions)
    shown = shown_latents(structure.regions, [layout(UNITS)], structure.size)
    changed, after = regional_canonical(model, moment, structure, shown)
    before, now = (log_likelihood(values, activity, valid, observed) for values in (model, changed))
    torch.testing.assert_close(before, now, rtol=1e-10, atol=1e-10)
    fixed = ~structure.allowed
    assert torch.equal(changed.dynamics[fixed], structure.shift[fixed])
    for name, rows in structure.regions.items():
        readout = changed.readout[layout(UNITS).region(name), rows]
        torch.testing.assert_close(readout.T @ readout, torch.eye(2).double(), rtol=0, atol=1e-10)
        assert abs(float(after[rows.start, rows.start + 1])) < 1e-10
    again, _ = regional_canonical(changed, after, structure, shown)
    torch.testing.assert_close(again.dynamics, changed.dynamics, rtol=0, atol=1e-10)
