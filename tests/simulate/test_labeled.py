"""Simulators of labeled activity: label manifolds, and a movie seen in two modalities."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from lvmzoo.batch import Kind
from lvmzoo.config import DataConfig
from lvmzoo.data.files import load
from lvmzoo.data.load import prepare
from lvmzoo.errors import UserError
from lvmzoo.simulate.manifolds import manifolds
from lvmzoo.simulate.movie import DECAY_S, FEATURES, FRAME_HZ, RISE_S, calcium, movie


def values(signal):
    return np.asarray(signal.values, dtype=float)


@pytest.mark.parametrize("labels", ["continuous", "mixed"])
def test_latents_lie_around_the_sine_that_their_label_sets(labels):
    recording = manifolds(seed=1, labels=labels, bins=40_000, units=2)
    u, z = values(recording.behavior["label"]), values(recording.truth["latents"])
    k = values(recording.behavior["context"]) if labels == "mixed" else np.zeros_like(u)
    assert set(recording.behavior) == ({"label", "context"} if labels == "mixed" else {"label"})
    residual = z - np.stack([u, np.where(k == 0, 2 * np.sin(u), 5 - 2 * np.sin(u))], 1)
    near = np.abs(np.abs(np.sin(u)) - 0.5) < 0.05
    np.testing.assert_allclose(residual[near].mean(0), 0, atol=0.03)
    np.testing.assert_allclose(residual[near].var(0), [0.45, 0.15], rtol=0.06)


def test_discrete_latents_are_five_clouds_on_a_circle():
    recording = manifolds(seed=2, labels="discrete", bins=20_000, units=2)
    k, z = values(recording.behavior["context"]), values(recording.truth["latents"])
    assert recording.behavior["context"].kind is Kind.CATEGORICAL
    assert recording.behavior["context"].levels == ("0", "1", "2", "3", "4")
    for level in range(5):
        angle = 2 * np.pi * level / 5
        np.testing.assert_allclose(z[k == level].mean(0), [5 * np.sin(angle), 5 * np.cos(angle)], atol=0.12)
        assert (z[k == level].var(0) > 0.4).all()
        assert (z[k == level].var(0) < 3.2).all()


def test_bins_of_manifolds_are_independent_and_rates_bend():
    """No bin tells of the next one, and no affine map takes latents to log rates."""
    recording = manifolds(seed=0, bins=20_000)
    z, rates = values(recording.truth["latents"]), values(recording.truth["rates"])
    assert abs(np.corrcoef(z[1:, 0], z[:-1, 0])[0, 1]) < 0.03
    np.testing.assert_allclose(rates.mean(0), 2.0, rtol=1e-4)
    explained = LinearRegression().fit(z, np.log(rates)).score(z, np.log(rates))
    assert explained < 0.6


def test_wrong_labels_and_modalities_are_named():
    with pytest.raises(UserError, match="Did you mean 'discrete'"):
        manifolds(labels="discrte")
    with pytest.raises(UserError, match="Did you mean 'calcium'"):
        movie(modality="calcum")
    with pytest.raises(UserError, match="cannot be simulated"):
        movie(movie_s=0.5)


def test_the_movie_repeats_and_the_animal_does_not():
    recording = movie(seed=0, units=3, repeats=4, movie_s=10.0)
    latents = values(recording.truth["latents"]).reshape(4, 300, -1)
    shown, states = latents[..., :FEATURES], latents[..., FEATURES:]
    np.testing.assert_array_equal(shown, np.broadcast_to(shown[:1], shown.shape))
    assert abs(np.corrcoef(states[0].ravel(), states[1].ravel())[0, 1]) < 0.4
    time = values(recording.behavior["movie_s"]).reshape(4, 300)
    np.testing.assert_allclose(time, np.broadcast_to(np.arange(300) / FRAME_HZ, time.shape), atol=1e-5)
    assert list(recording.trials["start_s"]) == [0.0, 10.0, 20.0, 30.0]


def test_the_first_units_are_the_same_however_many_there_are():
    few, many = (values(movie(seed=3, units=n, repeats=2, movie_s=5.0).truth["rates"]) for n in (2, 7))
    np.testing.assert_array_equal(few, many[:, :2])


def test_both_modalities_are_two_sessions_of_one_movie_with_other_units():
    options = {"units": 4, "repeats": 5, "movie_s": 4.0, "modality": "both"}
    config = DataConfig(simulator="movie", simulator_options=options, bin_width_s=1 / FRAME_HZ)
    recordings = load(config)
    assert [recording.session for recording in recordings] == ["movie_calcium", "movie_spikes"]
    sessions = prepare(recordings, config)
    assert [session.layout.observation for session in sessions] == ["continuous", "counts"]
    rates = [session.test.truth["rates"].numpy().mean(0) for session in sessions]
    assert np.ptp(rates[0] / rates[1]) > 0.1  # not the same units seen twice
    one, two = (values(recording.truth["latents"])[:, :FEATURES] for recording in recordings)
    np.testing.assert_array_equal(one, two)
    for session in sessions:  # a frame of the movie is a bin: nothing is interpolated
        assert list(session.train.lengths) == [120] * len(session.train)
        np.testing.assert_allclose(
            session.train.behavior["movie_s"][:120, 0].numpy(), np.arange(120) / FRAME_HZ, atol=1e-5
        )


def test_fluorescence_is_one_transient_a_spike():
    counts = np.zeros((300, 1))
    counts[[30, 200]] = 1
    trace = calcium(counts)[:, 0]
    assert trace[30:60].max() == pytest.approx(1.0)
    assert trace[:30].max() == 0.0
    times = np.arange(100) / FRAME_HZ
    transient = np.exp(-times / DECAY_S) - np.exp(-times / RISE_S)
    np.testing.assert_allclose(trace[30:130], transient / transient.max(), atol=1e-9)
    noisy = calcium(np.zeros((20_000, 1)), 0.8, np.random.default_rng(0))
    assert noisy.std() == pytest.approx(0.8, rel=0.02)


def test_expected_fluorescence_is_the_mean_of_the_traces():
    recording = movie(seed=0, units=40, repeats=3, modality="calcium")
    expected, traces = values(recording.truth["rates"]), values(recording.activity)
    assert abs((traces - expected).mean()) < 0.02
    slope = (expected * traces).sum() / (expected**2).sum()
    assert slope == pytest.approx(1.0, abs=0.02)
