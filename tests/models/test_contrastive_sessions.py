"""Several sessions in one embedding; behavior and time on latents of their own; validation ends a fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsRegressor

from lvmzoo import from_arrays
from lvmzoo.batch import Batch, Kind
from lvmzoo.config import Experiment, TrainerConfig
from lvmzoo.data.module import TrainingData
from lvmzoo.data.pairs import PairSampler
from lvmzoo.data.recording import Recording
from lvmzoo.data.trials import Trials
from lvmzoo.errors import UserError
from lvmzoo.models.behavior.contrastive import Contrastive
from lvmzoo.models.behavior.contrastive_config import ContrastiveConfig
from lvmzoo.parts.info_nce import InfoNCE
from lvmzoo.run import load_run
from lvmzoo.train import train
from tests.contract import world
from tests.data.labeled import labeled_trials


def ring(session: str, seed: int, units: int, bins: int = 4000) -> tuple[Trials, Trials]:
    """Return training and test trials of units with random preferred angles."""
    random = np.random.default_rng(seed)
    angle = np.cumsum(random.normal(size=bins) * 0.15)
    rates = 0.6 * np.exp(2.0 * (np.cos(angle[:, None] - random.uniform(0, 2 * np.pi, units)) - 1))
    label = np.angle(np.exp(1j * angle))
    counts = random.poisson(rates).astype(np.uint8)
    whole = labeled_trials([bins * 3 // 4, bins // 4], {"angle": (Kind.CIRCULAR, label)}, counts, session=session)
    return whole.select([0]), whole.select([1])


def built(sessions: Sequence[Trials], **options: Any) -> Contrastive:
    torch.manual_seed(0)
    settings = {"hidden": 8, "time_offset_bins": 2, "positives": "behavior", "receptive_field_bins": 5} | options
    model = Contrastive(ContrastiveConfig(**settings), [trials.layout for trials in sessions]).double()
    model.prepare([trials.batch() for trials in sessions])
    return model


def fit(sessions: Sequence[Trials], steps: int, batch_size: int = 256, **options: Any) -> Contrastive:
    model = built(sessions, **options)
    sampler = PairSampler(sessions, model.sampling, batch_size, 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        model.loss(sampler.draw(step), step).total.backward()
        optimizer.step()
    return model.eval()


def windows(batch: Batch) -> list[Batch]:
    return [batch, *batch.others]


# --- several sessions


@pytest.mark.parametrize("positives", ["behavior", "hybrid"])
def test_loss_is_info_nce_over_all_sessions(positives: str) -> None:
    sessions = [ring("a", 0, 6, 400)[0], ring("b", 1, 9, 600)[0]]
    model = built(sessions, positives=positives, temperature=0.5)
    batch = PairSampler(sessions, model.sampling, 32, 0).draw(0)
    embedded = torch.cat(
        [
            model.latents(trials.batch())[each.trial_index, each.start_bin + 2]
            for trials, each in zip(sessions, windows(batch), strict=True)
        ]
    )
    criterion = InfoNCE("cosine", 0.5).double()
    loss = model.loss(batch, 0)
    assert loss.weight == 64
    for kind, rows in batch.pairs.items():
        align, uniform = criterion(*embedded[rows])
        torch.testing.assert_close(loss.terms[f"{kind}_align"], align, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(loss.terms[f"{kind}_uniform"], uniform, rtol=1e-9, atol=1e-9)


def test_shares_of_a_step_add_up_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of the shares' losses, each with everyone's negatives, is the loss of one process."""
    sessions = [ring("a", 0, 6, 400)[0], ring("b", 1, 9, 600)[0]]
    model = built(sessions, positives="hybrid")
    sampler = PairSampler(sessions, model.sampling, 32, 0)
    whole = model.loss(sampler.draw(0), 0).total
    shares = [sampler.shard(0, rank, 4) for rank in range(4)]
    negatives: list[torch.Tensor] = []
    monkeypatch.setattr("lvmzoo.models.behavior.contrastive.gather", lambda rows: negatives.append(rows) or rows)
    for share in shares:
        model.loss(share, 0)
    everyone = {0: torch.cat(negatives[::2]), 1: torch.cat(negatives[1::2])}
    calls = iter(range(100))
    monkeypatch.setattr("lvmzoo.models.behavior.contrastive.gather", lambda rows: everyone[next(calls) % 2])
    mean = sum(model.loss(share, 0).total for share in shares) / 4
    torch.testing.assert_close(mean, whole, rtol=1e-12, atol=1e-12)


