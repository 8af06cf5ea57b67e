"""The chain of regions: what its truth says is in the latents and in the activity, and is as strong as documented."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lvmzoo.batch import Observation
from lvmzoo.config import DataConfig
from lvmzoo.data.load import prepare
from lvmzoo.errors import UserError
from lvmzoo.simulate import get

regions = get("regions")


def latents_of(recording):
    """Return the latents by region, the own ones before those that receive."""
    values = np.asarray(recording.truth["latents"].values, dtype=float)
    labels = recording.truth["latents"].description.split(", ")
    return {
        name: {part: values[:, [label.startswith(f"{name}_{part}") for label in labels]] for part in ("own", "from")}
        for name in "ABC"
        if any(label.startswith(name) for label in labels)
    }


def explained(source, target, lag):
    x, y = source[: len(source) - lag], target[lag:]
    x, y = x - x.mean(0), y - y.mean(0)
    return 1 - ((y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) ** 2).sum() / (y**2).sum()


@pytest.mark.parametrize("seed", [0, 1])
def test_what_a_region_receives_was_sent_by_the_one_before_after_the_delay(seed):
    recording = regions(seed=seed, regions=3, trials=500, units=2)
    found = {name: np.hstack(list(parts.values())) for name, parts in latents_of(recording).items()}
    for source, target, delay_s, dimensions in recording.connections.itertuples(index=False):
        received = latents_of(recording)[target]["from"]
        assert received.shape[1] == dimensions
        by_lag = [explained(found[source], received, lag) for lag in range(8)]
        assert int(np.argmax(by_lag)) == round(delay_s / 0.02)
        assert max(by_lag) == pytest.approx(0.36, abs=0.02)  # the square of MESSAGE
        # The received do not linger: with what was sent taken away, nothing of their past is left.
        lag = round(delay_s / 0.02)
        sent = found[source][: len(received) - lag]
        noise = received[lag:] - sent @ np.linalg.lstsq(sent, received[lag:], rcond=None)[0]
        assert explained(noise, noise, 1) < 0.002
    assert max(explained(found["C"], found["A"], lag) for lag in range(1, 8)) < 0.01
    assert recording.connections["delay_s"].tolist() == [0.04, 0.06]


def test_latents_are_smooth_of_unit_variance_and_apart_within_a_region():
    recording = regions(seed=3, trials=800, units=2)
    for parts in latents_of(recording).values():
        every = np.hstack(list(parts.values()))
        np.testing.assert_allclose(np.cov(every.T), np.eye(every.shape[1]), atol=0.08)
    own = latents_of(recording)["A"]["own"]
    step = [np.corrcoef(own[1:, i], own[:-1, i])[0, 1] for i in range(own.shape[1])]
    np.testing.assert_allclose(step, [0.9, 0.8, 0.7], atol=0.02)


def granger(recording, lags=3):
    """Return the Granger causality of the system that made the recording, from its latents and rates alone.

    A vector autoregression of the true latents, each region's readout by regression, and the Riccati equation solved
    with all regions and without the source. Counts: with the Fisher information at the mean rates.
    """
    from scipy.linalg import solve_discrete_are

    parts = latents_of(recording)
    names = list(parts)
    x = [np.hstack(list(own.values())) for own in parts.values()]
    size, flat = [part.shape[1] for part in x], np.hstack(x)
    n = flat.shape[1]
    past = np.hstack([flat[lags - lag : len(flat) - lag] for lag in range(1, lags + 1)])
    weights = np.linalg.lstsq(past, flat[lags:], rcond=None)[0]
    noise = flat[lags:] - past @ weights
    dynamics = np.eye(n * lags, k=-n)
    dynamics[:n] = weights.T
    innovation = np.zeros_like(dynamics)
    innovation[:n, :n] = noise.T @ noise / len(noise)
    rates = np.asarray(recording.truth["rates"].values, dtype=float)
    of_units = recording.units["region"].to_numpy()
    counts = recording.observation is Observation.COUNTS
    readouts = []
    for place, name in enumerate(names):
        seen = np.log(rates[:, of_units == name]) if counts else rates[:, of_units == name]
        loading = np.linalg.lstsq(np.c_[x[place], np.ones(len(flat))], seen, rcond=None)[0][:-1].T
        scale = np.sqrt(rates[:, of_units == name].mean(0) * 0.02) if counts else np.ones(len(loading))
        first = sum(size[:place])
        full = np.zeros((len(loading), n * lags))
        full[:, first : first + size[place]] = loading * scale[:, None]
        readouts.append(full)

    def spread(without=None):
        """Return the log determinant of each region's innovations, its past and that of the others known."""
        used = np.vstack([c for i, c in enumerate(readouts) if i != without])
        state = solve_discrete_are(dynamics.T, used.T, innovation, np.eye(len(used)))
        return [np.linalg.slogdet(c @ state @ c.T + np.eye(len(c)))[1] for c in readouts]

    whole = spread()
    return {
        (names[i], names[j]): spread(i)[j] - whole[j] for i in range(len(names)) for j in range(len(names)) if i != j
    }


