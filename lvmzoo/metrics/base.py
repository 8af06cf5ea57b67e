"""What a metric is: a score with its spread, and the views of a fitted model that all metrics share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from lvmzoo.batch import Batch, Layout
from lvmzoo.data.trials import Session, Trials
from lvmzoo.findings import Findings, Progress, quiet_progress
from lvmzoo.metrics.gathered import Gathered
from lvmzoo.metrics.pieces import chunks, stretches
from lvmzoo.models.base import Communicates, Connects, Decodes, Model, Reconstructs

__all__ = ["Evaluation", "Metric", "Score"]

logger = logging.getLogger("lvmzoo")

Result = TypeVar("Result")
Rows = slice | Int[np.ndarray, " some"]  # of the valid bins of a part

PARTS = ("train", "validation", "test")
MINIMUM_TRIALS = 10  # with fewer, the spread is taken over contiguous blocks
BLOCKS = 20


@dataclass(frozen=True)
class Score:
    """One number about one session, and how far to trust it.

    ``spread`` is the standard error of the mean over trials, or over contiguous blocks where a part has fewer than
    ten trials; ``n`` counts what is behind the value, as the metric's docstring says (bins, spikes).
    """

    metric: str
    value: float
    session: str
    target: str = ""  # the behavior variable or the region, where there is one
    unit: str = ""  # of measure: "nats/bin", "bits/spike", "deg"; "" for a ratio
    better: Literal["higher", "lower"] = "higher"
    spread: float | None = None
    n: int = 0
    note: str = ""
    seen: bool = False  # of units, in bins, that the model looked at: how well it explains, not how well it predicts
    ceiling: float | None = None  # the most that can be reached: by the true rates, or in spite of the data's noise
    chance: float | None = None  # what one in twenty readouts of shuffled labels reaches
    p: float | None = None  # how often shuffled labels reach the value
    validation: float | None = None  # the same on validation data, by which models may be chosen


class Evaluation:
    """Views of a fitted model on one session, computed when first asked for and kept.

    Every view is a flat array over the valid bins of a part ("train", "validation" or "test"), trial after trial.
    Held-out units and behavior are hidden from the model in all of them. The model sees the trials in chunks; what it
    says lies in a file where it is large, and metrics take it in ``pieces``.

    Parameters
    ----------
    model : a fitted model, or None for a baseline whose views are all known.
    session : the data, split as for training.
    seed : of the bootstrap behind some spreads.
    known : views that need not be computed: "latents" or "rates", then part, then array.
    """

    def __init__(
        self,
        model: Model | None,
        session: Session,
        seed: int = 0,
        known: Mapping[str, Mapping[str, Float[np.ndarray, "_ _"]]] | None = None,
    ) -> None:
        self.model, self.session, self.seed = model, session, seed
        self._kept: dict[Any, Any] = {
            (view, part): array for view, parts in (known or {}).items() for part, array in parts.items()
        }

    @property
    def layout(self) -> Layout:
        """Sizes and names of the session."""
        return self.session.layout

    def kept(self, key: Any, compute: Callable[[], Result]) -> Result:
        """Return what ``compute`` returned the first time that ``key`` was asked for."""
        if key not in self._kept:
            self._kept[key] = compute()
        return cast("Result", self._kept[key])

    def trials(self, part: str) -> Trials:
        """Return the trials of a part."""
        return cast("Trials", getattr(self.session, part))

    def bins(self, part: str) -> Int[np.ndarray, " bin"]:
        """Return where the valid bins of a part are stored."""

        def compute() -> np.ndarray:
            stored = self.trials(part).flat
            return stored[self.trials(part).valid.numpy()[stored]]

        return self.kept(("bins", part), compute)

    def pieces(self, part: str) -> Iterator[slice]:
        """Return stretches of the valid bins of a part, as many as are computed with at once."""
        return stretches(0, len(self.bins(part)), self.layout.n_units)

    def since_start(self, part: str) -> Int[np.ndarray, " bin"]:
        """Return how many bins of its trial lie before each valid bin."""

        def compute() -> np.ndarray:
            trials = self.trials(part)
            first = np.repeat(np.cumsum(trials.lengths) - trials.lengths, trials.lengths)
            return (np.arange(trials.n_bins) - first)[trials.valid.numpy()[trials.flat]]

        return self.kept(("since_start", part), compute)

    def groups(self, part: str) -> Int[np.ndarray, " bin"]:
        """Return for each valid bin the trial, or contiguous block, over which spreads are taken; never decreasing."""

        def compute() -> np.ndarray:
            trials = self.trials(part)
            keep = trials.valid.numpy()[trials.flat]
            number = np.repeat(np.arange(len(trials)), trials.lengths)[keep]
            if len(np.unique(number)) >= MINIMUM_TRIALS:
                return number
            return np.arange(len(number)) * BLOCKS // max(len(number), 1)

        return self.kept(("groups", part), compute)

    def latents(self, part: str) -> Float[np.ndarray, "bin latent"]:
        """Return the latents inferred from the held-in units."""
        return self.kept(("latents", part), lambda: self.view(part, self._model().latents, torch.float64))

    def regressors(self, part: str) -> Float[np.ndarray, "bin channel"]:
        """Return what a readout of activity may use: the latents, and the known inputs that the model itself uses."""
        return self.kept(("regressors", part), lambda: self.with_inputs(part, self.latents(part)))

    def with_inputs(self, part: str, latents: Float[np.ndarray, "bin latent"]) -> Float[np.ndarray, "bin channel"]:
        """Return latents of the valid bins of a part beside the known inputs that the model itself uses."""
        if self.model is None or not self.model.uses_inputs or not self.layout.inputs:
            return latents
        inputs, gathered = [self.trials(part).inputs[name].numpy() for name in self.layout.inputs], Gathered()
        for rows in self.pieces(part):
            bins = self.bins(part)[rows]
            gathered.add(np.concatenate([latents[rows], *(values[bins].astype(np.float64) for values in inputs)], 1))
        return gathered.array

    def rates(self, part: str) -> Float[np.ndarray, "bin unit"]:
        """Return the expected activity per bin of every unit, held-out ones included."""
        return self.kept(("rates", part), lambda: self.view(part, cast("Reconstructs", self._model()).rates))

    def decoded(self, part: str) -> Mapping[str, Float[np.ndarray, "bin _channel"]]:
        """Return each behavior variable that the model decodes by itself."""
        model = cast("Decodes", self._model())
        return self.kept(("decoded", part), lambda: self.views(part, model.decode))

    def predictions(self, part: str, target: str) -> Float[np.ndarray, "bin target_unit"]:
        """Return the expected activity of a region, given the others that the model predicts it from."""
        model = cast("Communicates", self._model())
        return self.kept(
            ("predictions", part, target), lambda: self.view(part, lambda batch: model.predict_target(batch, target))
        )

    def findings(self, progress: Progress = quiet_progress) -> Findings:
        """Return what a model that connects regions says of them; from training trials alone, with every unit shown.

        Where trials have conditions, those whose condition is unknown are left out: what they share with others of
        their condition cannot be told from communication.
        """

        def compute() -> Findings:
            model = self._model()
            parameter = next(model.parameters(), None)
            trials = self.trials("train")
            if trials.condition is not None and 0 < (unknown := int((trials.condition < 0).sum())) < len(trials):
                logger.warning(
                    "%d of %d training trials have no known condition; what is said of regions leaves them out.",
                    unknown,
                    len(trials),
                )
                trials = trials.select(np.flatnonzero(trials.condition >= 0))
            batch = trials.batch().without_behavior()
            with evaluating(model):
                return cast("Connects", model).findings(
                    batch if parameter is None else batch.to(parameter.device), self.seed, progress
                )

        return self.kept("findings", compute)

    @property
    def positive_rates(self) -> bool:
        """Whether ``rates`` can be scored under a Poisson likelihood as they are."""
        if self.model is None:
            return ("rates", "test") in self._kept
        return isinstance(self.model, Reconstructs) and self.model.positive_rates

    def activity(
        self, part: str, units: Sequence[int] | slice = slice(None), rows: Rows = slice(None)
    ) -> Num[Tensor, "bin unit"]:
        """Return what was recorded in the valid bins, or some of them, in the type in which it is stored."""
        return self.trials(part).activity[torch.from_numpy(self.bins(part)[rows])][:, _columns(units)]

    def recorded(
        self, part: str, units: Sequence[int] | slice = slice(None), rows: Rows = slice(None)
    ) -> Bool[Tensor, "bin unit"] | None:
        """Return which samples of ``activity`` exist; None where all do."""
        missing = self.trials(part).missing
        if missing is None:
            return None
        return ~missing[torch.from_numpy(self.bins(part)[rows])][:, _columns(units)]

    def behavior(self, part: str, name: str) -> Float[np.ndarray, "bin channel"]:
        """Return a behavior variable; NaN where there is no label."""
        return self.trials(part).behavior[name].numpy()[self.bins(part)].astype(np.float64)

    def truth(self, part: str, name: str, rows: Rows = slice(None)) -> Float[np.ndarray, "bin channel"] | None:
        """Return the ground truth of a simulation ("latents", "rates") in the valid bins, or some of them; or None."""
        stored = self.trials(part).truth.get(name)
        return None if stored is None else stored.numpy()[self.bins(part)[rows]].astype(np.float64)

    def view(
        self, part: str, function: Callable[[Batch], Tensor], dtype: torch.dtype | None = None
    ) -> Float[np.ndarray, "bin channel"]:
        """Return what a method of the model gives for the valid bins of a part, in a type if one is given."""
        gathered = Gathered()
        with evaluating(self._model()):
            for batch in self.batches(part):
                gathered.add(function(batch)[batch.valid].cpu().to(dtype=dtype).numpy())
        return gathered.array

    def views(
        self, part: str, function: Callable[[Batch], Mapping[str, Tensor]]
    ) -> dict[str, Float[np.ndarray, "bin _channel"]]:
        """Return what a method of the model gives by name for the valid bins of a part; nothing for none."""
        found: dict[str, Gathered] = {}
        with evaluating(self._model()):
            for batch in self.batches(part):
                for name, values in function(batch).items():
                    found.setdefault(name, Gathered()).add(values[batch.valid].double().cpu().numpy())
        return {name: gathered.array for name, gathered in found.items()}

    def batches(self, part: str, hidden: bool = True) -> Iterator[Batch]:
        """Give the trials of a part in order, a chunk at a time, without behavior and without the held-out units."""
        trials = self.trials(part)
        parameter = next(self._model().parameters(), None)
        for rows in chunks(trials.lengths, self.layout.n_units):
            batch = trials.batch(rows).without_behavior()
            if hidden:
                batch = batch.hide(self.layout.held_out)
            yield batch if parameter is None else batch.to(parameter.device)

    def _model(self) -> Model:
        assert self.model is not None, "a baseline knows its views"
        return self.model


class Metric(Protocol):
    """One way of judging a model; it runs where the model has the capability that it needs."""

    @property
    def name(self) -> str:
        """What it is called by."""
        ...

    @property
    def needs(self) -> type | None:
        """The capability without which there is no row; None: latents are enough, and every model has them."""
        ...

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return its scores; none where the session lacks what it compares with."""
        ...


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Switch dropout and gradients off, and the model's mode back afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _columns(units: Sequence[int] | slice) -> slice | list[int]:
    return units if isinstance(units, slice) else list(units)
