"""The Lightning module that fits by descending a loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from lvmzoo.batch import Batch
from lvmzoo.errors import DivergedError
from lvmzoo.models.base import GradientModel

__all__ = ["Decay", "GradientLearner"]


class Decay(NamedTuple):
    """Multiply the learning rate by ``factor`` after ``patience`` validations in a row without improvement."""

    factor: float = 1.0
    patience: int = 6


class GradientLearner(pl.LightningModule):
    """Minimizes ``model.loss``; draws are functions of (seed, step), losses are weighted by their observations."""

    def __init__(
        self,
        model: GradientModel,
        learning_rate: float,
        weight_decay: float,
        max_steps: int,
        seed: int,
        decay: Decay,
    ) -> None:
        super().__init__()
        self.held: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext  # keeps signals out
        self.model = model
        self.values: dict[str, float] = {}
        self.step = 0
        self._learning_rate, self._weight_decay = learning_rate, weight_decay
        self._max_steps, self._seed = max_steps, seed
        self._decay, self._lowest, self._waited = decay, float("inf"), 0
        self._train = _Mean()
        self._taken: list[tuple[Mapping[str, Tensor], Tensor]] = []  # losses and weights since the last check
        self._validation = _Mean()
        self._restored: dict[str, Any] | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam with decoupled weight decay."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(parameters, lr=self._learning_rate, weight_decay=self._weight_decay, fused=True)

    def progress(self) -> dict[str, Any]:
        """Return what a checkpoint must hold besides the model."""
        optimizer = self.trainer.optimizers[0].state_dict()
        waiting = (self._lowest, self._waited)
        return {"step": self.step, "optimizer": optimizer, "train": self._train.state(), "waiting": waiting}

    def restore(self, progress: dict[str, Any]) -> None:
        """Continue where ``progress`` was taken."""
        self.step, self._restored = progress["step"], progress["optimizer"]
        self._train = _Mean(*progress["train"])
        self._lowest, self._waited = progress["waiting"]

    def on_fit_start(self) -> None:
        """Give the optimizer back its state, when the run is resumed."""
        if self._restored is not None:
            self.trainer.optimizers[0].load_state_dict(self._restored)
            self._restored = None

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of one batch, weighted so that the mean over ranks is the mean over observations."""
        torch.manual_seed(_mix(self._seed, self.step))
        loss = self.model.loss(batch, self.step)
        total = loss.total
        weight = loss.weight.detach()
        if self.trainer.world_size > 1:
            everywhere = weight.clone()
            torch.distributed.all_reduce(everywhere)
            total = total * weight * self.trainer.world_size / everywhere.clamp(min=torch.finfo(weight.dtype).tiny)
        self._pending = {name: value.detach() for name, value in loss.terms.items()}, weight
        return total

    @property
    def at_last_step(self) -> bool:
        """Whether training is over after the coming step."""
        return self.step + 1 >= self._max_steps

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Take and count a step; stop after the last. Callbacks, which save, come after this."""
        with contextlib.ExitStack() as whole:

            def gradient() -> Any:
                result = optimizer_closure()
                whole.enter_context(self.held())  # not before: a gradient may take long, and changes no parameter
                return result

            super().optimizer_step(epoch, batch_idx, optimizer, gradient)
            self._train.add(*self._pending)
            self._taken.append(self._pending)
            self.step += 1
            if self.step >= self._max_steps:
                self.trainer.should_stop = True

    def check(self) -> None:
        """Raise DivergedError, naming the step and the term, if a loss since the last check was not finite.

        Losses stay on the device until then: to look at each would make it wait.
        """
        if not self._taken:
            return
        names = list(self._taken[0][0])
        finite = torch.stack([torch.stack([v.isfinite() for v in terms.values()]) for terms, _ in self._taken]).cpu()
        first = self.step - len(self._taken)
        taken, self._taken = self._taken, []
        if finite.all():
            return
        place = int((~finite.all(1)).nonzero()[0])
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        terms = {name: float(value) for name, value in taken[place][0].items()}
        odd = " and ".join(f"'{name}'" for name, fine in zip(names, finite[place].tolist(), strict=True) if not fine)
        said = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
        raise DivergedError(
            f"The loss became {sum(terms.values())} at step {first + place + 1}, in its term {odd} ({said}), at "
            f"learning rate {rate:g}. Choose a smaller one, such as trainer.learning_rate={rate / 3:.1g}, or set "
            "trainer.gradient_clip."
        )

    def record(self) -> None:
        """Put the mean loss of the round into ``values``; raises DivergedError for a loss that is not finite."""
        self.check()
        self.values.update({f"train/{name}": value for name, value in self._train.take().items()})

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Add the loss of one held-out batch; draws are the same at every validation."""
        torch.manual_seed(_mix(self._seed, -1 - batch_index))
        # At the last step: where terms of the loss are phased in, early losses would look too good.
        loss = self.model.loss(batch, self._max_steps)
        self._validation.add(loss.terms, loss.weight.detach())

    def on_validation_epoch_end(self) -> None:
        """Record the held-out loss; lower the learning rate where it stopped falling."""
        values = self._validation.take()
        self.values.update({f"validation/{name}": value for name, value in values.items()})
        if "loss" not in values or self._decay.factor == 1.0:
            return
        self.values["learning_rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        if values["loss"] < self._lowest:
            self._lowest, self._waited = values["loss"], 0
            return
        self._waited += 1
        if self._waited % self._decay.patience == 0:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] *= self._decay.factor


class _Mean:
    """Weighted mean of named losses and of their sum; kept on the device until it is asked for."""

    def __init__(self, sums: Mapping[str, Tensor] | None = None, weight: Tensor | None = None) -> None:
        self._sums = dict(sums or {})
        self._weight = weight

    def add(self, terms: Mapping[str, Tensor], weight: Tensor) -> None:
        values = {name: value.detach() * weight for name, value in terms.items()}
        if self._weight is None:
            self._sums, self._weight = values, weight
        else:
            self._sums = {name: self._sums[name] + value for name, value in values.items()}
            self._weight = self._weight + weight

    def state(self) -> tuple[dict[str, Tensor], Tensor | None]:
        return dict(self._sums), self._weight

    def take(self) -> dict[str, float]:
        """Return the means and begin anew."""
        if self._weight is None:
            return {}
        weight = float(self._weight)
        means = {name: float(value) / weight if weight else 0.0 for name, value in self._sums.items()}
        self._sums, self._weight = {}, None
        if len(means) == 1:
            return {"loss": sum(means.values())}
        return {"loss": sum(means.values()), **means}


def _mix(seed: int, step: int) -> int:
    """Return a seed for one step; distinct for distinct (seed, step)."""
    return (seed * 1_000_003 + step * 7_919 + 12_345) % (2**63)
