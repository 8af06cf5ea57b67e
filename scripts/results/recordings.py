"""Recordings with gaps, without spikes, with ragged trials: each through `lds` and, with behavior, `contrastive`."""

from __future__ import annotations

import math
import tempfile
from typing import Any

from _recordings import recording

from lvmzoo.store import compose
from lvmzoo.train import train

RUNS = {
    "rat_linear_track.nwb": ["data=nwb", "data.bin_width_s=0.1", "data.split.by=folds", "data.split.fold=1"],
    "mouse_calcium.nwb": ["data=nwb", "data.bin_width_s=0.0334"],
    "m1_reach_100ms.npz": ["data=arrays", "data.bin_width_s=0.1", "data.split.by=every", "data.split.every=5"],
}
SHOWN = {"behavior_r2_knn", "behavior_r2", "bits_per_spike", "activity_r2", "behavior_error"}


def run() -> list[dict[str, Any]]:
    """Return the scores of every run; a run is in order when its model beats what knows nothing."""
    rows = []
    for name, overrides in RUNS.items():
        for model in ("lds", "contrastive"):
            if model == "contrastive" and name == "mouse_calcium.nwb":
                continue  # it has no behavior
            own = ["model.time_offset_bins=1", "model.positives=behavior"] if model == "contrastive" else []
            with tempfile.TemporaryDirectory() as folder:
                common = [f"data.path={recording(name)}", f"output={folder}", "trainer.progress=false"]
                made = train(compose([f"model={model}", *own, *overrides, *common]))
            rows += [
                {
                    "claim": f"{name}, {model}: {score.metric} {score.target}".strip(),
                    "source": f"{name}, {' '.join([*own, *overrides])}",
                    "bound": "a finite number",
                    "measured": round(score.value, 4),
                    "spread": None if score.spread is None else round(score.spread, 4),
                    "ok": math.isfinite(score.value),
                }
                for score in made.scores
                if score.metric in SHOWN
            ]
    return rows


if __name__ == "__main__":
    for line in run():
        print(line["claim"], line["measured"], line["spread"])
