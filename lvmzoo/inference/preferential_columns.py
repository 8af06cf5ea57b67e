"""The columns that moments are taken of: units or their principal components, codes of behavior, known inputs.

They are centered on the training data, and divided by their standard deviations where that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lvmzoo.batch import Batch, Layout
from lvmzoo.inference.preferential_readout import Coded, coded

__all__ = ["Columns"]

CHUNK_SAMPLES = 2**19  # converted to float64 at a time: 4 MB
VARIES = 1e-12  # of a column: variance in units of its mean square


class Columns(nn.Module):
    """Centers and scales of the columns, and which of them are missing together.

    Parameters
    ----------
    layout : of the session.
    behavior : codes of the behavior variables.
    standardize : "none", "behavior" or "all".
    components : principal components of the activity that stand for its units; None: the units themselves.
    """

    mean: Tensor
    scale: Tensor
    varies: Tensor  # columns that are not constant
    kind: Tensor  # of each column of the moments: equal where always missing together; -1: nothing is ever missing
    basis: Tensor | None
    remaining: Tensor | None  # covariance of what the components leave, scaled

    def __init__(self, layout: Layout, behavior: Mapping[str, Coded], standardize: str, components: int | None) -> None:
        super().__init__()
        self.behavior, self.inputs = dict(behavior), list(layout.inputs)
        self.standardize = standardize
        self.units = layout.n_units
        self.codes = max((code.columns.stop for code in behavior.values()), default=0)
        columns = self.units + self.codes + sum(layout.inputs.values())
        self.activity = self.units if components is None else components  # columns of the activity
        self.register_buffer("mean", torch.zeros(columns, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(columns, dtype=torch.float64))
        self.register_buffer("varies", torch.zeros(columns, dtype=torch.bool))
        self.register_buffer("kind", torch.full((columns - self.units + self.activity,), -1))
        shapes = {"basis": (self.units, self.activity), "remaining": (self.units, self.units)}
        for name, shape in shapes.items():
            value = None if components is None else torch.zeros(shape, dtype=torch.float64)
            self.register_buffer(name, value)

    @property
    def kinds(self) -> int:
        """Number of kinds of columns, see ``HankelMoments``."""
        return int(self.kind.max()) + 1

    @property
    def _divisor(self) -> Float[Tensor, " column"]:
        """What centered columns are divided by; units that do not vary become zero, whatever rounding left of them."""
        still = ~self.varies
        still[self.units :] = False
        return self.scale.masked_fill(still, torch.inf)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Find mean and scale of every column, what is missing together, and the components."""
        count, total, squares = (torch.zeros_like(self.mean) for _ in range(3))
        shift: Tensor | None = None
        kind = torch.full((len(self.mean),), -1)
        for batch in batches:
            for rows, start, stop in _chunks(batch, len(self.mean)):
                values, there = self._raw(batch, rows, start, stop)
                values, there = values.flatten(0, 1), there.flatten(0, 1)
                valid = batch.valid[rows, start:stop].flatten()
                there &= valid[:, None]
                if shift is None:  # any value near the mean: squares of small numbers lose no digits
                    shift = values.where(there, 0.0).sum(0) / there.sum(0).clamp(min=1)
                centered = (values - shift).where(there, 0.0)
                count += there.sum(0)
                total += centered.sum(0)
                squares += centered.square_().sum(0)
                kind = _refined(kind, ~there[valid])
        if shift is None:
            return
        mean = total / count.clamp(min=1)
        variance = squares / count.clamp(min=1) - mean.square()
        self.mean.copy_(mean + shift)
        self.varies.copy_(variance > VARIES * (squares / count.clamp(min=1) + self.mean.square()).clamp(min=1e-200))
        scaled = torch.zeros_like(self.varies)
        scaled[self.units : self.units + self.codes] = self.standardize != "none"
        scaled[: self.units] = self.standardize == "all"
        self.scale.copy_(torch.where(scaled & self.varies, variance, 1.0).sqrt())
        if self.basis is not None:
            self._components(batches)
            of_units = kind[: self.units].max()  # a bin in which any unit is missing has no components
            kind = torch.cat([of_units.expand(self.activity), kind[self.units :]])
            if int(of_units) >= 0:
                kind[: self.activity] = int(kind.max()) + 1
        if bool((kind >= 0).any()):
            kind = torch.unique(kind, return_inverse=True)[1]
        self.kind.copy_(kind)

    def _components(self, batches: Iterable[Batch]) -> None:
        """Set the leading eigenvectors of the covariance of the scaled activity, in bins that show every unit."""
        assert self.basis is not None
        assert self.remaining is not None
        gram, count = torch.zeros_like(self.remaining), 0
        mean, divisor = self.mean[: self.units], self._divisor[: self.units]
        for batch in batches:
            for rows, start, stop in _chunks(batch, len(self.mean)):
                values, there = self._raw(batch, rows, start, stop)
                full = there[..., : self.units].all(-1) & batch.valid[rows, start:stop]
                y = ((values[..., : self.units] - mean) / divisor)[full]
                gram.addmm_(y.T, y)
                count += len(y)
        covariance = gram / max(count, 1)
        vectors = torch.linalg.eigh(covariance)[1].flip(1)[:, : self.activity]
        outside = torch.eye(self.units, dtype=gram.dtype, device=gram.device) - vectors @ vectors.T
        self.basis.copy_(vectors)
        self.remaining.copy_(outside @ covariance @ outside)

    def _raw(
        self, batch: Batch, rows: Tensor, start: int, stop: int
    ) -> tuple[Float[Tensor, "trial bin column"], Bool[Tensor, "trial bin column"]]:
        """Return the values of every column, and which are there; units one by one."""
        y = batch.activity[rows, start:stop].to(torch.float64)
        parts, there = [y], [batch.observed[rows, start:stop]]
        for name, code in self.behavior.items():
            values = coded(batch.behavior[name][rows, start:stop], code)
            known = values.isfinite().all(-1, keepdim=True)
            parts.append(torch.where(known, values, 0.0))
            there.append(known.expand(values.shape))
        for name in self.inputs:
            values = batch.inputs[name][rows, start:stop].to(torch.float64)
            parts.append(values)
            there.append(torch.ones_like(values, dtype=torch.bool))
        return torch.cat(parts, -1), torch.cat(there, -1)

    def fetch(self, batch: Batch) -> Callable[[Tensor, int, int], tuple[Tensor, Tensor]]:
        """Return what gives the columns of the moments, see ``hankel.add_windows``."""
        kinds, divisor = self.kinds, self._divisor
        representative = [int((self.kind == kind).nonzero()[0]) for kind in range(kinds)]

        def columns(rows: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
            values, there = self._raw(batch, rows, start, stop)
            values = values.sub_(self.mean).div_(divisor)
            if not kinds:
                return self._reduced(values), values[..., :0]
            if self.basis is not None:
                full = there[..., : self.units].all(-1, keepdim=True)
                values[..., : self.units] = values[..., : self.units].where(full, 0.0)
                there = torch.cat([full.expand(*full.shape[:2], self.activity), there[..., self.units :]], -1)
                return self._reduced(values).where(there, 0.0), there[..., representative].to(torch.float64)
            return values.where(there, 0.0), there[..., representative].to(torch.float64)

        return columns

    def _reduced(self, values: Tensor) -> Tensor:
        if self.basis is None:
            return values
        return torch.cat([values[..., : self.units] @ self.basis, values[..., self.units :]], -1)


def _chunks(batch: Batch, columns: int) -> Iterator[tuple[Tensor, int, int]]:
    """Cut a batch into trials and bins of limited size."""
    together = max(1, CHUNK_SAMPLES // max(1, batch.n_bins * columns))
    step = batch.n_bins if together > 1 else max(1, CHUNK_SAMPLES // max(1, columns))
    for rows in torch.arange(batch.n_trials, device=batch.valid.device).split(together):
        for start in range(0, batch.n_bins, step):
            yield rows, start, min(start + step, batch.n_bins)


def _refined(kind: Tensor, missing: Bool[Tensor, "bin column"]) -> Tensor:
    """Return a finer grouping of the columns, in which those of a group are missing in the same of these bins, too."""
    if not bool(missing.any()):
        return kind
    pattern = torch.unique(missing.T.contiguous(), dim=0, return_inverse=True)[1].to(kind.device)
    return torch.unique(torch.stack([kind, pattern]), dim=1, return_inverse=True)[1]
