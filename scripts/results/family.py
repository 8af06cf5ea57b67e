"""The single-region family on two recordings: co-smoothing, behavior and processor time of every model."""

from __future__ import annotations

from typing import Any

from _family import BASELINES, Result, fit_all, row
from _recordings import recording

PCA_BITS = 0.235  # principal components and a Poisson readout on this split, ten components and bins smoothed by one
SETS = {
    "reach": ("reach_family", "m1_reach_100ms.npz", "every fifth trial tested, every fourth unit held out"),
    "head_direction": (
        "head_direction_family",
        "mouse_head_direction.nwb",
        "wake, adn; the end tested, 2 units held out",
    ),
}


def run() -> list[dict[str, Any]]:
    """Return the table of each recording; the bounds are those of the reaches."""
    rows = []
    for group, (experiment, name, split) in SETS.items():
        found = fit_all(experiment, group, [f"data.path={recording(name)}"])
        rows += table({member: result for (member, _), result in found.items()}, f"{name}, {split}", group == "reach")
    return rows


def table(found: dict[str, Result], source: str, bounded: bool) -> list[dict[str, Any]]:
    """Return lines of co-bps, behavior and seconds, the best first."""
    bits = {member: result.scores[("co_bps", "")] for member, result in found.items()}
    smoothing = bits["smoothing"][0]
    order = sorted(bits, key=lambda member: -bits[member][0])
    rows = []
    if bounded:
        value, spread = bits[order[0]]
        claim, reached = f"co-bps of the best model, {order[0]}", value >= PCA_BITS
        rows.append(row(claim, source, f">= {PCA_BITS}", round(value, 4), _round(spread), reached))
    for member in order:
        value, spread = bits[member]
        judged = bounded and member not in BASELINES
        bound = f"> {smoothing:.4f} (smoothing)" if judged else "beside it"
        ok = not judged or value > smoothing
        rows.append(row(f"co-bps of {member}, bits/spike", source, bound, round(value, 4), _round(spread), ok))
        rows += [
            row(f"{metric} of {target}, {member}", source, "beside it", round(score, 4), _round(error), True)
            for (metric, target), (score, error) in found[member].scores.items()
            if metric in ("behavior_r2", "behavior_error")
        ]
        rows.append(
            row(f"processor time of {member}, s", source, "beside it", round(found[member].seconds, 1), None, True)
        )
    return rows


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    for line in run():
        print(line, flush=True)
