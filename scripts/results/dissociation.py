"""`psid` on planted systems: the dissociation of Sani et al. (2021), and eigenvalues beside the package psid."""

from __future__ import annotations

import statistics
import warnings
from typing import Any

import numpy as np
from jaxtyping import Complex, Float

from lvmzoo import Estimator
from lvmzoo.data.recording import Signal
from lvmzoo.metrics.spread import r2
from lvmzoo.simulate.dissociation import OTHER, RELEVANT, dissociation

SEEDS, TRAIN = 20, 10_000
SOURCE = f"simulator dissociation, {TRAIN} bins to train, as many to test, horizon 10, {SEEDS} seeds"
TRUE = np.array([RELEVANT, RELEVANT.conjugate(), OTHER, OTHER.conjugate()])


def fit(
    y: Float[np.ndarray, "bin unit"], z: Float[np.ndarray, "bin channel"], latents: int, relevant: int
) -> Estimator:
    """Return what was fitted, which decodes from the bins before."""
    settings: dict[str, Any] = {"latents": latents, "relevant": relevant, "horizon_bins": 10, "standardize": "none"}
    return Estimator("psid", states="predictor", trainer={"progress": False}, **settings).fit(y, z)


def eigenvalue_error(found: Complex[np.ndarray, " latent"]) -> float:
    """Return the largest distance after optimal matching, relative to the largest of the true eigenvalues."""
    from scipy.optimize import linear_sum_assignment

    distance = np.abs(found[:, None] - TRUE)
    return float(distance[linear_sum_assignment(distance)].max() / np.abs(TRUE).max())


def row(claim: str, bound: str, values: list[float], ok: bool, digits: int = 3) -> dict[str, Any]:
    """Return a line of results: the median over seeds and their range."""
    return {
        "claim": claim,
        "source": SOURCE,
        "bound": bound,
        "measured": round(statistics.median(values), digits),
        "spread": [round(min(values), digits), round(max(values), digits)],
        "ok": ok,
    }


def run() -> list[dict[str, Any]]:
    """Return rows of decoding by psid and by plain subspace identification, and of eigenvalues."""
    import PSID

    sizes = {"two states, two relevant": (2, 2), "two states, none relevant": (2, 0), "four, two relevant": (4, 2)}
    decoded: dict[str, list[float]] = {name: [] for name in [*sizes, "four, none relevant", "true"]}
    errors: dict[str, list[float]] = {"ours": [], "package": [], "states": []}
    sizes["four, none relevant"] = (4, 0)
    for seed in range(SEEDS):
        recording = dissociation(seed)
        assert isinstance(recording.activity, Signal)
        y, z, x = (
            np.asarray(signal.values, dtype=np.float64)
            for signal in (recording.activity, recording.behavior["hand"], recording.truth["latents"])
        )
        test, groups = slice(TRAIN, None), np.zeros(len(z) - TRAIN, dtype=np.int64)
        for name, (latents, relevant) in sizes.items():
            fitted = fit(y[:TRAIN], z[:TRAIN], latents, relevant)
            decoded[name].append(r2(z[test], fitted.predict(y[test]), groups)[0])
            if (latents, relevant) == (4, 2):
                model: Any = fitted.run_.model
                modes = model.eigenvalues()
                errors["ours"].append(eigenvalue_error(np.concatenate([*modes.values()])))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = PSID.PSID(y[:TRAIN], z[:TRAIN], nx=4, n1=2, i=10)
        errors["package"].append(eigenvalue_error(np.linalg.eigvals(theirs.A)))
        regression = np.linalg.lstsq(x[: TRAIN - 1], x[1:TRAIN], rcond=None)[0].T
        errors["states"].append(eigenvalue_error(np.linalg.eigvals(regression)))
        decoded["true"].append(oracle(y, z, test, seed))
    best, claim = statistics.median(decoded["true"]), "psid, dissociation: R2 of behavior from the bins before"
    rows = [row(f"{claim}, true system", "beside it", decoded["true"], True)]
    for name, values in decoded.items():
        if name == "true":
            continue
        plain = name == "two states, none relevant"
        ahead = [true - value for true, value in zip(decoded["true"], values, strict=True)]
        ok = statistics.median(values) < best / 2 if plain else statistics.median(ahead) <= 0.01
        bound = "less than half of the true system's" if plain else "true system's less .01"
        rows.append(row(f"{claim}, {name}", bound, values, ok))
    median = statistics.median(errors["ours"])
    name = "psid, dissociation: largest error of the four eigenvalues, relative"
    rows.append(row(name, "< .005", errors["ours"], median < 0.005, 4))
    rows.append(row(f"{name}, by the package psid 1.2.6", "beside it", errors["package"], True, 4))
    rows.append(row(f"{name}, by regression on the true states", "beside it", errors["states"], True, 4))
    return rows


def oracle(y: np.ndarray, z: np.ndarray, test: slice, seed: int) -> float:
    """Return the R2 of the Kalman predictor of the true system."""
    from scipy.linalg import solve_discrete_are

    from lvmzoo.simulate.dissociation import dissociation_system

    system = dissociation_system(seed)
    A, C = system.dynamics, system.readout
    P = solve_discrete_are(A.T, C.T, np.eye(4), np.eye(len(C)))
    K = A @ P @ C.T @ np.linalg.inv(C @ P @ C.T + np.eye(len(C)))
    state, found = np.zeros(4), np.zeros_like(z)
    for t in range(test.start, len(y)):
        found[t] = system.behavior @ state
        state = A @ state + K @ (y[t] - C @ state)
    return r2(z[test], found[test], np.zeros(len(z) - test.start, dtype=np.int64))[0]


if __name__ == "__main__":
    for line in run():
        print(line["claim"], line["bound"], line["measured"], line["spread"], line["ok"])
