"""EM of a linear dynamical system against dynamax, from binned activity in memory to fitted parameters.

Both sides compute in float64 with the threads that they choose. dynamax (1.0.3) is given its data as an argument of the
compiled step, which spares it minutes of constant folding inside ``fit_em``, and its update of the initial covariance,
which is not a covariance with more than one trial, is replaced by the right one. Its emission covariance is full.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lvmzoo import Estimator
from lvmzoo.batch import Batch
from lvmzoo.models.single_region.lds import LDS, LDSConfig

PASSES, REPEATS = 20, 5
LONG_PASSES, LONG_REPEATS = 20, 3
CONVERGED = 120  # passes


def simulate(trials: int, bins: int, units: int, latents: int, size: float = 0.5, seed: int = 0) -> np.ndarray:
    """Return float32 activity of slow rotations (trial, bin, unit); ``size`` is that of the loadings."""
    draw = np.random.default_rng(seed)
    angle = draw.uniform(0.02, 0.3, latents // 2)
    A = np.zeros((latents, latents))
    for k, a in enumerate(angle):
        block = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
        A[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = 0.97 * np.array(block)
    C = draw.normal(size=(units, latents)) * size
    x = draw.normal(size=(trials, latents))
    activity = np.empty((trials, bins, units), np.float32)
    for t in range(bins):
        activity[:, t] = x @ C.T + draw.normal(size=(trials, units))
        x = x @ A.T + np.sqrt(1 - 0.97**2) * draw.normal(size=(trials, latents))
    return activity


def peer(activity: np.ndarray, latents: int) -> Callable[[int], tuple[float, float]]:
    """Return a function that compiles dynamax's EM step, runs it, and returns (compilation, passes) in seconds."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    from dynamax.linear_gaussian_ssm import LinearGaussianSSM

    data = jnp.asarray(activity, jnp.float64)
    model = LinearGaussianSSM(latents, activity.shape[-1], has_dynamics_bias=False)
    start, properties = model.initialize(jax.random.PRNGKey(0))

    def fit(passes: int) -> tuple[float, float]:
        def step(params: Any, emissions: Any) -> tuple[Any, Any]:
            sums, likelihood = jax.vmap(lambda trial: model.e_step(params, trial))(emissions)
            updated, _ = model.m_step(params, properties, sums, None)
            total, moment, number = (value.sum(0) for value in sums[0])
            mean = total / number
            initial = updated.initial._replace(cov=moment / number - jnp.outer(mean, mean))
            if activity.shape[0] == 1:
                initial = start.initial
            return updated._replace(initial=initial), likelihood.sum()

        begin = time.perf_counter()
        compiled = jax.jit(step).lower(start, data).compile()
        between = time.perf_counter()
        params = start
        for _ in range(passes):
            params, likelihood = compiled(params, data)
        if not np.isfinite(float(likelihood)):
            raise RuntimeError("dynamax did not fit")
        return between - begin, time.perf_counter() - between

    return fit


def through_trainer(activity: np.ndarray, latents: int, passes: int) -> float:
    """Return the seconds of a fit as a user starts it."""
    estimator = Estimator("lds", latents=latents, trainer={"max_epochs": passes, "tolerance": 0.0, "progress": False})
    begin = time.perf_counter()
    estimator.fit(activity)
    return time.perf_counter() - begin


def passes_to_converge(activity: np.ndarray, latents: int) -> tuple[float, float]:
    """Return the passes of EM to within 0.01 nats per bin of its end, from both kinds of starting values."""
    batch = batch_of(activity)
    traces = []
    for start in ("subspace", "factor_analysis"):
        model = LDS(LDSConfig(latents=latents, initialization=start), [batch.layout])
        model.prepare([batch])
        traces.append(np.array([float(model.update(model.statistics(batch))) for _ in range(CONVERGED)]))
    best = max(trace[-1] for trace in traces)
    ours, theirs = (1.0 + float(np.argmax(trace > best - 0.01)) for trace in traces)
    return ours, theirs


def batch_of(activity: np.ndarray) -> Batch:
    """Return trials of continuous activity."""
    from lvmzoo.batch import Layout, Observation

    values = torch.from_numpy(activity)
    trials, bins, units = values.shape
    layout = Layout("s", {"r": units}, tuple(map(str, range(units))), Observation.CONTINUOUS, 0.02)
    valid = torch.ones(trials, bins, dtype=torch.bool)
    index = torch.arange(trials)
    return Batch(values, valid, valid[..., None].expand(values.shape), {}, {}, index, torch.zeros_like(index), layout)


def bare_loop(activity: np.ndarray, latents: int, passes: int) -> float:
    """Return the seconds of the same arithmetic without a trainer, on one thread as the trainer chooses."""
    batch = batch_of(activity)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    model = LDS(LDSConfig(latents=latents), [batch.layout])
    model.prepare([batch])
    for _ in range(passes):
        model.update(model.statistics(batch))
    model.finish()
    seconds = time.perf_counter() - begin
    torch.set_num_threads(threads)
    return seconds


def row(claim: str, source: str, bound: float, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Return one claim: medians of both sides and the median, least and largest ratio of alternating runs."""
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    return {
        "claim": claim,
        "source": source,
        "bound": bound,
        "ours": round(statistics.median(ours), 4),
        "peer": round(statistics.median(theirs), 4),
        "ratio": round(statistics.median(ratios), 2),
        "spread": [round(ratios[0], 2), round(ratios[-1], 2)],
        "ok": statistics.median(ratios) >= bound,
    }


def run() -> list[dict[str, Any]]:
    """Return the claims on short trials, on one long session, on what the trainer adds, and on the starting values."""
    activity = simulate(200, 100, 50, 8)
    fit = peer(activity, 8)
    through_trainer(activity, 8, 2)  # imports and first allocations are not the fit's
    ours, bare, compiling, passing = [], [], [], []
    for _ in range(REPEATS):
        ours.append(through_trainer(activity, 8, PASSES))
        bare.append(bare_loop(activity, 8, PASSES))
        compilation, passes = fit(PASSES)
        compiling.append(compilation + passes)
        passing.append(passes)
    size = f"lds, 200 trials x 100 bins x 50 units, 8 latents, {PASSES} EM passes, float64"
    rows = [
        row(size, "dynamax 1.0.3, compiled EM step", 1.5, ours, passing),
        row(size, "dynamax 1.0.3, with its compilation", 8.0, ours, compiling),
        row(f"{size}: the Trainer adds at most half", "the bare loop, one thread", 1 / 1.5, ours, bare),
    ]
    activity = simulate(1, 100_000, 100, 10)
    fit = peer(activity, 10)
    ours, passing = [], []
    for _ in range(LONG_REPEATS):
        ours.append(through_trainer(activity, 10, LONG_PASSES) / LONG_PASSES)
        passing.append(fit(1)[1])
    size = f"lds, one session of 100 000 bins x 100 units, 10 latents, a pass (ours: {LONG_PASSES} and the start)"
    rows.append(row(size, "dynamax 1.0.3, compiled EM step", 80.0, ours, passing))
    noisy = [passes_to_converge(simulate(100, 100, 50, 8, size=0.1, seed=seed), 8) for seed in range(3)]
    size = "lds, loadings a tenth of the noise: EM passes to within .01 nats/bin of the end, subspace identification"
    return [*rows, row(size, "factor analysis as the start", 3.0, *map(list, zip(*noisy, strict=True)))]


if __name__ == "__main__":
    for result in run():
        print(result)
