"""The table of a sweep: order, the best of each column, seeds together, failures at the end."""

from __future__ import annotations

import csv
import io
import statistics

from rich.console import Console

from lvmzoo.comparison import compare
from lvmzoo.sweep_table import legend, limits, order, show, warnings, write


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
                "unit": "deg",
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
    console.print(show(compare(outcomes)))
    return console.export_text()


def test_the_best_comes_first_and_failures_last():
    comparison = compare(OUTCOMES)
    rows = comparison.rows
    assert [column.key for column in comparison.metrics] == ["co_bps", "behavior_error head"]
    assert [row.name for row in rows] == ["lds", "pca", "lfads"]
    assert (rows[0].values["co_bps"].value, rows[0].values["co_bps"].spread) == (0.25, 0.01)
    assert rows[0].seconds == 4.0
    assert "diverged" in rows[2].failed


def test_it_is_written_with_the_best_of_each_column_marked(tmp_path):
    write(tmp_path, compare(OUTCOMES))
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| model | co_bps | behavior_error head (deg) ↓ | s |"
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
    rows = compare(outcomes).rows
    assert [(row.name, row.jobs) for row in rows] == [("lds", [2, 3]), ("pca", [0, 1])]
    assert rows[1].values["co_bps"].value == 0.2
    assert abs(rows[1].values["co_bps"].spread - 0.02**0.5) < 1e-12


def test_seeds_that_change_nothing_are_said_to_be_one_run_and_keep_its_spread(tmp_path):
    def seeds(name, values):
        made = [outcome(job, [f"model={name}", f"seed={job}"], value) for job, value in enumerate(values)]
        for each in made:
            each["scores"][0]["n"] = 2000
        return made

    pca, lds = seeds("pca", (0.2, 0.2, 0.2)), seeds("lds", (0.3, 0.4, 0.5))
    comparison = compare([*pca, *(each | {"job": 3 + each["job"]} for each in lds)])
    assert [(row.name, row.seeds_alike) for row in comparison.rows] == [("lds", False), ("pca", True)]
    found = comparison.rows[1].values["co_bps"]
    assert (found.spread, found.n) == (0.01, 2000)
    [said] = limits(comparison)
    assert said.startswith("Seeds change nothing in the fits of pca: equal runs are no more evidence than one of them")
    assert "over seeds; the standard error over trials" in " ".join(legend(comparison, comparison.shown))
    write(tmp_path, comparison)
    assert "Seeds change nothing" in (tmp_path / "table.md").read_text()
    with (tmp_path / "table.csv").open() as file:
        assert [row["co_bps n"] for row in csv.DictReader(file)] == ["2000", "2000"]


def test_settings_that_differ_in_several_ways_have_a_column_each(tmp_path):
    outcomes = [
        outcome(0, ["model=lds", "model.latents=2", "trainer.threads=1"], 0.1),
        outcome(1, ["model=pca", "model.latents=4", "trainer.threads=1"], 0.2),
        outcome(2, ["model=smoothing", "trainer.threads=1"], 0.15),
    ]
    assert [row.settings for row in compare(outcomes).rows] == [("pca", "4"), ("smoothing", ""), ("lds", "2")]
    write(tmp_path, compare(outcomes))
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0].startswith("| model | model.latents | co_bps |")
    assert lines[2].startswith("| pca | 4 | **0.200 ± 0.01** |")


def test_labels_tell_settings_by_the_last_part_of_their_names_and_files_by_theirs():
    paths = ["/data/of/the/lab/monday.nwb", "/data/of/the/lab/tuesday.nwb"]
    outcomes = [
        outcome(job, ["model=lds", f"data.path={path}", f"model.latents={latents}"], 0.1)
        for job, (path, latents) in enumerate((path, latents) for path in paths for latents in (2, 4))
    ]
    rows = compare(outcomes).rows
    assert [row.whole_label for row in rows] == [
        "latents=2, monday.nwb",
        "latents=4, monday.nwb",
        "latents=2, tuesday.nwb",
        "latents=4, tuesday.nwb",
    ]
    other = outcome(4, ["model=lds", "data.path=/data/of/another/monday.nwb", "model.latents=2"], 0.1)
    assert compare([*outcomes, other]).rows[0].data_label == paths[0]
    [alone, _] = compare([outcome(job, ["model=lds", f"data.path={path}"], 0.1) for job, path in enumerate(paths)]).rows
    assert (alone.label, alone.data_label) == ("lds", "monday.nwb")


def test_many_settings_share_a_column_in_full():
    words = ["model=lds", "model.latents={}", "trainer.tolerance=1e-{}", "data.bin_width_s=0.0{}", "model.emissions={}"]
    outcomes = [outcome(job, [word.format(job + 1) for word in words], 0.1) for job in range(2)]
    name = "model.latents=1 trainer.tolerance=1e-1 data.bin_width_s=0.01 model.emissions=1"
    assert compare(outcomes).rows[0].settings == (name,)


