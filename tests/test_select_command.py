"""``lvmzoo select``: what it prints and writes, what it refuses, and what an interruption leaves."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvmzoo import selection
from lvmzoo.cli import main
from lvmzoo.completion import complete
from lvmzoo.errors import Interrupted

REGIONS = ["data=two_regions", "+data.simulator_options.trials=20", "+data.simulator_options.units=6"]
QUICK = ["trainer.progress=false", "report=false", "output=out"]
RANKS = ["model=reduced_rank_regression", "model.permutations=0", "model.resamples=0", *REGIONS, *QUICK]
LATENTS = ["model=factor_analysis", "data=lds", "+data.simulator_options.trials=10", *QUICK]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_prints_the_curve_and_writes_it_with_the_refitted_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["select", *RANKS, "model.rank=0,1,2,3,9", "data.split.folds=4"]) == 0
    (folder,) = Path("out").iterdir()
    found = json.loads((folder / "selection.json").read_text())
    assert found["setting"] == "model.rank"
    assert found["values"] == [0, 1, 2, 3, 9]
    assert np.shape(found["scores"]) == (5, 4)
    assert found["scores"][4] == [None] * 4
    assert list(found["left_out"]) == ["9"]
    with (folder / "selection.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["value"] for row in rows] == ["0", "1", "2", "3", "9"]
    assert float(rows[1]["mean"]) == pytest.approx(np.mean(found["scores"][1]))
    assert rows[4]["mean"] == ""
    run = json.loads((folder / "chosen" / "run.json").read_text())
    assert run["config"]["rank"] == found["chosen"]
    assert (folder / "chosen" / "metrics.csv").is_file()
    page = (folder / "selection.html").read_text()
    assert f"model.rank = {found['chosen']}" in page
    assert "compares 0, 1, 2, 3, 4, 5, 6 on these data" in page
    assert 'href="chosen/report.html"' not in page  # report=false: there is none
    printed = capsys.readouterr().out
    assert "1 - NSE of the target region in held-out trials, 4 folds" in printed
    assert "chosen" in printed
    assert "left out:" in printed
    assert f"Selection: {folder / 'selection.html'}" in printed


def test_the_chosen_model_is_fitted_with_the_usual_split(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[Any] = []
    monkeypatch.setattr("lvmzoo.train_command.train_and_print", fitted.append)
    assert main(["select", *RANKS, "model.rank=1,2", "data.split.folds=4", "data.split.test=0.3", "name=mine"]) == 0
    (experiment,) = fitted
    split = experiment.data.split
    assert (split.by, split.test, split.validation, split.folds) == ("blocks", 0.3, 0.15, None)
    assert experiment.output == "out/mine"
    assert experiment.model.rank in (1, 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.latents=4"], "No setting has several values"),
        (["model.latents=4"], "model.latents=4 is one value"),
        (["model.latents=range(6,1)"], "model.latents=range(6,1) holds no value"),
        (["model.latents=range(3,3)"], "range(1,4) is 1, 2 and 3"),
        (["model.latents=range(1,1000000000)"], "holds more than 1000 values"),
        (["model.latents=1,2", "seed=0,1"], "model.latents and seed have several values each"),
        (["model.latents=interval(1,9)"], "is a range to draw from"),
        (["model.latents=2"], "No setting has several values"),
        (["model.latents=range(1,4),9"], "model.latents=range(1,4),9 cannot be read"),
        (["model.latents=few,many"], "model.latents"),
        (["model=lds,gpfa"], "model cannot be chosen by cross-validation"),
        (["data.bin_width_s=0.01,0.02"], "data.bin_width_s changes what is predicted"),
        (["model.latents=1,2", "-m"], "unrecognized arguments: -m"),
        (["model.latents=1,2", "data.split.by=every"], "data.split.by=every does not go with a choice"),
    ],
)
def test_mistakes_are_told(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["select", *([] if words[0].startswith("model=") else ["model=lds"]), *LATENTS[1:], *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("out").exists()


def test_what_was_scored_before_a_signal_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, fits = selection.train, []

    def stopped(*arguments: Any, **named: Any) -> Any:
        fits.append(arguments)
        if len(fits) == 4:
            raise Interrupted(signal.SIGTERM, None)
        return original(*arguments, **named)

    monkeypatch.setattr(selection, "train", stopped)
    assert main(["select", *LATENTS, "model.latents=1,2", "data.split.folds=2", "data.split.gap_s=0"]) == 143
    (folder,) = Path("out").iterdir()
    with (folder / "selection.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["fold_0"]) for row in rows] == [True, True]
    assert [bool(row["fold_1"]) for row in rows] == [True, False]
    assert f"Scores so far: {folder / 'selection.csv'}" in capsys.readouterr().err


def test_its_settings_are_completed() -> None:
    assert "model=gpfa" in complete("lvmzoo select model=g")
    assert complete("lvmzoo sel") == ["select"]
