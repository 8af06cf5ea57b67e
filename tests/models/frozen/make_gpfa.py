"""Write gpfa.json: elephant's log-likelihoods and latents at fixed parameters, and after steps of its EM.

python tests/models/frozen/make_gpfa.py      (with elephant 1.2.1 of the dependency group "bench")
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

LENGTHS = (30, 30, 57, 8, 120)
UNITS, BIN_S = 12, 0.02
TIMESCALES = np.array([2.5, 6.0, 15.0])  # bins


def case() -> dict[str, Any]:
    """Return parameters and ragged trials of (bin, unit); the test draws the same."""
    random = np.random.default_rng(17)
    readout = random.normal(size=(UNITS, len(TIMESCALES)))
    offset, noise = random.normal(size=UNITS), random.uniform(0.3, 2.0, UNITS)
    trials = []
    for bins in LENGTHS:
        latents = random.normal(size=(bins, len(TIMESCALES))).cumsum(0) / np.sqrt(bins)
        trials.append(latents @ readout.T + offset + random.normal(size=(bins, UNITS)) * np.sqrt(noise))
    return {"readout": readout, "offset": offset, "noise": noise, "trials": trials}


def main() -> None:
    from elephant.gpfa import gpfa_core

    found = case()
    sequences = np.empty(len(LENGTHS), dtype=[("T", int), ("y", object)])
    for i, trial in enumerate(found["trials"]):
        sequences[i] = (len(trial), np.ascontiguousarray(trial.T))

    def parameters() -> dict[str, Any]:
        return {
            "covType": "rbf",
            "gamma": 1 / TIMESCALES**2,
            "eps": 1e-3 * np.ones(len(TIMESCALES)),
            "d": found["offset"].copy(),
            "C": found["readout"].copy(),
            "R": np.diag(found["noise"]),
            "notes": {"learnKernelParams": True, "learnGPNoise": False, "RforceDiagonal": True},
        }

    latents, likelihood = gpfa_core.exact_inference_with_ll(sequences, parameters())
    alone = [float(gpfa_core.exact_inference_with_ll(sequences[[i]], parameters())[1]) for i in range(len(LENGTHS))]
    _, _, passes, _ = gpfa_core.em(parameters(), sequences, max_iters=2, freq_ll=1)
    fixed = parameters()
    fixed["notes"]["learnKernelParams"] = False
    _, _, fixed_passes, _ = gpfa_core.em(fixed, sequences, max_iters=2, freq_ll=1)
    written = {
        "log_likelihood": float(likelihood),
        "of_trials": alone,
        "first_trial": latents[0]["latent_variable"].T.tolist(),
        "variances_of_first_trial": [np.diag(latents[0]["Vsm"][:, :, t]).tolist() for t in range(LENGTHS[0])],
        "passes": [float(value) for value in passes],
        "passes_with_fixed_timescales": [float(value) for value in fixed_passes],
    }
    Path(__file__).with_name("gpfa.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
