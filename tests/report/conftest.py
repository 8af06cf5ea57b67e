"""Runs of a fake model on small made-up sessions, to write reports of."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lvmzoo import registry
from lvmzoo.batch import Kind, Layout, Observation, Variable
from lvmzoo.config import DataConfig, Experiment
from lvmzoo.data.trials import Session, Trials
from lvmzoo.metrics.base import Score
from lvmzoo.metrics.decode import fit_decoder
from lvmzoo.models.base import Model, Reconstructs
from lvmzoo.report.page import write_report
from lvmzoo.run import Run


@dataclasses.dataclass(frozen=True)
class FakeConfig:
    name: str = "fake"
    latents: int = 3


class Fake(Model, Reconstructs):
    """Project activity on a fixed orthonormal basis, and back."""

    def __init__(self, config, layouts):
        super().__init__(config, layouts)
        self.bases = {}
        for layout in layouts:
            rng = np.random.default_rng(0)
            basis = np.linalg.qr(rng.normal(size=(layout.n_units, config.latents)))[0]
            self.bases[layout.session] = torch.from_numpy(basis).float()

    def latents(self, batch):
        activity = torch.where(batch.observed, batch.activity.float(), 0.0)
        kernel = torch.ones(1, 1, 7) / 7
        flat = activity.movedim(1, 2).reshape(-1, 1, batch.n_bins)
        smooth = torch.conv1d(flat, kernel, padding=3).view(batch.n_trials, -1, batch.n_bins).movedim(1, 2)
        return smooth @ self.bases[batch.layout.session]

    def rates(self, batch):
        return self.latents(batch) @ self.bases[batch.layout.session].T


ENTRY = registry.Entry(
    model=Fake,
    config=FakeConfig,
    family=registry.Family.SINGLE_REGION,
    reference=registry.Reference("Nobody (2020). A fake.", "10.0/0", "nobody2020fake"),
    tiny=lambda layout: FakeConfig(),
)


def parts(trials: Trials, train: int, validation: int) -> tuple[Trials, Trials, Trials]:
    n = len(trials)
    return (
        trials.select(range(train)),
        trials.select(range(train, train + validation)),
        trials.select(range(train + validation, n)),
    )


def reach_session(name: str = "reach", held_out: tuple[int, ...] = (3,)) -> Session:
    """100 trials of 5 targets, ragged, two regions, hand velocity."""
    rng = np.random.default_rng(1)
    n_trials, n_units, dt = 100, 12, 0.02
    lengths = rng.integers(35, 46, n_trials)
    stop = np.cumsum(lengths)
    start = stop - lengths
    target = np.arange(n_trials) % 5
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(n_units, 3)))[0]
    latents, velocity = [], []
    for trial, length in enumerate(lengths):
        angle = 2 * np.pi * target[trial] / 5
        time = np.linspace(0, 1, length)
        swing = np.sin(np.pi * time)[:, None]
        latents.append(np.hstack([swing * [np.cos(angle), np.sin(angle)], time[:, None]]))
        velocity.append(swing * [np.cos(angle), np.sin(angle)])
    rates = np.exp(np.concatenate(latents) @ basis.T * 2) * 0.25
    counts = rng.poisson(rates).astype(np.uint8)
    layout = Layout(
        session=name,
        units={"PMd": 6, "M1": 6},
        unit_ids=tuple(f"u{i}" for i in range(n_units)),
        observation=Observation.COUNTS,
        bin_width_s=dt,
        behavior={"hand_velocity": Variable(Kind.CONTINUOUS, 2)},
        held_out=held_out,
    )
    trials = Trials(
        layout=layout,
        activity=torch.from_numpy(counts),
        start=start,
        stop=stop,
        valid=torch.ones(len(counts), dtype=torch.bool),
        table=pd.DataFrame({"start_s": start * dt + 0.5 * np.arange(n_trials), "target": target}),
        behavior={"hand_velocity": torch.from_numpy(np.concatenate(velocity)).float()},
    )
    return Session(*parts(trials, 50, 10), notes=("2 silent units were dropped.",))


def ring_session(name: str = "ring", observation: Observation = Observation.COUNTS, behavior: bool = True) -> Session:
    """One continuous stretch in which the population follows an angle; some bins are gaps, some labels unknown."""
    rng = np.random.default_rng(2)
    n, n_units, dt = 3000, 10, 0.1
    angle = np.cumsum(rng.normal(0, 0.25, n))
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(n_units, 3)))[0]
    rates = np.exp(np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1) @ basis.T * 2)
    if observation is Observation.COUNTS:
        activity = torch.from_numpy(rng.poisson(rates).astype(np.uint8))
    else:
        activity = torch.from_numpy((rates + rng.normal(0, 0.1, rates.shape)).astype(np.float32))
    labels = np.mod(angle, 2 * np.pi)[:, None].astype(np.float32)
    labels[100:150] = np.nan
    valid = torch.ones(n, dtype=torch.bool)
    valid[2500:2520] = False
    layout = Layout(
        session=name,
        units={"adn": n_units},
        unit_ids=tuple(str(i) for i in range(n_units)),
        observation=observation,
        bin_width_s=dt,
        behavior={"head_direction": Variable(Kind.CIRCULAR)} if behavior else {},
    )
    cuts = np.array([[0, 1900], [1950, 2200], [2250, 3000]])
    trials = Trials(
        layout=layout,
        activity=activity,
        start=cuts[:, 0],
        stop=cuts[:, 1],
        valid=valid,
        table=pd.DataFrame({"start_s": cuts[:, 0] * dt}),
        behavior={"head_direction": torch.from_numpy(labels)} if behavior else {},
    )
    return Session(*parts(trials, 1, 1))


def make_run(sessions: list[Session], **changes) -> Run:
    from lvmzoo.metrics.base import Evaluation

    config = FakeConfig()
    model = Fake(config, [session.layout for session in sessions])
    decoders = {}
    scores = []
    for session in sessions:
        evaluation = Evaluation(model, session)
        name = session.layout.session
        scores.append(Score("co_bps", 0.1234, name, unit="bits/spike", spread=0.0123, n=12345, note="a note"))
        for variable, kind in session.layout.behavior.items():
            decoders[name, variable] = fit_decoder(
                evaluation.latents("train"), evaluation.behavior("train", variable), kind, "ridge"
            )
            scores.append(Score("behavior_r2", 0.5, name, variable, spread=0.01, n=10))
    history = pd.DataFrame(
        {
            "epoch": range(8),
            "step": range(8),
            "seconds": np.linspace(0, 1, 8),
            "train/log_likelihood_per_bin": -np.exp(-np.arange(8.0)),
            "validation/log_likelihood_per_bin": [np.nan if i % 2 else -1.1 * np.exp(-float(i)) for i in range(8)],
        }
    )
    facts = {
        "versions": {"lvmzoo": "0.1.0", "torch": torch.__version__},
        "seed": 0,
        "seconds": {"data": 0.5, "fit": 130.0},
        "command": "lvmzoo train model=fake",
    }
    run = Run(model, ENTRY, Experiment(config, DataConfig()), sessions, scores, history, None, facts, decoders)
    return dataclasses.replace(run, **changes)


VOID = {"meta", "link", "br", "img", "input", "hr", "wbr"}


class Outline(HTMLParser):
    """Collects titles, ids and unclosed tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.headings: dict[str, list[str]] = {"h1": [], "h2": [], "h3": []}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        if tag not in VOID:
            self.stack.append(tag)
        if tag in self.headings:
            self.headings[tag].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        for tag in self.headings:
            if tag in self.stack:
                self.headings[tag][-1] += data


@pytest.fixture
def chromium(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that opens a page in Chromium, without a window, and returns what that wrote."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no Chromium here to render the page with")
    common = [
        found, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0",
    ]  # fmt: skip

    def open_page(address: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*common, *options, address], capture_output=True, text=True, timeout=120)

    return open_page


@pytest.fixture
def report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Callable[[Run], str]:
    """Return a function that writes a report and fails when any of its parts could not be drawn."""

    def write(run: Run) -> str:
        path = tmp_path / "report.html"
        write_report(run, path)
        assert not [record for record in caplog.records if record.name.startswith("lvmzoo.report")], caplog.text
        page = path.read_text()
        assert 'class="failure"' not in page
        return page

    return write
