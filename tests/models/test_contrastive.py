"""The contrastive model: a ring recovered, windows and whole sequences, what must not matter, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor

from lvmzoo.batch import Kind, Observation
from lvmzoo.data.pairs import PairSampler
from lvmzoo.data.trials import Trials
from lvmzoo.errors import UserError
from lvmzoo.models.behavior.contrastive import Contrastive, ContrastiveConfig
from lvmzoo.parts.info_nce import InfoNCE
from tests.data.labeled import labeled_trials


def fit(
    trials: Trials, config: ContrastiveConfig, steps: int, seed: int = 0, batch_size: int = 512, rate: float = 1e-3
) -> Contrastive:
    """Descend the loss by a bare loop."""
    torch.manual_seed(seed)
    model = Contrastive(config, [trials.layout])
    model.prepare([trials.batch()])
    sampler = PairSampler([trials], model.sampling, batch_size, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for step in range(steps):
        optimizer.zero_grad()
        model.loss(sampler.draw(step), step).total.backward()
        optimizer.step()
    return model.eval()


def recording(seed: int = 0, lengths: Sequence[int] = (60, 25, 40), units: int = 6, **options: Any) -> Trials:
    """Return Poisson counts whose rates follow a slow label ``x`` and a category ``odor``."""
    random = np.random.default_rng(seed)
    x = np.sin(np.cumsum(random.normal(size=sum(lengths))) * 0.2)
    odor = np.repeat(np.arange(len(lengths)) % 2, lengths).astype(float)
    rates = np.exp(x[:, None] * random.normal(size=units) + odor[:, None] * random.normal(size=units))
    labels = {"x": (Kind.CONTINUOUS, x), "odor": (Kind.CATEGORICAL, odor)}
    return labeled_trials(lengths, labels, random.poisson(rates).astype(np.int16), **options)


def built(trials: Trials, **options: Any) -> Contrastive:
    torch.manual_seed(0)
    model = Contrastive(ContrastiveConfig(**{"hidden": 8, "time_offset_bins": 2} | options), [trials.layout]).double()
    model.prepare([trials.batch()])
    return model


# --- the ring: 100 von Mises units of 10-20 Hz at their peak, 10 000 bins of 20 ms, training and test blocks apart


def ring(shift: int = 0) -> tuple[Trials, Trials, np.ndarray, np.ndarray]:
    """Return training and test trials with labels shifted circularly by ``shift`` bins, and those labels (cos, sin)."""
    random = np.random.default_rng(0)
    angle = np.cumsum(random.normal(size=10_000) * 0.15)
    preferred, peak = random.uniform(0, 2 * np.pi, 100), random.uniform(10, 20, 100)
    rates = peak * np.exp(2.0 * (np.cos(angle[:, None] - preferred) - 1))  # Hz
    counts = random.poisson(rates * 0.02).astype(np.uint8)
    label = np.roll(np.angle(np.exp(1j * angle)), shift)
    whole = labeled_trials([7000, 100, 2900], {"angle": (Kind.CIRCULAR, label)}, counts)
    code = np.stack([np.cos(label), np.sin(label)], 1)
    return whole.select([0]), whole.select([2]), code[:7000], code[7100:]


# With positives this far apart the ring lies on a great circle; nearer ones let it wave, in a way that seeds differ in.
RING = ContrastiveConfig(latents=3, positives="behavior", delta=0.6)


def decoding(model: Contrastive, shift: int = 0) -> float:
    """Return the R2 of nearest neighbors on (cos, sin) of the test block."""
    train, test, code, truth = ring(shift)
    decoder = KNeighborsRegressor(25, metric="cosine").fit(model.latents(train.batch())[0].numpy(), code)
    return float(decoder.score(model.latents(test.batch())[0].numpy(), truth))


@pytest.mark.slow
def test_recovers_a_ring_consistently() -> None:
    train, test, _, _ = ring()
    models = [fit(train, RING, 300, seed) for seed in range(3)]
    scores = [decoding(model) for model in models]
    untrained = decoding(fit(train, RING, 0))
    print("kNN R2", scores, "untrained", untrained)
    assert min(scores) >= 0.95
    embedded = [model.latents(test.batch())[0].numpy() for model in models]
    for a in embedded:
        for b in embedded:
            assert LinearRegression().fit(a, b).score(a, b) >= 0.95


@pytest.mark.slow
def test_shifted_labels_decode_at_chance() -> None:
    train = ring(shift=4000)[0]
    assert decoding(fit(train, RING, 300), shift=4000) <= 0.1


# --- what the loss is


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
@pytest.mark.parametrize("positives", ["time", "behavior", "hybrid"])
def test_loss_is_info_nce_of_the_latents_at_the_window(positives: str, similarity: str) -> None:
    trials = recording()
    model = built(trials, positives=positives, similarity=similarity, receptive_field_bins=5, temperature=0.5)
    batch = PairSampler([trials], model.sampling, 32, 0).draw(0)
    embedded = model.latents(trials.batch())[batch.trial_index, batch.start_bin + 2]
    reference, *positive, negative = embedded.chunk(len(model.sampling.kinds) + 2)
    criterion = InfoNCE(similarity, 0.5).double()
    expected = sum(sum(criterion(reference, group, negative)) for group in positive)
    loss = model.loss(batch, 0)
    assert loss.weight == 32
    torch.testing.assert_close(loss.total, expected, rtol=1e-9, atol=1e-9)
    assert set(loss.terms) == {f"{kind}_{term}" for kind in model.sampling.kinds for term in ("align", "uniform")}


def test_latents_near_a_trials_end_see_its_last_bin_repeated() -> None:
    trials = recording(lengths=(20,))
    model = built(trials, receptive_field_bins=10)
    longer = trials.activity[torch.cat([torch.zeros(5), torch.arange(20), torch.full((4,), 19)]).long()]
    padded = replace(trials, activity=longer, stop=np.array([29]), valid=torch.ones(29, dtype=torch.bool), behavior={})
    torch.testing.assert_close(model.latents(trials.batch()), model.latents(padded.batch())[:, 5:25])


def test_long_sessions_are_embedded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = recording()
    model = built(trials)
    whole = model.latents(trials.batch())
    monkeypatch.setattr("lvmzoo.models.behavior.contrastive._BINS_AT_ONCE", 21)
    torch.testing.assert_close(model.latents(trials.batch()), whole)


def test_filler_windows_weigh_nothing() -> None:
    trials = recording()
    model = built(trials, receptive_field_bins=5)
    batch = PairSampler([trials], model.sampling, 8, 0).draw(0)
    filler = torch.tensor([False, True] * 12)  # the same windows of each group
    valid, observed = batch.valid.clone(), batch.observed.clone()
    valid[filler], observed[filler] = False, False
    activity = torch.where(filler[:, None, None], 999, batch.activity)
    keep = (~filler).nonzero()[:, 0]
    loss = model.loss(replace(batch, activity=activity, valid=valid, observed=observed), 0)
    windows = replace(batch, pairs={}).map(lambda value: value[keep])
    alone = model.loss(replace(windows, pairs={"time": batch.pairs["time"][:, ::2] // 2}), 0)
    assert loss.weight == alone.weight == 4
    torch.testing.assert_close(loss.total, alone.total)
    empty = model.loss(replace(batch, valid=torch.zeros_like(valid)), 0)
    assert empty.weight == 0
    assert empty.total == 0
    empty.total.backward()


# --- what must not matter


def test_garbage_where_nothing_was_observed_changes_nothing() -> None:
    trials = recording()
    missing = torch.zeros(125, 6, dtype=torch.bool)
    missing[30:50, 2] = True
    valid = torch.ones(125, dtype=torch.bool)
    valid[70:74] = False
    activity = trials.activity.float()
    clean = replace(trials, activity=activity, missing=missing, valid=valid)
    dirty = activity.clone()
    dirty[missing] = torch.nan
    dirty[70:74] = 1e6
    latents = []
    for values in (activity, dirty):
        model = built(replace(clean, activity=values))
        latents.append(model.latents(replace(clean, activity=values).batch()))
    assert torch.equal(*latents)
    assert (latents[0][1, 10:14] == 0).all()  # the gap
    assert (latents[0][1, 25:] == 0).all()  # padding


def test_held_out_units_never_enter() -> None:
    trials = recording(held_out=(1, 4))
    model = built(trials)
    assert len(model.inputs.of("made").mean) == 4
    changed = trials.activity.clone()
    changed[:, [1, 4]] = 77
    torch.testing.assert_close(
        model.latents(trials.batch()), model.latents(replace(trials, activity=changed).batch().hide([1, 4]))
    )


def test_causal_latents_ignore_the_future() -> None:
    trials = recording()
    changed = trials.activity.clone()
    changed[10] += 5
    for causal in (True, False):
        model = built(trials, causal=causal)
        same = (model.latents(trials.batch()) == model.latents(replace(trials, activity=changed).batch())).all(-1)
        assert bool(same[0, :10].all()) == causal
        assert not same[0, 10]


def test_units_are_standardized_by_the_training_data() -> None:
    trials = recording()
    model = built(trials)
    activity = trials.activity.double()
    own = model.inputs.of("made")
    torch.testing.assert_close(own.mean, activity.mean(0))
    torch.testing.assert_close(own.scale, activity.std(0, correction=0))
    silent = activity.clone()
    silent[:, 2] = 0
    offset = replace(trials, activity=(1e4 + 1e-2 * silent).float())
    again = built(offset)  # a large mean must not drown the variance
    scale = again.inputs.of("made").scale
    torch.testing.assert_close(scale[[0, 1]], offset.activity.double().std(0, correction=0)[[0, 1]])
    assert torch.isfinite(again.latents(offset.batch())).all()


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_units_of_measure_do_not_matter(unit: float) -> None:
    trials = recording()
    expected = built(trials).latents(trials.batch())
    measured = replace(trials, activity=(unit * trials.activity.double()).float())  # volts instead of microvolts
    torch.testing.assert_close(built(measured).latents(measured.batch()), expected, atol=1e-4, rtol=0)


def test_continuous_activity_is_embedded() -> None:
    trials = recording()
    layout = replace(trials.layout, observation=Observation.CONTINUOUS)
    model = fit(replace(trials, layout=layout, activity=trials.activity.float().sqrt()), ContrastiveConfig(), 3)
    assert torch.isfinite(model.latents(trials.batch())).all()


# --- learning


@pytest.mark.parametrize("positives", ["time", "behavior", "hybrid"])
def test_the_loss_falls_and_every_parameter_learns(positives: str) -> None:
    trials = recording(lengths=(300, 300))
    config = ContrastiveConfig(
        positives=positives, time_offset_bins=1, hidden=16, temperature=0.5, minimum_temperature=0.1
    )
    held_out = PairSampler([trials], Contrastive(config, [trials.layout]).sampling, 512, 9).draw(0)
    before, after = fit(trials, config, 0), fit(trials, config, 60)
    assert after.loss(held_out, 0).total < before.loss(held_out, 0).total - 0.3
    before.loss(held_out, 0).total.backward()
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in before.parameters())


def test_behavior_of_several_kinds_separates_them() -> None:
    trials = recording(lengths=(300, 300))
    model = fit(trials, ContrastiveConfig(positives="behavior", behavior=["odor"], temperature=0.3), 60)
    latents = model.latents(trials.batch())
    centers = latents.mean(1)
    assert float(centers[0] @ centers[1] / centers.norm(dim=1).prod()) < 0


# --- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positives": "behaviour"}, "behavior"),
        ({"similarity": "cos"}, "cosine"),
        ({"positives": "behavior", "behavior": ["odour"]}, "Did you mean 'odor'"),
        ({"latents": 1}, "model.latents=1"),
        ({"receptive_field_bins": 0}, "model.receptive_field_bins=0"),
        ({"temperature": 0.0}, "model.temperature=0"),
        ({"temperature": float("inf")}, "model.temperature=inf"),
        ({"delta": float("inf")}, "model.delta=inf"),
        ({"jacobian_penalty": float("inf")}, "model.jacobian_penalty=inf"),
        ({"positives": "behavior", "behavior_weights": {"x": float("inf")}}, "'x' the weight inf"),
        ({"temperature": 0.1, "minimum_temperature": 0.2}, "is above model.temperature"),
        ({"positives": "behavior", "behavior": ["x"], "balanced": True}, "no variable .* is categorical"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Contrastive(ContrastiveConfig(**options), [recording().layout])


def test_behavior_must_be_there() -> None:
    layout = replace(recording().layout, behavior={})
    with pytest.raises(UserError, match=r"model\.positives=hybrid needs behavior"):
        Contrastive(ContrastiveConfig(positives="hybrid"), [layout])


def test_sessions_without_labels_do_not_match() -> None:
    with pytest.raises(UserError, match=r"2 sessions and model\.positives=time.*\n.*\nSet model\.positives=behavior"):
        Contrastive(ContrastiveConfig(), [recording().layout, recording(session="other").layout])
