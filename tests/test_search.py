"""A search finds how many latents were planted, and a second call goes on with the study that the first one stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lvmzoo.cli import main

optuna = pytest.importorskip("optuna")

PLANTED = 6
WORLD = ["model=lds", "data=lds", f"data.simulator_options={{latents: {PLANTED}, observation: gaussian}}"]
SEARCH = ["hydra/sweeper=search_stored", "model.latents=range(1,13)", "data.split.validation=0.2", "report=false"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_search_finds_the_planted_latents_and_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "-m", *WORLD, *SEARCH, "trainer.threads=1"]
    assert main([*words, "hydra.sweeper.n_trials=20"]) == 0
    assert f"Best of the search: model.latents={PLANTED} " in capsys.readouterr().out
    (first,) = Path("runs").glob("sweep-*")
    assert yaml.safe_load((first / "optimization_results.yaml").read_text())["best_params"] == {
        "model.latents": PLANTED
    }
    assert main([*words, "hydra.sweeper.n_trials=2"]) == 0
    study = optuna.load_study(study_name="lds", storage="sqlite:///runs/search.db")
    assert len(study.trials) == 22
    assert all(trial.state.is_finished() for trial in study.trials)
    (second,) = set(Path("runs").glob("sweep-*")) - {first}
    outcomes = [json.loads(path.read_text()) for path in second.glob("job-*.json")]
    assert len(outcomes) == 2
    assert study.best_params == {"model.latents": PLANTED}
