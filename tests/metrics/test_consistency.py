"""Consistency between embeddings, goodness of fit and times to a second, against what they must be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from lvmzoo.batch import Kind, Variable
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.consistency import Embedded, aligned_consistency, between_sessions, consistency
from lvmzoo.metrics.goodness_of_fit import GoodnessOfFit
from lvmzoo.metrics.within_a_second import WithinASecond
from tests.metrics.toy import Contrasting, make_session

PARTS = {"train": 4000, "test": 1500}
CIRCLE = Variable(Kind.CIRCULAR)


def ring(seed, *, turn=0.0, noise=0.05, twice=False):
    """Return points on a ring at a phase that drifts, and the phase."""
    random = np.random.default_rng(seed)
    latents, labels = {}, {}
    for part, bins in PARTS.items():
        phase = np.cumsum(random.normal(0, 0.15, bins)) % (2 * np.pi)
        angle = (2 if twice else 1) * phase + turn
        points = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
        latents[part], labels[part] = points + noise * random.normal(size=points.shape), phase[:, None]
    return Embedded(latents, labels, {part: np.array([bins]) for part, bins in PARTS.items()})


def test_consistency_is_the_r2_of_an_affine_map_on_test_bins():
    random = np.random.default_rng(0)
    one = {part: random.normal(size=(bins, 3)) for part, bins in PARTS.items()}
    mix, noise = random.normal(size=(3, 4)), 0.7
    other = {part: x @ mix + 2 + noise * random.normal(size=(len(x), 4)) for part, x in one.items()}
    fitted = LinearRegression().fit(one["train"], other["train"])
    truth, predicted = other["test"], fitted.predict(one["test"])
    expected = 1 - ((truth - predicted) ** 2).sum() / ((truth - truth.mean(0)) ** 2).sum()
    assert consistency(one, other) == pytest.approx(expected, abs=1e-12)
    assert consistency(other, one) != pytest.approx(expected, abs=1e-3)  # a direction has a value of its own
    rotated = {part: x @ np.linalg.qr(mix[:, :3])[0] for part, x in one.items()}
    assert consistency(one, rotated) == pytest.approx(1.0)


def test_sessions_are_aligned_on_their_labels():
    """Rings whose phases differ and that are turned agree; a ring that winds twice does not."""
    same = aligned_consistency(ring(0), ring(1, turn=2.0), CIRCLE)
    assert same.value > 0.97
    assert np.median(same.null) < 0.5 < same.value
    assert same.null.max() < same.value
    assert aligned_consistency(ring(0), ring(1, twice=True), CIRCLE).value < 0.1


@pytest.mark.parametrize(
    ("labels", "variable"),
    [
        (lambda phase: np.floor(phase / (2 * np.pi) * 5), Variable(Kind.CATEGORICAL, 1, tuple("abcde"))),
        (lambda phase: phase, Variable(Kind.CONTINUOUS)),
        (lambda phase: np.hstack([np.cos(phase), np.sin(phase)]), Variable(Kind.CONTINUOUS, 2)),
    ],
    ids=["categories", "numbers", "two channels"],
)
def test_every_kind_of_label_aligns(labels, variable):
    one, other = (e._replace(labels={p: labels(x) for p, x in e.labels.items()}) for e in (ring(0), ring(1, turn=1.0)))
    assert aligned_consistency(one, other, variable).value > (0.8 if variable.channels == 2 else 0.95)


def test_too_few_labels_in_common_give_no_value():
    nowhere = ring(1)._replace(labels={part: np.full((bins, 1), np.nan) for part, bins in PARTS.items()})
    assert np.isnan(aligned_consistency(ring(0), nowhere, CIRCLE).value)


def test_a_run_of_several_sessions_says_how_consistent_they_are():
    one = make_session()
    evaluations = [Evaluation(Contrasting(one), one), Evaluation(Contrasting(one), one)]
    scores = between_sessions(evaluations)
    assert [(score.session, score.target) for score in scores] == [("toy", "to toy")] * 2
    assert all(score.value == pytest.approx(1.0) for score in scores)
    assert all(score.spread is not None and score.chance < 1.0 and score.p == 1 / 21 for score in scores)
    assert "aligned on heading" in scores[0].note
    assert "aligned on velocity" in between_sessions(evaluations, ("velocity",))[0].note
    assert between_sessions(evaluations[:1]) == []


def test_goodness_of_fit_is_zero_bits_for_a_constant_embedding_and_more_where_labels_are_seen():
    session = make_session(timed=True)
    model = Contrasting(session)
    (row,) = GoodnessOfFit()(Evaluation(model, session))
    assert row.metric == "goodness_of_fit_behavior"
    assert row.unit == "bits"
    assert row.value > 5 * row.spread > 0
    with torch.no_grad():
        model.projection.zero_()
    (blind,) = GoodnessOfFit()(Evaluation(model, session))
    assert blind.value == pytest.approx(0.0, abs=1e-6)


def test_a_time_is_right_to_a_second():
    session = make_session(timed=True)
    truth = {part: getattr(session, part).behavior["movie_s"] for part in ("train", "validation", "test")}
    plain = Evaluation(None, session)
    known = {p: truth[p].numpy()[plain.bins(p)].astype(float) for p in truth}
    off = np.random.default_rng(0).uniform(size=len(known["test"])) < 0.3
    seen = {**known, "test": known["test"] + 5.0 * off[:, None]}
    rows = {row.metric: row for row in WithinASecond()(Evaluation(None, session, 0, {"latents": seen}))}
    assert set(rows) == {"behavior_within_1s", "behavior_within_1s_knn"}
    assert rows["behavior_within_1s"].value == pytest.approx(1 - off.mean(), abs=1e-9)
    assert rows["behavior_within_1s"].target == "movie_s"
    assert WithinASecond()(Evaluation(None, make_session(), 0, {"latents": seen})) == []
