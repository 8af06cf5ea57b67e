"""What an encoder with a shared body has of its own for each session: the units' scaling and the input layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from lvmzoo.batch import Batch, Layout
from lvmzoo.errors import unknown_session
from lvmzoo.parts.encoders import BinConvolution, ResampledInput

__all__ = ["SessionInput", "SessionInputs"]

_VARIES = 1e-15  # of a unit: variance in units of its squared mean, less than which single precision does not tell


class SessionInput(nn.Module):
    """Standardizes the held-in units of one session, and holds the layer that they enter by."""

    mean: Tensor
    scale: Tensor
    units: Tensor

    def __init__(self, layout: Layout, layer: BinConvolution | ResampledInput) -> None:
        super().__init__()
        held_in = torch.tensor(layout.held_in, dtype=torch.int64)
        self._hides = bool(layout.held_out)
        self.register_buffer("units", held_in, persistent=False)  # held-out units never enter the encoder
        self.register_buffer("mean", torch.zeros(len(held_in)))
        self.register_buffer("scale", torch.ones(len(held_in)))
        self.layer = layer

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Find mean and standard deviation of each unit, by which its activity is standardized."""
        count, total, squares = (torch.zeros(len(self.units), dtype=torch.float64) for _ in range(3))
        shift: Tensor | None = None
        for batch in batches:
            units = self.units.to(batch.valid.device)
            seen = (batch.observed & batch.valid.unsqueeze(-1))[..., units]
            activity = batch.activity[..., units].double()
            if shift is None:  # any value near the mean: squares of small numbers lose no digits
                shift = torch.where(seen, activity, 0).sum((0, 1)) / seen.sum((0, 1)).clamp(min=1)
            centered = torch.where(seen, activity - shift, 0)
            count += seen.sum((0, 1)).cpu()
            total += centered.sum((0, 1)).cpu()
            squares += centered.square().sum((0, 1)).cpu()
        if shift is None:
            return
        mean = total / count.clamp(min=1)
        variance = squares / count.clamp(min=1) - mean.square()
        mean += shift.cpu()
        self.mean.copy_(mean)
        varies = variance > _VARIES * mean.square()  # whatever the unit of measure; a silent unit stays zero
        self.scale.copy_(torch.where(varies, variance, 1.0).sqrt())

    def standardize(
        self, activity: Num[Tensor, "bin window all_units"], observed: Bool[Tensor, "bin window all_units"]
    ) -> Float[Tensor, "bin window unit"]:
        """Return what the layer sees: the training mean, which is zero, where nothing was observed."""
        if self._hides:
            activity, observed = activity[..., self.units], observed[..., self.units]
        standardized = activity.to(self.mean.dtype, copy=True).sub_(self.mean).div_(self.scale)
        return standardized if _all(observed) else torch.where(observed, standardized, 0)


class SessionInputs(nn.Module):
    """The inputs of several sessions, by name."""

    def __init__(self, inputs: Mapping[str, SessionInput]) -> None:
        super().__init__()
        self._number = {session: number for number, session in enumerate(inputs)}
        self._inputs = nn.ModuleList(inputs.values())  # names of modules may not hold dots, those of sessions may

    def __iter__(self) -> Iterator[str]:
        return iter(self._number)

    def of(self, session: str) -> SessionInput:
        """Return that of one session; raises UserError for a session that the model was not built for."""
        if session not in self._number:
            raise unknown_session(session, self._number, "input layer")
        found = self._inputs[self._number[session]]
        assert isinstance(found, SessionInput)
        return found


def _all(flags: Bool[Tensor, ...]) -> bool:
    """Return whether all are true; of a broadcast view, one of each is looked at: the rest costs as much as a layer."""
    distinct = tuple(slice(None) if stride else slice(1) for stride in flags.stride())
    return bool(flags[distinct].all())
