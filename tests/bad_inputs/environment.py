"""Environment variables that say what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.bad_inputs.arrays import COUNTS
from tests.bad_inputs.case import Case
from tests.bad_inputs.plugins import plugin

TRAIN = ["train", "model=pca", "data=nwb", "data.path=nothing.nwb"]


def variable(name: str, value: str, says: str, arguments: list[str] = TRAIN, code: int = 2) -> Case:
    return Case(f"environment: {name}={value}", arguments, says, code, ((name, value),))


def in_python(_: Path) -> Callable[[], object]:
    import lvmzoo

    return lambda: lvmzoo.Estimator("pca", latents=2).fit(COUNTS)


CASES = [
    plugin("neither on nor off", "", "LVMZOO_PLUGINS is 'maybe'", code=2, environment=(("LVMZOO_PLUGINS", "maybe"),)),
    variable("LOCAL_RANK", "first", "LOCAL_RANK is 'first'", ["train", "model=pca", "data=lds"]),
    Case(
        "environment: LOCAL_RANK in Python", in_python, "LOCAL_RANK is 'first'", environment=(("LOCAL_RANK", "first"),)
    ),
    variable("COLUMNS", "wide", "There is no file 'nothing.nwb'"),
    variable("HYDRA_FULL_ERROR", "yes", "There is no file 'nothing.nwb'"),
    variable("TMPDIR", "/nowhere", "There is no file 'nothing.nwb'"),
    variable("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0", "There is no file 'nothing.nwb'"),
    variable("CUDA_VISIBLE_DEVICES", "none", "There is no file 'nothing.nwb'"),
]
