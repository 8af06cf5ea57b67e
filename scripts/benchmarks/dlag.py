"""Delays between two regions: lvmzoo against mbrila's exact DLAG, in CPU seconds of one thread."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.inference.delayed_expectations import draw
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.models.multi_region.dlag import DLAG, DLAGConfig

TRIALS, BINS, UNITS, ACROSS, WITHIN = 100, 40, 30, 2, 2
DELAYS_MS, BIN_MS = (30.0, -20.0), 20.0
PASSES, REPEATS = 150, 3
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
        torch.tensor([6.0, 3.0, 4.0, 2.0, 5.0, 2.5], dtype=torch.float64),
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


def ours(data: Batch) -> tuple[float, float, list[float]]:
    """Return seconds, log-likelihood and delays of a fit until it gains nothing."""
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
    return seconds, float(model.log_likelihood(data).sum()), model.delays_ms[1].tolist()


def theirs(mbrila: Any, data: Batch) -> tuple[float, float, list[float]]:
    """Return the same of mbrila's exact engine, started as its documentation says."""
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
    model.fit(trials, max_iter=PASSES, tol=0.0)
    seconds = time.process_time() - start
    with torch.no_grad():
        (delay,) = [module for module in model.modules() if hasattr(module, "max_delay")]
        return seconds, float(model.score(trials)), (BIN_MS * delay.as_tensor()[1]).tolist()


def run() -> list[dict[str, Any]]:
    """Return one row: CPU seconds of a fit of both, alternating; likelihoods and delays in the note."""
    torch.set_num_threads(1)
    data = planted()
    with tempfile.TemporaryDirectory() as folder:
        mbrila = peer(Path(folder))
        mine, other = [], []
        for repeat in range(REPEATS):
            mine.append(ours(data))
            if mbrila is not None and repeat == 0:
                other.append(theirs(mbrila, data))
    seconds = sorted(fit[0] for fit in mine)[REPEATS // 2]
    off = max(abs(a - b) for a, b in zip(sorted(mine[0][2]), sorted(DELAYS_MS), strict=True))
    note = f"delays off by {off:.2f} ms at {mine[0][1]:.1f} nats"
    ratio, ok = None, False
    if other:
        ratio = other[0][0] / seconds
        their_off = max(abs(a - b) for a, b in zip(sorted(other[0][2]), sorted(DELAYS_MS), strict=True))
        ok = ratio >= 10 and mine[0][1] > other[0][1] and off < 2
        note += f"; mbrila after {PASSES} passes: {their_off:.2f} ms at {other[0][1]:.1f} nats"
    else:
        note += "; mbrila could not be downloaded: not compared"
    return [
        {
            "claim": f"DLAG, 2 x {UNITS} units, {TRIALS} trials x {BINS} bins, {ACROSS} across, {WITHIN} within, CPU s",
            "source": f"mbrila 0.1.0, exact engine, {PASSES} passes",
            "bound": 10.0,
            "ours": round(seconds, 2),
            "peer": round(other[0][0], 1) if other else None,
            "ratio": round(ratio, 1) if ratio else None,
            "spread": None,
            "ok": ok,
            "note": note,
        }
    ]


if __name__ == "__main__":
    for row in run():
        print(row)
