"""Inputs that look odd and are right: what refuses the bad ones must let them pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from tests.bad_inputs.arrays import COUNTS
from tests.bad_inputs.case import Case
from tests.bad_inputs.configs import HEAD, file
from tests.bad_inputs.nwb import SPEED, changed, linked, virtual
from tests.bad_inputs.plugins import MODEL, plugin
from tests.bad_inputs.runs import COMPARE, RESUME, good
from tests.bad_inputs.runs import changed as run

PRINT = ("--cfg", "job")
SWEEP = """hydra:
  sweeper:
    _target_: hydra._internal.core_plugins.basic_sweeper.BasicSweeper
    params:
      model.latents: 1,2
"""


def config(name: str, text: str, says: str) -> Case:
    case = file(name, HEAD + text, says, more=PRINT)
    return Case(f"good: {name}", case.arguments, says, 0)


def arrays(folder: Path) -> Callable[[], object]:
    from lvmzoo import Estimator

    return lambda: Estimator("pca", latents=2).fit(COUNTS, np.linspace(0, 1, 300)).transform(COUNTS)


def shared_clock(file: h5py.File) -> None:
    """A second series with the timestamps of the first."""
    file.copy(SPEED, file["acquisition"], "other")
    file["acquisition/other"].attrs["object_id"] = "2"
    linked("acquisition/other/timestamps", h5py.SoftLink(f"/{SPEED}/timestamps"))(file)


def npz(folder: Path) -> list[str]:
    np.savez_compressed(folder / "a.npz", counts=np.zeros((20_000, 50), "i8") + COUNTS[0, 0], bin_width_s=0.02)
    return ["inspect", str(folder / "a.npz")]


def transform(folder: Path) -> list[str]:
    return ["transform", str(good() / "run"), str(good() / "session.nwb"), "--out", str(folder / "out.nwb")]


CASES = [
    config("a reference to a setting", "data:\n  smoothing_s: ${data.bin_width_s}\n", "${data.bin_width_s}"),
    config("some aliases", "data:\n  regions: &all [M1, V1]\n  tags: *all\n", "- V1"),
    config("a sweeper that is Hydra's", SWEEP, "seed: 0"),
    config("odd names", "name: '<b> & ../x'\ndata:\n  unit_columns:\n    setup: A\n", "setup: A"),
    Case(
        "good: commands before a job, in one's own words",
        ["train", *PRINT, "hydra/launcher=submitit_slurm", "hydra.launcher.setup=['module load cuda', 'source x']"],
        "seed: 0",
        0,
    ),
    changed("good: a file as it is", lambda file: None, "A run would use", 0),
    changed("good: a link within the file", shared_clock, "other", 0),
    changed("good: put together from itself", virtual("."), "A run would use", 0),
    Case("good: counts that compress well", npz, "A run would use", 0),
    Case("good: arrays in Python", arrays, "", 0),
    Case("good: a run of somebody else", transform, "Wrote", 0),
    run("good: a finished run that is resumed", lambda folder: None, "Run:", RESUME, code=0),
    run("good: a finished run that is compared", lambda folder: None, "Leaderboard:", COMPARE, code=0),
    plugin("good: one more model", MODEL.replace("NAME", "one_more"), "one_more"),
    plugin("good: a broken one that is left out", "1 / 0", "lds", environment=(("LVMZOO_PLUGINS", "off"),)),
]
