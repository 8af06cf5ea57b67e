"""Labels shifted against the activity, as a control."""

from __future__ import annotations

import numpy as np

from lvmzoo.config import DataConfig, SplitConfig
from lvmzoo.data.load import prepare
from lvmzoo.data.shifted import shift_labels
from tests.contract.world import recording


def test_labels_are_rolled_along_the_bins_that_have_one():
    values = np.arange(100.0)[:, None]
    values[[0, 7, 50]] = np.nan
    two = {"a": values, "b": 2 * values}
    found = shift_labels(two, np.array([60, 40]), 3, within_trials=False)
    known = np.isfinite(values[:, 0])
    np.testing.assert_array_equal(np.isfinite(found["a"][:, 0]), known)
    np.testing.assert_array_equal(found["b"], 2 * found["a"])
    moved = found["a"][known, 0]
    start = int(np.flatnonzero(moved == 1.0)[0])
    assert 0.25 * 97 - 1 <= start <= 0.75 * 97 + 1
    np.testing.assert_array_equal(np.roll(moved, -start), values[known, 0])
    assert np.isnan(values[0]).all()  # what was given is left alone


def test_labels_that_repeat_in_every_trial_fit_none_of_them():
    frame = np.tile(np.arange(50.0), 12)[:, None]
    lengths = np.full(12, 50)
    kept = shift_labels({"": frame}, lengths, 0, within_trials=True)[""]
    rolled = (kept.reshape(12, 50)[:, 0] - frame.reshape(12, 50)[:, 0]) % 50
    assert len(np.unique(rolled)) > 6
    np.testing.assert_array_equal(np.sort(kept, axis=0), np.sort(frame, axis=0))


def test_a_session_is_shifted_before_it_is_split():
    split = SplitConfig(validation=0.2, test=0.2, gap_s=0.0)
    plain, one, same, other = (
        prepare([recording()], DataConfig(bin_width_s=0.05, split=split, shift_behavior=seed))[0]
        for seed in (None, 0, 0, 1)
    )

    def labels(session):
        return session.train.behavior["heading"].numpy()

    np.testing.assert_array_equal(labels(one), labels(same))
    assert not np.array_equal(labels(one), labels(other))
    assert any("shifted" in note for note in one.notes)
    assert not any("shifted" in note for note in plain.notes)
    activity = plain.test.activity.numpy()
    np.testing.assert_array_equal(activity, one.test.activity.numpy())
    phase = [np.exp(1j * labels(session)[:, 0]) for session in (plain, one)]
    assert abs(np.mean(phase[0] * phase[1].conj())) < 0.4  # 40 trials of random phase; unshifted it is 1
