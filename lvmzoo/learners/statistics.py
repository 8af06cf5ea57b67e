"""The Lightning module that fits by summing statistics over the data and solving: closed form and EM."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lvmzoo.batch import Batch
from lvmzoo.errors import DivergedError
from lvmzoo.models.base import Scores, StatisticsModel

__all__ = ["StatisticsLearner"]

_LEAST_PASSES = 5  # EM may gain little at first and much later


class StatisticsLearner(pl.LightningModule):
    """Sums ``model.statistics`` over a pass, and over ranks, and calls ``model.update`` at its end.

    Parameters change only at the end of a pass, so a run interrupted within one is resumed at its start.
    """

    at_last_step: ClassVar[bool] = False  # besides the last step of a pass, which Lightning knows

    def __init__(self, model: StatisticsModel, tolerance: float) -> None:
        super().__init__()
        self.held: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext  # keeps signals out
        self.automatic_optimization = False
        self.model = model
        self.values: dict[str, float] = {}
        self.step = 0
        self.converged = False
        self._tolerance = tolerance
        self._previous: float | None = None
        self._passes = 0
        self._sums: list[Tensor] | None = None
        self._kind: Any = None
        self._score = torch.zeros(2, dtype=torch.float64)
        # DDP refuses a module without a parameter that requires a gradient.
        self.anchor = nn.Parameter(torch.zeros(()))

    def configure_optimizers(self) -> None:
        """Return no optimizer: the model solves for itself."""

    def progress(self) -> dict[str, Any]:
        """Return what a checkpoint must hold besides the model."""
        return {"step": self.step, "passes": self._passes, "previous": self._previous}

    def restore(self, progress: dict[str, Any]) -> None:
        """Continue where ``progress`` was taken."""
        self.step, self._passes, self._previous = progress["step"], progress["passes"], progress["previous"]

    def check(self) -> None:
        """Say whether the fit diverged: it is known after each pass, and said there."""

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """Add one batch to the sums; solve after the last. Raises DivergedError where there is no finite solution."""
        try:
            with torch.no_grad():
                statistics = self.model.statistics(batch)
                self._kind = type(statistics)
                if self._sums is None:
                    self._sums = list(statistics)
                else:
                    self._sums = [total + leaf for total, leaf in zip(self._sums, statistics, strict=True)]
                if self.trainer.is_last_batch:
                    with self.held():
                        self._solve(self._kind(*self._reduce(self._sums)))
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined] # not in torch's stubs
            raise self._diverged(f"could not be solved: {error}") from error

    def _solve(self, statistics: Any) -> None:
        objective = float(self.model.update(statistics))
        self._sums = None
        self._passes += 1
        self.step = self._passes * int(self.trainer.num_training_batches)
        name = "train/log_likelihood_per_bin" if isinstance(self.model, Scores) else "train/objective"
        self.values[name] = objective
        if not math.isfinite(objective):
            raise self._diverged(f"is {objective}", statistics)
        self._stop_if_done(objective)

    def _diverged(self, how: str, statistics: Any = None) -> DivergedError:
        """Return the error that names the pass, the objective, and what of the sums is not finite."""
        number = self._passes + (statistics is None)
        what = "log-likelihood" if isinstance(self.model, Scores) else "objective"
        odd = [name for name, leaf in (statistics._asdict() if statistics else {}).items() if not leaf.isfinite().all()]
        where = f" (not finite: {', '.join(odd)})" if odd else ""
        return DivergedError(
            f"The {what} of pass {number} {how}{where}. There is no learning rate to lower: check the data for extreme "
            "values, or choose fewer latents."
        )

    def _reduce(self, sums: list[Tensor]) -> list[Tensor]:
        if self.trainer.world_size == 1:
            return sums
        flat = torch.cat([leaf.flatten() for leaf in sums])
        torch.distributed.all_reduce(flat)
        parts = flat.split([leaf.numel() for leaf in sums])
        return [part.view(leaf.shape) for part, leaf in zip(parts, sums, strict=True)]

    def _stop_if_done(self, objective: float) -> None:
        if self._passes != self.model.passes and not self.model.settled:
            return
        gain = objective - self._previous if self._previous is not None else float("inf")
        converged = self._passes >= _LEAST_PASSES and gain < self._tolerance * abs(objective)
        self._previous = objective
        # Lightning honors this at the end of the round, after validation.
        self.converged = self._passes == self.model.passes or (self._tolerance > 0 and converged)
        if self.converged:
            self.trainer.should_stop = True

    def on_validation_epoch_start(self) -> None:
        """Begin a new score."""
        self._score = torch.zeros(2, dtype=torch.float64)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Score the parameters on held-out data, where the model has a likelihood."""
        if isinstance(self.model, Scores):
            total = self.model.log_likelihood(batch).sum()
            self._score += torch.stack([total.cpu().to(torch.float64), batch.valid.sum().cpu().to(torch.float64)])

    def on_validation_epoch_end(self) -> None:
        """Record the held-out log-likelihood per bin."""
        if float(self._score[1]) > 0:
            self.values["validation/log_likelihood_per_bin"] = float(self._score[0] / self._score[1])
