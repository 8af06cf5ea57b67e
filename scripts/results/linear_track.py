"""Position of a rat on a linear track from 31 hippocampal units: a contrastive embedding beside smoothed counts.

One contiguous fifth of the session is tested, with a gap. The model is that of
configs/experiment/head_direction.yaml but for size and steps. Counts are smoothed as for the model, and more widely.
Both are read out by nearest neighbors and by ridge regression.
"""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import torch
from _family import row
from _recordings import recording

from lvmzoo.data.load import load, prepare
from lvmzoo.data.recording import Recording
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.decoding import decoding_scores
from lvmzoo.store import compose
from lvmzoo.train import train

SEEDS, WIDTHS_S = 3, (0.3, 1.0)
SETTINGS = [
    "model=contrastive",
    "model.positives=behavior",
    "model.delta=0.1",
    "model.receptive_field_bins=15",
    "model.hidden=32",
    "model.temperature=0.2",
    "data=nwb",
    "data.bin_width_s=0.1",
    "data.smoothing_s=0.3",
    "data.split={by: folds, fold: 1, validation: 0.15}",
    "trainer={max_steps: 600, batch_size: 512, validate_every_steps: 50, patience: 4, threads: 1, progress: false}",
]


def run() -> list[dict[str, Any]]:
    """Return R2 of the position from the embedding and from counts."""
    experiment = compose([*SETTINGS, f"data.path={recording('rat_linear_track.nwb')}"])
    [data] = load(experiment.data)
    learned: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        made = train(dataclasses.replace(experiment, seed=seed), [data], write=False)
        assert made.sessions is not None
        for name, value in decoded(Evaluation(made.model, made.sessions[0], seed)).items():
            learned.setdefault(name, []).append(value)
    counts = {width: decoded(of_counts(experiment, data, width)) for width in WIDTHS_S}
    source = "rat_linear_track.nwb, second of five contiguous folds tested, bins of 100 ms, acausal smoothing"
    rivals = max(value for found in counts.values() for value in found.values())
    best = max(learned, key=lambda name: statistics.fmean(learned[name]))
    rows = []
    for name, values in learned.items():
        mean, judged = statistics.fmean(values), name == best
        claim, bound = f"position decoded, contrastive, {name} (R2)", f"> {rivals:.3f}, the best of smoothed counts"
        spread, ok = round(statistics.stdev(values), 3), not judged or mean > rivals
        rows.append(
            row(claim, f"{source}, {SEEDS} seeds", bound if judged else "beside it", round(mean, 3), spread, ok)
        )
    for width, found in counts.items():
        for name, value in found.items():
            claim = f"position decoded, counts smoothed by {width:g} s, {name} (R2)"
            rows.append(row(claim, source, "beside it", round(value, 3), None, True))
    return rows


def of_counts(experiment: Any, data: Recording, smoothing_s: float) -> Evaluation:
    """Return the evaluation of smoothed counts in place of latents."""
    [session] = prepare(
        [data],
        dataclasses.replace(experiment.data, smoothing_s=smoothing_s),
        window_bins=experiment.model.receptive_field_bins,
    )
    parts = {}
    for part in ("train", "validation", "test"):
        trials = getattr(session, part)
        stored = trials.flat[trials.valid.numpy()[trials.flat]]
        parts[part] = trials.activity[torch.from_numpy(stored)].double().numpy()
    return Evaluation(None, session, 0, {"latents": parts})


def decoded(evaluation: Evaluation) -> dict[str, float]:
    """Return the R2 of the position by readout."""
    return {
        kind: next(score.value for score in decoding_scores(evaluation, kind, "") if score.metric == "behavior_r2")
        for kind in ("knn", "ridge")
    }


if __name__ == "__main__":
    for line in run():
        print(line, flush=True)
