"""Activity less the mean course of its condition: what trials of one condition do not share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lvmzoo.batch import Batch, Layout
from lvmzoo.errors import UserError

__all__ = ["Residuals"]

LONGEST_BINS = 10_000  # of a trial, beyond which there is no clock that trials share


class Residuals(nn.Module):
    """Subtracts from activity the mean of its unit in that bin of the training trials of the same condition.

    For trials of no known condition it is the mean over all trials; where a condition has no sample, too; and where no
    trial has one, the mean of the unit. The bins of a trial count from its start.

    Parameters
    ----------
    layouts : of the sessions; raises UserError for trials too long to share a clock.
    wanted : False: activity stays as it is, and there is nothing to prepare.
    """

    def __init__(self, layouts: Sequence[Layout], wanted: bool) -> None:
        super().__init__()
        self.wanted = wanted
        self._position = {layout.session: place for place, layout in enumerate(layouts)}
        for place, layout in enumerate(layouts if wanted else ()):
            if not 0 < layout.longest_bins <= LONGEST_BINS:
                raise UserError(
                    f"The longest trial of session '{layout.session}' has {layout.longest_bins} bins.",
                    "model.residuals subtracts the mean over trials, bin by bin, so trials must share a clock.",
                    "Cut the session into trials (data.trials, data.align), or set model.residuals=false.",
                )
            shape = (len(layout.conditions) + 1, layout.longest_bins, layout.n_units)  # the last: of all trials
            self.register_buffer(f"mean_{place}", torch.zeros(shape, dtype=torch.float64))

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Find the means of the training trials."""
        if not self.wanted:
            return
        means = [self._mean(session) for session in self._position]
        sums, counts = [torch.zeros_like(mean) for mean in means], [torch.zeros_like(mean) for mean in means]
        for batch in batches:
            place = self._position[batch.layout.session]
            seen = batch.observed & batch.valid[..., None]
            values = torch.where(seen, batch.activity.to(torch.float64), 0.0).flatten(0, 1)
            samples = seen.to(torch.float64).flatten(0, 1)
            row, bins = self._rows(batch), self._bins(batch)
            last = len(means[place]) - 1
            for condition, counted in ((row, row < last), (torch.full_like(row, last), torch.ones_like(row))):
                cell = (condition[:, None] * means[place].shape[1] + bins).flatten()
                weight = counted.to(torch.float64)[:, None].expand(bins.shape).reshape(-1, 1)
                sums[place].flatten(0, 1).index_add_(0, cell, values * weight)
                counts[place].flatten(0, 1).index_add_(0, cell, samples * weight)
        for mean, total, count in zip(means, sums, counts, strict=True):
            everything = total[-1].sum(0) / count[-1].sum(0).clamp(min=1)
            course = torch.where(count[-1] > 0, total[-1] / count[-1].clamp(min=1), everything)
            mean.copy_(torch.where(count > 0, total / count.clamp(min=1), course))

    def forward(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the activity less its mean; arbitrary where it is not observed."""
        activity = batch.activity.to(torch.float64)
        if not self.wanted:
            return activity
        return activity - self._mean(batch.layout.session)[self._rows(batch)[:, None], self._bins(batch)]

    def mean(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return what is subtracted; zero where nothing is."""
        if not self.wanted:
            return torch.zeros(batch.activity.shape, dtype=torch.float64, device=batch.activity.device)
        return self._mean(batch.layout.session)[self._rows(batch)[:, None], self._bins(batch)]

    def groups(self, batch: Batch) -> Int[Tensor, "trial bin"]:
        """Return which mean is subtracted in each bin, as a number below ``number_of_groups``."""
        return self._rows(batch)[:, None] * self._mean(batch.layout.session).shape[1] + self._bins(batch)

    def number_of_groups(self, layout: Layout) -> int:
        """Return the number of means of each unit; one where nothing is subtracted."""
        return (len(layout.conditions) + 1) * layout.longest_bins if self.wanted else 1

    def _mean(self, session: str) -> Float[Tensor, "condition bin unit"]:
        mean: Tensor = self.get_buffer(f"mean_{self._position[session]}")
        return mean

    def _rows(self, batch: Batch) -> Int[Tensor, " trial"]:
        """Return the condition of each trial, the last row of the means where it is not known."""
        last = len(self._mean(batch.layout.session)) - 1
        if batch.condition is None:
            return torch.full((batch.n_trials,), last, device=batch.valid.device)
        return torch.where(batch.condition < 0, last, batch.condition)

    def _bins(self, batch: Batch) -> Int[Tensor, "trial bin"]:
        """Return the place of each bin in its trial; padding counts as the last one."""
        bins = batch.start_bin[:, None] + torch.arange(batch.n_bins, device=batch.valid.device)
        return bins.clamp(max=self._mean(batch.layout.session).shape[1] - 1)
