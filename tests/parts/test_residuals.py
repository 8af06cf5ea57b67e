"""Residuals against group means by pandas, on ragged trials with missing samples and unknown conditions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.errors import UserError
from lvmzoo.parts.residuals import Residuals


def batch_of(seed: int, session: str = "one", trials: int = 12, bins: int = 7, units: int = 3) -> Batch:
    random = np.random.default_rng(seed)
    layout = Layout(
        session=session,
        units={"A": 1, "B": units - 1},
        unit_ids=tuple(map(str, range(units))),
        observation=Observation.CONTINUOUS,
        bin_width_s=0.1,
        conditions=("left", "right"),
        longest_bins=bins,
    )
    lengths = random.integers(2, bins + 1, trials)
    lengths[0] = bins
    valid = torch.from_numpy(np.arange(bins) < lengths[:, None])
    observed = valid[..., None] & torch.from_numpy(random.random((trials, bins, units)) > 0.1)
    activity = torch.from_numpy(random.normal(size=(trials, bins, units)))
    return Batch(
        activity=torch.where(observed, activity, torch.nan),
        valid=valid,
        observed=observed,
        behavior={},
        inputs={},
        trial_index=torch.arange(trials),
        start_bin=torch.zeros(trials, dtype=torch.int64),
        layout=layout,
        condition=torch.from_numpy(random.integers(-1, 2, trials)),
    )


def rows(batch: Batch) -> pd.DataFrame:
    assert batch.condition is not None
    trial, place, unit = np.nonzero(batch.observed.numpy())
    return pd.DataFrame(
        {
            "bin": place,
            "unit": unit,
            "condition": batch.condition.numpy()[trial],
            "value": batch.activity.numpy()[trial, place, unit],
        }
    )


def expected(batch: Batch) -> np.ndarray:
    table = rows(batch)
    own = table.groupby(["condition", "bin", "unit"])["value"].transform("mean")
    everyone = table.groupby(["bin", "unit"])["value"].transform("mean")
    return (table["value"] - own.where(table["condition"] >= 0, everyone)).to_numpy()


def prepared(batches: list[Batch]) -> Residuals:
    part = Residuals([batch.layout for batch in batches[:1]], wanted=True)
    part.prepare(batches)
    return part


def test_each_condition_and_bin_has_its_mean() -> None:
    batch = batch_of(0)
    found = prepared([batch])(batch)
    np.testing.assert_allclose(found[batch.observed].numpy(), expected(batch), atol=1e-14)
    groups = prepared([batch]).groups(batch)[batch.observed[..., 0]]
    first = pd.Series(found[..., 0][batch.observed[..., 0]]).groupby(groups.numpy()).mean()
    condition = first.index.to_numpy() // 7
    np.testing.assert_allclose(first[condition < 2], 0, atol=1e-14)
    assert prepared([batch]).number_of_groups(batch.layout) == 21 > int(groups.max())
    restored = found + prepared([batch]).mean(batch)
    np.testing.assert_allclose(restored[batch.observed].numpy(), batch.activity[batch.observed].numpy(), atol=1e-14)


def test_batches_windows_and_padding_change_nothing() -> None:
    batch = batch_of(1)
    part = prepared([batch])

    def some(trials: slice) -> Batch:
        return batch.map(lambda tensor: tensor[trials])

    again = prepared([some(slice(0, 5)), some(slice(5, 12))])
    torch.testing.assert_close(again(batch), part(batch), equal_nan=True)
    torch.testing.assert_close(part(batch.bins(2, 6)), part(batch)[:, 2:6], equal_nan=True)
    longer = batch.map(lambda tensor: tensor)
    pad = torch.nn.functional.pad
    longer = replace(
        longer,
        activity=pad(batch.activity, (0, 0, 0, 4)),
        valid=pad(batch.valid, (0, 4)),
        observed=pad(batch.observed, (0, 0, 0, 4)),
    )
    torch.testing.assert_close(part(longer)[:, :7], part(batch), equal_nan=True)


def test_a_condition_that_was_not_seen_has_the_mean_of_all() -> None:
    batch = batch_of(2)
    condition = torch.zeros_like(batch.trial_index)
    part = prepared([replace(batch, condition=condition)])
    other = part(replace(batch, condition=condition + 1))
    torch.testing.assert_close(other, part(replace(batch, condition=None)), equal_nan=True)
    torch.testing.assert_close(other, part(replace(batch, condition=condition)), equal_nan=True)


def test_a_bin_that_was_not_seen_has_the_mean_of_the_unit() -> None:
    batch = batch_of(3)
    hidden = batch.observed.clone()
    hidden[:, 4, 0] = False
    part = prepared([replace(batch, observed=hidden)])
    mean = float(batch.activity[..., 0][hidden[..., 0]].mean())
    np.testing.assert_allclose(part.mean(batch)[:, 4, 0].numpy(), mean)


def test_sessions_have_means_of_their_own_and_are_kept() -> None:
    one, two = batch_of(4), batch_of(5, "two", units=5, bins=9)
    part = Residuals([one.layout, two.layout], wanted=True)
    part.prepare([one, two])
    again = Residuals([one.layout, two.layout], wanted=True)
    again.load_state_dict(part.state_dict())
    for batch in (one, two):
        np.testing.assert_allclose(again(batch)[batch.observed].numpy(), expected(batch), atol=1e-14)


def test_not_wanted_is_the_activity_itself() -> None:
    batch = batch_of(6)
    part = Residuals([batch.layout], wanted=False)
    part.prepare([batch])
    torch.testing.assert_close(part(batch), batch.activity, equal_nan=True)
    assert not part.mean(batch).any()
    assert not part.state_dict()
    assert part.number_of_groups(batch.layout) == 1


@pytest.mark.parametrize("longest", [0, 10_001])
def test_trials_without_a_common_clock_are_refused(longest: int) -> None:
    with pytest.raises(UserError, match="share a clock"):
        Residuals([replace(batch_of(7).layout, longest_bins=longest)], wanted=True)
