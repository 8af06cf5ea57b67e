"""Pairs of several sessions: labels matched across them, time within, shares and threads that change nothing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from lvmzoo.batch import Kind, PairSampling, Variable
from lvmzoo.data.ahead import Ahead
from lvmzoo.data.labels import Labels, label_scales
from lvmzoo.data.pairs import PairSampler
from lvmzoo.data.trials import Trials
from lvmzoo.errors import UserError
from tests.data.labeled import labeled_trials

RNG = np.random.default_rng(5)
FAR = 100_000  # bins of one session are told from those of the next by this much
LENGTHS = ((700, 300), (400,), (250, 20, 330))


def sessions(kinds: dict[str, tuple[Kind, int]], lengths: Sequence[Sequence[int]] = LENGTHS) -> list[Trials]:
    """Return sessions with random labels, whose one unit holds the bin, and the session in its hundred thousands."""
    made = []
    for number, own in enumerate(lengths):
        bins = sum(own)
        draws = {
            Kind.CONTINUOUS: RNG.normal(size=(bins, 2)) + [0, 50, 3][number],
            Kind.CIRCULAR: RNG.uniform(-np.pi, np.pi, (bins, 2)),
            Kind.CATEGORICAL: RNG.integers(0, 3, (bins, 2)).astype(float),
        }
        labels = {name: (kind, draws[kind][:, :channels].copy()) for name, (kind, channels) in kinds.items()}
        activity = (np.arange(bins, dtype=np.int32) + FAR * number)[:, None]
        made.append(labeled_trials(own, labels, activity, session=f"day {number}"))
    return made


def triples(
    sampler: PairSampler, kind: str, step: int = 0, rank: int = 0, world: int = 1, before: int = 0
) -> np.ndarray:
    """Return session and bin of references, positives and negatives: (role, pair, 2)."""
    batch = sampler.shard(step, rank, world)
    found = np.concatenate([each.activity[:, before, 0].numpy() for each in (batch, *batch.others)])
    return np.stack(divmod(found[batch.pairs[kind].numpy()], FAR), -1)


def test_sessions_come_together_and_time_stays_within() -> None:
    made = sessions({"x": (Kind.CONTINUOUS, 1)})
    sampler = PairSampler(made, PairSampling(3, 4, "hybrid", 5, ("x",)), 4000, 0)
    batch = sampler.draw(2)
    assert [each.layout.session for each in (batch, *batch.others)] == ["day 0", "day 1", "day 2"]
    assert not any(each.others or each.pairs for each in batch.others)
    reference, positive, negative = triples(sampler, "time", 2, before=3)
    np.testing.assert_array_equal(positive - reference, np.tile([0, 5], (12_000, 1)))
    for group in (reference, positive, negative):
        np.testing.assert_array_equal(np.bincount(group[:, 0]), [4000, 4000, 4000])
    assert np.corrcoef(reference[:, 1], negative[:, 1])[0, 1] < 0.5  # more than sharing a session would be a match


def test_positives_lie_in_every_session_equally_often() -> None:
    sampler = PairSampler(sessions({"x": (Kind.CIRCULAR, 1)}), PairSampling(0, 1, "behavior", 1, ("x",)), 10_000, 0)
    reference, positive, _ = triples(sampler, "behavior")
    table = np.bincount(3 * reference[:, 0] + positive[:, 0], minlength=9).reshape(3, 3)
    np.testing.assert_array_equal(table.sum(0), [10_000] * 3)  # of a permutation
    assert stats.chisquare(table.ravel()).pvalue > 1e-4


def test_positives_are_nearest_in_their_own_session_on_common_scales() -> None:
    made = sessions({"x": (Kind.CONTINUOUS, 1), "y": (Kind.CONTINUOUS, 2), "angle": (Kind.CIRCULAR, 1)})
    sampling = PairSampling(0, 1, "behavior", 1, ("x", "y", "angle"), delta=1e-12, weights=(("y", 3.0),))
    reference, positive, _ = triples(PairSampler(made, sampling, 700, 0), "behavior")
    x, y, angle = ([trials.behavior[name].numpy() for trials in made] for name in ("x", "y", "angle"))
    sx, sy = (np.sqrt(np.concatenate(values).var(0).mean()) for values in (x, y))
    points = [
        np.concatenate([one / sx, 3 * two / sy, np.cos(turn), np.sin(turn)], 1)
        for one, two, turn in zip(x, y, angle, strict=True)
    ]
    for (session, at), (there, found) in zip(reference, positive, strict=True):
        distance = np.linalg.norm(points[there] - points[session][at], axis=1)
        assert distance[found] <= distance.min() + 1e-9


def test_categories_are_matched_by_the_names_of_their_levels() -> None:
    made = sessions({"odor": (Kind.CATEGORICAL, 1), "x": (Kind.CONTINUOUS, 1)})
    names = [("lime", "mint", "rose"), ("rose", "mint", "lime"), ("mint", "musk", "rose")]
    for number, own in enumerate(names):
        variables = {**made[number].layout.behavior, "odor": Variable(Kind.CATEGORICAL, 1, own)}
        made[number] = replace(made[number], layout=replace(made[number].layout, behavior=variables))
    for behavior in (("odor",), ("odor", "x")):
        sampler = PairSampler(made, PairSampling(0, 1, "behavior", 1, behavior, delta=0.1), 6000, 0)
        groups = [
            np.array([names[s][int(made[s].behavior["odor"][bin_])] for s, bin_ in group])
            for group in triples(sampler, "behavior")
        ]
        np.testing.assert_array_equal(groups[0], groups[1])
        for group in groups:
            assert set(group) == {"mint", "rose"}  # what all sessions have
    reference, positive, _ = triples(
        PairSampler(made, PairSampling(0, 1, "behavior", 1, ("odor",)), 50_000, 0), "behavior"
    )
    for session, own in enumerate(names):
        members = np.flatnonzero(made[session].behavior["odor"].numpy()[:, 0] == own.index("mint"))
        count = np.bincount(positive[positive[:, 0] == session, 1], minlength=1000)[members]
        assert stats.chisquare(count).pvalue > 1e-4  # uniform within the category
    assert len(reference) == 150_000


def test_changes_of_labels_are_those_of_the_references_session() -> None:
    steps = (0.5037, 0.01037)
    made = []
    for number, step in enumerate(steps):
        wave = np.abs(step * np.arange(4000) % 12 - 6)  # there and back, in steps of one size
        activity = (np.arange(4000, dtype=np.int32) + FAR * number)[:, None]
        made.append(labeled_trials([4000], {"x": (Kind.CONTINUOUS, wave)}, activity, session=f"day {number}"))
    x = [trials.behavior["x"].numpy()[:, 0] for trials in made]
    reference, positive, _ = triples(
        PairSampler(made, PairSampling(0, 1, "behavior", 1, ("x",)), 50_000, 0), "behavior"
    )
    at = np.array([x[session][bin_] for session, bin_ in reference])
    change = np.array([x[session][bin_] for session, bin_ in positive]) - at
    inside = (at > 1) & (at < 5)
    for session, step in enumerate(steps):
        for there in (0, 1):
            chosen = inside & (reference[:, 0] == session) & (positive[:, 0] == there)
            assert np.median(np.abs(np.abs(change[chosen]) - step)) < 0.02, (session, there)


@pytest.mark.parametrize("missing", [False, True])
def test_shares_are_even_parts_of_one_step(missing: bool) -> None:
    made = sessions({"x": (Kind.CONTINUOUS, 1)})
    if missing:
        made[1].behavior["x"][100:150] = np.nan
    sampler = PairSampler(made, PairSampling(3, 4, "hybrid", 5, ("x",)), 12, 0)
    for kind in ("time", "behavior"):
        whole = triples(sampler, kind, 3, before=3).reshape(3, 3, 12, 2)  # role, session, reference
        shares = [triples(sampler, kind, 3, rank, 4, before=3).reshape(3, 3, 3, 2) for rank in range(4)]
        np.testing.assert_array_equal(np.concatenate(shares, 2), whole)


def test_draws_do_not_depend_on_what_was_prepared() -> None:
    made = sessions({"x": (Kind.CIRCULAR, 1)})
    sampling = PairSampling(0, 1, "hybrid", 1, ("x",))

    def draws(steps: Sequence[int]) -> dict[int, np.ndarray]:
        sampler = PairSampler(made, sampling, 500, 7)
        return {step: triples(sampler, "behavior", step) for step in steps}

    forward = draws(range(200))
    for steps in ([150], [199, 20, 64, 63, 150]):
        for step, found in draws(steps).items():
            np.testing.assert_array_equal(found, forward[step])
    for thread in threading.enumerate():
        if thread.name == "lvmzoo-draws":
            thread.join(10)
            assert not thread.is_alive()


def test_the_next_value_is_computed_in_a_thread_and_errors_come_back() -> None:
    threads = {}

    def square(number: int) -> int:
        threads[number] = threading.current_thread()
        if number == 5:
            raise ValueError("five")
        return number**2

    ahead = Ahead(square)
    assert ahead(3) == 9
    ahead.prepare(4)
    ahead.prepare(4)
    assert ahead(4) == 16
    assert threads[3] is threading.main_thread()
    assert threads[4] is not threading.main_thread()
    ahead.prepare(5)
    with pytest.raises(ValueError, match="five"):
        ahead(5)
    assert ahead(6) == 36


def test_scales_are_those_of_all_sessions() -> None:
    variables = {"x": Variable(Kind.CONTINUOUS)}
    values = [RNG.normal(size=(n, 1)) * n for n in (10, 40)]
    scales = label_scales(variables, {str(n): {"x": own} for n, own in enumerate(values)})
    assert scales["x"] == pytest.approx(np.concatenate(values).std())
    labels = Labels(variables, {"x": values[0]}, "0", scales)
    np.testing.assert_allclose(labels.points(np.arange(10)), values[0] / scales["x"])


def test_what_sessions_do_not_share_is_said() -> None:
    made = sessions({"odor": (Kind.CATEGORICAL, 1)}, ((50,), (50,)))
    made[1].behavior["odor"][:] += 10
    sampling = PairSampling(0, 1, "behavior", 1, ("odor",))
    with pytest.raises(
        UserError, match=r"no category of 'odor' in common: 'day 0' has 0.0, 1.0, 2.0; 'day 1' has 10.0"
    ):
        PairSampler(made, sampling, 8, 0)
    made[1].behavior["odor"][:] = 1
    with pytest.raises(UserError, match="'odor' of session 'day 1' has the same label"):
        PairSampler(made, sampling, 8, 0)
