"""Mistakes on the command line: what a user is told was written down first, then the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from lvmzoo.cli import main

WRONG = {
    "a seed below zero": (
        ["seed=-1"],
        "seed=-1 is not possible.",
        "It has to be at least 0.",
        "Write seed=VALUE",
    ),
    "segments without a length": (
        ["data.segment_s=0"],
        "data.segment_s=0 is not possible.",
        "positive length",
        "data.segment_s=5",
    ),
    "smoothing by less than nothing": (
        ["data.smoothing_s=-0.1"],
        "data.smoothing_s=-0.1 is not possible.",
        "It has to be at least 0.",
        "Write data.smoothing_s=VALUE",
    ),
    "no file at all": (
        ["data.path=[]"],
        "data.path is an empty list.",
        "NWB or npz file",
        "Name at least one file",
    ),
    "unknown setting of a model": (
        ["model=lds", "model.latens=8"],
        "There is no setting named 'model.latens'.",
        "The settings of model=lds are: ",
        "Did you mean 'model.latents'?",
    ),
    "unknown setting of the trainer": (
        ["trainer.acelerator=gpu"],
        "There is no setting named 'trainer.acelerator'.",
        "The settings of trainer are: max_epochs, max_steps, ",
        "Did you mean 'trainer.accelerator'?",
    ),
    "setting without its group": (
        ["max_epochs=50"],
        "There is no setting named 'max_epochs'.",
        "The settings of the experiment are: model, data, ",
        "Did you mean 'trainer.max_epochs'?",
    ),
    "setting in the wrong group": (
        ["model.max_epochs=50"],
        "There is no setting named 'model.max_epochs'.",
        "The settings of model=lds are: ",
        "Did you mean 'trainer.max_epochs'?",
    ),
    "setting added behind the type's back": (
        ["+trainer.speed=3"],
        "There is no setting named 'trainer.speed'.",
        "The settings of trainer are: ",
        "",
    ),
    "a target to instantiate": (
        ["model._target_=os.system"],
        "There is no setting named 'model._target_'.",
        "The settings of model=lds are: ",
        "",
    ),
    "unknown model": (
        ["model=ldss"],
        "There is no model named 'ldss'.",
        "Available: ",
        "Did you mean 'lds'?",
    ),
    "unknown data": (
        ["data=nbw"],
        "There is no data named 'nbw'.",
        "Available: arrays, dissociation, lds, lorenz, movie, nwb, reach, regions, spiral, two_regions, van_der_pol.",
        "Did you mean 'nwb'?",
    ),
    "unknown experiment": (
        ["experiment=my_own_thing"],
        "There is no experiment named 'my_own_thing'.",
        "Available: ",
        "Add --config-dir DIR to use a file experiment/my_own_thing.yaml of your own.",
    ),
    "unknown group": (
        ["modle=lds"],
        "There is no setting named 'modle'.",
        "The settings of the experiment are: model, data, ",
        "Did you mean 'model'?",
    ),
    "text for a number": (
        ["trainer.max_epochs=many"],
        "trainer.max_epochs=many has the wrong type.",
        "trainer.max_epochs must be a whole number or null",
        "Write it like trainer.max_epochs=10; the default is null.",
    ),
    "fraction for a whole number": (
        ["seed=1.5"],
        "seed=1.5 has the wrong type.",
        "seed must be a whole number",
        "Write it like seed=0; the default is 0.",
    ),
    "one value for a list": (
        ["data.regions=V1"],
        "data.regions=V1 has the wrong type.",
        "data.regions must be a list of texts or null",
        "Write it like data.regions=[V1]; the default is null.",
    ),
    "value for a group": (
        ["data.split=folds"],
        "data.split=folds has the wrong type.",
        "data.split is a group of settings: by, validation, test, ",
        "Write one of them, such as data.split.by=blocks.",
    ),
    "path left out": (
        ["data=nwb"],
        "The setting data.path is missing.",
        "It has no default: only you can say it.",
        "Add data.path=FILE.nwb to the command.",
    ),
    "name without a value": (
        ["model"],
        "'model' is not an override.",
        "Overrides are written name=value, without spaces around the equals sign.",
        "Write model=VALUE, or leave it out.",
    ),
    "open bracket": (
        ["data.window_s=[0,1"],
        "'data.window_s=[0,1' cannot be read.",
        "Brackets, braces and quotes must be closed; ",
        "Write data.window_s=[1,2] for a list, ",
    ),
    "a sweep without -m": (
        ["seed=0,1"],
        "seed=0,1 names several values.",
        "One run takes one value; several make a sweep.",
        "Add -m to run one after the other, ",
    ),
    "a device that does not exist": (
        ["trainer.accelerator=gpx"],
        "There is no choice of trainer.accelerator named 'gpx'.",
        "Available: auto, cpu, cuda, gpu, mps.",
        "Did you mean 'gpu'?",
    ),
    "a count below one": (
        ["trainer.max_epochs=0"],
        "trainer.max_epochs=0 is not possible.",
        "It has to be at least 1.",
        "Write trainer.max_epochs=VALUE with a value from 1 upwards, or leave it at its default.",
    ),
    "a setting deleted": (
        ["~model.latents"],
        "~model.latents cannot be deleted.",
        "Every setting of a model and of the trainer has to have a value.",
        "Write model.latents=VALUE instead, ",
    ),
    "a reference to nothing": (
        ["model.latents=${latents}"],
        "model.latents=${latents} refers to something that is not there.",
        "Interpolation key 'latents' not found.",
        "Name an existing setting, ",
    ),
    "the name of another model": (
        ["model=lds", "model.name=reduced_rank_regression"],
        "model.name='reduced_rank_regression' does not match the chosen model.",
        "The fields of a model come with its choice; its name is not to be set by itself.",
        "Write model=reduced_rank_regression instead.",
    ),
    "dashes": (
        ["--model=lds"],
        "lvmzoo train: unrecognized arguments: --model=lds.",
        "Settings are written name=value, without dashes; ",
        "`lvmzoo train --help` shows examples.",
    ),
    "no folder of configs": (
        ["--config-dir", "nowhere", "experiment=mine"],
        "The folder of configs 'nowhere' does not exist.",
        "--config-dir takes a folder that holds experiment/NAME.yaml and the like.",
        "Check the path.",
    ),
    "a value that only a sweep finds": (
        ["-m", "model=lds,ldss", "seed=0,1"],
        "There is no model named 'ldss'.",
        "Available: ",
        "Did you mean 'lds'?",
    ),
}

FILES = {
    "wrong key": (
        "# @package _global_\nmodel:\n  latens: 3\n",
        "There is no setting named 'model.latens'.",
        "The settings of model=lds are: ",
        "Did you mean 'model.latents'?",
    ),
    "wrong type": (
        "# @package _global_\nmodel:\n  latents: few\n",
        "model.latents in experiment/mine.yaml has the wrong type.",
        "model.latents must be a whole number",
        "Write it like model.latents=",
    ),
    "not YAML": (
        "# @package _global_\nmodel:\n  latents: [3\n",
        "mine.yaml, line 4 is not valid YAML.",
        "",
        "Check the indentation (spaces, no tabs), colons and brackets of that line.",
    ),
    "alias bomb": (
        "a: &a [0]\n" + "".join(f"b{i}: [*a, *a, *a]\n" for i in range(30)),
        "mine.yaml uses 90 YAML aliases (*name).",
        "More than 50 are refused: nested aliases can fill the memory from a tiny file.",
        "Write the values out.",
    ),
}


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The three lines on standard error, and nothing but them."""
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert "Traceback" not in captured.err
    assert len(lines) == 3, captured.err
    return lines


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LVMZOO_DEBUG", raising=False)
    return tmp_path


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_override_is_explained_in_three_lines(
    mistake: str, capsys: pytest.CaptureFixture[str], empty_folder: Path
) -> None:
    overrides, what, why, fix = WRONG[mistake]
    assert main(["train", *overrides]) == 2
    lines = told(capsys)
    assert what in lines[0]
    assert why in lines[1]
    assert fix in lines[2]
    assert not list(empty_folder.rglob("*.*")), "nothing is written before the mistake is found"


@pytest.mark.parametrize("mistake", FILES)
def test_a_wrong_config_file_is_explained_in_three_lines(
    mistake: str, capsys: pytest.CaptureFixture[str], empty_folder: Path
) -> None:
    text, what, why, fix = FILES[mistake]
    (empty_folder / "mine" / "experiment").mkdir(parents=True)
    (empty_folder / "mine" / "experiment" / "mine.yaml").write_text(text)
    assert main(["train", "--config-dir", "mine", "experiment=mine", "model=lds"]) == 2
    lines = told(capsys)
    assert what in lines[0]
    assert why in lines[1]
    assert fix in lines[2]
