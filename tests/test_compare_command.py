"""``lvmzoo compare``: sweeps and runs in any mix, told apart by what made them, in one table and page."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import yaml

from lvmzoo.cli import main
from lvmzoo.compare_command import _told_apart
from lvmzoo.comparison import compare
from lvmzoo.comparison_settings import words_of
from lvmzoo.run import experiment_to_plain
from lvmzoo.store import compose


def saved(folder: Path, overrides=(), value=0.2, fingerprint="", **score) -> Path:
    """Write what a finished run leaves behind, as far as a comparison reads it."""
    folder.mkdir(parents=True)
    config = experiment_to_plain(compose(["data=lds", *overrides]))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    facts = {"fingerprint": fingerprint, "seconds": {"data": 1.0, "fit": 2.5, "evaluate": 0.5}}
    described = {"model": config["model"]["name"], "layouts": [], "facts": facts}
    (folder / "run.json").write_text(json.dumps(described))
    row = {"metric": "co_bps", "target": "", "value": value, "session": "a", "spread": 0.01, "better": "higher"} | score
    (folder / "metrics.json").write_text(json.dumps([row]))
    (folder / "report.html").write_text("")
    return folder


def sweep(folder: Path, jobs) -> Path:
    """Write a sweep: (overrides, value), None for a job that failed."""
    folder.mkdir(parents=True)
    for job, (overrides, value) in enumerate(jobs):
        outcome = {"job": job, "overrides": overrides, "code": 3, "error": ["Error: Training diverged"]}
        outcome["model"] = overrides[0].removeprefix("model=")
        if value is not None:
            run = saved(folder / f"job-{job}", overrides, value)
            scores = json.loads((run / "metrics.json").read_text())
            done = {"code": 0, "error": [], "folder": f"elsewhere/{run.name}", "scores": scores, "seconds": 1.0}
            outcome |= done
        (folder / f"job-{job}.json").write_text(json.dumps(outcome))
    return folder


def table_of(folder: Path) -> list[str]:
    lines = (folder / "table.md").read_text().splitlines()
    return [line for line in lines if line.startswith("|") and "---" not in line]


def test_runs_are_told_apart_by_what_made_them(tmp_path: Path, capsys):
    saved(tmp_path / "a", ["model=lds", "model.latents=4", "trainer.progress=false"], 0.2)
    saved(tmp_path / "b", ["model=lds", "model.latents=8", "name=other"], 0.3)
    saved(tmp_path / "c", ["model=pca", "model.latents=4", "trainer.threads=1"], 0.1)
    assert main(["compare", *(str(tmp_path / name) for name in "abc")]) == 0
    (folder,) = tmp_path.glob("comparison-*")
    assert table_of(folder) == [
        "| model | model.latents | co_bps | s |",
        "| lds | 8 | **0.300 ± 0.01** | 4.0 |",
        "| lds | 4 | 0.200 ± 0.01 | 4.0 |",
        "| pca | 4 | 0.100 ± 0.01 | 4.0 |",
    ]
    page = (folder / "leaderboard.html").read_text()
    assert re.findall(r'href="([^"#]*report.html)"', page) == [
        "../b/report.html",
        "../a/report.html",
        "../c/report.html",
    ]
    printed = capsys.readouterr().out
    assert f"Leaderboard: {folder / 'leaderboard.html'}" in printed
    assert "flattered by the choice" in printed


def test_a_sweep_alone_keeps_its_words_and_gets_the_page_even_if_it_was_moved(tmp_path: Path, capsys):
    jobs = [(["model=pca", "seed=0"], 0.1), (["model=pca", "seed=1"], 0.2), (["model=lds", "seed=0"], None)]
    folder = sweep(tmp_path / "sweep", jobs)
    assert main(["compare", str(folder)]) == 0
    assert table_of(folder)[1:] == ["| pca | 0.150 ± 0.071 | 1.0 |", "| lds | failed: Training diverged |  |"]
    page = (folder / "leaderboard.html").read_text()
    assert 'href="job-0/report.html"' in page
    said = capsys.readouterr().err.splitlines()
    assert [line.split() for line in said] == [
        ["job", "status", "settings", "why"],
        ["2", "failed", "model=lds", "seed=0", "Training", "diverged"],
    ]
    assert main(["compare", str(folder), "--out", str(tmp_path / "new" / "place")]) == 0
    assert 'href="../../sweep/job-0/report.html"' in (tmp_path / "new" / "place" / "leaderboard.html").read_text()


def test_sweeps_and_runs_mix(tmp_path: Path):
    folder = sweep(tmp_path / "sweep", [(["model=pca"], 0.1), (["model=gpfa"], None)])
    run = saved(tmp_path / "run", ["model=lds"], 0.3)
    assert main(["compare", str(folder), str(run), "--out", str(tmp_path / "out")]) == 0
    assert [line.split("|")[1].strip() for line in table_of(tmp_path / "out")] == ["model", "lds", "pca", "gpfa"]
    assert "failed" in table_of(tmp_path / "out")[-1]


def words(*overrides, fingerprints=None):
    configs = [experiment_to_plain(compose(["data=lds", *each])) for each in overrides]
    return words_of(configs, fingerprints or [""] * len(configs))


def test_seeds_and_folds_are_words_of_their_own():
    fold = ["data.split.folds=5", "data.split.fold=2"]
    assert words(["model=pca", "seed=3"], ["model=pca", *fold]) == [
        ["model=pca", "data.split.by=blocks", "seed=3"],
        ["model=pca", "data.split.by=folds", "data.split.folds=5", "data.split.fold=2", "seed=0"],
    ]


def test_what_only_other_models_have_is_not_told():
    first, second = words(["model=lds", "trainer.max_epochs=7"], ["model=lfads", "trainer.max_epochs=9"])
    assert first == ["model=lds", "seed=0"]
    assert second == ["model=lfads", "seed=0"]
    assert words(["trainer.max_epochs=7"], ["trainer.max_epochs=9"])[0][1:] == ["trainer.max_epochs=7", "seed=0"]


def test_the_same_data_are_the_same_wherever_they_lie():
    here, there = ["data.path=/here/monday.nwb"], ["data.path=/there/monday.nwb"]
    assert words(here, there) == [
        ["model=lds", "data.path=/here/monday.nwb", "seed=0"],
        ["model=lds", "data.path=/there/monday.nwb", "seed=0"],
    ]
    assert words(here, ["data.path=/there/tuesday.nwb"])[1][1] == "data.path=tuesday.nwb"
    assert words(here, there, fingerprints=["x", "x"]) == [["model=lds", "seed=0"]] * 2


def test_of_files_and_simulations_the_names_are_told_and_settings_only_where_runs_on_them_differ():
    file = ["data.path=/here/monday.nwb", "data.bin_width_s=0.1", "data.tags=[wake]"]
    assert words(file, [*file, "data.split.held_out_units=0.25"], ["data=lorenz", "model=pca", "model.latents=3"]) == [
        ["model=lds", "data=monday.nwb", "data.split.held_out_units=0.0", "seed=0"],
        ["model=lds", "data=monday.nwb", "data.split.held_out_units=0.25", "seed=0"],
        ["model=pca", "data=lorenz", "seed=0"],
    ]
    assert words(file, ["data.path=[/here/a.nwb,/here/b.nwb,/here/c.nwb]"])[1][1] == "data.path=a.nwb and 2 more"


def test_settings_of_the_data_share_a_column_and_runs_are_called_by_their_folders(tmp_path: Path, capsys):
    runs = [
        saved(tmp_path / "monday", ["data.path=/here/monday.nwb"], 0.3),
        saved(tmp_path / "held", ["data.path=/here/monday.nwb", "data.split.held_out_units=0.25"], 0.2),
        saved(tmp_path / "chaos", ["data=lorenz", "model=pca"], 0.1),
    ]
    folder = sweep(tmp_path / "sweep", [(["model=gpfa"], 0.2)])
    assert main(["compare", *map(str, runs), str(folder), "--out", str(tmp_path / "out")]) == 0
    table, said = table_of(tmp_path / "out"), capsys.readouterr().out
    assert table[0].startswith("| model | data | co_bps |")
    assert table[1].startswith("| lds | monday.nwb held_out_units=0.0 | 0.300")
    assert table[3].startswith("| pca | lorenz | 0.100")
    assert "=null" not in "".join(table)
    assert [line.split()[-1] for line in said.splitlines() if "±" in line][:4] == [
        "monday",
        "held",
        "chaos",
        "sweep/job-0",
    ]
    with (tmp_path / "out" / "table.csv").open() as file:
        assert [row["runs"] for row in csv.DictReader(file)] == ["monday", "held", "chaos", "sweep/job-0"]
    assert "monday.nwb held_out_units=0.0: None of them is a baseline" in said
    assert "s: seconds that a run took" in " ".join(said.split())


def test_a_simulation_drawn_anew_for_each_seed_is_one_setting():
    tied = [[f"seed={seed}", f"+data.simulator_options.seed={seed}"] for seed in (0, 1)]
    assert words(*tied) == [["model=lds", "seed=0"], ["model=lds", "seed=1"]]
    loose = [["seed=0", f"+data.simulator_options.seed={seed}"] for seed in (0, 1)]
    assert words(*loose)[1] == ["model=lds", "data.simulator_options.seed=1", "seed=0"]


def test_runs_of_other_data_are_not_ranked_together_and_the_same_settings_twice_are_two_rows(tmp_path: Path):
    runs = [
        saved(tmp_path / "a", ["model=pca", "data.bin_width_s=0.01"], 0.1),
        saved(tmp_path / "b", ["model=pca", "data.bin_width_s=0.02"], 0.9),
        saved(tmp_path / "c", ["model=pca", "data.bin_width_s=0.01"], 0.3),
    ]
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "out")]) == 0
    assert table_of(tmp_path / "out")[1:] == [
        "| 0.01 | c | **0.300 ± 0.01** | 4.0 |",
        "| 0.01 | a | 0.100 ± 0.01 | 4.0 |",
        "| 0.02 |  | 0.900 ± 0.01 | 4.0 |",
    ]


def test_shifted_labels_stay_a_control(tmp_path: Path):
    runs = [saved(tmp_path / f"{i}", [f"data.shift_behavior={shift}"]) for i, shift in enumerate(("null", "0", "1"))]
    outcomes = [
        {"job": i, "overrides": [], "code": 0, "error": [], "model": "lds", "folder": str(run), "scores": []}
        for i, run in enumerate(runs)
    ]
    rows = compare(_told_apart(outcomes)).rows
    assert [(row.settings, row.jobs) for row in rows] == [(("",), [0]), (("shifted",), [1, 2])]


def test_scores_of_older_runs_and_scores_that_are_none_are_read(tmp_path: Path):
    run = saved(tmp_path / "a", value=None)
    saved(tmp_path / "b", ["model=pca"])
    assert main(["compare", str(run), str(tmp_path / "b")]) == 0


@pytest.mark.parametrize("broken", ["missing", "empty", "unfinished", "damaged"])
def test_wrong_folders_are_refused(broken, tmp_path: Path, capsys):
    run = saved(tmp_path / "runs" / "monday")
    if broken == "unfinished":
        (run / "metrics.json").unlink()
    elif broken == "damaged":
        (run / "metrics.json").write_text("[")
    elif broken == "empty":
        (tmp_path / "empty").mkdir()
    given = {"missing": tmp_path / "runs" / "mondy", "empty": tmp_path / "empty"}.get(broken, run)
    assert main(["compare", str(given)]) == 2
    said = capsys.readouterr().err
    assert {
        "missing": f"Did you mean '{run}'?",
        "empty": "There is neither a sweep nor a run in",
        "unfinished": f"lvmzoo train resume={run}",
        "damaged": "metrics.json cannot be read",
    }[broken] in said
    assert not list(tmp_path.glob("**/comparison-*"))


def test_a_page_that_cannot_be_written_is_said(tmp_path: Path, capsys):
    (tmp_path / "taken").write_text("")
    assert main(["compare", str(saved(tmp_path / "run")), "--out", str(tmp_path / "taken")]) == 2
    assert "Choose another one with --out DIR." in capsys.readouterr().err
