"""A trained model learns a new session by the layers of that session alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lvmzoo import Estimator, UserError, from_arrays
from lvmzoo.cli import main
from lvmzoo.data.recording import Recording
from lvmzoo.metrics import evaluate
from lvmzoo.run import Run, load_run, read_experiment
from lvmzoo.train import train

OPTIONS: dict[str, Any] = {
    "positives": "behavior",
    "latents": 3,
    "hidden": 8,
    "receptive_field_bins": 5,
    "time_offset_bins": 3,
}
SPLIT = {"split": {"validation": 0.15, "test": 0.2, "gap_s": 0.0}}


def arrays(units: int, seed: int, bins: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Return counts of units tuned to an angle, and the angle."""
    random = np.random.default_rng(seed)
    angle = np.cumsum(random.normal(size=bins) * 0.25)
    preferred = random.uniform(0, 2 * np.pi, units)
    counts = random.poisson(3 * np.exp(2 * (np.cos(angle[:, None] - preferred) - 1)))
    return counts, np.angle(np.exp(1j * angle))


def recording(session: str, units: int, seed: int, bins: int = 600) -> Recording:
    counts, heading = arrays(units, seed, bins)
    return from_arrays(counts, {"heading": heading}, bin_width_s=0.05, session=session)


OLD, NEW = recording("old", 12, 0), recording("new", 9, 1)


