"""Write psid.json: eigenvalues and held-out predictions of the package psid, of one block and of segments.

python tests/models/frozen/make_psid.py      (with psid 1.2.6 of the dependency group "bench")
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

BINS, TEST, UNITS, BEHAVIOR, HORIZON = 3000, 40, 6, 2, 5
CUTS = (700, 708, 1900)  # the second segment is shorter than a window


def case() -> tuple[np.ndarray, np.ndarray]:
    """Return activity and behavior; the test draws the same."""
    random = np.random.default_rng(23)
    x = random.normal(size=(BINS + TEST, 4))
    for t in range(1, len(x)):
        a, b, c, d = x[t - 1]
        x[t] += [0.86 * a - 0.27 * b, 0.27 * a + 0.86 * b, 0.51 * c - 0.8 * d, 0.8 * c + 0.51 * d]
    y = x @ random.normal(size=(4, UNITS)) + random.normal(size=(len(x), UNITS)) + 5
    z = x[:, :2] @ random.normal(size=(2, BEHAVIOR)) + random.normal(size=(len(x), BEHAVIOR)) - 2
    return y, z


def values() -> dict[str, Any]:
    """Return what psid says."""
    import PSID

    y, z = case()
    result = {}
    for name, cuts in (("block", ()), ("segments", CUTS)):
        parts = [np.split(values[:BINS], cuts) for values in (y, z)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            system = PSID.PSID(*(part if cuts else part[0] for part in parts), nx=4, n1=2, i=HORIZON)
        behavior, activity, _ = system.predict(y[BINS:])
        eigenvalues = np.sort_complex(np.linalg.eigvals(system.A))
        result[name] = {
            "eigenvalues": [[value.real, value.imag] for value in eigenvalues],
            "activity": activity.tolist(),
            "behavior": behavior.tolist(),
        }
    return result


if __name__ == "__main__":
    Path(__file__).with_name("psid.json").write_text(json.dumps(values()) + "\n")
