"""The page as a whole: which sections it has, and what it survives."""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Outline, make_run, reach_session, ring_session

from lvmzoo import registry
from lvmzoo.batch import Observation
from lvmzoo.config import Experiment, TrainerConfig
from lvmzoo.metrics.base import Score
from lvmzoo.report.curves import learning_curves
from lvmzoo.report.page import write_report
from lvmzoo.train import train
from tests.contract import world


@pytest.fixture(scope="module")
def reach_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the report of the reach session once; the tests of its text and its looks share it."""
    path = tmp_path_factory.mktemp("reach") / "report.html"
    run = make_run([reach_session()])
    began = time.perf_counter()
    write_report(run, path)
    assert time.perf_counter() - began < 60  # some 3 s on an idle machine
    assert path.stat().st_size < 2_000_000
    assert 'class="failure"' not in path.read_text()
    return path


def test_reach_has_every_section_that_its_data_allow(reach_page):
    outline = Outline(reach_page.read_text())
    assert outline.stack == []
    assert outline.headings["h2"] == [
        "What was run",
        "Learning curve",
        "Latents",
        "Rotation",
        "Predicted rates against data",
        "Decoding",
        "Drift over the session",
        "Metrics",
        "Configuration",
    ]
    titles = outline.headings["h3"]
    assert "Latent trajectories by target" in titles
    assert "In three dimensions" in titles
    assert "u3 · PMd, held out" in titles
    assert any(re.fullmatch(r"Hand velocity: R² 0\.\d+", title) for title in titles)


def test_a_ring_is_colored_by_its_angle(report):
    page = report(make_run([ring_session()]))
    titles = Outline(page).headings["h3"]
    assert "Latents colored by head direction" in titles
    assert "Predicted rates and data" in titles
    error = re.search(r"Head direction: median error ([\d.]+)° \(always guessing", page)
    assert error is not None
    assert float(error[1]) < 20
    assert "180°" in page


def test_continuous_signals_are_not_called_rates(report):
    page = report(make_run([ring_session(observation=Observation.CONTINUOUS, behavior=False)]))
    assert "Predicted signal and data" in page
    assert "(Hz)" not in page
    assert "Latents colored by time" in page
    assert "Decoding" not in Outline(page).headings["h2"]


def test_several_sessions_have_a_section_each_and_the_rest_are_named(report):
    names = ["a", "b", "c", "d"]
    page = report(make_run([ring_session(name) for name in names]))
    headings = Outline(page).headings["h2"]
    assert [heading for heading in headings if heading.startswith("Session")] == ["Session a", "Session b", "Session c"]
    assert "also fitted: d" in page
    assert "Session d, test data" in page  # in the table of metrics


def test_ids_are_unique_and_links_lead_somewhere(reach_page):
    outline = Outline(reach_page.read_text())
    assert len(outline.ids) == len(set(outline.ids))
    inside = {link[1:] for link in outline.links if link.startswith("#")}
    assert inside <= set(outline.ids)


def test_nothing_is_loaded_and_nothing_runs(reach_page):
    page = reach_page.read_text()
    outline = Outline(page)
    assert not {"script", "iframe", "object", "embed", "img"} & set(outline.tags)
    assert "default-src 'none'" in page
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*', page) == []
    assert re.findall(r"url\((?!#)[^)]*", page) == []


def test_strings_from_files_stay_inert(report):
    evil = "<script>alert(1)</script>"
    session = reach_session(evil)
    layout = dataclasses.replace(
        session.layout, units={evil: 6, "$x^{": 6}, unit_ids=tuple(f"{evil}{i}" for i in range(12))
    )
    parts = {
        name: dataclasses.replace(
            getattr(session, name),
            layout=layout,
            table=getattr(session, name).table.assign(target=lambda table: evil + table["target"].astype(str)),
        )
        for name in ("train", "validation", "test")
    }
    session = dataclasses.replace(session, **parts, notes=(evil,))
    run = make_run([session])
    run.scores.append(Score(evil, 1.0, evil, evil, unit=evil, note=evil))
    run.facts["command"] = evil
    page = report(run)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 20
    assert "$x^{" in page


@pytest.mark.parametrize(("model", "drawn"), [("psid", False), ("lds", True)])
def test_what_is_solved_in_closed_form_has_no_learning_curve(model, drawn):
    """Passes of psid after the first add what it needs, and what they log does not improve."""
    entry = registry.get(model)
    trainer = TrainerConfig(max_epochs=3, tolerance=0.0, progress=False)
    run = train(Experiment(entry.tiny(world.session().layout), world.DATA, trainer), [world.recording()], write=False)
    assert len(run.history) > 1
    assert bool(list(learning_curves(run))) is drawn


def test_a_model_of_no_latents_has_a_page_without_their_section(report):
    """What regions that do not communicate may come to: a regression of rank zero."""
    entry = registry.get("reduced_rank_regression")
    config = dataclasses.replace(entry.tiny(world.session().layout), rank=0)
    run = train(Experiment(config, world.DATA, TrainerConfig(progress=False)), [world.recording()], write=False)
    page = report(run)
    assert "Latents" not in Outline(page).headings["h2"]


def test_a_run_without_anything_still_has_a_page(report):
    session = ring_session(behavior=False)
    empty = session.test.select([])
    session = dataclasses.replace(session, validation=empty, test=empty)
    bare = make_run([session], scores=[], history=pd.DataFrame(), decoders={}, facts={})
    page = report(bare)
    assert "No metric was computed." in page
    assert "there is no curve to show" in page
    assert "Latents" not in Outline(page).headings["h2"]


def test_a_loaded_run_has_a_page(report):
    page = report(dataclasses.replace(make_run([reach_session()]), sessions=None))
    assert "the data are not part of this run" in page
    assert "Learning curve" in page
    assert "0.123" in page


@pytest.mark.parametrize("broken", ["latents", "rates"])
def test_a_broken_figure_does_not_lose_the_report(tmp_path: Path, monkeypatch, caplog, broken):
    run = make_run([reach_session()])

    def fail(batch):
        raise RuntimeError("no <b>luck</b>")

    monkeypatch.setattr(run.model, broken, fail)
    with caplog.at_level(logging.WARNING):
        write_report(run, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "This part could not be drawn (RuntimeError: no &lt;b&gt;luck&lt;/b&gt;)." in page
    assert "Rate drift over the session" in page
    assert any("could not be drawn" in record.message for record in caplog.records)


def test_same_run_same_figures(report):
    run = make_run([ring_session(behavior=False)])
    first, second = (re.sub(r"run of [\d: -]+", "", report(run)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("width", [1280, 400])
def test_chromium_renders_it_without_an_error(reach_page, chromium, tmp_path: Path, width):
    picture = tmp_path / "page.png"
    done = chromium(reach_page.as_uri(), f"--window-size={width},3000", f"--screenshot={picture}")
    assert ":CONSOLE" not in done.stderr, done.stderr
    import matplotlib.image

    pixels = matplotlib.image.imread(picture)[..., :3]
    assert pixels.shape[:2] == (3000, width)
    drawn = (pixels < 0.97).any(2)
    assert drawn[:400].any()
    assert drawn[1500:].mean() > 0.01  # figures
    assert drawn[:, -4:].mean() < 0.01  # nothing sticks out on the right but two rules
    assert np.unique((pixels * 8).astype(int).reshape(-1, 3), axis=0).shape[0] > 20  # their colors