def test_a_session_has_its_own_scaling_and_input_layer() -> None:
    sessions = [ring("a", 0, 6, 400)[0], ring("b.nwb", 1, 9, 600)[0]]
    model = built(sessions)
    activity = sessions[1].batch().activity[0].double()
    torch.testing.assert_close(model.inputs.of("b.nwb").mean, activity.mean(0))
    torch.testing.assert_close(model.inputs.of("b.nwb").scale, activity.std(0, correction=0))
    before = [model.latents(trials.batch()) for trials in sessions]
    with torch.no_grad():
        for parameter in model.inputs.of("a").parameters():
            parameter.add_(1.0)
    after = [model.latents(trials.batch()) for trials in sessions]
    assert not torch.allclose(after[0], before[0])
    assert torch.equal(after[1], before[1])
    with pytest.raises(UserError, match="no input layer for session 'c'"):
        model.latents(ring("c", 2, 6, 400)[0].batch())


@pytest.mark.parametrize("delta", [pytest.param(None, marks=pytest.mark.slow), 0.4])
def test_equal_labels_have_equal_embeddings_in_all_sessions(delta: float | None) -> None:
    """A readout fitted in one session decodes the other, whose units are different ones."""
    (first, _), (second, test) = ring("a", 0, 30), ring("b", 1, 40)
    model = fit([first, second], 150, 128, delta=delta, hidden=16, receptive_field_bins=10, time_offset_bins=10)

    def code(trials: Trials) -> np.ndarray:
        angle = trials.batch().behavior["angle"][0, :, 0].numpy()
        return np.stack([np.cos(angle), np.sin(angle)], 1)

    embedded = [model.latents(trials.batch())[0].numpy() for trials in (first, test)]
    across = KNeighborsRegressor(25, metric="cosine").fit(embedded[0], code(first)).score(embedded[1], code(test))
    print(across)
    assert across > 0.85
    # Fitted one by one, nothing relates the two.
    alone = fit([first], 150, 128, delta=delta, hidden=16, receptive_field_bins=10, time_offset_bins=10)
    embedded[0] = alone.latents(first.batch())[0].numpy()
    apart = KNeighborsRegressor(25, metric="cosine").fit(embedded[0], code(first)).score(embedded[1], code(test))
    assert apart < across - 0.3


def recording(session: str, seed: int, units: int, side: bool = True) -> Recording:
    random = np.random.default_rng(seed)
    hand = np.sin(np.cumsum(random.normal(size=(30, 30, 1)), 1) * 0.3)
    counts = random.poisson(np.exp(hand * random.normal(size=units) - 0.5))
    behavior = {"hand": hand, **({"side": (hand > 0) * 1.0} if side else {})}
    return replace(from_arrays(counts, behavior, bin_width_s=0.05), session=session)


def experiment(**options: Any) -> Experiment:
    model = {"positives": "hybrid", "latents": 3, "hidden": 8, "receptive_field_bins": 3, "time_offset_bins": 1}
    trainer = {"max_steps": 400, "batch_size": 64, "learning_rate": 0.01, "validate_every_steps": 10, "patience": 3}
    return Experiment(
        model=ContrastiveConfig(**(model | options.pop("model", {}))),
        data=world.DATA,
        trainer=TrainerConfig(**{**trainer, "progress": False, **options}),
        report=False,
    )


@pytest.mark.parametrize(
    ("sessions", "model"),
    [
        (1, {"positives": "time"}),
        (1, {"positives": "behavior"}),
        (1, {"positives": "hybrid"}),
        (2, {"positives": "behavior"}),
        (2, {"positives": "hybrid", "latents": 4, "behavior_latents": 2}),
    ],
)
def test_held_out_loss_ends_training_and_the_best_is_kept(sessions: int, model: dict[str, Any]) -> None:
    data = [recording(f"day {number}", number, 8 + number) for number in range(sessions)]
    run = train(experiment(model=model), data, write=False)
    losses = run.history["validation/loss"].to_numpy()
    assert len(losses) < 40  # of 400 steps
    assert losses.argmin() == len(losses) - 4  # patience: three more without improvement
    assert run.sessions is not None
    parts = [[getattr(session, part) for session in run.sessions] for part in ("train", "validation")]
    fed = TrainingData(*parts, run.model.sampling, 64, run.experiment.seed, shuffle=True)
    with torch.no_grad():
        again = np.mean([float(run.model.loss(batch, 0).total) for batch in fed.val_dataloader()])
    assert again == pytest.approx(losses.min(), rel=1e-5)


