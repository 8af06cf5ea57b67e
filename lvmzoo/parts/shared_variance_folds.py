"""What folds of the training data say about shared variance, kept with the model that was fitted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lvmzoo.errors import UserError
from lvmzoo.inference.shared_variance import SharedVariance

__all__ = ["SharedVarianceFolds"]


class SharedVarianceFolds(nn.Module):
    """A :class:`SharedVariance` in buffers; NaN for folds that hold no data. Raises UserError for a single fold."""

    latents: Tensor
    share: Tensor
    dimensions: Tensor
    predicted: Tensor

    def __init__(self, folds: int) -> None:
        super().__init__()
        if folds < 2:
            raise UserError(f"model.folds is {folds}.", "At least 2 are needed.", "The usual choice is 5 or 10.")
        self.register_buffer("latents", torch.zeros((), dtype=torch.float64))
        for name in ("share", "dimensions", "predicted"):
            self.register_buffer(name, torch.full((folds,), torch.nan, dtype=torch.float64))

    def remember(self, found: SharedVariance) -> None:
        """Keep what was found."""
        self.latents.copy_(found.latents)
        for name in ("share", "dimensions", "predicted"):
            values = getattr(found, name)
            getattr(self, name).fill_(torch.nan)[: len(values)] = values

    @property
    def found(self) -> SharedVariance:
        """What was kept."""
        return SharedVariance(self.latents, self.share, self.dimensions, self.predicted)
