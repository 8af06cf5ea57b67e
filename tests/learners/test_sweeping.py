"""Runs of a sweep that fall behind the others are ended; those that do not, and those of other data, are not."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from lvmzoo.config import DataConfig, Experiment
from lvmzoo.learners.callbacks import Record
from lvmzoo.learners.loggers import make_logger
from lvmzoo.learners.sweeping import Pruned, Pruning
from lvmzoo.models.single_region.lfads import LFADSConfig

QUIET: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}


def fitted(folder: Path, kind: str, losses: Sequence[float], seed: int = 0) -> int:
    """Report validation losses as a fit does; return how many were looked at."""
    data = DataConfig(simulator="lds", simulator_options={"seed": seed})
    experiment = Experiment(model=LFADSConfig(), data=data, prune=kind)
    record = Record(0, make_logger(experiment.logger, None, {}))
    pruning, trainer = Pruning(experiment, folder), pl.Trainer(**QUIET)
    trainer.callbacks.append(record)  # type: ignore[attr-defined] # as in a fit
    learner: Any = None
    for number, loss in enumerate(losses, 1):
        record.rows.append({"epoch": number, "step": 10 * number, "validation/loss": loss})
        try:
            pruning.on_train_epoch_end(trainer, learner)
        except Pruned as pruned:
            told = pruned.objective, pruned.step
            break
    else:
        pruning.on_train_end(trainer, learner)
        return len(losses)
    assert told == (min(losses[:number]), 10 * number)
    return number


GOOD, BAD = [5.0, 4.0, 3.0, 2.0, 1.0, 1.0, 1.0], [9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]


def test_a_run_below_the_median_is_ended_once_there_is_one(tmp_path: Path) -> None:
    assert fitted(tmp_path, "median", BAD) == 7  # nothing to compare with
    for _ in range(4):
        assert fitted(tmp_path, "median", GOOD) == 7
    assert fitted(tmp_path, "median", BAD) in (2, 3)
    assert fitted(tmp_path, "median", [loss - 0.5 for loss in GOOD]) == 7
    assert fitted(tmp_path, "median", BAD, seed=1) == 7  # of other data


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a?b {c} 100%"
    folder.mkdir()
    assert fitted(folder, "median", GOOD) == 7
    assert (folder / "pruning.db").is_file()


def test_of_the_runs_that_got_as_far_the_best_third_goes_on(tmp_path: Path) -> None:
    ended = [fitted(tmp_path, "halving", [base + loss for loss in GOOD]) for base in (0, 3, 6, 2, 1, 7)]
    assert ended[0] == 7
    assert sum(number == 7 for number in ended) <= 3
    assert fitted(tmp_path, "halving", [loss - 0.5 for loss in GOOD]) == 7


def test_a_pruned_run_says_why() -> None:
    assert str(Pruned(2.5, 30, "median")) == (
        "Ended after 30 steps: its validation loss 2.5 was worse than the median of the other runs."
    )
    with pytest.raises(Pruned, match="not among the best third"):
        raise Pruned(2.5, 30, "halving")


def test_runs_that_begin_together_share_a_study(tmp_path: Path) -> None:
    experiment = Experiment(model=LFADSConfig(), data=DataConfig(simulator="lds"), prune="median")
    together = threading.Barrier(8)

    def begin(_: int) -> None:
        together.wait()
        Pruning(experiment, tmp_path)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(begin, range(8)))
