"""Labels and activity that are odd and work, or say nothing and are refused; settings that do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lvmzoo import Estimator
from lvmzoo.batch import Kind, Variable
from lvmzoo.data.trials import Trials
from lvmzoo.errors import UserError
from lvmzoo.models.behavior.contrastive import Contrastive
from lvmzoo.models.behavior.contrastive_config import ContrastiveConfig
from tests.data.labeled import labeled_trials


def labeled(session: str = "a") -> Trials:
    return labeled_trials([40], {"angle": (Kind.CIRCULAR, np.linspace(-3, 3, 40))}, session=session)


# --- odd inputs


@pytest.mark.parametrize(
    "behavior",
    [
        lambda x: {"x": np.concatenate([x, x], 1)},  # a column twice
        lambda x: {"x": x, "again": x},
        lambda x: {"x": np.where(np.arange(len(x))[:, None] % 3 == 0, np.nan, x)},
        lambda x: {"x": np.where(np.arange(len(x))[:, None] < 30, x, 0.0)},  # nearly constant
    ],
)
@pytest.mark.parametrize("positives", ["behavior", "hybrid"])
def test_odd_labels_work(behavior: Any, positives: str) -> None:
    random = np.random.default_rng(0)
    x = np.sin(np.cumsum(random.normal(size=(200, 1)), 0) * 0.3)
    counts = random.poisson(1.0, (200, 6)).astype(float)
    counts[20:30, 2] = np.nan
    counts[50] = np.nan
    trainer = {"max_steps": 5, "batch_size": 1000, "progress": False}  # more than there are bins
    fitted = Estimator("contrastive", positives=positives, time_offset_bins=1, trainer=trainer).fit(counts, behavior(x))
    latents = fitted.transform(counts)
    assert np.isfinite(np.asarray(latents)).all()


@pytest.mark.parametrize(
    ("behavior", "data", "message"),
    [
        (np.zeros(100), {}, "same label in every bin"),
        (np.zeros(100), {"behavior_kinds": {"x": "categorical"}}, "same label in every bin"),
        (np.full(100, np.nan), {}, "has none in use"),
    ],
)
def test_labels_that_say_nothing_are_named(behavior: np.ndarray, data: dict[str, Any], message: str) -> None:
    counts = np.random.default_rng(0).poisson(1.0, (100, 6))
    trainer = {"max_steps": 2, "progress": False}
    with pytest.raises(UserError, match=message):
        Estimator("contrastive", positives="behavior", data=data, trainer=trainer).fit(counts, {"x": behavior[:, None]})


def test_a_session_shorter_than_the_receptive_field_is_named() -> None:
    with pytest.raises(UserError, match="receptive_field_bins"):
        Estimator("contrastive", trainer={"max_steps": 2, "progress": False}).fit(np.ones((8, 4)))


# --- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positives": "behavior", "behavior_latents": 2}, r"Set model\.positives=hybrid"),
        ({"positives": "hybrid", "behavior_latents": 2, "latents": 3}, "behavior_latents=2 of model.latents=3"),
        ({"positives": "behavior", "behavior_weights": {"angel": 2.0}}, "Did you mean 'angle'"),
        ({"positives": "behavior", "behavior_weights": {"odor": 2.0}}, "'odor' a weight, and it is categorical"),
        ({"positives": "behavior", "behavior_weights": {"angle": 0.0}}, "'angle' the weight 0.0"),
    ],
)
def test_settings_that_do_not_fit_are_named(options: dict[str, Any], message: str) -> None:
    layout = labeled().layout
    layout = replace(layout, behavior={**layout.behavior, "odor": Variable(Kind.CATEGORICAL, 1, ("lime", "mint"))})
    with pytest.raises(UserError, match=message):
        Contrastive(ContrastiveConfig(**options), [layout])


def test_variables_must_be_the_same_in_all_sessions() -> None:
    one, other = (labeled(name).layout for name in ("a", "b"))
    hybrid = ContrastiveConfig(positives="hybrid")
    turned = replace(other, behavior={"angle": Variable(Kind.CONTINUOUS, 2)})
    with pytest.raises(
        UserError, match=r"circular with 1 channel in session 'a' and continuous with 2 channels in 'b'"
    ):
        Contrastive(hybrid, [one, turned])
    with pytest.raises(UserError, match="none in use that all sessions have"):
        Contrastive(hybrid, [one, replace(other, behavior={})])
    with pytest.raises(UserError, match="no behavior variable named 'angle'"):
        Contrastive(replace(hybrid, behavior=["angle"]), [one, replace(other, behavior={})])
