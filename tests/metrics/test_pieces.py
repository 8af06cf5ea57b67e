"""Metrics take a recording in pieces: that changes no value, and keeps memory from growing with the recording."""

from __future__ import annotations

import gc
import tempfile
import tracemalloc

import numpy as np
import pytest

from lvmzoo.batch import Observation
from lvmzoo.errors import UserError
from lvmzoo.metrics import METRICS
from lvmzoo.metrics.base import PARTS, Evaluation
from lvmzoo.metrics.behavior_r2 import BehaviorR2
from lvmzoo.metrics.co_bps import CoBps
from lvmzoo.metrics.few_shot_co_bps import FewShotCoBps
from lvmzoo.metrics.fp_bps import FpBps
from lvmzoo.metrics.gathered import Gathered
from lvmzoo.metrics.moments import moments
from lvmzoo.metrics.spread import R2, r2
from lvmzoo.metrics.streamed import fit_affine

from .toy import Full, Gaussian, make_session


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of some tens of bins, and all that is larger in files."""

    def start():
        for name, entries in (("pieces.SHOWN", 4000), ("pieces.ENTRIES", 4000), ("gathered.LARGEST", 3000)):
            monkeypatch.setattr(f"lvmzoo.metrics.{name}", entries)

    return start


STREAMED = (
    "bits_per_spike",
    "co_bps",
    "variance_explained",
    "latent_r2",
    "rate_r2",
    "psth_r2",
    "residual_r2",
    "forecast_r2",
    "cycle_consistency",
    "calibration",
    "input_share",
)


OTHERS = {"co_bps": CoBps(), "few": FewShotCoBps((4,)), "fp": FpBps(), "behavior": BehaviorR2(chance=False)}


@pytest.mark.parametrize("observation", Observation)
def test_pieces_do_not_matter(small_pieces, observation):
    session = make_session(trials=50, observation=observation, missing=True, conditions=2)

    def scores():
        for model in (Full(session), Gaussian(session)):
            evaluation = Evaluation(model, session)
            named = [METRICS[name] for name in (*STREAMED, "activity_r2")] if isinstance(model, Full) else []
            for metric in [*named, *OTHERS.values()]:
                yield from metric(evaluation)

    whole = list(scores())
    small_pieces()
    found = list(scores())
    assert [row.metric for row in found] == [row.metric for row in whole]
    for name in ("value", "spread", "ceiling", "validation", "n"):
        for one, other in zip(found, whole, strict=True):
            expected = getattr(other, name)
            assert getattr(one, name) == (expected if expected is None else pytest.approx(expected, rel=1e-6, abs=1e-9))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_trials(small_pieces):
    small_pieces()
    peaks, bins = [], []
    for trials in (60, 200, 600):  # the first imports what is needed; groups of trials are twenty in both others
        session = make_session(trials=trials, units=(12, 20), conditions=2)
        evaluation = Evaluation(Full(session), session)
        gc.collect()
        tracemalloc.start()
        for name in STREAMED:
            assert METRICS[name](evaluation)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        bins.append(sum(getattr(session, part).n_bins for part in PARTS))
    # Where bins lie, which trial they are of, and sums of each trial; the rates alone are 8 x 32 bytes a bin.
    assert (peaks[2] - peaks[1]) / (bins[2] - bins[1]) < 0.25 * 8 * 32


def test_what_is_large_lies_in_a_file_that_goes_with_the_array(small_pieces, tmp_path, monkeypatch):
    small_pieces()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = np.random.default_rng(0).normal(size=(500, 3))
    gathered = Gathered()
    for piece in np.array_split(rows, 7):
        gathered.add(piece)
    np.testing.assert_array_equal(gathered.array, rows)
    assert gathered.array.flags.writeable
    assert Gathered().array.shape == (0, 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    with pytest.raises(UserError, match="TMPDIR"):
        Gathered().add(rows)


def test_sums_of_pieces_are_those_of_all_bins():
    random = np.random.default_rng(1)
    x, y = random.normal(50, 1, (400, 3)) @ random.normal(size=(3, 3)), random.normal(size=(400, 2))
    y += x[:, :2]
    pieces = np.array_split(np.arange(400), 11)
    fitted = fit_affine((x[rows], y[rows]) for rows in pieces)
    design = np.column_stack([x, np.ones(400)])
    np.testing.assert_allclose(fitted(x), design @ np.linalg.lstsq(design, y)[0], atol=1e-8)
    found = moments(x[rows] for rows in pieces)
    np.testing.assert_allclose(found.mean, x.mean(0))
    np.testing.assert_allclose(found.covariance, np.cov(x.T, bias=True), rtol=1e-9)
    groups = np.repeat(np.arange(40), 10)
    for options in ({}, {"pooled": True}, {"center": np.zeros(2)}):
        sums = R2(**options)
        for rows in pieces:
            sums.add(y[rows], fitted(x)[rows], groups[rows])
        assert sums.result == pytest.approx(r2(y, fitted(x), groups, **options), rel=1e-9)
