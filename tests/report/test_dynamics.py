"""The section on dynamics: maps whose eigenvalues, fixed points and flow are known."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from conftest import Fake, make_run, reach_session, ring_session

from lvmzoo.config import DataConfig, Experiment
from lvmzoo.metrics.base import Evaluation
from lvmzoo.models.base import HasDynamics
from lvmzoo.models.single_region.lds import LDSConfig
from lvmzoo.report.dynamics import Flow, Motion, dynamics_figures
from lvmzoo.report.eigenvalues import linearize, mode_table
from lvmzoo.report.page import write_report
from lvmzoo.report.style import Picture, Table
from lvmzoo.report.view import View
from lvmzoo.train import train

BIN_S = 0.02


def turn(timescale_s: float, frequency_hz: float) -> np.ndarray:
    angle, fade = 2 * np.pi * frequency_hz * BIN_S, np.exp(-BIN_S / timescale_s)
    return fade * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def known_dynamics() -> np.ndarray:
    """200 ms at 1.8 Hz, and 500 ms without turning, seen through a change of coordinates that is not orthogonal."""
    blocks = np.zeros((3, 3))
    blocks[:2, :2], blocks[2, 2] = turn(0.2, 1.8), np.exp(-BIN_S / 0.5)
    mix = np.array([[1.0, 0.4, 0.0], [0.0, 2.0, -0.5], [0.3, 0.0, 1.0]])
    return mix @ blocks @ np.linalg.inv(mix)


class Moving(Fake, HasDynamics):
    """The fake model of the other tests, with a law of motion that a test sets."""

    law = staticmethod(lambda latents: latents)

    def advance(self, latents):
        return self.law(latents)


def moving_view(law, session=None) -> View:
    session = session or reach_session()
    run = make_run([session])
    model = Moving(run.model.config, [session.layout])
    model.law = law
    model.register_buffer("like", torch.zeros(1, dtype=torch.float64))
    run = dataclasses.replace(run, model=model)
    return View(run, session, Evaluation(model, session))


def test_modes_of_a_known_matrix_are_right():
    dynamics = torch.from_numpy(known_dynamics())
    rest = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    found = linearize(lambda x: (x - rest) @ dynamics.T + rest, torch.randn(100, 3, dtype=torch.float64))
    assert found.linear
    assert [place.kind for place in found.places] == ["stable"]
    np.testing.assert_allclose(found.places[0].point, rest.numpy(), atol=1e-9)
    table = mode_table(found, BIN_S)
    values = [[float(re.sub("[^0-9.].*", "", cell) or "nan") for cell in row[1:]] for row in table.rows]
    assert values[0][0] == pytest.approx(500)
    assert table.rows[0][2:] == ["none", ""]
    assert values[1] == pytest.approx([200, 1.8, 0.36])
    modulus = np.exp(-0.1)
    assert table.rows[1][0] == f"{modulus * np.cos(0.072 * np.pi):.3f} ± {modulus * np.sin(0.072 * np.pi):.3f} i"
    assert len(table.rows) == 2  # a pair is one row


@pytest.mark.parametrize(
    ("diagonal", "kind", "said"),
    [
        ([1.1, 0.5], "saddle", ["grows, 210", "28.9"]),
        ([1.1, 1.2], "unstable", ["grows, 110", "grows, 210"]),
        ([1.0, 0.0], "stable", ["endless", "0"]),
        ([-0.5, 0.5], "stable", ["28.9", "28.9"]),
    ],
)
def test_growth_and_limits_are_said(diagonal, kind, said):
    dynamics = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    found = linearize(lambda x: x @ dynamics, torch.randn(50, 2, dtype=torch.float64))
    assert found.places[0].kind == kind
    table = mode_table(found, BIN_S)
    assert [row[1] for row in table.rows] == said
    if -0.5 in diagonal:
        assert {row[2] for row in table.rows} == {"none", "25.0"}  # half a turn a bin


def two_wells(x: torch.Tensor) -> torch.Tensor:
    """Two stable points at (+-1, 0) and a saddle between them."""
    return x + BIN_S * torch.stack([4 * (x[:, 0] - x[:, 0] ** 3), -2 * x[:, 1]], 1)


def test_fixed_points_of_two_wells_and_a_saddle():
    visited = torch.randn(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = linearize(two_wells, visited)
    assert not found.linear
    assert found.found == 3
    kinds = {round(float(place.point[0])): place.kind for place in found.places}
    assert kinds == {-1: "stable", 0: "saddle", 1: "stable"}
    assert sorted(place.name for place in found.places) == ["A", "B", "C"]
    saddle = next(place for place in found.places if place.kind == "saddle")
    np.testing.assert_allclose(saddle.eigenvalues, [1 + 4 * BIN_S, 1 - 2 * BIN_S], atol=1e-6)
    table = mode_table(found, BIN_S)
    assert table.header[0] == "Fixed point"
    assert len(table.rows) == 6


def test_without_a_fixed_point_the_mean_is_said_to_be_used():
    view = moving_view(lambda x: x + 1.0 + 0.1 * torch.sin(x))
    motion = Motion.of(view)
    assert not motion.near.linear
    assert not motion.near.places[0].fixed
    np.testing.assert_allclose(motion.near.places[0].point, motion.visited.mean(0))


def test_flow_of_a_linear_map_is_that_map():
    """Of a law that is a turn on the two axes shown, whatever else there is."""
    view = moving_view(lambda x: x)
    axes = view.axes
    on_axes = np.eye(3)
    on_axes[:2, :2] = turn(0.3, 2.0).T
    law = torch.from_numpy(axes.forward @ on_axes @ axes.back)
    mean = torch.from_numpy(axes.mean)
    view.run.model.law = lambda x: (x - mean) @ law + mean
    motion = Motion.of(view)
    np.testing.assert_allclose(
        np.sort(np.abs(motion.near.places[0].eigenvalues)), np.exp(-BIN_S / np.array([0.3, 0.3, np.inf])), atol=1e-9
    )
    flow = Flow(view, motion)
    places = np.stack(np.meshgrid(flow.x, flow.y, indexing="ij"), -1)
    true = places @ (turn(0.3, 2.0) - np.eye(2)).T / BIN_S
    inside = flow.visited & (np.linalg.norm(places, axis=-1) < 0.5 * flow.half)
    assert 0.1 < inside.mean() < 0.9
    error = np.linalg.norm((flow.velocity - true)[inside], axis=-1)
    assert np.median(error) < 0.2 * np.median(np.linalg.norm(true[inside], axis=-1))  # blurred, not bent
    assert np.isnan(flow.velocity[~flow.visited]).all()
    assert not flow.visited.all()


def test_predicted_change_is_that_of_the_next_bin():
    """A law that knows nothing predicts none of the change; the share is that of a plain computation."""
    view = moving_view(lambda x: x)
    assert Motion.of(view).predicted == 0
    law = torch.from_numpy(known_dynamics())
    view.run.model.law = lambda x: x @ law.T
    latents = view.grid("test", view.evaluation.latents("test")).astype(float)
    before, after = latents[:, :-1].reshape(-1, 3), latents[:, 1:].reshape(-1, 3)
    readout = view.run.model.bases["reach"].numpy()  # distances are those of the predicted activity
    wrong, stays = (after - before @ known_dynamics().T) @ readout.T, (after - before) @ readout.T
    expected = 1 - np.nansum(wrong**2) / np.nansum(stays**2)
    assert Motion.of(view).predicted == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("law", [lambda x: 0.9 * x, torch.tanh, lambda x: x, lambda x: x + 1, lambda x: 1.3 * x])
def test_every_law_can_be_drawn(law):
    for session in (reach_session(), ring_session()):
        shown = list(dynamics_figures(moving_view(law, session)))
        assert [type(item) for item in shown] == [str, Picture, Picture, Table]
        assert "nan" not in f"{shown[0]} {shown[1].caption} {shown[2].caption} {shown[3]}"


@pytest.fixture(scope="module")
def lds_pages(tmp_path_factory) -> dict[str, str]:
    """Write reports of an LDS fitted to simulated reaches, and to a simulation without conditions."""
    pages = {}
    for simulator, latents in (("reach", 8), ("lds", 4)):
        experiment = Experiment(LDSConfig(latents=latents), DataConfig(simulator=simulator, bin_width_s=BIN_S))
        run = train(dataclasses.replace(experiment, report=False), write=False)
        path = tmp_path_factory.mktemp(simulator) / "report.html"
        write_report(run, path)
        pages[simulator] = path.read_text()
    return pages


def test_an_lds_of_reaches_finds_how_they_turn(lds_pages):
    """The simulation turns at 1.8 Hz during movement, and not in between."""
    page = lds_pages["reach"]
    assert 'class="failure"' not in page
    assert "The law of motion is linear." in page
    frequencies = [
        float(cell) for cell in re.findall(r"± [\d.]+ i</td><td[^>]*>[^<]+</td><td[^>]*>([\d.]+)</td>", page)
    ]
    assert any(1.4 < frequency < 2.2 for frequency in frequencies)
    assert "Evidence of rotation (p = 0.0005)" in page
    plane = re.search(r"The plane that turns most: ([\d.]+) Hz", page)
    assert plane is not None
    assert 1.0 < float(plane[1]) < 2.2


def test_an_lds_without_conditions_has_dynamics_and_says_why_rotation_is_not_tested(lds_pages):
    page = lds_pages["lds"]
    assert 'class="failure"' not in page
    assert "Flow field" in page
    assert "Not tested: rotation is looked for in averages by condition, and no column" in page
