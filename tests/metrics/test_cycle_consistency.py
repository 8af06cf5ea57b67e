"""Latents that rates do not show lower cycle consistency by their share; how latents are mixed changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.cycle_consistency import CycleConsistency
from lvmzoo.models.base import Reconstructs

from .toy import Base, Full, Gaussian, make_session

LATENTS = 5


class Invents(Base, Reconstructs):
    """Five latents, of which ``shown`` reach the log rates."""

    positive_rates = True

    def __init__(self, session, shown=LATENTS, mixing=None):
        super().__init__(session)
        generator = torch.Generator().manual_seed(1)
        n = session.layout.n_units
        self.projection.data = torch.eye(n, dtype=torch.float64)[:, :LATENTS]  # counts of units, nearly independent
        self.readout = torch.randn(LATENTS, n, generator=generator, dtype=torch.float64) * 0.2
        self.readout[shown:] = 0
        self.mixing = torch.eye(LATENTS, dtype=torch.float64) if mixing is None else torch.from_numpy(mixing)

    def latents(self, batch):
        return super().latents(batch) @ self.mixing

    def rates(self, batch):
        return torch.exp(super().latents(batch) @ self.readout)


def row(model, session):
    (found,) = CycleConsistency()(Evaluation(model, session))
    return found


@pytest.mark.parametrize("kind", [Full, Gaussian])
def test_it_is_what_other_libraries_make_of_it(kind):
    session = make_session()
    evaluation = Evaluation(kind(session), session)
    white = PCA(whiten=True).fit(evaluation.latents("train"))
    latents = {part: white.transform(evaluation.latents(part)) for part in ("train", "test")}
    logs = {p: np.log(evaluation.rates(p)) if kind is Full else evaluation.rates(p) for p in ("train", "test")}
    forward = LinearRegression().fit(latents["train"], logs["train"])
    back = (logs["test"] - forward.intercept_) @ np.linalg.pinv(forward.coef_.T, rcond=0.01)
    expected = r2_score(latents["test"], back, multioutput="variance_weighted")
    found = row(kind(session), session)
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert found.n == len(back)


@pytest.mark.parametrize("shown", [5, 3, 1])
def test_invented_latents_are_found_out(shown):
    session = make_session(held_out=())
    found = row(Invents(session, shown), replace(session, test=session.train))
    assert found.value == pytest.approx(shown / LATENTS)
    assert found.note == f"{shown} of 5 dimensions of the latents reach the rates"


def test_scales_and_mixtures_do_not_matter():
    session = make_session(held_out=())
    plain = row(Invents(session, 3), session).value
    mixing = np.random.default_rng(0).normal(size=(LATENTS, LATENTS)) @ np.diag([1e3, 1, 1e-2, 5, 1])
    assert row(Invents(session, 3, mixing), session).value == pytest.approx(plain, abs=1e-6)


def test_a_latent_that_never_varies_is_not_counted():
    session = make_session(held_out=())
    mixing = np.diag([1.0, 1, 1, 1, 0])
    assert row(Invents(session, 4, mixing), session).note == "4 of 4 dimensions of the latents reach the rates"


def test_constant_rates_tell_nothing():
    session = make_session(held_out=())
    assert row(Invents(session, 0), replace(session, test=session.train)).value == pytest.approx(0)
