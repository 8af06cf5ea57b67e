"""Write bits_per_spike.json: what nlb_tools' own code gives for seeded counts and rates.

    pip download nlb_tools==0.0.4 --no-deps
    PYTHONPATH=nlb_tools-0.0.4-py3-none-any.whl python tests/metrics/frozen/make_bits_per_spike.py

nlb_tools (MIT) pins an old pandas and cannot be installed beside this package; its evaluation module needs none.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return rates and counts (NaN: not recorded) by case; the test draws the same."""
    found = {}
    for name, seed, shape, scale in (
        ("dense", 0, (7, 20, 5), 1.0),
        ("sparse", 1, (10, 30, 8), 0.05),
        ("large", 2, (3, 15, 4), 400.0),
        ("silent_unit_and_zero_rates", 3, (5, 12, 6), 0.5),
        ("missing", 4, (6, 18, 7), 0.8),
    ):
        random = np.random.default_rng(seed)
        rates = scale * random.gamma(2.0, 0.5, shape)
        counts = random.poisson(rates * random.uniform(0.8, 1.25, shape)).astype(float)
        if name.startswith("silent"):
            counts[..., 0] = 0
            rates[0, :3] = 0.0
        if name == "missing":
            counts[random.random(shape) < 0.2] = np.nan
        found[name] = rates, counts
    return found


if __name__ == "__main__":
    from nlb_tools.evaluation import bits_per_spike

    values = {name: float(bits_per_spike(rates.copy(), counts.copy())) for name, (rates, counts) in cases().items()}
    Path(__file__).with_name("bits_per_spike.json").write_text(json.dumps(values, indent=2) + "\n")
