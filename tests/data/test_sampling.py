"""What a step sees: each trial once an epoch, whatever the ranks, and the same again from the same seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.data.sampling import Feed, TrialSampler
from lvmzoo.data.trials import Trials


def make_trials(count: int, session: str = "a") -> Trials:
    lengths = np.random.default_rng(0).integers(3, 9, count)
    stop = np.cumsum(lengths)
    start = stop - lengths
    layout = Layout(session, {"V1": 2}, ("0", "1"), Observation.COUNTS, 0.02)
    activity = torch.arange(int(stop[-1]) * 2, dtype=torch.int32).view(-1, 2)
    valid = torch.ones(len(activity), dtype=torch.bool)
    return Trials(layout, activity, start, stop, valid, pd.DataFrame({"start_s": start * 0.02}))


def seen(sampler: TrialSampler, epoch: int = 0) -> list[tuple[str, int]]:
    """Session and index of every trial that an epoch shows, fillers left out."""
    steps = range(epoch * len(sampler), (epoch + 1) * len(sampler))
    batches = [sampler.draw(step) for step in steps]
    return [(b.layout.session, int(i)) for b in batches for i in b.trial_index if i >= 0]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [None, 1, 4, 100])
def test_each_trial_once_over_all_ranks(world: int, batch_size: int | None) -> None:
    sessions = [make_trials(9, "a"), make_trials(5, "b")]
    ranks = [TrialSampler(sessions, batch_size, seed=3, rank=rank, world=world) for rank in range(world)]
    assert len({len(sampler) for sampler in ranks}) == 1
    for epoch in (0, 1):
        together = [pair for sampler in ranks for pair in seen(sampler, epoch)]
        assert sorted(together) == [("a", i) for i in range(9)] + [("b", i) for i in range(5)]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    sessions = [make_trials(30)]
    one, again, other = (TrialSampler(sessions, 4, seed=seed) for seed in (1, 1, 2))
    assert seen(one, 1) == seen(again, 1)
    assert seen(one, 0) != seen(one, 1)
    assert seen(one, 0) != seen(other, 0)
    assert seen(TrialSampler(sessions, 4, shuffle=False), 2) == [("a", i) for i in range(30)]


def test_shares_are_equally_long_and_fillers_have_no_valid_bin() -> None:
    ranks = [TrialSampler([make_trials(9)], 4, rank=rank, world=2, shuffle=False) for rank in (0, 1)]
    last = [sampler.draw(2) for sampler in ranks]
    assert [batch.n_trials for batch in last] == [1, 1]
    assert bool(last[0].valid.any())
    assert not bool(last[1].valid.any())
    assert last[1].trial_index.tolist() == [-1]


def test_batches_hold_the_stored_bins() -> None:
    trials = make_trials(7)
    batch = trials.batch([5, 2])
    for row, index in enumerate((5, 2)):
        length = trials.lengths[index]
        assert torch.equal(batch.activity[row, :length], trials.activity[trials.start[index] : trials.stop[index]])
        assert batch.valid[row].sum() == length
        assert not bool(batch.observed[row, length:].any())


def test_equal_trials_end_to_end_are_a_view() -> None:
    trials = make_trials(4)
    equal = Trials(
        trials.layout, trials.activity, np.array([2, 5, 8]), np.array([5, 8, 11]), trials.valid, trials.table.iloc[:3]
    )
    batch = equal.batch()
    assert batch.activity.data_ptr() == trials.activity[2:].data_ptr()
    assert torch.equal(batch.activity, equal.batch([0, 1, 2, -1]).activity[:3])


def test_a_feed_goes_on_in_the_middle_of_a_round() -> None:
    drawn: list[int] = []

    def draw(step: int) -> Batch:
        drawn.append(step)
        return make_trials(2).batch()

    feed = Feed(draw, steps_a_round=5, position=7)
    assert len(feed) == 3
    assert len(list(feed)) == 3
    assert len(feed) == 5
    list(feed)
    assert drawn == list(range(7, 15))
