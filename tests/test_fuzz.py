"""Whatever configs, overrides, settings and arrays say, they work or are a user's mistake; never a fault.

The suite draws the same examples every time; ``make fuzz`` draws others each time, and 20 times as many.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from lvmzoo.config import DataConfig, SplitConfig, TrainerConfig
from lvmzoo.config_files import check_file
from lvmzoo.data.arrays import from_arrays
from lvmzoo.data.load import prepare
from lvmzoo.data.npz import read_npz
from lvmzoo.errors import UserError
from lvmzoo.given_config import built
from lvmzoo.store import compose

MORE = int(os.environ.get("LVMZOO_FUZZ", "1"))
FUZZ = settings(
    max_examples=200 * MORE,
    derandomize=MORE == 1,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
KEYS = [
    "model",
    "data",
    "trainer",
    "logger",
    "experiment",
    "seed",
    "name",
    "output",
    "resume",
    "model.latents",
    "model.name",
    "data.path",
    "data.bin_width_s",
    "data.split",
    "data.split.by",
    "data.split.test",
    "data.regions",
    "data.window_s",
    "data.simulator_options",
    "trainer.max_epochs",
    "trainer.precision",
    "data.simulator_options.x",
    "hydra.job.name",
    "hydra.sweeper.params",
    "hydra/launcher",
    "+x",
    "+model.x",
    "~seed",
    "~model",
    "+data.unit_columns.x",
    "++data.y",
]
WORDS = [
    "pca",
    "lds",
    "nwb",
    "reach",
    "null",
    "true",
    "1",
    "-1",
    "1e400",
    "nan",
    "[1,2]",
    "{a:1}",
    "${seed}",
    "${x}",
    "${oc.env:HOME}",
    "'",
    '"',
    "[",
    "}",
    "1,2",
    "range(1,3)",
    "\\",
    "@",
    "*",
    "&a",
    "!!x",
    "_target_",
    "=",
    "é",
]
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(WORDS))
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NUMBERS = npst.arrays(
    st.sampled_from(["i8", "u1", "f4", "f8", "?", "c8", "U2"]),
    npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=40),
    elements=None,
)
COUNTS = npst.arrays("i8", st.tuples(st.integers(20, 60), st.integers(1, 3)), elements=st.integers(0, 5))
ARRAYS = ["counts", "activity", "trial_length_bins", "timestep", "bin_width_s", "region", "unit_id", "x"]
WORD = st.sampled_from(WORDS) | st.text(max_size=10)


def works_or_is_refused(action: Callable[[], Any]) -> None:
    """Any exception but a user's error, of three lines that say something, is a fault."""
    refused = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            action()
        except UserError as error:
            refused += [error.what, error.why, error.fix]
    assert all(line.strip() for line in refused), refused


@FUZZ
@given(st.lists(st.tuples(st.sampled_from(KEYS), WORD), min_size=1, max_size=3))
def test_overrides(words: list[tuple[str, str]]) -> None:
    works_or_is_refused(lambda: compose([f"{key}={value}" for key, value in words]))


@FUZZ
@given(
    text=st.lists(
        st.sampled_from([*KEYS, *WORDS, ":", ": ", "\n", "\n  ", "- ", "#"]) | st.text(max_size=5), max_size=30
    )
)
def test_files_of_configs(text: list[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("".join(text), "utf-8", errors="replace")
    works_or_is_refused(lambda: check_file(path))


@FUZZ
@given(
    st.sampled_from([DataConfig, SplitConfig, TrainerConfig]).flatmap(
        lambda config: st.tuples(
            st.just(config),
            st.dictionaries(st.sampled_from([*config.__dataclass_fields__]) | st.text(max_size=4), VALUES, max_size=3),
        )
    )
)
def test_settings_of_a_run(given_: tuple[type, dict[str, Any]]) -> None:
    config, values = given_
    values.pop("split", None)
    works_or_is_refused(lambda: built(config, "settings", values))


@FUZZ
@given(
    activity=NUMBERS | COUNTS,
    behavior=st.none() | NUMBERS,
    bin_width_s=st.floats() | st.just(0.02),
    split=st.fixed_dictionaries(
        {},
        optional={
            "by": st.sampled_from(["blocks", "every", "list", "folds", "x"]),
            "test": st.floats(-1, 2),
            "gap_s": st.none() | st.floats(),
            "every": st.integers(-1, 5),
            "offset": st.integers(-1, 5),
            "fold": st.integers(-1, 9),
            "test_trials": st.lists(st.integers(-2, 5), max_size=3),
            "held_out_units": st.floats() | st.lists(st.integers(-1, 4), max_size=3),
        },
    ),
    data=st.fixed_dictionaries(
        {},
        optional={
            "segment_s": st.floats(0.001, 2),
            "smoothing_s": st.floats(0, 1),
            "trials": st.sampled_from(["auto", "trials", "session", "epochs"]),
            "window_s": st.lists(st.floats(), max_size=3),
            "shift_behavior": st.integers(0, 3),
            "minimum_rate_hz": st.floats(0, 1e4),
        },
    ),
)
@example(activity=np.zeros((0, 0, 0), int), behavior=None, bin_width_s=0.02, split={}, data={})
@example(activity=np.array([[1], [0]] * 9), behavior=None, bin_width_s=1e-119, split={}, data={"smoothing_s": 1.0})
@example(activity=np.ones((2, 1), int), behavior=np.array([["a", "b"]] * 2), bin_width_s=1.0, split={}, data={})
@example(activity=np.ones((2, 1), int), behavior=np.array([1j, 2.0]), bin_width_s=1.0, split={}, data={})
def test_arrays(activity: Any, behavior: Any, bin_width_s: float, split: dict[str, Any], data: dict[str, Any]) -> None:
    def use() -> None:
        recording = from_arrays(activity, behavior, bin_width_s=bin_width_s)
        prepare([recording], DataConfig(split=SplitConfig(**split), **data))

    works_or_is_refused(use)


@FUZZ
@given(
    arrays=st.dictionaries(
        st.sampled_from(
            ["counts", "activity", "trial_length_bins", "timestep", "bin_width_s", "region", "unit_id", "x"]
        ),
        NUMBERS | COUNTS | st.just(np.array([10, 10])),
        min_size=1,
        max_size=4,
    ),
    flips=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=3),
)
@example(arrays={"counts": np.ones((9, 1), int), "region": np.array(0)}, flips=[])
@example(arrays={"counts": np.zeros((0, 3, 0), int)}, flips=[])
def test_npz(arrays: dict[str, np.ndarray], flips: list[tuple[int, int]], tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **dict[str, Any](arrays))
    content = bytearray(buffer.getvalue())
    for place, byte in flips:
        content[place % len(content)] = byte
    (tmp_path / "a.npz").write_bytes(content)
    works_or_is_refused(lambda: read_npz(tmp_path / "a.npz", DataConfig()))
