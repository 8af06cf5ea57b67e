"""Delays and timescales of latents across regions, against those that the authors of DLAG planted."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
from _planted_delays import FILES
from _recordings import recording

from lvmzoo.models.multi_region.dlag import DLAG
from lvmzoo.store import compose
from lvmzoo.train import train


def run() -> list[dict[str, Any]]:
    """Return the delay and the timescale of each latent that was planted."""
    rows = []
    for name, (across, within, errors) in FILES.items():
        path = recording(f"{name}.npz")
        overrides = ["experiment=dlag_ground_truth", f"data.path={path}", f"model.across={across}"]
        overrides += [f"model.within={within}", "model.resamples=0", "model.permutations=0", "data.split.test=0"]
        with tempfile.TemporaryDirectory() as folder:
            run = train(compose([*overrides, "trainer.progress=false", "report=false", f"output={folder}"]))
        model = run.model
        assert isinstance(model, DLAG)
        with np.load(path) as truth:
            delays, timescales = truth["delay_relative_ms"][1], truth["timescales_ms"]
        found_delays, found_timescales = model.delays_ms[1].numpy(), model.timescales_ms[:across].numpy()
        for delay, timescale, error in zip(delays, timescales, errors, strict=True):
            nearest = int(np.abs(np.log(found_timescales / timescale)).argmin())
            allowed = min(3 * error, 5.0) if error < 1.5 else 3 * error
            rows.append(
                {
                    "claim": f"delay of the latent with a timescale of {timescale:.0f} ms, ms",
                    "source": f"{name}.npz, simulated by the authors of DLAG",
                    "bound": f"{delay:.1f} ± {allowed:.1f}",
                    "measured": round(float(found_delays[nearest]), 1),
                    "spread": error,
                    "ok": bool(abs(found_delays[nearest] - delay) <= allowed),
                }
            )
            rows.append(
                {
                    "claim": f"timescale of the latent with a delay of {delay:.1f} ms, ms",
                    "source": f"{name}.npz, simulated by the authors of DLAG",
                    "bound": f"{timescale:.1f} ± 15 %",
                    "measured": round(float(found_timescales[nearest]), 1),
                    "spread": None,
                    "ok": bool(abs(found_timescales[nearest] / timescale - 1) <= 0.15),
                }
            )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
