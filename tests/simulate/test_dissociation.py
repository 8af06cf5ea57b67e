"""Two of four latents move the hand: the system is the one that is stated, and its file tells all of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lvmzoo.config import DataConfig
from lvmzoo.data.load import prepare
from lvmzoo.data.nwb import read_nwb
from lvmzoo.data.write_nwb import write_nwb
from lvmzoo.simulate.dissociation import OTHER, RELEVANT, dissociation, dissociation_system


def test_latents_move_and_are_seen_as_stated() -> None:
    recording, system = dissociation(3, 60), dissociation_system(3)
    x, y, z = (
        np.asarray(signal.values, dtype=float)
        for signal in (recording.truth["latents"], recording.activity, recording.behavior["hand"])
    )
    fitted = np.linalg.lstsq(x[:-1], x[1:], rcond=None)[0].T
    expected = [RELEVANT, RELEVANT.conjugate(), OTHER, OTHER.conjugate()]
    np.testing.assert_allclose(np.sort_complex(np.linalg.eigvals(fitted)), np.sort_complex(expected), atol=0.005)
    np.testing.assert_allclose(np.cov((x[1:] - x[:-1] @ system.dynamics.T).T), np.eye(4), atol=0.03)
    np.testing.assert_allclose(recording.truth["rates"].values, x @ system.readout.T, atol=1e-4)
    np.testing.assert_allclose(np.cov((y - x @ system.readout.T).T), np.eye(2), atol=0.03)
    np.testing.assert_allclose(np.linalg.lstsq(x, z, rcond=None)[0].T, system.behavior, atol=0.05)
    assert not system.behavior[:, 2:].any()
    seen = [float((x[:, pair] @ system.readout[:, pair].T).var(0).sum()) for pair in (slice(0, 2), slice(2, 4))]
    assert seen[1] > 3 * seen[0]  # what behavior has no part in dominates


def test_equal_seeds_give_equal_recordings_and_others_do_not() -> None:
    one, same, other = (dissociation(seed, 2, 50).activity.values for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_file_holds_all_of_it(tmp_path: Path) -> None:
    written = dissociation(0, 8, 50, units=3)
    write_nwb(written, tmp_path / "out.nwb")
    found = read_nwb(tmp_path / "out.nwb", DataConfig(signal="activity"))
    np.testing.assert_array_equal(found.activity.values[:], written.activity.values)
    for one, other in ((found.behavior, written.behavior), (found.truth, written.truth)):
        assert set(one) == set(other)
        for name in other:
            np.testing.assert_array_equal(one[name].values[:], other[name].values)
    (session,) = prepare([found], DataConfig(bin_width_s=0.05))
    assert session.train.truth["latents"].shape[1] == 4
    np.testing.assert_allclose(session.train.activity[:50], written.activity.values[:50], atol=1e-6)
