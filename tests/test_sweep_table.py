"""The table of a sweep: order, the best of each column, seeds together, failures at the end."""

from __future__ import annotations

import csv
import io

from rich.console import Console

from lvmzoo.sweep_table import compare, show, write


def outcome(job, overrides, co_bps=None, error=0.0, seconds=1.0, session="a"):
    scores = []
    if co_bps is not None:
        scores = [
            {"metric": "co_bps", "target": "", "session": session, "value": co_bps, "spread": 0.01, "better": "higher"},
            {
                "metric": "behavior_error",
                "target": "head",
                "session": session,
                "value": error,
                "spread": 1.0,
                "better": "lower",
            },
        ]
    return {
        "job": job,
        "overrides": overrides,
        "code": 0 if scores else 3,
        "error": [] if scores else ["Error: Training diverged | badly"],
        "model": overrides[0].split("=")[1],
        "scores": scores,
        "seconds": seconds,
    }


OUTCOMES = [
    outcome(0, ["model=pca", "data.path=a"], 0.20, 30.0, 2.0),
    outcome(1, ["model=lfads", "data.path=a"]),
    outcome(2, ["model=lds", "data.path=a"], 0.25, 40.0, 4.0),
]


def printed(outcomes):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(show(outcomes))
    return console.export_text()


def test_the_best_comes_first_and_failures_last():
    metrics, rows = compare(OUTCOMES)
    assert metrics == ["co_bps", "behavior_error head"]
    assert [row.name for row in rows] == ["lds", "pca", "lfads"]
    assert rows[0].values["co_bps"] == (0.25, 0.01)
    assert rows[0].seconds == 4.0
    assert "diverged" in rows[2].failed


def test_it_is_written_with_the_best_of_each_column_marked(tmp_path):
    write(tmp_path, OUTCOMES)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| model | co_bps | behavior_error head | s |"
    assert lines[2] == "| lds | **0.250 ± 0.01** | 40.000 ± 1 | 4.0 |"
    assert lines[3] == "| pca | 0.200 ± 0.01 | **30.000 ± 1** | 2.0 |"  # a lower error is better
    assert lines[4].startswith("| lfads | failed: Training diverged \\| badly |")
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["lds", "pca", "lfads"]
    assert float(rows[1]["behavior_error head"]) == 30.0
    assert rows[2]["failed"] == "Training diverged | badly"


def test_seeds_become_one_row_with_the_spread_over_them():
    outcomes = [
        outcome(number, [f"model={name}", f"seed={seed}"], value)
        for number, (name, seed, value) in enumerate(
            [("pca", 0, 0.1), ("pca", 1, 0.3), ("lds", 0, 0.4), ("lds", 1, 0.4)]
        )
    ]
    _, rows = compare(outcomes)
    assert [(row.name, row.jobs) for row in rows] == [("lds", [2, 3]), ("pca", [0, 1])]
    assert rows[1].values["co_bps"][0] == 0.2
    assert abs(rows[1].values["co_bps"][1] - 0.02**0.5) < 1e-12


def test_settings_that_differ_in_several_ways_are_named_in_full():
    outcomes = [
        outcome(0, ["model=lds", "model.latents=2"], 0.1),
        outcome(1, ["model=pca", "model.latents=4"], 0.2),
    ]
    assert [row.name for row in compare(outcomes)[1]] == ["model=pca model.latents=4", "model=lds model.latents=2"]


def test_sweeps_without_a_score_or_with_one_run_are_survived(tmp_path):
    for outcomes in ([OUTCOMES[1]], [OUTCOMES[0]], [OUTCOMES[1], outcome(4, ["model=gpfa"])]):
        write(tmp_path, outcomes)
        assert outcomes[0]["model"] in printed(outcomes)
    assert "failed" in printed([OUTCOMES[1]])