def estimator(steps: int = 30, **options: Any) -> Estimator:
    trainer = {"max_steps": steps, "batch_size": 64, "progress": False, "learning_rate": 3e-3}
    return Estimator("contrastive", bin_width_s=0.05, trainer=trainer, data=SPLIT, **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def fitted() -> Estimator:
    return estimator().fit(OLD)


def state(made: Estimator) -> dict[str, torch.Tensor]:
    return made.run_.model.state_dict()


def test_only_the_new_sessions_layers_are_fitted(fitted: Estimator) -> None:
    before = {name: value.clone() for name, value in state(fitted).items()}
    adapted = fitted.adapt(NEW)
    assert list(adapted.run_.model.layouts) == ["new"]
    assert int(adapted.run_.history["step"].iloc[-1]) == 3  # a tenth
    for name, value in state(adapted).items():
        assert name.startswith("inputs") or torch.equal(value, before[name]), name
    own = adapted.run_.model.inputs.of("new")
    assert own.mean.shape == (9,)
    counts = adapted.run_.sessions[0].train.batch().activity[0].double()
    torch.testing.assert_close(own.mean, counts.mean(0).float())
    for name, value in state(fitted).items():
        assert torch.equal(value, before[name]), f"{name} of the first model changed"
    assert all(parameter.requires_grad for parameter in adapted.run_.model.parameters())
    assert adapted.transform(NEW)[0].shape == (600, 3)
    again = adapted.adapt(recording("third", 7, 2))
    assert int(again.run_.history["step"].iloc[-1]) == 3  # a tenth of the first fit, not of the adapted one


def test_a_known_session_keeps_its_layers_beside_a_new_one(fitted: Estimator) -> None:
    plan = dataclasses.replace(fitted.run_.experiment, adapt="in memory")
    run = train(plan, [NEW, OLD], write=False, trained=fitted.run_.model)
    batch = fitted.run_.sessions[0].train.batch()
    assert torch.equal(run.model.latents(batch), fitted.run_.model.latents(batch))
    untrained = train(dataclasses.replace(plan, trainer=dataclasses.replace(plan.trainer, max_steps=1)), [NEW, OLD],
                      write=False, trained=fitted.run_.model)  # fmt: skip
    assert not torch.equal(run.model.inputs.of("new").layer.weight, untrained.model.inputs.of("new").layer.weight)


def test_everything_is_fitted_when_it_is_asked_for(fitted: Estimator) -> None:
    adapted = fitted.adapt(NEW, everything=True)
    assert int(adapted.run_.history["step"].iloc[-1]) == 30
    for name, value in state(adapted).items():
        if name.startswith("body"):
            assert not torch.equal(value, state(fitted)[name]), name


def test_arrays_are_a_new_session_whatever_their_size(fitted: Estimator) -> None:
    random = np.random.default_rng(0)
    counts, heading = random.poisson(1.0, (2, 200, 12)), random.uniform(-3, 3, (2, 200))
    one = estimator(10, behavior=["heading"]).fit(counts[0], {"heading": heading[0]})
    other = one.adapt(counts[1], {"heading": heading[1]})
    assert list(other.run_.model.layouts) == ["arrays-2"]
    assert other.transform(counts[1]).shape == (200, 3)
    assert set(other.predict(counts[1]).shape) == {200, 1}
    assert list(other.adapt(counts[0], {"heading": heading[0]}).run_.model.layouts) != ["arrays-2"]


# --- the command


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Return a trained run, the file of its session and that of a new one."""
    folder = tmp_path_factory.mktemp("adapt")
    for name, units, seed in (("old", 12, 0), ("new", 9, 1)):
        counts, heading = arrays(units, seed)
        np.savez(folder / f"{name}.npz", counts=counts, heading=heading, bin_width_s=0.05)
    np.savez(folder / "wide.npz", counts=counts, heading=heading, bin_width_s=0.1)
    settings = [f"model.{name}={value}" for name, value in OPTIONS.items()]
    trainer = ["trainer.max_steps=30", "trainer.batch_size=64", "trainer.progress=false"]
    data = ["data=nwb", f"data.path={folder / 'old.npz'}", "data.bin_width_s=0.05", "data.split.gap_s=0"]
    code = main(["train", "model=contrastive", *settings, *trainer, *data, f"output={folder}", "name=first"])
    assert code == 0
    return folder / "first", folder / "old.npz", folder / "new.npz"


def adapted(folder: Path) -> Run:
    [found] = [path.parent for path in folder.parent.glob("*/run.json") if path.parent.name == "second"]
    return load_run(found)


def test_the_command_makes_a_run_of_its_own(
    folders: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, _, new = folders
    assert main(["adapt", str(first), f"data.path={new}", "name=second"]) == 0
    said = capsys.readouterr().out
    assert "behavior_error" in said
    assert "Report: " in said
    run, trained = adapted(first), load_run(first)
    assert run.scores
    assert {score.session for score in run.scores} == set(run.model.layouts)
    assert run.experiment.adapt == str(first)
    assert f"adapted from the run {first.name}." in (first.parent / "second" / "report.html").read_text()
    assert run.experiment.trainer.max_steps == 3
    assert run.experiment.data.bin_width_s == 0.05
    for name, value in trained.model.body.state_dict().items():
        assert torch.equal(value, run.model.body.state_dict()[name])
    assert main(["adapt", str(first.parent / "second"), "--everything", "name=third"]) == 0
    third = read_experiment(first.parent / "third")
    assert third.adapt_everything
    assert third.trainer.max_steps == 30  # of the first fit, not of the one that was adapted
    assert third.data.path == str(new)


def test_an_adapting_run_is_resumed_frozen(folders: tuple[Path, Path, Path]) -> None:
    first, _, new = folders
    assert main(["adapt", str(first), f"data.path={new}", "name=whole", "trainer.max_steps=8"]) == 0
    whole = load_run(first.parent / "whole").model.state_dict()
    for name in ("run.json", "model.safetensors"):
        (first.parent / "whole" / name).unlink()
    assert main(["train", f"resume={first.parent / 'whole'}"]) == 0
    for name, value in load_run(first.parent / "whole").model.state_dict().items():
        assert torch.equal(value, whole[name]), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.path={old}"], "nothing to fit"),
        (["data.path={new}", "--everything"], "Adapt first, without --everything"),
        (["data.path={new}", "model.latents=4"], "would have another shape"),
        (["data.path={new}", "model.causal=true"], "model.causal is True, and the model was trained with False"),
        (["data.path={new}", "model.temperature=0.3"], "model.temperature is 0.3, and the model was trained with"),
        (["data.path={wide}"], "Set data.bin_width_s=0.05"),
        (["data.path={new}", "trainer.max_step=4"], "Did you mean 'trainer.max_steps'"),
        (["another"], "one run folder"),
        (["--all"], "one run folder"),
    ],
)
def test_what_cannot_be_adapted_is_said(
    folders: tuple[Path, Path, Path], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, old, new = folders
    assert (
        main(["adapt", str(first), *(word.format(old=old, new=new, wide=new.with_stem("wide")) for word in words)]) == 2
    )
    assert message in capsys.readouterr().err


def test_models_without_layers_of_a_sessions_own_are_refused() -> None:
    with pytest.raises(UserError, match=r"lds cannot be adapted.*\n.*contrastive"):
        Estimator("lds", latents=2, trainer={"max_epochs": 1, "progress": False}).fit(OLD).adapt(NEW)


@pytest.mark.slow
def test_a_tenth_of_the_steps_decodes_as_well_as_a_model_of_its_own() -> None:
    """Held out, by nearest neighbors; the input layer as it was drawn, on the same body, does not."""

    def r2(made: Run) -> float:
        [score] = [score for score in evaluate(made.model, made.sessions or []) if score.metric == "behavior_r2_knn"]
        return score.value

    old, new = (recording(name, 30, seed, 4000) for name, seed in (("old", 0), ("new", 1)))
    options = {"hidden": 32, "delta": 0.6}
    trained = estimator(600, **options).fit(old)
    own = r2(estimator(600, **options).fit(new).run_)
    adapted = r2(trained.adapt(new).run_)
    plan = dataclasses.replace(trained.run_.experiment.trainer, max_steps=1, learning_rate=1e-12)
    untrained = dataclasses.replace(trained.run_.experiment, trainer=plan)
    drawn = r2(train(untrained, [new], write=False, trained=trained.run_.model))
    print("R2 of its own", own, "adapted", adapted, "not trained", drawn)
    assert own > 0.8
    assert adapted >= 0.95 * own
    assert drawn < 0.95 * own
