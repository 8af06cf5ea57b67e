"""Steady states of the filter, and Granger causality: against dense computation, regression on data, and identities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_are, solve_discrete_lyapunov
from torch import Tensor

from lvmzoo.inference.granger import granger, granger_by_frequency, region_information
from lvmzoo.inference.linear_gaussian import LinearGaussian
from lvmzoo.inference.riccati import predicted_covariance, stable, stationary_covariance
from tests.claims.influence_world import planted, structure, unit_slices

UNITS = 3
FREQUENCIES = torch.linspace(0, 0.5, 4097, dtype=torch.float64)


def random_system(names: str, seed: int) -> LinearGaussian:
    """Return a system without any zeros among its dynamics."""
    draw = np.random.default_rng(seed)
    model = planted(structure(names, 2), UNITS, [], seed)
    A = draw.normal(size=(len(model.dynamics),) * 2)
    return model._replace(dynamics=torch.from_numpy(A * 0.9 / np.abs(np.linalg.eigvals(A)).max()))


def information(model: LinearGaussian, names: str) -> Tensor:
    return region_information(model.readout, model.noise, unit_slices(names, len(model.offset) // len(names)))


def system(model: LinearGaussian, names: str) -> tuple[Tensor, Tensor, Tensor]:
    return model.dynamics, model.dynamics_noise, information(model, names)


def innovations(model: LinearGaussian, units: list[int]) -> np.ndarray:
    """Return the covariance of what cannot be predicted of some units from their past, all of size (unit, unit)."""
    A, Q, C = model.dynamics.numpy(), model.dynamics_noise.numpy(), model.readout.numpy()[units]
    R = np.diag(model.noise.numpy()[units])
    return C @ solve_discrete_are(A.T, C.T, Q, R) @ C.T + R


def dense_granger(model: LinearGaussian, names: str) -> np.ndarray:
    n = len(model.offset) // len(names)
    found = np.zeros((len(names), len(names)))
    for j in range(len(names)):
        kept = [unit for unit in range(len(model.offset)) if unit // n != j]
        without, full = innovations(model, kept), innovations(model, list(range(len(model.offset))))
        for i in set(range(len(names))) - {j}:
            place = [kept.index(unit) for unit in range(i * n, (i + 1) * n)]
            own = list(range(i * n, (i + 1) * n))
            found[i, j] = np.linalg.slogdet(without[np.ix_(place, place)])[1] - np.linalg.slogdet(full[own][:, own])[1]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_steady_states_are_those_of_scipy(seed: int) -> None:
    model = random_system("AB", seed)
    A, Q, C, R = (value.numpy() for value in (model.dynamics, model.dynamics_noise, model.readout, model.noise))
    P = predicted_covariance(model.dynamics, model.dynamics_noise, information(model, "AB").sum(0)).numpy()
    np.testing.assert_allclose(P, solve_discrete_are(A.T, C.T, Q, np.diag(R)), rtol=1e-10, atol=1e-12)
    S = stationary_covariance(model.dynamics, model.dynamics_noise).numpy()
    np.testing.assert_allclose(S, solve_discrete_lyapunov(A, Q), rtol=1e-10, atol=1e-12)


def test_steady_state_of_registers_without_noise() -> None:
    """Q is singular and J is: the recursion of the filter, run for long, ends in the same covariance."""
    model = planted(structure("AB", 2, 3), UNITS, [("A", "B", 3)])
    J = information(model, "AB")
    found = predicted_covariance(model.dynamics, model.dynamics_noise, torch.stack([J.sum(0), J[0], 0 * J[0]]))
    A, Q = model.dynamics.numpy(), model.dynamics_noise.numpy()
    for case, P in zip((J.sum(0).numpy(), J[0].numpy(), 0 * J[0].numpy()), found.numpy(), strict=True):
        run = np.eye(len(P))
        for _ in range(300):
            run = A @ run @ np.linalg.inv(np.eye(len(P)) + case @ run) @ A.T + Q
        np.testing.assert_allclose(P, run, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[2], stationary_covariance(model.dynamics, model.dynamics_noise))


@pytest.mark.parametrize("names", ["AB", "ABC"])
def test_granger_is_the_dense_one(names: str) -> None:
    for seed in range(3):
        model = random_system(names, seed)
        np.testing.assert_allclose(granger(*system(model, names)).numpy(), dense_granger(model, names), atol=1e-10)
    lagged = planted(structure(names, 2, 3), UNITS, [("A", "B", 3)], size=0.6)
    found = granger(*system(lagged, names))
    np.testing.assert_allclose(found.numpy(), dense_granger(lagged, names), atol=1e-10)
    assert found[1, 0] > 0.1
    assert 0 < found[0, 1] < 0.05 * found[1, 0]  # not zero: B remembers what noise hid in A


def test_granger_is_that_of_a_long_autoregression_on_data() -> None:
    """Least squares on 100 000 bins of activity, 15 bins back, knows nothing of states."""
    model = planted(structure("AB", 1), 1, [("A", "B", 1)], size=0.5, noise=0.02)
    draw = np.random.default_rng(0)
    A, C = model.dynamics.numpy(), model.readout.numpy()
    bins, back = 100_000, 15
    x, noise = np.zeros((bins, 2)), draw.normal(size=(bins, 2)) * np.sqrt(model.dynamics_noise.diagonal().numpy())
    for t in range(1, bins):
        x[t] = A @ x[t - 1] + noise[t]
    y = x @ C.T + draw.normal(size=(bins, 2)) * model.noise.sqrt().numpy()
    past = np.concatenate([y[back - lag : -lag] for lag in range(1, back + 1)], 1)

    def unexplained(target: int, sources: list[int]) -> float:
        kept = past[:, [k for k in range(past.shape[1]) if k % 2 in sources]]
        return float(np.linalg.lstsq(kept, y[back:, target], rcond=None)[1][0])

    truth = granger(*system(model, "AB")).numpy()
    assert truth[1, 0] > 0.02
    for i, j in ((0, 1), (1, 0)):
        assert abs(np.log(unexplained(i, [i]) / unexplained(i, [0, 1])) - truth[i, j]) < 2e-3


def test_without_noise_only_blocks_count() -> None:
    """If activity shows the latents as they are, nothing leads backwards, and forwards it is what Q grows by."""
    model = planted(structure("AB", 2), 4, [("A", "B", 1)], noise=1e-8, size=0.5)
    found = granger(*system(model, "AB"))
    assert found[0, 1] < 1e-6
    assert found[1, 0] > 0.1


@pytest.mark.parametrize("names", ["AB", "ABC"])
def test_frequencies_add_up(names: str) -> None:
    for seed in range(4):
        model = random_system(names, seed)
        curves = granger_by_frequency(*system(model, names), FREQUENCIES)
        assert bool((curves >= 0).all())
        whole = 2 * torch.trapezoid(curves, FREQUENCIES)
        torch.testing.assert_close(whole, granger(*system(model, names)), atol=1e-6, rtol=1e-6)


def test_by_frequency_is_gewekes_of_the_units() -> None:
    """Of two regions: from the transfer function of all units and the spectrum of the target."""
    model = random_system("AB", 5)
    A, C = model.dynamics.numpy(), model.readout.numpy()
    n, frequencies = len(C), FREQUENCIES[::256]
    covariance = innovations(model, list(range(n)))
    P = solve_discrete_are(A.T, C.T, model.dynamics_noise.numpy(), np.diag(model.noise.numpy()))
    K = A @ P @ C.T @ np.linalg.inv(covariance)
    found = granger_by_frequency(*system(model, "AB"), frequencies)
    for k, frequency in enumerate(frequencies.numpy()):
        H = np.eye(n) + C @ np.linalg.solve(np.exp(2j * np.pi * frequency) * np.eye(len(A)) - A, K)
        for i, j in ((slice(0, UNITS), slice(UNITS, n)), (slice(UNITS, n), slice(0, UNITS))):
            spectrum = (H @ covariance @ H.conj().T)[i, i]
            rest = covariance[j, j] - covariance[j, i] @ np.linalg.solve(covariance[i, i], covariance[i, j])
            caused = H[i, j] @ rest @ H[i, j].conj().T
            expected = np.linalg.slogdet(spectrum)[1] - np.linalg.slogdet(spectrum - caused)[1]
            assert abs(float(found[i.start // UNITS, j.start // UNITS, k]) - expected) < 1e-9


def test_a_region_apart_changes_nothing() -> None:
    three = planted(structure("ABC", 2), UNITS, [("A", "B", 1)], seed=3)
    two = three._replace(
        dynamics=three.dynamics[:4, :4],
        dynamics_noise=three.dynamics_noise[:4, :4],
        readout=three.readout[: 2 * UNITS, :4],
        offset=three.offset[: 2 * UNITS],
        noise=three.noise[: 2 * UNITS],
    )
    few = FREQUENCIES[::256]
    torch.testing.assert_close(granger(*system(three, "ABC"))[:2, :2], granger(*system(two, "AB")))
    curves = granger_by_frequency(*system(three, "ABC"), few)
    torch.testing.assert_close(curves[:2, :2], granger_by_frequency(*system(two, "AB"), few))
    assert float(curves[2].max()) < 1e-12
    assert float(curves[:, 2].max()) < 1e-12


def test_the_coordinates_of_latents_do_not_matter() -> None:
    model = random_system("AB", 2)
    draw = np.random.default_rng(1)
    T = torch.block_diag(*(torch.from_numpy(draw.normal(size=(2, 2))) for _ in "AB"))
    back = torch.linalg.inv(T)
    other = model._replace(
        dynamics=T @ model.dynamics @ back, dynamics_noise=T @ model.dynamics_noise @ T.T, readout=model.readout @ back
    )
    torch.testing.assert_close(granger(*system(other, "AB")), granger(*system(model, "AB")), rtol=1e-8, atol=1e-10)
    few = FREQUENCIES[::256]
    one, two = (granger_by_frequency(*system(each, "AB"), few) for each in (model, other))
    torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-10)


def test_silent_region_neither_causes_nor_is_caused() -> None:
    model = random_system("AB", 4)
    model.readout[UNITS:] = 0.0
    assert float(granger(*system(model, "AB")).abs().max()) == 0.0
    assert float(granger_by_frequency(*system(model, "AB"), FREQUENCIES[::256]).abs().max()) < 1e-12


def test_growing_dynamics_are_brought_to_decay() -> None:
    A = torch.tensor([[1.01, 0.0], [0.3, 0.5]], dtype=torch.float64)
    assert float(torch.linalg.eigvals(stable(A)).abs().max()) == pytest.approx(0.999)
    assert float(stable(A)[0, 1]) == 0.0
    assert stable(0.5 * A) is not A
    torch.testing.assert_close(stable(0.5 * A), 0.5 * A)
    assert bool(torch.isfinite(stationary_covariance(stable(A), torch.eye(2, dtype=torch.float64))).all())