@pytest.mark.parametrize(("observation", "least", "most"), [("gaussian", 0.45, 0.006), ("poisson", 0.25, 0.01)])
def test_edges_are_as_strong_as_documented_and_the_direct_ones_stand_out(observation, least, most):
    found = granger(regions(regions=3, trials=600, observation=observation))
    edges = {("A", "B"), ("B", "C")}
    assert min(found[pair] for pair in edges) > least
    assert max(found[pair] for pair in edges) < 0.6
    assert max(value for pair, value in found.items() if pair not in edges) < most


def test_trials_are_ragged_and_apart():
    recording = regions(trials=50)
    length = (recording.trials["stop_s"] - recording.trials["start_s"]).to_numpy()
    np.testing.assert_allclose(np.unique(length.round(6)), [0.6, 0.7, 0.8, 0.9, 1.0])
    assert length.mean() == pytest.approx(0.8, abs=0.05)
    np.testing.assert_allclose(length / 0.02, np.round(length / 0.02), atol=1e-6)
    pause = recording.trials["start_s"].to_numpy()[1:] - recording.trials["stop_s"].to_numpy()[:-1]
    np.testing.assert_allclose(pause, 0.2)
    even = regions(trials=10, ragged=False).trials
    np.testing.assert_allclose(even["stop_s"] - even["start_s"], 0.8)


def test_a_gaussian_chain_has_noise_of_unit_variance_and_its_regions():
    recording = regions(regions=3, trials=20, units=8, observation="gaussian")
    residual = np.asarray(recording.activity.values) - np.asarray(recording.truth["rates"].values)
    assert residual.std() == pytest.approx(1.0, abs=0.02)
    (session,) = prepare([recording], DataConfig(simulator="regions"))
    assert dict(session.layout.units) == {"A": 8, "B": 8, "C": 8}
    assert session.layout.observation is Observation.CONTINUOUS
    pd.testing.assert_frame_equal(session.connections, recording.connections)
    assert len(set(session.train.lengths)) > 2


def test_trials_of_a_condition_share_their_courses_in_every_region():
    recording = regions(trials=300, conditions=2, ragged=False, units=4, observation="gaussian")
    assert recording.trials["condition"].value_counts().tolist() == [150, 150]
    rates, first = np.asarray(recording.truth["rates"].values), (recording.trials["start_s"] / 0.02).round().astype(int)
    trial = np.stack([rates[i : i + 40] for i in first])
    condition = recording.trials["condition"].to_numpy()
    courses = np.stack([trial[condition == c].mean(0) for c in (0, 1)])
    by_chance = np.stack([trial[c::2].mean(0) for c in (0, 1)])
    assert (courses[0] - courses[1]).var() > 20 * (by_chance[0] - by_chance[1]).var()
    (session,) = prepare([recording], DataConfig(simulator="regions"))
    assert session.layout.conditions == ("0", "1")


def test_drift_is_slow_and_of_each_region_its_own():
    def trends(drift):
        recording = regions(trials=200, drift=drift, units=6, observation="gaussian")
        rates = np.asarray(recording.truth["rates"].values)
        blocks = rates[: len(rates) // 20 * 20].reshape(20, -1, rates.shape[1]).mean(1)
        return blocks - blocks.mean(0)

    assert trends(1.0).var() > 5 * trends(0.0).var()
    a, b = (np.linalg.svd(part, full_matrices=False)[0][:, 0] for part in np.split(trends(1.0), 2, axis=1))
    assert abs(a @ b) < 0.8  # one course each, not the same


def test_wrong_arguments_are_told():
    with pytest.raises(UserError, match="Did you mean 'gaussian'"):
        regions(observation="gausian")
    with pytest.raises(UserError, match="whole bins"):
        regions(delays_s=[0.03])
    with pytest.raises(UserError, match="whole bins"):
        regions(delays_s=[])
    with pytest.raises(UserError, match="2 to 26"):
        regions(regions=1)


@pytest.mark.parametrize(("delay_s", "source"), [(0.03, "A"), (-0.05, "B")])
def test_two_regions_say_which_drives_which(delay_s, source):
    connections = get("two_regions")(trials=2, units=2, delay_s=delay_s).connections
    assert connections.to_dict("records") == [
        {"source": source, "target": "B" if source == "A" else "A", "delay_s": abs(delay_s), "dimensions": 2}
    ]
