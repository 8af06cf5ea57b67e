"""A model in a closed loop says bin by bin what it says of the whole, and what it cannot do is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lvmzoo
from lvmzoo import Estimator, UserError
from lvmzoo.online import Online

TRAINER = {"max_steps": 40, "batch_size": 64, "progress": False}
EM = {"max_epochs": 3, "progress": False}


def world(bins: int = 400) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    angle = np.cumsum(random.normal(size=bins) * 0.2)
    code = np.stack([np.cos(angle), np.sin(angle)], 1)
    counts = random.poisson(np.exp(code @ random.normal(size=(2, 12))))
    return counts, {
        "position": code,
        "heading": np.angle(np.exp(1j * angle)),
        "side": np.where(code[:, 0] > 0, "a", "b"),
    }


def contrastive(**options: Any) -> Estimator:
    options = {"latents": 3, "hidden": 8, "receptive_field_bins": 5, "time_offset_bins": 2, **options}
    return Estimator("contrastive", bin_width_s=0.05, trainer=TRAINER, **options)


def followed(online: Online, counts: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    moments = [online.step(bin) for bin in counts]
    behavior = {name: np.stack([moment.behavior[name] for moment in moments]) for name in moments[0].behavior}
    return np.stack([moment.latents for moment in moments]), behavior


@pytest.mark.parametrize("options", [{"causal": True}, {}, {"receptive_field_bins": 12, "resample": True}])
def test_bin_by_bin_is_the_whole_later(options: dict[str, Any]) -> None:
    counts, behavior = world()
    estimator = contrastive(**options).fit(counts, behavior)
    online = estimator.online()
    field = options.get("receptive_field_bins", 5)
    assert online.lag_bins == (0 if options.get("causal") else field - field // 2 - 1)
    stop = len(counts) - online.lag_bins
    latents, decoded = followed(online, counts)
    assert np.isnan(latents[: online.lag_bins]).all()
    np.testing.assert_allclose(latents[online.lag_bins :], estimator.transform(counts)[:stop], atol=2e-5)
    predicted = estimator.predict(counts)
    assert set(decoded) == {"position", "heading", "side"}
    for name, values in decoded.items():
        assert np.isnan(values[: online.lag_bins]).all()
        here, there = values[online.lag_bins :], predicted[name][:stop]
        assert (np.abs(here - there) < 1e-3).mean() > 0.99, name  # a category at its border may fall either way


@pytest.mark.parametrize(("model", "options"), [("psid", {"relevant": 2}), ("lds", {})])
def test_filters_decode_by_the_readout_of_the_run(model: str, options: dict[str, Any]) -> None:
    counts, behavior = world()
    estimator = Estimator(model, latents=2, bin_width_s=0.05, trainer=EM, **options).fit(
        counts, {"position": behavior["position"]}
    )
    latents, decoded = followed(estimator.online(), counts)
    run = estimator.run_
    assert run.sessions is not None
    with torch.no_grad():
        whole = run.model.filtered(run.sessions[0].train.batch().without_behavior())[0].numpy()
    np.testing.assert_allclose(latents, whole, atol=1e-8)
    [decoder] = run.decoders.values()
    np.testing.assert_allclose(decoded["position"], decoder.predict(whole), atol=1e-8)


def test_a_loaded_model_goes_online_and_a_new_trial_begins_anew(tmp_path: Path) -> None:
    counts, behavior = world()
    estimator = contrastive(causal=True).fit(counts, behavior)
    online = lvmzoo.load(estimator.save(tmp_path / "run")).online()
    first, decoded = followed(online, counts[:20])
    assert not np.allclose(followed(online, counts[:4])[0], first[:4])
    online.reset()
    again, same = followed(online, counts[:20])
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(same["heading"], decoded["heading"])


def test_what_is_not_recorded_counts_for_nothing() -> None:
    counts, behavior = world()
    missing = counts.astype(float)
    missing[50:80, 3] = np.nan
    estimator = contrastive(causal=True).fit(missing, behavior)
    latents, _ = followed(estimator.online(), missing)
    np.testing.assert_allclose(latents, estimator.transform(missing), atol=2e-5)
    assert not np.allclose(latents, followed(estimator.online(), counts)[0])


def test_causal_smoothing_goes_on_bin_by_bin() -> None:
    counts, behavior = world()
    missing = counts.astype(float)
    missing[50:60, 3] = np.nan
    data = {"smoothing_s": 0.1, "causal_smoothing": True}
    estimator = Estimator("contrastive", causal=True, hidden=8, bin_width_s=0.05, trainer=TRAINER, data=data).fit(
        missing, behavior
    )
    online = estimator.online()
    for _ in range(2):
        latents, _ = followed(online, missing)
        np.testing.assert_allclose(latents, estimator.transform(missing), atol=2e-5)
        online.reset()


def test_known_inputs_are_given_as_they_were_measured() -> None:
    counts, behavior = world()
    data = {"inputs": ["side"]}
    estimator = Estimator("psid", latents=2, relevant=2, bin_width_s=0.05, trainer=EM, data=data).fit(counts, behavior)
    online = estimator.online()
    level = (behavior["side"] == "b").astype(int)
    found = np.stack([online.step(bin, {"side": value}).latents for bin, value in zip(counts, level, strict=True)])
    run = estimator.run_
    assert run.sessions is not None
    assert run.model.layouts["arrays"].input_variables["side"].levels == ("a", "b")
    with torch.no_grad():
        whole = run.model.filtered(run.sessions[0].train.batch().without_behavior())[0].numpy()
    np.testing.assert_allclose(found, whole, atol=1e-6)
    with pytest.raises(UserError, match="known input named 'sides'"):
        online.step(counts[0], {"sides": np.array(0)})


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (Estimator("pca", latents=2), "does not infer latents bin by bin"),
        (contrastive(causal=True).set_params(data={"smoothing_s": 0.1}), "later bins included"),
    ],
)
def test_what_cannot_go_online_is_refused(estimator: Estimator, message: str) -> None:
    counts, behavior = world()
    with pytest.raises(UserError, match=message):
        estimator.fit(counts, behavior).online()


def test_a_bin_has_a_value_for_each_unit() -> None:
    counts, behavior = world()
    estimator = contrastive().fit(counts, behavior)
    with pytest.raises(UserError, match="12 units"):
        estimator.online().step(counts[0, :5])
    with pytest.raises(UserError, match="session 'other'"):
        estimator.online("other")
