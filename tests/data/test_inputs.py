"""Known inputs: measured variables that drive a model."""

from __future__ import annotations

import numpy as np
import pytest

from lvmzoo import from_arrays
from lvmzoo.batch import Layout
from lvmzoo.config import DataConfig, Experiment, SplitConfig, TrainerConfig
from lvmzoo.data.load import apply, prepare
from lvmzoo.data.recording import Recording
from lvmzoo.errors import UserError
from lvmzoo.metrics.base import Evaluation
from lvmzoo.models.behavior.contrastive import ContrastiveConfig
from lvmzoo.models.single_region.lds import LDSConfig
from lvmzoo.train import train

SPLIT = SplitConfig(validation=0.0, test=0.25, gap_s=0.0)


def recording(shift: float = 0.0, **leave_out: bool) -> Recording:
    random = np.random.default_rng(0)
    heading = random.uniform(-3, 3, (8, 12)) + shift
    contrast = random.normal(size=(8, 12, 2))
    contrast[1, 4] = np.nan
    behavior = {
        "heading": heading,
        "contrast": contrast,
        "odor": np.repeat([["a"], ["b"], ["c"], ["a"]] * 2, 12, axis=1),
        "hand": random.normal(size=(8, 12)),
    }
    behavior = {name: values for name, values in behavior.items() if not leave_out.get(name)}
    return from_arrays(random.poisson(1.0, (8, 12, 5)), behavior, bin_width_s=0.1)


def test_variables_become_inputs() -> None:
    config = DataConfig(bin_width_s=0.1, inputs=["heading", "contrast", "odor"], split=SPLIT)
    [session] = prepare([recording()], config)
    assert list(session.layout.behavior) == ["hand"]
    assert dict(session.layout.inputs) == {"heading": 2, "contrast": 2, "odor": 3}
    batch = session.train.batch()
    source = recording()
    heading = np.asarray(source.behavior["heading"].values).reshape(8, 12)[:6]
    np.testing.assert_allclose(batch.inputs["heading"][..., 0], np.cos(heading), atol=1e-6)
    np.testing.assert_allclose(batch.inputs["heading"][..., 1], np.sin(heading), atol=1e-6)
    assert batch.inputs["contrast"][1, 4].tolist() == [0.0, 0.0]  # was not measured
    assert any("'contrast' was measured in 99.0%" in note for note in session.notes)
    np.testing.assert_array_equal(batch.inputs["odor"][2], np.tile([0, 0, 1], (12, 1)))
    assert Layout.from_json(session.layout.to_json()) == session.layout


def test_new_data_need_the_inputs_of_the_fit() -> None:
    config = DataConfig(bin_width_s=0.1, inputs=["odor"], split=SPLIT)
    [session] = prepare([recording()], config)
    trials = apply(recording(), config, session.layout)
    np.testing.assert_array_equal(trials.inputs["odor"][:12], np.tile([1, 0, 0], (12, 1)))
    with pytest.raises(UserError, match="lacks the input 'odor'"):
        apply(recording(odor=True), config, session.layout)


def test_a_variable_is_read_out_or_drives() -> None:
    with pytest.raises(UserError, match=r"data\.behavior and in data\.inputs"):
        prepare([recording()], DataConfig(bin_width_s=0.1, inputs=["odor"], behavior=["odor"], split=SPLIT))
    with pytest.raises(UserError, match="oddor"):
        prepare([recording()], DataConfig(bin_width_s=0.1, inputs=["oddor"], split=SPLIT))


def test_a_model_without_inputs_says_so() -> None:
    config = DataConfig(bin_width_s=0.1, inputs=["odor"], split=SPLIT)
    plan = Experiment(
        ContrastiveConfig(latents=2, time_offset_bins=1), config, TrainerConfig(max_steps=1, progress=False)
    )
    run = train(plan, [recording()], write=False)
    assert run.sessions is not None
    assert any("contrastive has no known inputs: odor" in note for note in run.sessions[0].notes)


def test_a_readout_of_activity_may_use_what_the_model_uses() -> None:
    config = DataConfig(bin_width_s=0.1, inputs=["odor"], split=SPLIT)
    for model, channels in ((LDSConfig(latents=2), 3), (ContrastiveConfig(latents=2, time_offset_bins=1), 0)):
        plan = Experiment(model, config, TrainerConfig(max_steps=1, max_epochs=2, progress=False))
        run = train(plan, [recording()], write=False)
        assert run.sessions is not None
        evaluation = Evaluation(run.model, run.sessions[0])
        test = run.sessions[0].test
        assert evaluation.regressors("test").shape == (test.n_bins, 2 + channels)
        if channels:
            np.testing.assert_array_equal(evaluation.regressors("test")[:, 2:], test.inputs["odor"][test.flat])
