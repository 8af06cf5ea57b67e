"""Delays between two regions: lvmzoo against mbrila's exact DLAG, in CPU seconds of one thread."""

from __future__ import annotations

import importlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.inference.delayed_expectations import draw
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.models.multi_region.dlag import DLAG, DLAGConfig

TRIALS, BINS, UNITS, ACROSS, WITHIN = 100, 40, 30, 2, 2
DELAYS_MS, TIMESCALES, BIN_MS = (30.0, -20.0), (6.0, 3.0), 20.0  # timescales in bins
PASSES, REPEATS, THEIRS = 150, 3, 2
PEER = "mbrila==0.1.0"
PATCH = (
    "class Registry[T]:",
    "from typing import Generic, TypeVar\n\nT = TypeVar('T')\n\n\nclass Registry(Generic[T]):",
)


def peer(folder: Path) -> Any:
    """Download mbrila into a folder and let this Python read its one class of newer syntax; None without a network."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--python-version", "3.12"]
    command += ["--only-binary=:all:", "--dest", str(folder), PEER]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        (wheel,) = folder.glob("mbrila*.whl")
    except (subprocess.SubprocessError, ValueError):
        return None
    import zipfile

    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    registry = folder / "mbrila" / "core" / "registry.py"
    registry.write_text(registry.read_text().replace(*PATCH))
    sys.path.insert(0, str(folder))
    return importlib.import_module("mbrila")


def planted() -> Batch:
    """Return trials of two regions that share two processes."""
    generator = torch.Generator().manual_seed(0)
    units = 2 * UNITS
    model = DelayedProcesses(
        torch.tensor([*TIMESCALES, 4.0, 2.0, 5.0, 2.5], dtype=torch.float64),
        torch.tensor([[0.0, 0.0], [d / BIN_MS for d in DELAYS_MS]], dtype=torch.float64),
        torch.randn(units, ACROSS + WITHIN, generator=generator, dtype=torch.float64),
        torch.randn(units, generator=generator, dtype=torch.float64),
        torch.full((units,), 2.0, dtype=torch.float64),
        (slice(0, UNITS), slice(UNITS, units)),
    )
    activity = draw(model, TRIALS, BINS, 0)[1]
    layout = Layout(
        "planted",
        {"A": UNITS, "B": UNITS},
        tuple(map(str, range(units))),
        Observation.CONTINUOUS,
        BIN_MS / 1e3,
        longest_bins=BINS,
    )
    valid = torch.ones(TRIALS, BINS, dtype=torch.bool)
    index = torch.arange(TRIALS)
    shown = valid[..., None].expand(-1, -1, units)
    return Batch(activity, valid, shown, {}, {}, index, torch.zeros_like(index), layout)


class Fit(NamedTuple):
    """CPU seconds, log-likelihood, and the largest error of a delay in ms."""

    seconds: float
    nats: float
    off: float


def off(timescales: Sequence[float], delays_ms: Sequence[float]) -> float:
    """Return the largest error of a delay, each planted latent being the one of the nearest timescale."""
    found = np.log(timescales)
    nearest = [int(np.abs(found - np.log(planted)).argmin()) for planted in TIMESCALES]
    return max(abs(delays_ms[k] - delay) for k, delay in zip(nearest, DELAYS_MS, strict=True))


def ours(data: Batch) -> Fit:
    """Fit until nothing is gained."""
    start = time.process_time()
    model = DLAG(DLAGConfig(across=ACROSS, within=WITHIN), [data.layout])
    model.prepare([data])
    before = -np.inf
    for _ in range(PASSES):
        reached = float(model.update(model.statistics(data)))
        if model.settled:
            if reached - before < 1e-6 * abs(reached):
                break
            before = reached
    model.finish()
    seconds = time.process_time() - start
    far = off(model.timescales[:ACROSS].tolist(), model.delays_ms[1].tolist())
    return Fit(seconds, float(model.log_likelihood(data).sum()), far)


def theirs(mbrila: Any, data: Batch, passes: int = PASSES) -> Fit:
    """Fit mbrila's exact engine, started as its documentation says."""
    start = time.process_time()
    spec = mbrila.LatentSpec(n_across=ACROSS, n_within=(WITHIN, WITHIN))
    trials = mbrila.MultiRegionData(y=data.activity.clone(), y_dims=(UNITS, UNITS), bin_width=BIN_MS)
    model = mbrila.DLAG(
        latent_spec=spec,
        y_dims=(UNITS, UNITS),
        T=BINS,
        kernel_factory_across=lambda: mbrila.MOSEKernel(num_regions=2, init_sigma=0.05),
        kernel_factory_within=lambda: mbrila.MOSEKernel(num_regions=1, init_sigma=0.05),
    )
    model.initialize_from_data(trials)
    model.fit(trials, max_iter=passes, tol=0.0)
    seconds = time.process_time() - start
    with torch.no_grad():
        (delay,) = [module for module in model.modules() if hasattr(module, "max_delay")]
        kernels = [module for module in model.modules() if getattr(module, "num_regions", 0) == 2]
        timescales = [float(kernel.sigma) ** -0.5 for kernel in kernels if hasattr(kernel, "sigma")]
        far = off(timescales, (BIN_MS * delay.as_tensor()[1]).tolist())
        return Fit(seconds, float(model.score(trials)), far)


def run() -> list[dict[str, Any]]:
    """Return one row: CPU seconds of a fit of both, alternating; likelihoods and delays in the note."""
    torch.set_num_threads(1)
    data = planted()
    with tempfile.TemporaryDirectory() as folder:
        mbrila = peer(Path(folder))
        mine, other = [], []
        for repeat in range(REPEATS):
            mine.append(ours(data))
            if mbrila is not None and repeat < THEIRS:
                other.append(theirs(mbrila, data))
    seconds = statistics.median(fit.seconds for fit in mine)
    note = f"delays off by {mine[0].off:.2f} ms at {mine[0].nats:.1f} nats"
    ratio, ok, spread, peer_seconds = None, False, None, None
    if other:
        ratios = [b.seconds / a.seconds for a, b in zip(mine, other, strict=False)]  # of fits one after the other
        peer_seconds = statistics.median(fit.seconds for fit in other)
        ratio, spread = peer_seconds / seconds, [round(min(ratios), 1), round(max(ratios), 1)]
        ok = min(ratios) >= 10 and mine[0].nats > other[0].nats and mine[0].off < 2
        note += f"; mbrila after {PASSES} passes: {other[0].off:.2f} ms at {other[0].nats:.1f} nats"
    else:
        note += "; mbrila could not be downloaded: not compared"
    return [
        {
            "claim": f"DLAG, 2 x {UNITS} units, {TRIALS} trials x {BINS} bins, {ACROSS} across, {WITHIN} within, CPU s",
            "source": f"mbrila 0.1.0, exact engine, {PASSES} passes",
            "bound": 10.0,
            "ours": round(seconds, 2),
            "peer": round(peer_seconds, 1) if peer_seconds else None,
            "ratio": round(ratio, 1) if ratio else None,
            "spread": spread,
            "ok": ok,
            "note": note,
        }
    ]


if __name__ == "__main__":
    for row in run():
        print(row)
