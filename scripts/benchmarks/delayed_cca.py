"""The time-resolved map of canonical correlations beside one fit for each pair of times, and a map of 41 lags."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from lvmzoo.inference.canonical_correlation import Regularization
from lvmzoo.inference.time_map import time_map

TRIALS, TIMES, UNITS = 400, 40, 30
LAGS = 20  # either way
PAIRS_OF_PEER = 40  # of 1600 pairs of times; the rest of a peer's time is extrapolated
REPEATS = 5


def made() -> tuple[np.ndarray, np.ndarray]:
    """Return two regions that share three smooth latents."""
    random = np.random.default_rng(0)
    latents = random.normal(size=(TRIALS, TIMES + 4, 3)).cumsum(1)
    latents /= latents.std((0, 1))
    parts = [latents[:, 4:], latents[:, :-4]]
    x, y = (part @ random.normal(size=(3, UNITS)) + random.normal(size=(TRIALS, TIMES, UNITS)) for part in parts)
    return x, y


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return process CPU time, and the result."""
    start = time.process_time()
    found = function()
    return time.process_time() - start, found


def lag_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the first canonical correlation by lag, whitened once for all lags."""
    from lvmzoo.inference.canonical_correlation import canonical_pairs, projection
    from lvmzoo.inference.lag_map import LaggedProducts

    fold = torch.zeros(TRIALS, dtype=torch.int64)
    wide = [torch.nn.functional.pad(torch.from_numpy(part), (0, 1), value=1.0) for part in (x, y)]
    products = LaggedProducts(wide[1], fold, 1, LAGS)
    none = Regularization()
    weights = [projection(products.within(part), 1, none)[:, None] for part in wide]
    return canonical_pairs(products.cross(wide[0]), weights[0], weights[1], 1, 1).correlation[0, :, 0].numpy()


def lagged(x: np.ndarray, y: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples of both regions that are ``lag`` bins apart."""
    first = x[:, max(0, -lag) : TIMES - max(0, lag)].reshape(-1, UNITS)
    return first, y[:, max(0, lag) : TIMES - max(0, -lag)].reshape(-1, UNITS)


def fits(fit: Callable[[np.ndarray, np.ndarray], float], pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """Return one correlation for each pair."""
    return [fit(*pair) for pair in pairs]


def peers() -> dict[str, tuple[float, Callable[[np.ndarray, np.ndarray], float]]]:
    """Return each peer that is installed, its bound for the time-resolved map, and one fit of it: default settings."""
    from sklearn.cross_decomposition import CCA

    def by_sklearn(x: np.ndarray, y: np.ndarray) -> float:
        u, v = CCA(1).fit(x, y).transform(x, y)
        return float(np.corrcoef(u[:, 0], v[:, 0])[0, 1])

    found: dict[str, tuple[float, Callable[[np.ndarray, np.ndarray], float]]] = {
        "scikit-learn CCA": (100.0, by_sklearn)
    }
    try:
        import cca_zoo.linear
    except ImportError:
        return found

    def by_zoo(x: np.ndarray, y: np.ndarray) -> float:
        u, v = cca_zoo.linear.CCA(1).fit([x, y]).transform([x, y])
        return float(np.corrcoef(u[:, 0], v[:, 0])[0, 1])

    found["cca-zoo CCA"] = (30.0, by_zoo)
    return found


def run() -> list[dict[str, Any]]:
    """Return a row for each peer and map: process CPU seconds with one thread, alternating."""
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            return [row for name, (bound, fit) in peers().items() for row in compared(name, bound, fit)]
    finally:
        torch.set_num_threads(threads)


def compared(name: str, bound: float, fit: Callable[[np.ndarray, np.ndarray], float]) -> list[dict[str, Any]]:
    """Return the rows of one peer."""
    x, y = made()
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    random = np.random.default_rng(1)
    time_map(a, b, Regularization()), lag_map(x, y), fit(x[:, 0], y[:, 0])  # warm up
    ours: dict[str, list[float]] = {"times": [], "lags": []}
    theirs: dict[str, list[float]] = {"times": [], "lags": []}
    differences = {"times": 0.0, "lags": 0.0}
    for _ in range(REPEATS):
        took, found = seconds(lambda: time_map(a, b, Regularization()).numpy())
        ours["times"].append(took)
        places = random.integers(TIMES, size=(PAIRS_OF_PEER, 2))
        took, expected = seconds(partial(fits, fit, [(x[:, s], y[:, t]) for s, t in places]))
        theirs["times"].append(took * TIMES**2 / PAIRS_OF_PEER)
        errors = [abs(found[s, t] - value) for (s, t), value in zip(places, expected, strict=True)]
        differences["times"] = max(differences["times"], statistics.median(errors))
        took, found = seconds(lambda: lag_map(x, y))
        ours["lags"].append(took)
        some = [-LAGS, -4, 0, 4, LAGS]
        took, expected = seconds(partial(fits, fit, [lagged(x, y, lag) for lag in some]))
        theirs["lags"].append(took * (2 * LAGS + 1) / len(some))
        differences["lags"] = max(differences["lags"], abs(float(found[LAGS + 4]) - expected[3]))
    size = f"{UNITS} + {UNITS} units, {TRIALS} trials"
    rows = []
    for kind, claim, limit, share in (
        ("times", f"CCA of {TIMES} x {TIMES} pairs of times, {size}, CPU s", bound, f"{PAIRS_OF_PEER} of 1600 pairs"),
        ("lags", f"CCA by lag, 41 lags of {TIMES} bins, {size}, CPU s", None, f"5 of {2 * LAGS + 1} lags"),
    ):
        ratios = sorted(theirs_ / ours_ for ours_, theirs_ in zip(ours[kind], theirs[kind], strict=True))
        ratio = statistics.median(ratios)
        rows.append(
            {
                "claim": claim,
                "source": f"{name}, one fit a pair (extrapolated from {share})",
                "bound": limit,
                "ours": round(statistics.median(ours[kind]), 3),
                "peer": round(statistics.median(theirs[kind]), 2),
                "ratio": round(ratio, 1),
                "spread": [round(ratios[0], 1), round(ratios[-1], 1)],
                "ok": limit is None or ratio >= limit,
                "note": f"correlations differ by {differences[kind]:.1e}"
                + ("" if kind == "times" else "; each lag whitened by all bins, not by its own"),
            }
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
