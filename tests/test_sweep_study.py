"""What a search tries, and what a stored study is gone on with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lvmzoo.cli import main
from lvmzoo.errors import UserError
from lvmzoo.store import load
from lvmzoo.sweep_study import begin_study

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
    kept = [word for word in overrides if "(" not in word]
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
    with pytest.raises(UserError, match=r"model\.latents was searched and is 8"):
        begin("model.latents=8", "seed=4")
    assert begin(LATENTS, "seed=0", "hydra.sweeper.study_name=other") == ""


def test_choices_and_files_belong_to_the_study(place: Path) -> None:
    np.savez(place / "a.npz", counts=np.ones((40, 3)), bin_width_s=0.05)
    words = ["data=arrays", "data.path=a.npz", "model.dynamics=choice(full,diagonal)"]
    assert begin(*words) == ""
    run(latents=5)
    assert begin(*words)
    with pytest.raises(UserError, match=r"model\.dynamics was choice\(full,diagonal\) and is choice\(full\)"):
        begin(*words[:2], "model.dynamics=choice(full)")
    np.savez(place / "a.npz", counts=np.ones((60, 3)), bin_width_s=0.05)
    with pytest.raises(UserError, match=r"data\.path was {'a\.npz': \d+} and is {'a\.npz': \d+}"):
        begin(*words)


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


def test_values_are_told_apart_together_and_while_they_run() -> None:
    study = optuna.create_study(sampler=UntriedTPESampler(0))
    asked = [study.ask() for _ in range(6)]
    for trial in asked:
        trial.suggest_categorical("kind", ["only"])
        trial.suggest_int("latents", 1, 6)
    assert {trial.params["latents"] for trial in asked} == set(range(1, 7))
    for trial in asked:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    another = study.ask()  # what failed, or was stopped, may be tried again
    another.suggest_categorical("kind", ["only"])
    assert another.suggest_int("latents", 1, 6) in range(1, 7)
    pairs = list(itertools.product(["x", "y"], range(3)))
    study = optuna.create_study(sampler=UntriedTPESampler(1))
    for _ in range(40):
        trial = study.ask()
        found = trial.suggest_categorical("a", ["x", "y"]), trial.suggest_int("b", 0, 2)
        study.tell(trial, float(pairs.index(found)))
    assert {(trial.params["a"], trial.params["b"]) for trial in study.trials} == set(pairs)