def test_runs_on_different_recordings_are_not_ranked_together(tmp_path):
    outcomes = [
        outcome(job, [f"family/lorenz={model}", f"data.simulator_options.regions={regions}"], value, 10.0)
        for job, (model, regions, value) in enumerate(
            [("pca", 2, 0.1), ("lds", 2, 0.2), ("pca", 3, 0.9), ("lds", 3, 0.8), ("gpfa", 3, 0.9)]
        )
    ]
    rows = compare(outcomes).rows
    assert [row.settings for row in rows] == [("lds", "2"), ("pca", "2"), ("pca", "3"), ("gpfa", "3"), ("lds", "3")]
    write(tmp_path, compare(outcomes))
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0].startswith("| model | regions | co_bps |")
    bold = [line.split("|")[1].strip() for line in lines if "**" in line]
    assert bold == ["lds", "pca", "gpfa"]  # of each recording; equal values are all marked
    assert not any("**10" in line for line in lines)  # where all are the same, none is


def test_what_is_said_of_regions_is_shown_alone_and_without_a_spread_over_a_few_pairs(tmp_path):
    def of_regions(job, model, direction, delay=None):
        made = outcome(job, [f"model={model}"], 0.1)
        common = {"target": "", "session": "a", "spread": 0.4, "n": 2}
        made["scores"].append({**common, "metric": "direction_correct", "value": direction, "better": "higher"})
        made["scores"][-1]["note"] = "" if direction == 1 else "B → A invented"
        if delay is not None:
            one = {**common, "metric": "delay_error", "value": delay, "better": "lower", "unit": "ms"}
            made["scores"].append(one)
        return made

    write(tmp_path, compare([of_regions(0, "delayed_cca", 0.5, 3.25), of_regions(1, "multi_region_lds", 1.0)]))
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| model | direction_correct | delay_error (ms) ↓ | s | directions wrong |"
    assert lines[2:4] == [
        "| multi_region_lds | **1** | \N{EN DASH} | 1.0 |  |",
        "| delayed_cca | 0.5 | 3.25 | 1.0 | B → A invented |",
    ]
    assert "no answer" in lines[-1]


def test_sweeps_without_a_score_or_with_one_run_are_survived(tmp_path):
    for outcomes in ([OUTCOMES[1]], [OUTCOMES[0]], [OUTCOMES[1], outcome(4, ["model=gpfa"])]):
        write(tmp_path, compare(outcomes))
        assert outcomes[0]["model"] in printed(outcomes)
    assert "failed" in printed([OUTCOMES[1]])


def run_of(job, model, value, validation=None, fold=None, seed=0, **more):
    made = outcome(job, [f"model={model}", f"seed={seed}", *([f"data.split.fold={fold}"] * (fold is not None))], value)
    made["scores"] = [made["scores"][0] | {"validation": validation} | more]
    return made


FOLDS = [  # model, fold, test, validation: the best on validation data is lds, lds, pca
    ("pca", 0, 0.30, 0.20), ("pca", 1, 0.20, 0.20), ("pca", 2, 0.22, 0.30),
    ("lds", 0, 0.10, 0.28), ("lds", 1, 0.20, 0.29), ("lds", 2, 0.24, 0.28),
]  # fmt: skip


def test_folds_become_one_row_with_the_standard_error_over_them_and_choosing_is_nested(tmp_path):
    outcomes = [run_of(job, model, test, val, fold) for job, (model, fold, test, val) in enumerate(FOLDS)]
    comparison = compare(outcomes)
    assert [(row.name, row.folds, row.jobs) for row in comparison.rows] == [
        ("lds", 3, [3, 4, 5]),  # the best on validation data, not on test data
        ("pca", 3, [0, 1, 2]),
    ]
    found = comparison.rows[0].values["co_bps"]
    assert abs(found.value - 0.18) < 1e-12
    assert abs(found.spread - statistics.stdev([0.10, 0.20, 0.24]) / 3**0.5) < 1e-12
    nested = comparison.nested[""]
    assert abs(nested.value - statistics.fmean([0.10, 0.20, 0.22])) < 1e-12
    assert abs(nested.spread - statistics.stdev([0.10, 0.20, 0.22]) / 3**0.5) < 1e-12
    write(tmp_path, comparison)
    said = (tmp_path / "table.md").read_text().splitlines()[-1]
    assert "in the order of co_bps on validation data" in said
    assert "Choosing on validation data in every fold gives co_bps 0.173 ± 0.037 on test data." in said
    assert "±: the standard error of the mean over folds." in said


