"""The latents of `make train`: recovered on held-out trials of the simulated reaches, beside PCA and the oracle."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from lvmzoo.data.write_nwb import write_nwb
from lvmzoo.metrics.base import Score
from lvmzoo.metrics.baselines import baselines
from lvmzoo.simulate.reach import reach
from lvmzoo.store import compose
from lvmzoo.train import train


def run() -> list[dict[str, Any]]:
    """Return the Recovery R2 of the LDS and of PCA on smoothed counts, and what the truth itself explains."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reach.nwb"
        write_nwb(reach(seed=0), path)
        overrides = ["experiment=reach_lds", f"data.path={path}", f"output={folder}", "report=false"]
        made = train(compose([*overrides, "trainer.progress=false"]))
        assert made.sessions is not None
        session = made.sessions[0]
        units = session.layout.n_units
        train_bins = session.train.activity[session.train.flat]
        rate_hz = float(train_bins.double().mean()) / session.layout.bin_width_s
        beside = baselines(session, latents=8)
    source = f"simulated reaches through NWB: {len(session.train)} training trials, {len(session.test)} held out"
    lds = find(made.scores, "latent_r2")
    rows = [
        row("Recovery R2 of the true latents, lds", lds, ">= 0.9", lds.value >= 0.9, source),
        {
            "claim": "units and their mean rate",
            "source": source,
            "bound": "at least 60 units, 5 to 15 Hz",
            "measured": f"{units} units, {rate_hz:.1f} Hz",
            "spread": None,
            "ok": units >= 60 and 5 <= rate_hz <= 15,
        },
    ]
    for name, scores in beside.items():
        for metric, label in (("latent_r2", "Recovery R2 of the true latents"), ("bits_per_spike", "bits/spike")):
            found = [score for score in scores if score.metric == metric]
            rows += [row(f"{label}, {name}", score, "beside it", True, source) for score in found]
    bits = find(made.scores, "bits_per_spike")
    rows.append(row("bits/spike, lds", bits, "beside it", True, source))
    return rows


def find(scores: list[Score], metric: str) -> Score:
    """Return the score of a metric."""
    return next(score for score in scores if score.metric == metric)


def row(claim: str, score: Score, bound: str, ok: bool, source: str) -> dict[str, Any]:
    """Return a line of results."""
    spread = None if score.spread is None else round(score.spread, 4)
    return {
        "claim": claim, "source": source, "bound": bound, "measured": round(score.value, 4), "spread": spread, "ok": ok,
    }  # fmt: skip


if __name__ == "__main__":
    for line in run():
        print(line)
