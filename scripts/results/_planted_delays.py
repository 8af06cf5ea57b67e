"""The files of the authors of DLAG, and how exactly their trials can tell the delays that were planted."""

from __future__ import annotations

__all__ = ["FILES"]

FILES = {  # latents across regions, within each, and the standard errors of the delays (ms) in the file's order
    # The errors are the roots of the diagonal of the inverse Fisher information of timescales and delays at what was
    # planted, readouts taken as known; tests/models/test_dlag.py computes those of the second file, which says all.
    "ground_truth_dlag": (4, 2, (2.8, 3.7, 0.9, 0.5)),
    "ground_truth_dlag_freq": (2, 0, (0.40, 0.56)),
}
