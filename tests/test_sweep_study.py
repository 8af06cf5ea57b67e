"""What a search tries, and what a stored study is gone on with."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lvmzoo.cli import main
from lvmzoo.errors import UserError
from lvmzoo.store import load
from lvmzoo.sweep_study import begin_study, unreadable

optuna = pytest.importorskip("optuna")
from lvmzoo.sweep_values import UntriedTPESampler  # noqa: E402  it needs Optuna

STORED = ["hydra/sweeper=search_stored", "data=lds"]
LATENTS = "model.latents=range(1,9)"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begin(*overrides: str, first: Sequence[str] = ()) -> str:
    """Begin the study of a search; ``first`` are the values of its first run, where they are no ranges."""
    kept = [word for word in overrides if "(" not in word and "," not in word]
    return begin_study(load([*STORED, *kept, *first], hydra=True), [*STORED, *overrides])


def run(name: str = "lds", **values: float) -> None:
    """Add a run to the study, whose objective is the sum of its values."""
    study = optuna.load_study(study_name=name, storage="sqlite:///runs/search.db")
    trial = study.ask()
    for key, value in values.items():
        trial.suggest_float(key, value, value)
    study.tell(trial, sum(values.values()))


def test_a_study_is_gone_on_with_where_all_but_what_is_searched_is_the_same() -> None:
    assert begin(LATENTS, "seed=3") == ""
    assert begin(LATENTS, "seed=4") == ""  # nothing was run yet
    run(latents=5)
    run(latents=4)
    said = "Going on with the study 'lds' of 2 runs in runs/search.db; the best so far: latents=4"
    assert said in begin(LATENTS, "seed=4")
    assert said in begin("model.latents=range(4,20)", "seed=4", "report=false")
    with pytest.raises(UserError, match=r"data\.bin_width_s was 0\.02 and is 0\.05; seed was 4 and is 0"):
        begin(LATENTS, "data.bin_width_s=0.05")
    with pytest.raises(UserError, match=r"model\.latents was searched \(IntUniformDistribution\) and is 8"):
        begin("model.latents=8", "seed=4")
    with pytest.raises(UserError, match=r"is searched \(LogUniformDistribution\)"):
        begin("model.latents=tag(log,interval(1,9))", "seed=4")
    with pytest.raises(UserError, match=r"; and \d+ more"):
        begin("model.latents=range(1,3)", "model=contrastive", "hydra.sweeper.study_name=lds")
    assert begin(LATENTS, "seed=0", "hydra.sweeper.study_name=other") == ""


def test_choices_belong_to_the_study_however_they_are_written() -> None:
    words = ["model.dynamics=choice(full,diagonal)", "model.latents=1,2"]
    assert begin(*words) == ""
    run(latents=1)
    assert begin("model.dynamics=choice( full, diagonal )", "model.latents=choice(1,2)")
    with pytest.raises(UserError, match=r"one of \['full', 'diagonal'\] and is one of \['full'\]"):
        begin("model.dynamics=choice(full)", words[1])


def test_a_value_that_is_given_is_not_searched(place: Path) -> None:
    (place / "experiment").mkdir()
    (place / "experiment/mine.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      model.latents: range(1,5)\n"
    )
    words = [*STORED, "experiment=mine"]

    def mine(*more: str) -> str:
        return begin_study(load([*words, *more], place, hydra=True), [*words, *more])

    assert mine() == ""
    run(latents=1)
    assert mine()
    with pytest.raises(UserError, match="and is 3"):
        mine("model.latents=3")


def test_files_belong_to_the_study(place: Path) -> None:
    words = ["data=arrays", "data.path=a.npz", LATENTS]
    np.savez(place / "a.npz", counts=np.ones((40, 3)), bin_width_s=0.05)
    (place / "elsewhere").mkdir()
    np.savez(place / "elsewhere/a.npz", counts=np.zeros((40, 3)), bin_width_s=0.05)
    assert begin(*words) == ""
    run(latents=5)
    assert begin(*words)
    with pytest.raises(UserError, match=r"data\.path was .*/a\.npz \(\d+ bytes, .* and is .*/elsewhere/a\.npz"):
        begin(words[0], "data.path=elsewhere/a.npz", LATENTS)
    os.utime(place / "a.npz", (1, 1))
    with pytest.raises(UserError, match="1970"):
        begin(*words)


def test_a_study_of_somebody_else_says_nothing_of_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").mkdir()
    study = optuna.create_study(study_name="a\x1bb", storage="sqlite:///runs/search.db")
    study.set_user_attr("settings", "mine")
    run("a\x1bb", latents=5)
    said = begin(LATENTS, "hydra.sweeper.study_name='a\x1bb'")
    assert "does not say which settings" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (RuntimeError("database is locked"), "in use"),
        (PermissionError(13, "Permission denied"), "Name another file"),
        (RuntimeError("file is not a database"), "damaged"),
    ],
)
def test_what_ails_a_file_of_studies_is_told_apart(cause: Exception, said: str) -> None:
    assert said in str(unreadable("sqlite:///runs/search.db", cause))


def test_settings_that_refer_to_nothing_are_said() -> None:
    for word in ("hydra.sweeper.study_name=${nothing}", "hydra.sweeper.study_name=${data.nothing}"):
        with pytest.raises(UserError, match="nothing"):
            begin(LATENTS, word)
    assert begin("model.latents=range(0,3)") == ""  # a run that fails is left out


def test_a_refused_search_leaves_no_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(LATENTS)
    run(latents=5)
    assert main(["train", "-m", *STORED, LATENTS, "seed=7"]) == 2
    assert "hydra.sweeper.study_name=NAME" in capsys.readouterr().err
    assert [path.name for path in (place / "runs").iterdir()] == ["search.db"]


@pytest.mark.parametrize("seed", range(5))
def test_no_value_is_tried_twice_while_there_are_others(seed: int) -> None:
    study = optuna.create_study(sampler=UntriedTPESampler(seed))
    for _ in range(14):
        trial = study.ask()
        study.tell(trial, abs(trial.suggest_int("latents", 1, 12) - 6))
    assert {trial.params["latents"] for trial in study.trials[:12]} == set(range(1, 13))


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("order", list(itertools.permutations(["latents", "rate", "kind", "only"])))
def test_no_values_are_tried_together_twice(order: Sequence[str], at_once: int) -> None:
    study = optuna.create_study(sampler=UntriedTPESampler(0))

    def suggest(trial: optuna.Trial, name: str) -> None:
        if name == "latents":
            trial.suggest_int(name, 1, 4)
        elif name == "rate":
            trial.suggest_discrete_uniform(name, 0.1, 0.3, 0.1)
        else:
            trial.suggest_categorical(name, ["x", "y"] if name == "kind" else [None])

    for _ in range(24 // at_once):
        trials = [study.ask() for _ in range(at_once)]
        for trial in trials:
            for name in order:
                suggest(trial, name)
        for trial in trials:
            study.tell(trial, trial.params["latents"] + trial.params["rate"])
    assert len({tuple(trial.params[name] for name in order) for trial in study.trials}) == 24


def test_what_runs_is_being_tried_and_what_failed_may_be_tried_again() -> None:
    study = optuna.create_study(sampler=UntriedTPESampler(0))
    asked = [study.ask() for _ in range(6)]
    for trial in asked:
        trial.suggest_categorical("kind", ["only"])
        trial.suggest_int("latents", 1, 6)
    assert {trial.params["latents"] for trial in asked} == set(range(1, 7))
    for trial in asked:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    another = study.ask()
    another.suggest_categorical("kind", ["only"])
    assert another.suggest_int("latents", 1, 6) in range(1, 7)
