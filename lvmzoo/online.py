"""A fitted model in a closed loop: one new bin at a time in, latents and decoded behavior out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from lvmzoo import registry
from lvmzoo.batch import Batch, Layout
from lvmzoo.config import DataConfig
from lvmzoo.data.inputs import encode
from lvmzoo.data.smoothing import REACH
from lvmzoo.errors import UserError, unknown, unknown_session
from lvmzoo.metrics.decode import Decoder
from lvmzoo.models.base import Filters, Model

__all__ = ["Moment", "Online"]


class Moment(NamedTuple):
    """What is known of the bin ``lag_bins`` before the newest one; NaN while there is none."""

    latents: Float[np.ndarray, " latent"]
    behavior: dict[str, Float[np.ndarray, " _channel"]]  # its own unit, radians in (-pi, pi], or the index of a level


class Online:
    """Infers latents and decodes behavior bin by bin, by the readouts of the run.

    Parameters
    ----------
    model : fitted; it has the capability ``Filters``.
    session : whose units come in.
    decoders : readouts of behavior by name.
    data : how the activity was prepared for the fit; causal smoothing is repeated here, bin by bin.

    Attributes
    ----------
    lag_bins : bins that the model waits for; 0: what ``step`` returns belongs to the newest bin.
    unit_ids : the order in which ``step`` takes the units.

    Raises
    ------
    UserError
        For a model that does not filter, a session that it does not know, or smoothing that looks ahead.
    """

    def __init__(self, model: Model, session: str, decoders: Mapping[str, Decoder], data: DataConfig) -> None:
        if not isinstance(model, Filters):
            able = [name for name, entry in registry.entries().items() if issubclass(entry.model, Filters)]
            raise UserError(
                f"{model.config.name} does not infer latents bin by bin.",
                "It looks at whole trials.",
                f"Models that can be used online: {', '.join(able)}.",
            )
        if session not in model.layouts:
            raise unknown_session(session, model.layouts)
        self.layout: Layout = model.layouts[session]
        self.lag_bins, self.unit_ids = model.lag_bins, self.layout.unit_ids
        self._model, self._decoders = model, dict(decoders)
        self._smoothing = _Smoothing.of(data, self.layout)
        self._empty = _one_bin(self.layout)
        self._hidden = list(self.layout.held_out)
        self.reset()

    def reset(self) -> None:
        """Forget what came in: a trial, or a recording, begins with the next bin."""
        self._state = self._model.initial(self.layout.session, 1)
        self._seen = 0
        if self._smoothing is not None:
            self._smoothing.reset()

    def step(self, activity: ArrayLike, inputs: Mapping[str, ArrayLike] | None = None) -> Moment:
        """Take in the newest bin.

        Parameters
        ----------
        activity : a value of each unit in the order of ``unit_ids``, as recorded: spikes in this bin, or the signal.
            NaN: not recorded.
        inputs : measured value of each known input of the model; those that are left out count as not measured.

        Raises
        ------
        UserError
            For another number of units, or an input that the model does not have.
        """
        latents = self._infer(self._bin(activity, inputs or {}))
        self._seen += 1
        if self._seen <= self.lag_bins:
            latents = np.full_like(latents, np.nan)
            return Moment(
                latents[0], {name: np.full(d.variable.channels, np.nan) for name, d in self._decoders.items()}
            )
        return Moment(latents[0], {name: decoder.predict(latents)[0] for name, decoder in self._decoders.items()})

    def _infer(self, bin: Batch) -> Float[np.ndarray, "1 latent"]:
        self._state, latents = self._model.step(self._state, bin)
        found: np.ndarray = latents.numpy()
        return found

    def _bin(self, activity: ArrayLike, inputs: Mapping[str, ArrayLike]) -> Batch:
        values = np.asarray(activity)
        if values.shape != (self.layout.n_units,):
            raise UserError(
                f"The bin has shape {values.shape}.",
                f"Session '{self.layout.session}' has {self.layout.n_units} units.",
                "Give one value for each unit, in the order of unit_ids.",
            )
        if values.dtype.kind not in "iu":
            values = values.astype(np.float32)
        known = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(len(values), bool)
        if self._smoothing is not None:
            values, known = self._smoothing(values, known)
        if self._hidden:
            known[self._hidden] = False
        batch = self._empty
        given = dict(batch.inputs)
        for name, value in inputs.items():
            if name not in given:
                raise unknown("known input", name, given)
            measured = np.asarray(value, dtype=np.float64).reshape(1, -1)
            given[name] = torch.from_numpy(encode(measured, self.layout.input_variables[name]))[None]
        return _with(batch, torch.from_numpy(np.where(known, values, 0)), torch.from_numpy(known), given)


def _one_bin(layout: Layout) -> Batch:
    """Return a bin in which nothing was recorded yet."""
    return Batch(
        activity=torch.zeros(1, 1, layout.n_units),
        valid=torch.ones(1, 1, dtype=torch.bool),
        observed=torch.zeros(1, 1, layout.n_units, dtype=torch.bool),
        behavior={},
        inputs={name: torch.zeros(1, 1, channels) for name, channels in layout.inputs.items()},
        trial_index=torch.zeros(1, dtype=torch.int64),
        start_bin=torch.zeros(1, dtype=torch.int64),
        layout=layout,
    )


def _with(batch: Batch, activity: Tensor, observed: Tensor, inputs: Mapping[str, Tensor]) -> Batch:
    return Batch(
        activity[None, None], batch.valid, observed[None, None], {}, inputs, batch.trial_index, batch.start_bin,
        batch.layout,
    )  # fmt: skip


class _Smoothing:
    """The causal Gaussian of ``data.smoothing``, bin by bin."""

    def __init__(self, width_bins: float, units: int) -> None:
        lag = np.arange(max(1, int(np.ceil(REACH * width_bins))), -1, -1)
        self._weights = np.exp(-0.5 * (lag / width_bins) ** 2).astype(np.float32)
        self._units = units
        self.reset()

    @classmethod
    def of(cls, config: DataConfig, layout: Layout) -> _Smoothing | None:
        if config.smoothing_s == 0:
            return None
        if not config.causal_smoothing:
            raise UserError(
                f"The model was fitted to activity smoothed over {config.smoothing_s:g} s, later bins included.",
                "What a bin will have been smoothed to is not known when it comes in.",
                "Fit with data.causal_smoothing=true, or without smoothing.",
            )
        return cls(config.smoothing_s / layout.bin_width_s, layout.n_units)

    def reset(self) -> None:
        self._values, self._known = (np.zeros((len(self._weights), self._units), np.float32) for _ in range(2))

    def __call__(self, values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the weighted mean of the last bins, and whether the newest one was recorded."""
        for stored, newest in ((self._values, np.where(known, values, 0)), (self._known, known)):
            stored[:-1] = stored[1:]
            stored[-1] = newest
        weight = self._weights @ self._known
        return np.divide(self._weights @ self._values, weight, out=np.zeros_like(weight), where=weight > 1e-6), known
