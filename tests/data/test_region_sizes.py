"""Regions of an npz file that says only how many units each of them has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lvmzoo.config import DataConfig
from lvmzoo.data.npz import read_npz
from lvmzoo.errors import UserError


def saved(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "sizes.npz", observations=np.random.default_rng(0).normal(size=(4, 6, 5)), **arrays)
    return folder / "sizes.npz"


def test_sizes_name_regions_in_order(tmp_path: Path) -> None:
    recording = read_npz(saved(tmp_path, region_sizes=np.array([3, 2])), DataConfig())
    assert list(recording.units["region"]) == ["region_1"] * 3 + ["region_2"] * 2


def test_named_regions_go_before_sizes(tmp_path: Path) -> None:
    path = saved(tmp_path, region_sizes=np.array([3, 2]), region=np.array(["V1", "V2", "V1", "V2", "V1"]))
    assert list(read_npz(path, DataConfig()).units["region"]) == ["V1", "V2", "V1", "V2", "V1"]


@pytest.mark.parametrize("sizes", [[3, 3], [5, 0], [2.5, 2.5]])
def test_sizes_that_do_not_add_up_are_refused(tmp_path: Path, sizes: list[float]) -> None:
    with pytest.raises(UserError, match="region_sizes"):
        read_npz(saved(tmp_path, region_sizes=np.array(sizes)), DataConfig())
