"""The share of inferred inputs is what is lost without them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.input_share import InputShare
from lvmzoo.models.base import InfersInputs
from lvmzoo.models.single_region.lfads import LFADS, LFADSConfig

from .toy import Base, Gaussian, make_session


class Driven(Gaussian, InfersInputs):
    """Rates of which inputs add some."""

    def __init__(self, session, positive, gain):
        super().__init__(session)
        self.positive_rates, self.gain = positive, gain

    def rates(self, batch):
        rates = 0.1 * super().rates(batch)
        return rates.exp() if self.positive_rates else rates

    def undriven_rates(self, batch):
        rates = 0.1 * self.gain * super().rates(batch) + 0.02 * batch.activity.double()
        return rates.exp() if self.positive_rates else rates


def share(model, session):
    found = InputShare()(Evaluation(model, session))
    return found[0] if found else None


@pytest.mark.parametrize("positive", [True, False])
def test_it_is_one_minus_r2_of_log_rates(positive):
    session = make_session()
    model = Driven(session, positive, 0.6)
    evaluation = Evaluation(model, session)
    whole = evaluation.rates("test")
    alone = evaluation.view("test", model.undriven_rates)
    logs = (np.log(whole), np.log(alone)) if positive else (whole, alone)
    expected = 1 - r2_score(*logs, multioutput="variance_weighted")
    found = share(model, session)
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert found.n == len(whole)
    assert found.better == "lower"


def lfads(session, inputs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LFADSConfig(latents=3, generator=12, encoder=10, controller=10, inferred_inputs=inputs)
        return LFADS(config, [session.layout]).eval()


def test_a_generator_that_its_inputs_do_not_reach_loses_nothing():
    session = make_session()
    model = lfads(session, 2)
    assert share(model, session).value > 0.01
    with torch.no_grad():
        model.generator.weight_ih.zero_()
    assert share(model, session).value == pytest.approx(0, abs=1e-9)


def test_a_generator_that_forgets_its_initial_condition_loses_all():
    session = make_session()
    model = lfads(session, 2)
    with torch.no_grad():
        model.to_generator.weight.zero_()
        model.to_generator.bias.zero_()
    assert share(model, session).value >= 0.98


def test_a_model_without_inferred_inputs_has_no_row():
    session = make_session()
    assert share(lfads(session, 0), session) is None
    assert not isinstance(Base(session), InfersInputs)
