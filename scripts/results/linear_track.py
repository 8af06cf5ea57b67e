"""Position of a rat on a linear track from 31 hippocampal units: a contrastive embedding beside smoothed counts.

Each of five contiguous folds of the tracked time, the first half of the session, is tested once, with gaps. Counts are
smoothed as for the model, and less. Both are read out by nearest neighbors, by ridge regression, and by the one of them
that is better on validation bins, which is what is judged of the embedding; it is to exceed the best of all that is
read out of counts, on test bins.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from _family import row
from _recordings import recording

from lvmzoo.config import Experiment
from lvmzoo.data.load import load, prepare
from lvmzoo.data.recording import Recording
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.decoding import best_decoders, fit_decoders, score_decoders
from lvmzoo.store import compose
from lvmzoo.train import train

SEEDS, FOLDS, WIDTHS_S = 3, 5, (0.3, 1.0)
JUDGED = "readout chosen on validation bins"
SETTINGS = [
    "model=contrastive",
    "model.positives=behavior",
    "model.latents=8",
    "model.delta=0.25",
    "model.receptive_field_bins=5",
    "model.hidden=32",
    "model.temperature=0.2",
    "data=nwb",
    "data.bin_width_s=0.1",
    "data.smoothing_s=1.0",
    f"data.split={{by: folds, folds: {FOLDS}, validation: 0.15}}",
    "trainer={max_steps: 600, batch_size: 512, validate_every_steps: 50, patience: 4, threads: 1, progress: false}",
]


def run() -> list[dict[str, Any]]:
    """Return R2 of the position from the embedding and from counts, means over folds."""
    experiment = compose([*SETTINGS, f"data.path={recording('rat_linear_track.nwb')}"])
    data = tracked(load(experiment.data)[0])
    folds = [tested(experiment, fold) for fold in range(FOLDS)]
    learned = [[decoded(embedded(fold, data, seed)) for fold in folds] for seed in range(SEEDS)]
    counts = {width: [decoded(of_counts(fold, data, width)) for fold in folds] for width in WIDTHS_S}
    tested_on = f"mean of {FOLDS} contiguous folds of the tracked time"
    source = f"rat_linear_track.nwb, {tested_on}, bins of 100 ms, acausal smoothing"
    rivals = {(width, name): over_folds(found, name) for width, found in counts.items() for name in found[0]}
    strongest = max(rivals, key=lambda rival: rivals[rival])
    rows = []
    for name in learned[0][0]:
        values = [over_folds(of_seed, name) for of_seed in learned]
        mean, spread, judged = statistics.fmean(values), round(statistics.stdev(values), 3), name == JUDGED
        said, bound = f"{source}, {SEEDS} seeds", "beside it"
        if judged:
            width, best = strongest
            each = [statistics.fmean(of_seed[k][name] for of_seed in learned) for k in range(FOLDS)]
            said += f"; by fold {listed(each)}, of the best counts {listed([found[best] for found in counts[width]])}"
            bound = f"> {rivals[strongest]:.3f}, the best of smoothed counts ({width:g} s, {best})"
        ok = not judged or mean > rivals[strongest]
        rows.append(row(f"position decoded, contrastive, {name} (R2)", said, bound, round(mean, 3), spread, ok))
    for (width, name), value in rivals.items():
        claim = f"position decoded, counts smoothed by {width:g} s, {name} (R2)"
        rows.append(row(claim, source, "beside it", round(value, 3), None, True))
    return rows


def tracked(data: Recording) -> Recording:
    """Return the recording up to the last known position: folds after it would have nothing to test."""
    position = data.behavior["position"]
    known = np.isfinite(np.asarray(position.values[:])).reshape(len(position), -1).all(1)
    return dataclasses.replace(data, stop_s=float(position.times()[known].max()))


def tested(experiment: Experiment, fold: int) -> Experiment:
    """Return the experiment that tests one fold."""
    split = dataclasses.replace(experiment.data.split, fold=fold)
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, split=split))


def embedded(experiment: Experiment, data: Recording, seed: int) -> Evaluation:
    """Return the evaluation of a contrastive embedding."""
    made = train(dataclasses.replace(experiment, seed=seed), [data], write=False)
    assert made.sessions is not None
    return Evaluation(made.model, made.sessions[0], seed)


def of_counts(experiment: Experiment, data: Recording, smoothing_s: float) -> Evaluation:
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
    readouts = {JUDGED: best_decoders(evaluation)}
    readouts |= {kind: fit_decoders(evaluation, kind) for kind in ("knn", "ridge")}
    return {
        name: next(score.value for score in score_decoders(evaluation, fitted) if score.metric == "behavior_r2")
        for name, fitted in readouts.items()
    }


def over_folds(found: Sequence[dict[str, float]], name: str) -> float:
    """Return the mean R2 of one readout."""
    return statistics.fmean(each[name] for each in found)


def listed(values: Sequence[float]) -> str:
    """Return values as a table shows them."""
    return " ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    for line in run():
        print(line, flush=True)
