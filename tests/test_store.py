"""Overrides and YAML become typed experiments, the same as dataclasses built in Python."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lvmzoo import registry
from lvmzoo.config import Experiment, LoggerConfig, TrainerConfig
from lvmzoo.errors import UserError
from lvmzoo.store import compose, config_folder, group_options


def test_defaults_are_those_of_the_dataclasses() -> None:
    composed = compose()
    entry = registry.get("lds")
    expected = Experiment(model=entry.config())
    assert composed.model == expected.model
    assert composed.trainer == TrainerConfig()
    assert composed.logger == LoggerConfig()
    assert dataclasses.replace(composed.data, simulator=None) == expected.data
    assert composed.seed == expected.seed


@pytest.mark.parametrize("name", registry.entries())
def test_every_model_is_an_instance_of_its_own_config(name: str) -> None:
    assert compose([f"model={name}"]).model == registry.get(name).config()


def test_overrides_reach_every_level_with_their_types() -> None:
    experiment = compose(
        [
            "model=lds",
            "model.latents=3",
            "data=nwb",
            "data.path=[a.nwb,b.nwb]",
            "data.window_s=[-0.2,1]",
            "data.unit_columns={quality: [good, mua]}",
            "data.behavior_kinds.heading=circular",
            "data.split.by=folds",
            "trainer=ddp",
            "trainer.learning_rate=1e-2",
            "seed=7",
        ]
    )
    assert experiment.model.latents == 3
    assert experiment.data.path == ["a.nwb", "b.nwb"]
    assert experiment.data.simulator is None
    assert experiment.data.window_s == [-0.2, 1.0]
    assert experiment.data.unit_columns == {"quality": ["good", "mua"]}
    assert experiment.data.behavior_kinds == {"heading": "circular"}
    assert experiment.data.split.by == "folds"
    assert experiment.trainer.devices == 2
    assert experiment.trainer.learning_rate == 0.01
    assert experiment.seed == 7


def test_a_config_folder_of_ones_own_comes_first_and_keeps_the_types(tmp_path: Path) -> None:
    folder = tmp_path / "my configs"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: lorenz\nmodel:\n  latents: 3\n"
    )
    experiment = compose(["experiment=mine"], config_dir=folder)
    assert experiment.model.latents == 3
    assert experiment.data.simulator == "lorenz"
    with pytest.raises(UserError, match="no experiment named 'mine'"):
        compose(["experiment=mine"])


def test_group_options_are_what_composes() -> None:
    assert set(registry.entries()) <= set(group_options("model"))
    for group in ("data", "trainer", "logger", "experiment"):
        assert {path.stem for path in (config_folder() / group).iterdir()} == set(group_options(group))


def test_a_resumed_run_needs_no_path() -> None:
    assert compose(["data=nwb", "resume=runs/a"]).resume == "runs/a"
