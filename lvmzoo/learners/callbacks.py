"""What happens around the steps of a fit: history, the best parameters, progress."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from lvmzoo.learners.gradient import GradientLearner
from lvmzoo.learners.loggers import History
from lvmzoo.learners.statistics import StatisticsLearner

__all__ = ["Learner", "Progress", "Record"]

Learner = StatisticsLearner | GradientLearner

_HELD_OUT = (("validation/log_likelihood_per_bin", 1.0), ("validation/loss", -1.0))


class Record(pl.Callback):
    """Keeps the history and the best parameters by validation; stops when validation no longer improves."""

    def __init__(self, patience: int, history: History) -> None:
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, Tensor] | None = None
        self.finished = False
        self._patience = patience
        self._history = history
        self._best_score = -float("inf")
        self._waited = 0
        self._seconds = 0.0
        self._since = time.perf_counter()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of this."""
        return {
            "rows": list(self.rows),
            "best": self.best,
            "finished": self.finished,
            "best_score": self._best_score,
            "waited": self._waited,
            "seconds": self._seconds + time.perf_counter() - self._since,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken."""
        self.rows, self.best = list(state["rows"]), state["best"]
        self._best_score, self._waited = state["best_score"], state["waited"]
        self._seconds, self.finished = state["seconds"], state["finished"]

    @property
    def improving(self) -> bool:
        """Whether the last look at held-out data was the best of several."""
        return self.best is not None and self._waited == 0 and len(self.rows) > 1

    def on_train_start(self, trainer: pl.Trainer, learner: Any) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, learner: Any) -> None:
        """Add a line to the history; look whether validation improved."""
        if isinstance(learner, GradientLearner):
            learner.record()
        values, learner.values = learner.values, {}
        seconds = self._seconds + time.perf_counter() - self._since
        self.rows.append({"epoch": len(self.rows) + 1, "step": learner.step, "seconds": seconds, **values})
        self._history.log(values, learner.step)
        for name, sign in _HELD_OUT:
            if name in values:
                self._judge(trainer, learner, sign * values[name])

    def on_train_end(self, trainer: pl.Trainer, learner: Any) -> None:
        """Remember that there is nothing left to train."""
        self.finished = True

    def _judge(self, trainer: pl.Trainer, learner: Learner, score: float) -> None:
        if isinstance(learner, StatisticsLearner) and learner.model.passes is not None:
            return  # a solution in a fixed number of passes is complete after the last of them only
        if score > self._best_score:
            self._best_score, self._waited = score, 0
            self.best = {name: value.detach().cpu().clone() for name, value in learner.model.state_dict().items()}
            return
        self._waited += 1
        if self._patience and self._waited >= self._patience:
            trainer.should_stop = True


class Progress(pl.Callback):
    """One line on the terminal: how far, the quantity that matters, time left; a line a minute where there is none."""

    def __init__(self, record: Record, total: int, unit: str) -> None:
        self._record = record
        self._total = total
        self._unit = unit
        self._bar: Any = None
        self._task: Any = None
        self._shown = 0.0

    def on_train_start(self, trainer: pl.Trainer, learner: Any) -> None:
        """Show the line."""
        self._shown = time.monotonic()
        if not sys.stderr.isatty() or not trainer.is_global_zero:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn(self._unit),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[value]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task("Training", total=self._total, value="", completed=self._done(learner))

    def on_train_batch_end(self, trainer: pl.Trainer, learner: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done(learner))
        elif trainer.is_global_zero and time.monotonic() - self._shown > 60:
            self._shown = time.monotonic()
            print(f"Training: {self.status(learner)}", file=sys.stderr)

    def on_train_epoch_end(self, trainer: pl.Trainer, learner: Any) -> None:
        """Show the newest values."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done(learner), value=self._value())

    def on_train_end(self, trainer: pl.Trainer, learner: Any) -> None:
        """Remove the line."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, learner: Any, exception: BaseException) -> None:
        """Remove the line."""
        self._close()

    def status(self, learner: Any) -> str:
        """Say how far the training is, and its newest values."""
        return f"{self._done(learner)} of {self._total} {self._unit} {self._value()}"

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _done(self, learner: Learner) -> int:
        return learner.step if isinstance(learner, GradientLearner) else len(self._record.rows)

    def _value(self) -> str:
        if not self._record.rows:
            return ""
        shown = {k: v for k, v in self._record.rows[-1].items() if k in _NAMES}
        return ", ".join(f"{_NAMES[name]} {value:.4f}" for name, value in shown.items())


_NAMES = {
    "train/log_likelihood_per_bin": "log-likelihood per bin",
    "validation/log_likelihood_per_bin": "held out",
    "train/loss": "loss",
    "validation/loss": "held out",
}