def test_a_run_of_several_sessions_is_scored_and_loads(tmp_path: Any) -> None:
    data = [recording(f"day {number}", number, 8 + number) for number in (0, 1)]
    run = train(replace(experiment(max_steps=20), output=str(tmp_path)), data)
    assert run.folder is not None
    assert run.sessions is not None
    loaded = load_run(run.folder)
    for session in run.sessions:
        batch = session.test.batch()
        assert torch.equal(run.model.latents(batch), loaded.model.latents(batch))
        assert session.layout.session in {score.session for score in run.scores}


def test_held_out_sessions_without_a_window_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    train_trials = [ring("a", 0, 6, 400)[0], ring("b", 1, 9, 600)[0]]
    short = replace(train_trials[1], stop=train_trials[1].start + 3)
    model = built(train_trials)
    data = TrainingData(train_trials, [train_trials[0], short], model.sampling, 16, 0, shuffle=True)
    with caplog.at_level("WARNING", logger="lvmzoo"):
        assert data.validates()
    assert "'b' has no window of 5 bins" in caplog.text
    batch = next(iter(data.val_dataloader()))
    assert [each.layout.session for each in windows(batch)] == ["a"]


# --- behavior and time on latents of their own


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_each_part_has_its_latents(similarity: str) -> None:
    trials = ring("a", 0, 6, 400)[0]
    model = built([trials], positives="hybrid", latents=5, behavior_latents=2, similarity=similarity)
    batch = PairSampler([trials], model.sampling, 32, 0).draw(0)
    loss = model.loss(batch, 0)
    for kind, touched in (("behavior", [True] * 2 + [False] * 3), ("time", [False] * 2 + [True] * 3)):
        model.zero_grad()
        (loss.terms[f"{kind}_align"] + loss.terms[f"{kind}_uniform"]).backward(retain_graph=True)
        assert (model.body.last.weight.grad.abs().sum((0, 1)) > 0).tolist() == touched
        assert all(bool(parameter.grad.abs().sum() > 0) for parameter in model.inputs.parameters())  # shared
    latents = model.latents(trials.batch())
    embedded = latents[batch.trial_index, batch.start_bin + 2]
    criterion = InfoNCE(similarity, 1.0).double()
    for kind, part in (("behavior", embedded[:, :2]), ("time", embedded[:, 2:])):
        align, uniform = criterion(*part[batch.pairs[kind]])
        torch.testing.assert_close(loss.terms[f"{kind}_align"] + loss.terms[f"{kind}_uniform"], align + uniform)
    if similarity == "cosine":
        for part in (latents[..., :2], latents[..., 2:]):
            torch.testing.assert_close(part.norm(dim=-1), torch.ones_like(part[..., 0]))


def test_behavior_goes_where_it_should() -> None:
    """Two independent rings, of which one is the label: its latents hold it alone, those of time hold both."""
    random = np.random.default_rng(0)
    angles = np.angle(np.exp(1j * np.cumsum(random.normal(size=(5000, 2)) * 0.2, 0)))
    preferred = random.uniform(0, 2 * np.pi, (2, 30))
    rates = [0.8 * np.exp(2 * (np.cos(angles[:, ring, None] - preferred[ring]) - 1)) for ring in (0, 1)]
    counts = random.poisson(np.concatenate(rates, 1)).astype(np.uint8)
    trials = labeled_trials([5000], {"label": (Kind.CIRCULAR, angles[:, 0])}, counts)
    options = {"positives": "hybrid", "latents": 7, "behavior_latents": 3, "hidden": 24, "temperature": 0.2}
    latents = fit([trials], 200, delta=0.4, **options).latents(trials.batch())[0].numpy()

    def decode(part: slice, ring: int) -> float:
        code = np.stack([np.cos(angles[:, ring]), np.sin(angles[:, ring])], 1)
        decoder = KNeighborsRegressor(25).fit(latents[:3500, part], code[:3500])
        return float(decoder.score(latents[3700:, part], code[3700:]))

    behavior, time = ([decode(part, ring) for ring in (0, 1)] for part in (slice(3), slice(3, None)))
    print("label and other ring from the latents of behavior", behavior, "of time", time)
    assert behavior[0] > 0.9
    assert behavior[1] < 0.2
    assert min(time) > 0.85
