"""The multi-region family on chains of regions whose truth is known: who gets direction, delay and dimension right."""

from __future__ import annotations

import statistics
from typing import Any

from _family import Result, fit_all, row

SEEDS = (0, 1, 2)
WORLDS = [(regions, observation) for regions in (2, 3) for observation in ("gaussian", "poisson")]
METRICS = ("direction_correct", "edges_invented", "delay_error", "dimensions_error")
JUDGED = {  # what each model is for: (score, least, most) of the median seed; the rest of the table is beside it
    "reduced_rank_regression": ("dimensions_error", 0.0, 0.0),
    "delayed_cca": ("delay_error", 0.0, 5.0),
    "dlag": ("delay_error", 0.0, 5.0),
    "multi_region_lds": ("direction_correct", 1.0, 1.0),
}
SOURCE = "simulated chain of {} regions, {}, 15 units each, 85 training trials of 0.6 to 1 s; medians of three seeds"


def run() -> list[dict[str, Any]]:
    """Return a line for each model and world: direction, invented edges, delay and dimension, beside each other."""
    rows = []
    for regions, observation in WORLDS:
        world = [f"data.simulator_options.{key}" for key in (f"regions={regions}", f"observation={observation}")]
        found = fit_all("regions_family", "regions", world, SEEDS)
        source = SOURCE.format(regions, observation)
        for member in dict.fromkeys(name for name, _ in found):
            results = [found[member, seed] for seed in SEEDS]
            said = {metric: _median(results, metric) for metric in METRICS}
            text = (
                f"{_text(said['direction_correct'])} of directions right, {_text(said['edges_invented'])} invented, "
                f"delay off by {_text(said['delay_error'])} ms, dimensions off by {_text(said['dimensions_error'])}"
            )
            seconds = statistics.median(result.seconds for result in results)
            claim = f"{member} on {regions} {observation} regions ({seconds:.0f} s of processor time)"
            metric, least, most = JUDGED[member]
            value = said[metric]
            bound = f"{metric} {_text(least)} to {_text(most)}" if most > least else f"{metric} {_text(most)}"
            rows.append(row(claim, source, bound, text, None, value is not None and least <= value <= most))
    return rows


def _median(results: list[Result], metric: str) -> float | None:
    values = [result.scores[metric, ""][0] for result in results if (metric, "") in result.scores]
    return statistics.median(values) if len(values) == len(results) else None


def _text(value: float | None) -> str:
    return "not said" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    for line in run():
        print(line, flush=True)
