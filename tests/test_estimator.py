"""scikit-learn's verbs on the path of the command line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

import lvmzoo
from lvmzoo import Estimator, UserError
from lvmzoo.config import DataConfig
from lvmzoo.data.load import load as load_recordings
from lvmzoo.run import experiment_from_plain, experiment_to_plain
from lvmzoo.train import train
from tests.contract.world import recording

TRAINER = {"max_epochs": 5, "progress": False}


def trials(seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    random = np.random.default_rng(seed)
    latents = [random.normal(size=(n, 2)).cumsum(0) * 0.3 for n in random.integers(20, 40, 25)]
    loadings = np.random.default_rng(9).normal(size=(2, 11))
    return [random.poisson(np.exp(0.5 * z @ loadings)) for z in latents], latents


def make(**parameters: Any) -> Estimator:
    return Estimator(**{"model": "lds", "latents": 2, "bin_width_s": 0.05, "trainer": TRAINER, **parameters})


def test_shapes_follow_the_input() -> None:
    ragged, _ = trials()
    estimator = make().fit(ragged)
    latents = estimator.transform(ragged)
    assert [z.shape for z in latents] == [(len(x), 2) for x in ragged]
    assert estimator.transform(ragged[0]).shape == (len(ragged[0]), 2)
    equal = np.stack([x[:20] for x in ragged])
    assert make().fit(equal).transform(equal).shape == (25, 20, 2)
    assert make().fit(recording()).transform(recording())[0].shape[1] == 2


def test_behavior_is_decoded_and_scored() -> None:
    (X, y), (new, truth) = trials(0), trials(1)
    estimator = make().fit(X, y)
    predicted = estimator.predict(new)
    error = sum(((p - t) ** 2).sum() for p, t in zip(predicted, truth, strict=True))
    mean = np.concatenate(y).mean(0)
    assert error < 0.7 * sum(((t - mean) ** 2).sum() for t in truth)
    named = make().fit(X, {"hand": y, "speed": [np.abs(z[:, :1]) for z in y]}).predict(new)
    assert sorted(named) == ["hand", "speed"]


def test_a_model_that_decodes_predicts_by_itself(tmp_path: Path) -> None:
    (X, y), (new, _) = trials(0), trials(1)
    both = {"hand": y, "fast": [(np.abs(z[:, :1]) > 0.5) * 1.0 for z in y]}
    settings: dict[str, Any] = {"latents": 3, "relevant": 2, "horizon_bins": 4}
    estimator = make(**settings, model="psid").fit(X, both)
    assert estimator.run_.sessions is not None
    predicted = estimator.predict(new)
    assert sorted(predicted) == ["fast", "hand"]
    for trial, hand in zip(new, predicted["hand"], strict=True):
        batch = estimator._trials(trial).batch()
        np.testing.assert_allclose(hand, estimator.run_.model.decode(batch)["hand"][0], atol=1e-12)
    one = make(**settings, model="psid").fit(np.stack([x[:20] for x in X]), np.stack([z[:20] for z in y]))
    assert one.predict(np.stack([x[:20] for x in new])).shape == (25, 20, 2)
    again = lvmzoo.load(one.save(tmp_path / "run"))
    np.testing.assert_array_equal(again.predict(new[0]), one.predict(new[0]))
    plain = make(latents=3, relevant=0, horizon_bins=4, behavior=[], model="psid").fit(X, y)  # a readout beside it
    assert plain.predict(new[0]).shape == (len(new[0]), 2)


def test_findings_are_computed_once_saved_and_need_regions_and_data(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(12, 8, 6))
    settings: dict[str, Any] = {"regions": ["A"] * 3 + ["B"] * 3, "permutations": 0, "resamples": 0}
    estimator = Estimator("multi_region_lds", latents=1, trainer=TRAINER, **settings)
    with pytest.raises(UserError, match="not fitted"):
        estimator.findings()
    estimator.fit(X)
    with pytest.raises(UserError, match=r"call findings\(\) before save\(\)"):
        lvmzoo.load(estimator.save(tmp_path / "without")).findings()
    found = estimator.findings()
    assert found["arrays"].claims
    assert all(claim.p is claim.interval is claim.evidence is None for claim in found["arrays"].claims)
    assert estimator.findings()["arrays"] is found["arrays"]
    assert lvmzoo.load(estimator.save(tmp_path / "with")).findings()["arrays"].claims == found["arrays"].claims
    with pytest.raises(UserError, match=r"lds says nothing about regions.*\n.*multi_region_lds"):
        make().fit(X).findings()


def test_scores_say_more_of_structured_data() -> None:
    X, _ = trials()
    random = np.random.default_rng(0)
    mixed = [random.permutation(x.ravel()).reshape(x.shape) for x in X]
    estimator = make().fit(X)
    assert estimator.score(X) > estimator.score(mixed)
    regions = ["a"] * 6 + ["b"] * 5
    rrr = Estimator("reduced_rank_regression", regions=regions, trainer=TRAINER).fit(X)
    assert 0 < rrr.score(X) < 1
    assert rrr.predict(X)[0].shape == (len(X[0]), 5)


def test_clone_and_parameters_as_scikit_learn_wants_them() -> None:
    estimator = make(seed=3)
    copy = clone(estimator)
    assert copy.get_params() == estimator.get_params()
    assert copy.set_params(latents=4, seed=5).get_params()["latents"] == 4
    X, _ = trials()
    assert copy.fit(X).transform(X)[0].shape[1] == 4
    with pytest.raises(UserError, match="Did you mean 'latents'"):
        make(latent=3)
    with pytest.raises(UserError, match="Did you mean 'max_epochs'"):
        make(trainer={"max_epoch": 3}).fit(X)
    with pytest.raises(UserError, match="Did you mean 'lds'"):
        Estimator("ldss")


def test_cross_validation_of_scikit_learn() -> None:
    X, _ = trials()
    scores = cross_val_score(make(), np.stack([x[:20] for x in X]), cv=3)
    assert np.isfinite(scores).all()


def test_behavior_of_one_variable_needs_no_name_in_score() -> None:
    (X, y), (new, truth) = trials(0), trials(1)
    config = {"positives": "behavior", "hidden": 8, "receptive_field_bins": 1, "time_offset_bins": 1}
    trainer = {"max_steps": 30, "batch_size": 64, "progress": False}
    fitted = Estimator("contrastive", bin_width_s=0.05, trainer=trainer, **config).fit(X, {"hand": y})
    assert fitted.score(new, truth) == pytest.approx(fitted.score(new, {"hand": truth}))
    with pytest.raises(UserError, match="dict of hand"):
        fitted.score(new)


def test_a_saved_model_is_the_model(tmp_path: Path) -> None:
    X, y = trials()
    estimator = make().fit(X, y)
    again = lvmzoo.load(estimator.save(tmp_path / "model"))
    for one, other in zip(estimator.transform(X), again.transform(X), strict=True):
        assert np.array_equal(one, other)
    for one, other in zip(estimator.predict(X), again.predict(X), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    assert again.get_params()["latents"] == 2


def test_not_fitted_is_said() -> None:
    with pytest.raises(UserError, match="not fitted"):
        make().transform(trials()[0])
    X, _ = trials()
    with pytest.raises(UserError, match="nothing to predict"):
        make().fit(X).predict(X)


def test_arrays_and_the_command_line_give_identical_parameters(tmp_path: Path) -> None:
    """The same recording through an Estimator and through what the command line composes."""
    from lvmzoo.store import compose

    X, y = trials()
    lengths = [len(x) for x in X]
    path = tmp_path / "counts.npz"
    np.savez(path, counts=np.concatenate(X), trial_length_bins=lengths, bin_width_s=0.05, hand=np.concatenate(y))
    split = {"validation": 0.2, "test": 0.2, "gap_s": 0.0}
    estimator = make(seed=7, data={"split": split, "bin_width_s": 0.05}).fit(path)
    overrides = ["model=lds", "model.latents=2", "data=arrays", f"data.path={path}", "data.bin_width_s=0.05", "seed=7"]
    overrides += [f"data.split.{name}={value}" for name, value in split.items()]
    overrides += ["trainer.max_epochs=5", "trainer.progress=false", f"output={tmp_path}", "report=false"]
    composed = compose(overrides)
    run = train(composed)
    for key, value in estimator.run_.model.state_dict().items():
        assert torch.equal(value, run.model.state_dict()[key]), key
    assert experiment_from_plain(experiment_to_plain(composed)) == composed
    assert run.folder is not None
    for one, other in zip(lvmzoo.load(run.folder).transform(path), estimator.transform(path), strict=True):
        assert np.array_equal(one, other)
    assert dataclasses.is_dataclass(composed)


def test_new_data_are_scored_by_the_readout_of_the_fit(tmp_path: Path) -> None:
    """A readout fitted to the data that it is scored on would explain noise."""
    random = np.random.default_rng(0)
    X, angle = random.poisson(1.0, (300, 6)), random.uniform(0, 2 * np.pi, (300, 1))
    settings = {"trainer": {"max_steps": 5, "batch_size": 32, "progress": False}, "receptive_field_bins": 1}
    data = {"behavior_kinds": {"angle": "circular"}}
    fitted = Estimator("contrastive", data=data, **settings).fit(X, {"angle": angle})
    loaded = lvmzoo.load(fitted.save(tmp_path / "model"))
    new, labels = random.poisson(1.0, (60, 6)), {"angle": random.uniform(0, 2 * np.pi, (60, 1))}
    assert loaded.score(new, labels) == pytest.approx(fitted.score(new, labels), abs=1e-9)
    assert fitted.score(new, labels) < 0.1  # an R2: not mixed with an error in degrees


def test_regions_need_not_be_said_again(tmp_path: Path) -> None:
    X, _ = trials()
    rrr = Estimator("reduced_rank_regression", regions=["a"] * 6 + ["b"] * 5, trainer=TRAINER).fit(X)
    again = lvmzoo.load(rrr.save(tmp_path / "model"))
    for one, other in zip(rrr.predict(X), again.predict(X), strict=True):
        np.testing.assert_array_equal(one, other)
    for fewer in (X[0][:, :10], [trial[:, :10] for trial in X]):
        with pytest.raises(UserError, match=r"(?s)has 10 units.*fitted to 11 units"):
            rrr.predict(fewer)


def test_behavior_beside_a_recording_is_refused() -> None:
    with pytest.raises(UserError, match="y was given beside a Recording"):
        make().fit(recording(), np.zeros(10))


def test_arrays_of_any_layout_in_memory_are_taken_and_left_alone() -> None:
    counts = np.random.default_rng(0).poisson(1.0, (200, 6)).astype(np.uint8)
    expected = make().fit(counts[:, ::-1].copy()).transform(counts[:, ::-1].copy())
    np.testing.assert_array_equal(make().fit(counts[:, ::-1]).transform(counts[:, ::-1]), expected)
    frozen = counts.copy()
    frozen.setflags(write=False)
    make().fit(frozen)


def test_double_precision_survives_saving(tmp_path: Path) -> None:
    X = np.random.default_rng(0).poisson(1.0, (200, 6))
    settings = {"trainer": {"max_steps": 3, "batch_size": 32, "progress": False, "precision": "64"}}
    fitted = Estimator("contrastive", **settings).fit(X)
    np.testing.assert_array_equal(lvmzoo.load(fitted.save(tmp_path / "model")).transform(X), fitted.transform(X))


def test_each_session_has_a_readout_of_its_own(tmp_path: Path) -> None:
    X, y = trials()
    for name, sign in (("monday", 1.0), ("tuesday", -1.0)):
        lengths = [len(x) for x in X]
        hand = sign * np.concatenate(y)
        path = tmp_path / f"{name}.npz"
        np.savez(path, counts=np.concatenate(X), trial_length_bins=lengths, bin_width_s=0.05, hand=hand)
    estimator = make().fit(str(tmp_path / "*.npz"))
    monday, tuesday = (np.concatenate(estimator.predict(tmp_path / f"{name}.npz")) for name in ("monday", "tuesday"))
    assert np.corrcoef(monday[:, 0], tuesday[:, 0])[0, 1] < -0.9
    with pytest.raises(UserError, match="There are 2 recordings"):
        estimator.transform(str(tmp_path / "*.npz"))


def test_a_list_of_files_or_recordings_is_one_of_sessions(tmp_path: Path) -> None:
    X, _ = trials()
    files = [tmp_path / "monday.npz", tmp_path / "tuesday.npz"]
    for path, part in zip(files, (X[:12], X[12:]), strict=True):
        np.savez(path, counts=np.concatenate(part), trial_length_bins=[len(x) for x in part], bin_width_s=0.05)
    recordings = load_recordings(DataConfig(path=list(map(str, files))))
    glob, *lists = (make().fit(given) for given in (str(tmp_path / "*.npz"), files, [*map(str, files)], recordings))
    for estimator in lists:
        assert list(estimator.run_.model.layouts) == ["monday", "tuesday"]
        for name, value in estimator.run_.model.state_dict().items():
            assert torch.equal(value, glob.run_.model.state_dict()[name])
        for x, y in zip(estimator.transform(files[:1]), glob.transform(files[0]), strict=True):
            np.testing.assert_array_equal(x, y)


def test_lists_that_are_no_sessions_are_refused() -> None:
    recorded = recording()
    for given, y, words in (
        ([recorded, "file.npz"], None, "several kinds: Recording, str"),
        (["file.npz", np.ones((20, 3))], None, "several kinds: str, ndarray"),
        ([np.ones((20, 3)), Path("file.npz")], None, "several kinds: ndarray"),
        (["file.npz", None], None, "several kinds: str, NoneType"),
        (["file.npz"], [1.0], "beside a file"),
        (["nowhere.npz", "neither.npz"], None, "nowhere.npz"),
        ([recorded, recorded], None, recorded.session),
    ):
        with pytest.raises(UserError, match=words):
            make().fit(given, y)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"latents": 2.5}, "whole number"),
        ({"latents": "many"}, "whole number"),
        ({"fixed": "dynamics"}, "a list"),
        ({"trainer": {"max_epochs": 0.5}}, "whole number"),
        ({"data": {"smoothing_s": "much"}}, "a number"),
    ],
)
def test_settings_of_a_wrong_type_are_told(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Estimator("lds", **settings).fit(np.ones((4, 10, 5)))


def test_numbers_of_numpy_are_numbers() -> None:
    counts = np.random.default_rng(0).poisson(1.0, (6, 20, 5))
    fitted = Estimator("lds", latents=np.int64(2), trainer={"max_epochs": np.int32(2)}).fit(counts)
    assert fitted.run_.experiment.model.latents == 2
    assert type(fitted.run_.experiment.model.latents) is int
