"""Distances of labels: nearest by brute force, in float64, angles on the circle, weights, categories exact."""

from __future__ import annotations

import numpy as np
import pytest

from lvmzoo.batch import Kind, PairSampling, Variable
from lvmzoo.data.labels import Labels
from lvmzoo.data.nearest import NearestLabel
from lvmzoo.data.similar import Similar, read_labels, shared_categories
from lvmzoo.data.windows import Windows
from tests.data.labeled import labeled_trials

RNG = np.random.default_rng(3)


@pytest.mark.parametrize(("kind", "channels"), [(Kind.CONTINUOUS, 1), (Kind.CONTINUOUS, 3), (Kind.CIRCULAR, 1)])
def test_neighbors_are_the_nearest_by_brute_force(kind: Kind, channels: int) -> None:
    values = RNG.uniform(-np.pi, np.pi, (800, channels))
    labels = Labels({"x": Variable(kind, channels)}, {"x": values}, "made")
    bins = np.arange(100, 700)
    points = labels.points(bins)
    queries = labels.points(RNG.integers(0, 800, 400), RNG.normal(size=(400, channels)))
    found = NearestLabel(points, bins)(queries, RNG.random(400))
    distance = np.linalg.norm(queries[:, None] - points[None], axis=-1)
    np.testing.assert_array_equal(np.linalg.norm(queries - labels.points(found), axis=-1), distance.min(1))


def test_angles_meet_across_the_end_of_their_range() -> None:
    angles = np.array([-3.1, -1.0, 0.0, 1.0, 2.0])
    labels = Labels({"x": Variable(Kind.CIRCULAR)}, {"x": angles[:, None]}, "made")
    nearest = NearestLabel(labels.points(np.arange(5)), np.arange(5))
    assert nearest(labels.points(np.array([4]), np.array([[1.1]])), np.zeros(1)) == [0]  # 3.1 is next to -3.1


def test_mixed_positives_are_nearest_of_their_category_by_brute_force() -> None:
    category = RNG.choice(3, size=900, p=[0.7, 0.25, 0.05]).astype(float)
    position, angle = RNG.normal(size=(900, 2)), RNG.uniform(-np.pi, np.pi, (900, 1))
    variables = {"odor": Variable(Kind.CATEGORICAL), "xy": Variable(Kind.CONTINUOUS, 2), "at": Variable(Kind.CIRCULAR)}
    values = {"odor": category[:, None], "xy": position, "at": angle}
    trials = labeled_trials([900], {name: (variables[name].kind, values[name]) for name in variables})
    sampling = PairSampling(0, 1, "behavior", behavior=tuple(variables), delta=0.3, weights=(("at", 2.0),))
    windows = Windows(trials, sampling)
    labels, _ = read_labels([windows], sampling, None)
    similar = Similar(windows, labels[0], shared_categories([windows], labels, sampling.behavior), sampling)
    references = RNG.integers(0, 900, 2000)
    query = similar.ask(np.random.default_rng(0), references)
    found = similar.find(query, RNG.random(2000))
    np.testing.assert_array_equal(category[found], category[references])
    points = np.concatenate([position / np.sqrt(position.var(0).mean()), 2 * np.cos(angle), 2 * np.sin(angle)], 1)
    distance = np.linalg.norm(query.points[:, None] - points[None], axis=-1)
    distance[category[references][:, None] != category[None]] = np.inf
    np.testing.assert_allclose(distance[np.arange(2000), found], distance.min(1), rtol=1e-13)


def test_weights_decide_between_variables() -> None:
    x, y = np.array([0.0, 1.0, 0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0, 1.0, 0.4])
    variables = {"x": Variable(Kind.CONTINUOUS), "y": Variable(Kind.CONTINUOUS)}
    values = {"x": x[:, None], "y": y[:, None]}
    found = []
    for weights in ({"x": 10.0}, {"y": 10.0}):
        labels = Labels(variables, values, "made", weights=weights)
        nearest = NearestLabel(labels.points(np.array([1, 2])), np.array([1, 2]))
        found.append(int(nearest(labels.points(np.array([4])), np.zeros(1))[0]))
    assert found == [2, 1]  # (0, .4) is like (0, 1) in x and like (1, 0) in y


def test_neighbors_are_told_apart_in_double_precision() -> None:
    """Labels that differ by less than single precision: a position in millimeters on a map, a clock."""
    labels = 1e6 + np.arange(2000)[:, None] * 1e-3
    nearest = NearestLabel(labels, np.arange(2000))
    queries = labels[::7] + 4e-4
    np.testing.assert_array_equal(nearest(queries, np.zeros(len(queries))), np.arange(0, 2000, 7))
    both = np.concatenate([labels, labels], 1)
    tree = NearestLabel(both, np.arange(2000))
    np.testing.assert_array_equal(tree(both[::7] + 4e-4, np.zeros(len(queries))), np.arange(0, 2000, 7))
