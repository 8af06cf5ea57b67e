"""Settings of delayed latents across groups."""

from __future__ import annotations

from dataclasses import dataclass

from lvmzoo.errors import UserError

__all__ = ["DLAGConfig"]


@dataclass(frozen=True)
class DLAGConfig:
    """Numbers of latents, and how claims about regions are tested."""

    name: str = "dlag"
    across: int | None = None  # latents that all regions see, each with its delay; null: chosen by cross-validation
    within: int | None = None  # latents of each region alone; null: the region's own dimensions less those shared
    residuals: bool = False  # subtract each condition's mean course over the training trials
    folds: int = 5  # of contiguous trials, for the numbers of latents and for predicting regions from each other
    permutations: int = 200  # of trials between regions, for the null; 0: no null
    resamples: int = 100  # bootstrap of trials, for intervals; 0: those of delays by Fisher information, no evidence

    def __post_init__(self) -> None:
        """Refuse what there is not; raises UserError."""
        leasts = {"across": 1, "within": 0, "folds": 2, "permutations": 0, "resamples": 0}
        for name, least in leasts.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(
                    f"model.{name} is {value}.", f"It is at least {least}.", f"Set model.{name} to {least} or more."
                )
