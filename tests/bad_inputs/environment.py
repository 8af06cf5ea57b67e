"""Environment variables that say what cannot be."""

from __future__ import annotations

from tests.bad_inputs.case import Case
from tests.bad_inputs.plugins import plugin

TRAIN = ["train", "model=pca", "data=nwb", "data.path=nothing.nwb"]


def variable(name: str, value: str, says: str, arguments: list[str] = TRAIN, code: int = 2) -> Case:
    return Case(f"environment: {name}={value}", arguments, says, code, ((name, value),))


CASES = [
    plugin("neither on nor off", "", "LVMZOO_PLUGINS is 'maybe'", code=2, environment=(("LVMZOO_PLUGINS", "maybe"),)),
    variable("LOCAL_RANK", "first", "LOCAL_RANK is 'first'"),
    variable("COLUMNS", "wide", "There is no file 'nothing.nwb'"),
    variable("HYDRA_FULL_ERROR", "yes", "There is no file 'nothing.nwb'"),
    variable("TMPDIR", "/nowhere", "There is no file 'nothing.nwb'"),
    variable("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0", "There is no file 'nothing.nwb'"),
    variable("CUDA_VISIBLE_DEVICES", "none", "There is no file 'nothing.nwb'"),
]