def test_seeds_of_a_fold_count_once():
    outcomes = [run_of(0, "pca", 0.1, fold=0), run_of(1, "pca", 0.3, fold=0, seed=1), run_of(2, "pca", 0.6, fold=1)]
    found = compare(outcomes).rows[0].values["co_bps"]
    assert abs(found.value - 0.4) < 1e-12
    assert abs(found.spread - 0.2) < 1e-12


def test_without_validation_scores_of_all_the_order_is_that_of_the_test_and_says_so():
    outcomes = [run_of(0, "pca", 0.3, 0.1), run_of(1, "lds", 0.2, 0.2)]
    assert [row.name for row in compare(outcomes).rows] == ["lds", "pca"]
    assert "no choice saw" in " ".join(order(compare(outcomes)))
    outcomes[1]["scores"][0]["validation"] = None
    assert [row.name for row in compare(outcomes).rows] == ["pca", "lds"]
    assert "flattered by the choice" in " ".join(order(compare(outcomes)))
    assert compare(outcomes).nested == {}
    assert list(order(compare(outcomes[:1]))) == []


def test_warnings_that_half_of_the_runs_get_are_shown_with_their_reason(tmp_path):
    values = {"pca": (0.30, 0.30, 0.30), "lds": (0.10, 0.35, 0.10), "gpfa": (0.35, 0.35, 0.10)}
    outcomes = [
        run_of(3 * place + seed, model, value, seed=seed)
        for place, (model, row) in enumerate(values.items())
        for seed, value in enumerate(row)
    ]
    comparison = compare(outcomes)
    assert {row.name: [flag.kind for flag in row.flags] for row in comparison.rows} == {
        "pca": [],
        "gpfa": [],
        "lds": ["below baseline"],
    }
    [warning] = warnings(comparison)
    assert warning.startswith("lds, below baseline: Its co_bps, 0.100, is below that of pca, 0.300")
    assert "In 2 of 3 runs" in warning
    write(tmp_path, comparison)
    assert f"- {warning}" in (tmp_path / "table.md").read_text().splitlines()
    assert "| flags |" in (tmp_path / "table.md").read_text()
    with (tmp_path / "table.csv").open() as file:
        assert [row["flags"] for row in csv.DictReader(file)] == ["", "", "below baseline"]
    assert "below baseline" in printed(outcomes)
    assert "flags" not in printed(outcomes[:3])


def test_warnings_of_the_split_that_all_runs_get_are_said_once(tmp_path):
    outcomes = [run_of(job, model, 0.1 * job) for job, model in enumerate(("lds", "gpfa"))]
    for made in outcomes:
        made["scores"].append(made["scores"][0] | {"metric": "split_canary", "value": 0.7})
    comparison = compare(outcomes)
    assert [row.flags for row in comparison.rows] == [[], []]
    assert [flag.kind for flag in comparison.common[""]] == ["leaky split"]
    [line] = warnings(comparison)
    assert line.startswith("all, leaky split: On this split")
    assert "flags" not in printed(outcomes)
    [alone] = compare(outcomes[:1]).rows
    assert [flag.kind for flag in alone.flags] == ["leaky split"]


def test_runs_of_a_seed_are_compared_with_each_other_where_simulations_have_other_data_in_each():
    values = {"pca": (0.5, 0.1), "lds": (0.6, 0.2)}  # the second recording is harder
    outcomes = [
        run_of(2 * place + seed, model, value, seed=seed)
        for place, (model, row) in enumerate(values.items())
        for seed, value in enumerate(row)
    ]
    assert [row.flags for row in compare(outcomes).rows] == [[], []]


def test_what_the_model_saw_is_labeled_and_ceilings_are_kept():
    outcomes = [run_of(0, "pca", 0.3, seen=True, unit="bits/spike", ceiling=0.4), run_of(1, "lds", 0.2, ceiling=0.4)]
    comparison = compare(outcomes)
    assert comparison.lead.seen
    assert comparison.lead.heading == "co_bps (seen)"  # units that differ are not shown
    assert comparison.rows[0].values["co_bps"].ceiling == 0.4
    assert "how well it explains" in " ".join(legend(comparison, comparison.shown))


def test_a_score_that_is_not_finite_is_none(tmp_path):
    comparison = compare([run_of(0, "pca", float("nan")), run_of(1, "lds", 0.2)])
    assert [row.name for row in comparison.rows] == ["lds", "pca"]
    assert comparison.rows[1].values == {}


def test_a_single_row_is_named_by_its_model_alone():
    said = printed([outcome(0, ["model=pca", "data.path=a", "output=r", "trainer.threads=1"], 0.2)])
    assert "pca" in said
    assert "data.path" not in said
    assert "output" not in said
