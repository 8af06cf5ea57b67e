"""Promises of every config file: the generated ones equal their dataclasses, and every one composes."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import yaml

from lvmzoo import registry
from lvmzoo.config import DataConfig, Experiment, LoggerConfig, SplitConfig, TrainerConfig
from lvmzoo.errors import UserError
from lvmzoo.fields import describe_fields
from lvmzoo.models.base import GradientModel
from lvmzoo.store import compose, config_folder, load, parse
from lvmzoo.train import train

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [*(entry.config for entry in registry.entries().values()), DataConfig, Experiment, LoggerConfig]
CONFIGS += [SplitConfig, TrainerConfig]

FILES_OF = {  # the recording that an experiment is made for; "": a simulated one
    "contrastive_reach": "m1_reach_100ms.npz",
    "contrastive_workflow": "mouse_head_direction.nwb",
    "dlag_ground_truth": "ground_truth_dlag.npz",
    "head_direction": "mouse_head_direction.nwb",
    "head_direction_family": "mouse_head_direction.nwb",
    "lorenz": "",
    "movie": "",
    "psid_dissociation": "",
    "psid_reach": "m1_reach_100ms.npz",
    "reach_family": "m1_reach_100ms.npz",
    "reach_lds": "",
    "regions_family": "",
    "simulated_reach_family": "",
    "v1v2": "v1v2_residuals.npz",
}


def generated() -> dict[Path, str]:
    spec = importlib.util.spec_from_file_location("write_configs", ROOT / "scripts" / "write_configs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.files()


GENERATED = generated()


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_file_is_what_the_dataclass_says(path: Path) -> None:
    assert path.read_text() == GENERATED[path], "run: python scripts/write_configs.py"


def test_every_model_file_belongs_to_a_model() -> None:
    assert {path.stem for path in (ROOT / "configs" / "model").iterdir()} <= set(registry.entries())


@pytest.mark.parametrize("name", registry.entries())
def test_the_config_round_trips_through_yaml(name: str) -> None:
    config = registry.get(name).config()
    plain = yaml.safe_load(yaml.safe_dump(dataclasses.asdict(config)))
    assert type(config)(**plain) == config


@pytest.mark.parametrize("name", registry.entries())
def test_an_unknown_key_is_refused_with_the_nearest_name(name: str) -> None:
    field = dataclasses.fields(registry.get(name).config)[1].name
    with pytest.raises(UserError, match=f"Did you mean 'model.{field}'"):
        compose([f"model={name}", f"model.{field}x=1"])


@pytest.mark.parametrize("group", ["data", "trainer", "logger", "experiment"])
def test_every_choice_composes(group: str) -> None:
    for path in (config_folder() / group).iterdir():
        assert isinstance(compose([f"{group}={path.stem}", "data.path=some.nwb"]), Experiment), path


@pytest.mark.parametrize("name", FILES_OF)
def test_every_experiment_runs(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Shortened, on the recording that it is made for."""
    recording = FILES_OF[name]
    overrides = [f"experiment={name}", f"output='{tmp_path}'", "trainer.progress=false"]
    if recording:
        overrides.append(f"data.path='{request.getfixturevalue('shared_data') / recording}'")
    config = compose(overrides).model
    limit = "max_steps=5" if issubclass(registry.get(config.name).model, GradientModel) else "max_epochs=2"
    fewer = {"permutations": 19, "resamples": 10}
    overrides += [f"model.{field}={number}" for field, number in fewer.items() if hasattr(config, field)]
    if name == "lorenz":
        overrides.append("data.simulator_options.trials=4")  # of each of 65 conditions
    run = train(compose([*overrides, f"trainer.{limit}"]))
    assert run.scores or run.findings  # an experiment may set no trial apart
    assert run.folder is not None
    assert (run.folder / "report.html").exists()


@pytest.mark.parametrize(
    "path", sorted((config_folder() / "family").glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_every_member_of_a_family_composes(path: Path) -> None:
    """The settings of a model in a comparison, which its experiment sweeps over."""
    name = path.parent.name
    experiment = name if name == "lorenz" else f"{name}_family"
    composed = compose([f"experiment={experiment}", f"family/{name}={path.stem}", "data.path=some.nwb"])
    assert composed.model.name in ("lds" if path.stem == "poisson_lds" else path.stem)
    swept = yaml.safe_load((config_folder() / "experiment" / f"{experiment}.yaml").read_text())["hydra"]["sweeper"]
    assert path.stem in swept["params"][f"family/{name}"].split(",")


def test_every_experiment_is_run() -> None:
    assert {path.stem for path in (config_folder() / "experiment").iterdir()} == set(FILES_OF)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_field_says_what_it_means(config: type) -> None:
    silent = [field.name for field in describe_fields(config) if not field.meaning and field.name != "name"]
    assert silent == []


@pytest.mark.parametrize("name", registry.entries())
def test_every_model_has_settings_worth_trying(name: str) -> None:
    composed = load([f"sweep={name}"], hydra=True)
    assert composed.model.name == name
    tried = parse([f"{key}={values}" for key, values in composed.hydra.sweeper.params.items()])
    assert all(override.is_sweep_override() for override in tried)
    named = {o.get_key_element(): list(o.sweep_string_iterator()) for o in tried if o.is_discrete_sweep()}
    for place in (0, -1):
        compose([f"sweep={name}", *(f"{key}={values[place]}" for key, values in named.items())])


def test_searches_prune_the_models_that_are_fitted_by_gradient() -> None:
    for name, entry in registry.entries().items():
        assert bool(compose([f"sweep={name}"]).prune) == issubclass(entry.model, GradientModel), name
