"""`psid` beside the package psid: seconds and memory of a fit, and how long one bin of its filter takes.

Both sides fit 100 000 samples of 50 units and 4 channels of behavior, horizon 10, through the interface that a user
calls, in turn; ours counts everything, from the arrays to the fitted model. Memory is that of a process of its own,
above what it held before the fit (libraries and data).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

UNITS, BEHAVIOR, HORIZON, LATENTS, RELEVANT = 50, 4, 10, 8, 4
SAMPLES, LONG = 100_000, 1_000_000
REPEATS = 3
MEGABYTE = 2**20
MODEL: dict[str, Any] = {
    "latents": LATENTS,
    "relevant": RELEVANT,
    "horizon_bins": HORIZON,
    "standardize": "none",
    "states": "predictor",
}


def data(bins: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return activity (bin, unit) and behavior (bin, channel) of a planted system in float32."""
    random = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(random.normal(size=(LATENTS, LATENTS)))
    x = random.normal(size=(bins, LATENTS)).astype(np.float32)
    dynamics = (0.95 * turn).astype(np.float32)
    for t in range(1, bins):
        x[t] += dynamics @ x[t - 1]
    y = x @ random.normal(size=(LATENTS, UNITS)).astype(np.float32)
    y += random.standard_normal(size=y.shape, dtype=np.float32)
    z = x[:, :RELEVANT] @ random.normal(size=(RELEVANT, BEHAVIOR)).astype(np.float32)
    z += random.standard_normal(size=z.shape, dtype=np.float32)
    return y, z


def ours(y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Fit, and return the eigenvalues."""
    from lvmzoo import Estimator
    from lvmzoo.models.behavior.psid import PSID

    split = {"validation": 0.0, "test": 0.0}
    estimator = Estimator("psid", **MODEL, data={"split": split}, trainer={"progress": False}).fit(y, z)
    model = estimator.run_.model
    assert isinstance(model, PSID)
    return np.sort_complex(np.linalg.eigvals(model.system().dynamics.numpy()))


def theirs(y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Fit by the package, and return the eigenvalues."""
    import PSID

    return np.sort_complex(np.linalg.eigvals(PSID.PSID(y, z, nx=LATENTS, n1=RELEVANT, i=HORIZON).A))


def child(side: str, bins: int) -> None:
    """Print seconds of CPU and peak memory in bytes of one fit, above what was there before."""
    import resource
    import threading

    import psutil

    fit = {"ours": ours, "psid": theirs}[side]
    fit(*data(2000))  # what is imported, compiled and kept on first use
    y, z = data(bins)
    process, peak, over = psutil.Process(), [0], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not over.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    began, began_cpu = time.perf_counter(), time.process_time()
    found = fit(y, z)
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    over.set()
    thread.join()
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    values = [[value.real, value.imag] for value in found]
    row = {"seconds": seconds, "cpu": cpu, "memory": max(peak[0], 0) - before, "whole": whole, "values": values}
    print(json.dumps(row))


def measure(side: str, bins: int) -> dict[str, Any]:
    """Run ``child`` in a process of its own, on one thread."""
    import os

    finished = subprocess.run(
        [sys.executable, __file__, side, str(bins)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    values: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return values


def step_seconds() -> float:
    """Return the median time of one step of the filter, its newest bin included, on one thread."""
    import torch

    from lvmzoo import Estimator
    from lvmzoo.models.behavior.psid import PSID

    torch.set_num_threads(1)
    y, z = data(5000)
    estimator = Estimator("psid", **MODEL, trainer={"progress": False}).fit(y, z)
    model, sessions = estimator.run_.model, estimator.run_.sessions
    assert isinstance(model, PSID)
    assert sessions is not None
    batch = sessions[0].train.batch().without_behavior()
    bins = [batch.bins(t, t + 1) for t in range(2000)]
    state, times = model.initial(batch.layout.session, 1), []
    for bin in bins:
        began = time.perf_counter()
        state, _ = model.step(state, bin)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def run() -> list[dict[str, Any]]:
    """Return speed and memory beside the package, of a long session alone, and the time of a step."""
    pairs = [(measure("ours", SAMPLES), measure("psid", SAMPLES)) for _ in range(REPEATS)]
    ratios = sorted(peer["cpu"] / mine["cpu"] for mine, peer in pairs)
    ratio = statistics.median(ratios)
    difference = max(float(np.abs(np.array(mine["values"]) - np.array(peer["values"])).max()) for mine, peer in pairs)
    memory = [[row["memory"] / MEGABYTE for row in pair] for pair in pairs]
    long = measure("ours", LONG)
    step = step_seconds()
    size = f"{UNITS} units, {BEHAVIOR} behaviors, horizon {HORIZON}"
    return [
        {
            "claim": f"psid: a fit of {SAMPLES} samples, {size}, CPU s",
            "source": "psid 1.2.6",
            "bound": 40.0,
            "ours": round(statistics.median(mine["cpu"] for mine, _ in pairs), 2),
            "peer": round(statistics.median(peer["cpu"] for _, peer in pairs), 1),
            "ratio": round(ratio, 1),
            "spread": [round(ratios[0], 1), round(ratios[-1], 1)],
            "ok": ratio >= 40 and difference < 1e-8,
            "note": f"one thread; largest difference of eigenvalues {difference:.1e}",
        },
        {
            "claim": f"psid: peak memory beyond the data, {SAMPLES} samples, {size}, MB",
            "source": "psid 1.2.6",
            "bound": 150,
            "ours": round(max(mine for mine, _ in memory)),
            "peer": round(min(peer for _, peer in memory)),
            "ratio": round(min(peer for _, peer in memory) / max(mine for mine, _ in memory), 1),
            "spread": None,
            "ok": max(mine for mine, _ in memory) <= 150,
            "note": "",
        },
        {
            "claim": f"psid: a fit of {LONG} samples, {size}, CPU s",
            "source": "15 s on one core",
            "bound": 15,
            "ours": round(long["cpu"], 1),
            "peer": 15,
            "ratio": round(15 / long["cpu"], 1),
            "spread": None,
            "ok": long["cpu"] <= 15,
            "note": f"peak memory {long['memory'] / MEGABYTE:.0f} MB beyond the data and libraries; bound 1024",
        },
        {
            "claim": f"psid: peak memory beyond the data, {LONG} samples, {size}, MB",
            "source": "1 GB",
            "bound": 1024,
            "ours": round(long["memory"] / MEGABYTE),
            "peer": 1024,
            "ratio": round(1024 * MEGABYTE / long["memory"], 1),
            "spread": None,
            "ok": long["memory"] <= 1024 * MEGABYTE,
            "note": "",
        },
        {
            "claim": f"psid: one step of the filter, {UNITS} units, {LATENTS} latents, ms",
            "source": "0.1 ms in the median, one thread",
            "bound": 0.1,
            "ours": round(1e3 * step, 4),
            "peer": 0.1,
            "ratio": round(1e-4 / step, 2),
            "spread": None,
            "ok": step <= 1e-4,
            "note": "",
        },
    ]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(sys.argv[1], int(sys.argv[2]))
    else:
        for result in run():
            print(result)
