"""How much is behind a score, in words."""

from __future__ import annotations

from lvmzoo.comparison import Column, Row

__all__ = ["behind"]

# What a metric counts, where it is neither spikes (scores in bits/spike) nor bins; see its docstring.
_COUNTED = {
    "consistency": "pairs of runs",
    "dimensionality": "folds",
    "shared_variance": "folds",
    "eigenvalue_error": "modes",
    "psth_r2": "bins of conditions",
    "co_psth_r2": "bins of conditions",
    "goodness_of_fit_behavior": "pairs of bins",
    "goodness_of_fit_time": "pairs of bins",
    "communication_correct": "pairs of regions",
    "direction_correct": "pairs of regions",
    "delay_error": "delays",
    "delay_found": "delays",
    "dimensions_error": "connections",
    "edges_found": "connections",
    "edges_invented": "pairs of regions",
}


def behind(row: Row, column: Column) -> str:
    """Return how much a score of a row is computed from, and what its spread is of: a sentence for a tooltip."""
    value = row.values[column.key]
    metric = column.key.split(" ")[0]
    noun = _COUNTED.get(metric, "spikes" if column.unit == "bits/spike" else "bins")
    many = f"n = {value.n:,} {noun}".replace(",", "\N{NARROW NO-BREAK SPACE}") if value.n else ""
    runs = len(row.jobs) // row.folds
    if many and runs > 1 and metric != "consistency":
        many += f" in each of {runs} seeds"
    if row.folds > 1:
        spread = f"± standard error over {row.folds} folds"
    elif metric == "consistency":
        spread = "± standard deviation over pairs"
    elif runs > 1 and not row.seeds_alike:
        spread = f"± standard deviation over {runs} seeds"
    else:
        spread = "± standard error over trials or blocks"
    return "; ".join(filter(None, (many, spread if value.spread else "")))
