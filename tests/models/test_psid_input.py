"""What psid is given: kinds of behavior, degenerate units and labels, settings that cannot be."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lvmzoo import Estimator
from lvmzoo.batch import Kind, Variable
from lvmzoo.errors import UserError
from lvmzoo.models.behavior.psid import PSID, PSIDConfig
from tests.models import psid_world as world


def data(seed: int = 0, bins: int = 3000, units: int = 6) -> tuple[np.ndarray, np.ndarray]:
    y, z, _ = world.Planted(seed, units=units).draw(bins)
    return y, z


def is_finite(model: PSID, batch: Any) -> bool:
    found = [model.latents(batch), model.rates(batch), model.forecast(batch, 2), model.log_likelihood(batch)]
    found += [*model.decode(batch).values(), *model.sample("a", 2, 5, 0), *model.state_dict().values()]
    return all(bool(torch.isfinite(value).all()) for value in found)


def test_categories_are_read_out_by_logistic_regression() -> None:
    y, z = data()
    level = np.digitize(z[:, :1], np.quantile(z[:, 0], [0.3, 0.6])).astype(float)
    level[::7] = np.nan
    kinds = {"level": Variable(Kind.CATEGORICAL, 1, ("low", "middle", "high"))}
    batch = world.batch([y], {"level": [level]}, kinds=kinds)
    model = world.fit(batch)
    assert model.passes > 2
    x = model.latents(batch)[0].numpy()
    known = ~np.isnan(level[:, 0])
    ours = model.level_probabilities(batch)["level"][0].numpy()
    spread = np.sqrt((x[known] ** 2).mean(0))
    theirs = LogisticRegression(max_iter=2000, tol=1e-10).fit(x[known] / spread, level[known, 0])
    np.testing.assert_allclose(ours, theirs.predict_proba(x / spread), atol=1e-4)
    decoded = model.decode(batch)["level"][0, :, 0].numpy()
    np.testing.assert_array_equal(decoded, ours.argmax(1))
    assert (decoded == level[:, 0])[known].mean() > 0.5


def test_angles_are_read_out_on_the_circle() -> None:
    random = np.random.default_rng(0)
    angle = np.cumsum(0.1 + 0.2 * random.normal(size=4000))
    preferred = random.uniform(0, 2 * np.pi, 10)
    y = np.cos(angle[:, None] - preferred) + 0.3 * random.normal(size=(4000, 10))
    kinds = {"heading": Variable(Kind.CIRCULAR)}
    batch = world.batch([y], {"heading": [np.angle(np.exp(1j * angle))[:, None]]}, kinds=kinds)
    model = world.fit(batch, latents=2, states="filter")
    error = np.angle(np.exp(1j * (model.decode(batch)["heading"][0, :, 0].numpy() - angle)))
    assert np.degrees(np.median(np.abs(error))) < 10


def test_labels_that_are_missing_where_the_activity_is_on_one_side_do_not_bend_the_readout() -> None:
    planted = world.Planted(units=8)
    (y, z, _), (new_y, new_z, _) = planted.draw(6000), planted.draw(6000, stream=1)
    side = (y - y.mean(0)) @ np.linalg.pinv(planted.C).T @ planted.Cz[0]
    batch, r2 = world.batch([new_y], [new_z]), []
    for labels in (z, np.where(side[:, None] > 0, z, np.nan)):
        model = world.fit(world.batch([y], [labels]), states="smoother")
        r2.append(world.r2(new_z, model.decode(batch)["z"][0].numpy()))
    assert r2[1] > r2[0] - 0.05


def test_smoothing_decodes_better_than_filtering_and_that_better_than_predicting() -> None:
    y, z = data(1)
    batch = world.batch([y], [z])
    scores = [
        world.r2(z, world.fit(batch, states=states).decode(batch)["z"][0].numpy())
        for states in ("predictor", "filter", "smoother")
    ]
    assert scores[0] < scores[1] < scores[2]


def test_without_behavior_it_is_plain_subspace_identification() -> None:
    y, z = data(2)
    alone = world.fit(world.batch([y]), relevant=0)
    beside = world.fit(world.batch([y], [z]), relevant=0)
    torch.testing.assert_close(alone.system().dynamics, beside.system().dynamics)
    assert alone.decode(world.batch([y])) == {}
    assert "z" in beside.decode(world.batch([y], [z]))
    assert len(alone.eigenvalues()["relevant"]) == 0
    found = world.fit(world.batch([y]), relevant=None, latents=None)
    assert found.of().system.size.tolist() == [4, 0]
    with pytest.raises(UserError, match="needs behavior"):
        world.fit(world.batch([y]), relevant=2)


@pytest.mark.parametrize("kind", ["constant", "no label", "one class"])
def test_behavior_that_does_not_vary_is_refused(kind: str) -> None:
    y, z = data(3)
    kinds = {"z": Variable(Kind.CATEGORICAL, 1, ("only",))} if kind == "one class" else None
    values = {"constant": 0.1 + 0 * z, "no label": np.nan * z, "one class": np.zeros((len(z), 1))}[kind]
    batch = world.batch([y], {"z": [values]}, kinds=kinds)
    with pytest.raises(UserError, match="does not vary"):
        world.fit(batch, relevant=1)
    assert is_finite(world.fit(batch, relevant=0), batch)


def test_activity_that_does_not_vary_is_refused() -> None:
    z = data(3)[1]
    for relevant in (0, 1, None):
        with pytest.raises(UserError, match="activity of session 'a' is the same in every bin"):
            world.fit(world.batch([np.full((len(z), 3), 0.1)], [z]), relevant=relevant)


def test_one_constant_variable_among_others_does_no_harm() -> None:
    y, z = data(4)
    both = world.batch([y], {"z": [z], "still": [np.full((len(z), 1), 7.0)]})
    alone = world.batch([y], [z])
    model = world.fit(both, standardize="behavior")
    expected = world.fit(alone, standardize="behavior")
    torch.testing.assert_close(model.system().dynamics, expected.system().dynamics)
    np.testing.assert_allclose(model.decode(both)["still"], 7.0, atol=1e-9)


def test_duplicated_columns_of_behavior_change_nothing() -> None:
    y, z = data(5)
    model = world.fit(world.batch([y], [np.concatenate([z, z], 1)]))
    expected = world.fit(world.batch([y], [z]))
    assert world.eigenvalue_error(model.system().dynamics, expected.system().dynamics) < 1e-8


def test_silent_duplicated_and_too_many_units() -> None:
    y, z = data(6, bins=2000)
    degenerate = np.concatenate([y, y[:, :1], np.zeros((len(y), 1))], 1)
    batch = world.batch([degenerate], [z])
    model = world.fit(batch)
    assert is_finite(model, batch)
    expected = world.fit(world.batch([y], [z]))
    ours, plain = model.decode(batch)["z"], expected.decode(world.batch([y], [z]))["z"]
    assert abs(world.r2(z, ours[0].numpy()) - world.r2(z, plain[0].numpy())) < 0.01
    random = np.random.default_rng(0)
    many = world.batch([random.normal(size=(60, 30))], [random.normal(size=(60, 2))])  # 30 x 5 places, 51 windows
    assert is_finite(world.fit(many), many)


def test_units_of_any_scale_are_listened_to_beside_others() -> None:
    y, z = data(10)
    tiny = y * np.array([1.0, 1.0, 1.0, 1e-7, 1e-7, 1e-7])
    still = np.full((len(y), 1), 1e6 / 3)  # its mean rounds: what is left has more variance than the tiny ones
    found = []
    for activity in (y, tiny, np.concatenate([tiny, still], 1)):
        batch = world.batch([activity], [z])
        model = world.fit(batch, latents=2, states="filter")
        assert is_finite(model, batch)
        found.append(model.decode(batch)["z"][0].numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-6, atol=1e-6)


def test_one_unit_and_one_channel() -> None:
    y, z = data(7)
    batch = world.batch([y[:, :1]], [z[:, :1]])
    assert is_finite(world.fit(batch, latents=2, relevant=1), batch)


def test_trials_shorter_than_a_window_are_named() -> None:
    y, z = data(8)
    batch = world.batch([y[:9], y[20:27]], [z[:9], z[20:27]])
    with pytest.raises(UserError, match="9 bins without a gap") as error:
        world.fit(batch)
    assert "model.horizon_bins=4" in error.value.fix
    mixed = world.batch([y[:9], y[20:900]], [z[:9], z[20:900]])
    alone = world.batch([y[20:900]], [z[20:900]])
    found, expected = (world.fit(part).system().dynamics for part in (mixed, alone))
    assert world.eigenvalue_error(found, expected) < 0.01  # but for the means, which all bins have a part in
    chosen = world.fit(world.batch(np.split(y, 300), np.split(z, 300)), horizon_bins=None)  # trials of 10 bins
    assert int(chosen.of().chosen_horizon) <= 5


def test_a_gap_splits_a_trial() -> None:
    y, z = data(9)
    whole = world.batch([y], [z])
    valid = whole.valid.clone()
    valid[0, 1000:1100] = False
    gap = dataclasses.replace(whole, valid=valid, observed=whole.observed & valid[..., None])
    parts = world.batch([y[:1000], y[1100:]], [z[:1000], z[1100:]])
    found, expected = (world.fit(batch).system().dynamics for batch in (gap, parts))
    assert world.eigenvalue_error(found, expected) < 1e-9
    assert is_finite(world.fit(gap), gap)


def test_batches_may_be_larger_than_the_session() -> None:
    y, z = data(10, bins=600)
    trials, behavior = y.reshape(12, 50, 6), z.reshape(12, 50, 2)
    runs = [
        Estimator("psid", latents=4, relevant=2, horizon_bins=5, trainer={"progress": False, "batch_size": size}).fit(
            trials, behavior
        )
        for size in (1, 1000)
    ]
    one, other = (run.transform(trials, behavior) for run in runs)
    np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-7)


def test_several_sessions_are_identified_each_by_itself() -> None:
    """Sessions of other units, behavior, inputs and trials, in one run: the same as each alone."""
    (y, z), other = data(11, bins=1200), world.Planted(13, units=5, inputs=1)
    w, v, u = other.draw(900)
    level = np.digitize(v[:, :1], [-2.0, 0.0]).astype(float)
    kinds = {"z": Variable(Kind.CATEGORICAL, 1, ("low", "middle", "high"))}
    parts = [world.batch(np.split(y, [500]), np.split(z, [500])), world.batch([w], {"z": [level]}, [u], kinds)]
    parts[1] = dataclasses.replace(parts[1], layout=dataclasses.replace(parts[1].layout, session="b"))
    for sizes in ({"latents": 4, "relevant": 2}, {"latents": None, "relevant": None}):
        config = PSIDConfig(horizon_bins=5, **sizes)
        together = PSID(config, [part.layout for part in parts])
        one_by_one = [PSID(config, [part.layout]) for part in parts]
        world.solve(together, parts)
        for alone, part in zip(one_by_one, parts, strict=True):
            world.solve(alone, [part])
            for name in ("latents", "rates", "log_likelihood"):
                torch.testing.assert_close(getattr(together, name)(part), getattr(alone, name)(part), rtol=0, atol=0)
            torch.testing.assert_close(together.decode(part)["z"], alone.decode(part)["z"])
            session, x = part.layout.session, alone.latents(part)[0]
            torch.testing.assert_close(together.advance_in(session, x), alone.advance(x))
            assert together.curves(session) == alone.curves()
    with pytest.raises(UserError, match="dynamics of its own"):
        together.advance(x)
    with pytest.raises(UserError, match="no readout for session 'c'"):
        together.of("c")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"latents": 0}, "model.latents is 0"),
        ({"relevant": -1}, "model.relevant is -1"),
        ({"horizon_bins": 1}, "model.horizon_bins is 1"),
        ({"latents": 2, "relevant": 3}, "among the latents"),
        ({"states": "smooth"}, "Did you mean 'smoother'"),
        ({"standardize": "al"}, "Did you mean 'all'"),
        ({"behavior": ["x"]}, "no behavior variable named 'x'"),
        ({"components": 9}, "has 6 units"),
        ({"latents": 9, "relevant": 3, "horizon_bins": 2}, "too many for model.horizon_bins=2"),
    ],
)
def test_settings_that_cannot_be_are_refused(config: dict[str, Any], match: str) -> None:
    y, z = data(12, bins=200)
    with pytest.raises(UserError, match=match):
        world.fit(world.batch([y], [z]), **config)
