"""Where a model is trained: float64 stays off devices without it, and a GPU gives what the CPU gives."""

from __future__ import annotations

import logging

import pytest
import torch

from lvmzoo import registry
from lvmzoo.errors import UserError
from lvmzoo.fit import _accelerator
from lvmzoo.train import train
from tests.contract.test_every_model import NAMES, STATISTICS, experiment
from tests.contract.world import recording, session

TOLERANCE = {True: 1e-8, False: 1e-3}  # statistics models solve in float64; ten steps in float32 drift a little


def test_float64_models_move_off_mps_with_a_message(caplog: pytest.LogCaptureFixture) -> None:
    entry, layout = registry.get("lds"), session().layout
    with caplog.at_level(logging.WARNING, logger="lvmzoo"):
        assert _accelerator("mps", entry.model(entry.tiny(layout), [layout])) == "cpu"
    assert "float64" in caplog.text


def test_gradient_models_take_the_device_that_is_asked_for() -> None:
    entry, layout = registry.get("contrastive"), session().layout
    assert _accelerator("mps", entry.model(entry.tiny(layout), [layout])) == "mps"


def test_double_precision_stays_off_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    entry, layout = registry.get("contrastive"), session().layout
    model = entry.model(entry.tiny(layout), [layout])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert _accelerator("auto", model) == "auto"
    assert _accelerator("auto", model.double()) == "cpu"
    assert _accelerator("mps", model) == "cpu"


@pytest.mark.parametrize("name", NAMES)
def test_a_device_that_is_not_there_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="This machine has 0 such devices"):
        train(experiment(name, accelerator="gpu"), [recording()], write=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_what_the_cpu_gives(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU")
    limits = {} if name in STATISTICS else {"max_steps": 10}
    cpu, gpu = (train(experiment(name, accelerator=a, **limits), [recording()], write=False) for a in ("cpu", "gpu"))
    tolerance = TOLERANCE[name in STATISTICS]
    for key, value in cpu.model.state_dict().items():
        torch.testing.assert_close(gpu.model.state_dict()[key], value, rtol=tolerance, atol=tolerance, equal_nan=True)
