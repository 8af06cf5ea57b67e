"""Head direction from seven anterodorsal units: a ring that decodes, and controls that do not.

Settings are those of configs/experiment/head_direction.yaml, tuned on the first 70 % of the wake epoch; the last 30 %
are scored here only. The control shifts the labels circularly along the session before anything sees them: the activity
keeps its ring, but training, readout and test no longer tell where on it the animal looks.
"""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import numpy as np
from _recordings import recording

from lvmzoo.config import Experiment
from lvmzoo.data.load import load, prepare
from lvmzoo.data.recording import Recording
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.baselines import smoothed_activity
from lvmzoo.metrics.decoding import decoding_scores
from lvmzoo.store import compose
from lvmzoo.train import train

BOUND_DEG, CHANCE_DEG, SEEDS, SHIFTS = 7.5, 90.0, 5, (0.25, 0.5, 0.75)


def error(experiment: Experiment, data: Recording) -> float:
    """Return the median error, in degrees, of nearest neighbors on the test block after training."""
    made = train(experiment, [data], write=False)
    assert made.sessions is not None
    return knn_error(Evaluation(made.model, made.sessions[0], experiment.seed))


def knn_error(evaluation: Evaluation) -> float:
    """Return the median error of nearest neighbors, in degrees."""
    scores = decoding_scores(evaluation, "knn", "_knn")
    return next(score.value for score in scores if score.metric == "behavior_error_knn")


def shifted(data: Recording, name: str, share: float) -> Recording:
    """Return the recording with one behavior variable rolled along the time in which it was tracked."""
    signal = data.behavior[name]
    values = np.asarray(signal.values[:])
    rolled = np.roll(values, int(share * len(values)), axis=0)
    return dataclasses.replace(data, behavior={name: dataclasses.replace(signal, values=rolled)})


def run() -> list[dict[str, Any]]:
    """Return the error over seeds, of smoothed counts, of an untrained encoder, and with shifted labels."""
    plain = compose(
        ["experiment=head_direction", f"data.path={recording('mouse_head_direction.nwb')}", "trainer.progress=false"]
    )
    [name] = plain.data.behavior or []
    [data] = load(plain.data)
    trained = [error(dataclasses.replace(plain, seed=seed), data) for seed in range(SEEDS)]
    short = dataclasses.replace(plain.trainer, max_steps=1, learning_rate=1e-12)
    untrained = [error(dataclasses.replace(plain, seed=seed, trainer=short), data) for seed in range(SEEDS)]
    control = [error(plain, shifted(data, name, share)) for share in SHIFTS]
    [session] = prepare([data], plain.data, window_bins=plain.model.receptive_field_bins)
    counts, width_s = smoothed_activity(session)
    source = (
        f"mouse_head_direction.nwb, wake, adn, last 30 % of the epoch; bins of {plain.data.bin_width_s * 1000:g} ms, "
        f"counts smoothed by {plain.data.smoothing_s:g} s (acausal)"
    )
    median = statistics.median(trained)
    return [
        row("kNN error of head direction, contrastive", source, f"<= {BOUND_DEG}", trained, median <= BOUND_DEG),
        row(
            "the same with labels shifted circularly before training, kNN fit and test",
            source + f"; by {', '.join(f'{share:g}' for share in SHIFTS)} of the session",
            f"chance, about {CHANCE_DEG:g}",
            control,
            min(control) > 0.7 * CHANCE_DEG,
        ),
        row("the same, encoder not trained", source, "beside it", untrained, True),
        row(
            f"the same from counts smoothed by a further {width_s:g} s, no model", source, "beside it",
            [knn_error(counts)], True,
        ),
    ]  # fmt: skip


def row(claim: str, source: str, bound: str, values: list[float], ok: bool) -> dict[str, Any]:
    """Return a line of results: the median of the values, and their range."""
    return {
        "claim": f"{claim}, degrees",
        "source": source,
        "bound": bound,
        "measured": round(statistics.median(values), 2),
        "spread": [round(min(values), 2), round(max(values), 2)],
        "ok": ok,
    }


if __name__ == "__main__":
    for line in run():
        print(line, flush=True)
