"""Contrastive embedding: bins that belong together in time or behavior are mapped to nearby latents.

An encoder ``f`` turns the activity around a bin into latents so that a reference ``r`` resembles its positive ``p``
more than the other bins ``n`` of the recording:

    minimize mean_i[ -phi(f(r_i), f(p_i)) + log sum_j exp phi(f(r_i), f(n_j)) ]

with ``phi`` the cosine or minus the squared distance, over a temperature. A positive is a bin a fixed time later, a bin
with a similar label, or, in the hybrid mode, one of each in two losses of equal weight with shared negatives.

Schneider, Lee & Mathis (2023), Learnable latent embeddings for joint behavioural and neural analysis, Nature 617,
360-368, doi:10.1038/s41586-023-06031-6.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from lvmzoo.batch import Batch, Kind, Layout, PairSampling
from lvmzoo.errors import UserError, unknown
from lvmzoo.models.base import GradientModel, Loss
from lvmzoo.parts.encoders import OffsetEncoder
from lvmzoo.parts.info_nce import InfoNCE, gather
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["Contrastive", "ContrastiveConfig"]

_BINS_AT_ONCE = 65_536  # bins that ``latents`` embeds at a time, so that long sessions need little memory


@dataclass(frozen=True)
class ContrastiveConfig:
    """What belongs together, and the encoder that learns it."""

    name: str = "contrastive"
    latents: int = 3  # dimensions of the embedding
    positives: str = "time"  # time, behavior or hybrid (both): what makes two bins a positive pair
    behavior: list[str] | None = None  # variables that define a behavior positive; null: all of the recording
    time_offset_bins: int = 10  # from a reference to its positive in time; labels change over as many bins
    delta: float | None = None  # a positive's label is off by this many standard deviations (radians); null: as in time
    balanced: bool = False  # draw every category of discrete labels equally often
    receptive_field_bins: int = 10  # bins that the encoder looks at: 1, 5, 10, 15, 36 as published, or any other
    causal: bool = False  # look at the bin and earlier ones only; otherwise the window is centered
    hidden: int = 32  # channels of the encoder's layers
    similarity: str = "cosine"  # cosine (latents on a sphere) or euclidean
    temperature: float = 1.0  # of the softmax: lower tells finer differences apart
    minimum_temperature: float | None = None  # null: the temperature is fixed; else it is learned, down to this


class Contrastive(GradientModel):
    """Embed activity so that moments close in time or behavior lie together (contrastive learning)."""

    mean: Tensor
    scale: Tensor
    units: Tensor

    def __init__(self, config: ContrastiveConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        if len(layouts) != 1:
            raise UserError(
                f"contrastive was given {len(layouts)} sessions.",
                "contrastive fits one session at a time: units differ between sessions.",
                "Run it once for each session, for instance in a sweep over data.path.",
            )
        layout = layouts[0]
        _check(config)
        self._sampling = _sampling(config, layout)
        self._hides = bool(layout.held_out)
        held_in = torch.tensor(layout.held_in, dtype=torch.int64)
        self.register_buffer("units", held_in, persistent=False)  # held-out units never enter the encoder
        self.register_buffer("mean", torch.zeros(len(held_in)))
        self.register_buffer("scale", torch.ones(len(held_in)))
        self.encoder = OffsetEncoder(len(held_in), config.hidden, config.latents, config.receptive_field_bins)
        self.criterion = InfoNCE(config.similarity, config.temperature, config.minimum_temperature)

    @property
    def sampling(self) -> PairSampling:
        """Windows, positives and negatives as the configuration asks for."""
        return self._sampling

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Find mean and standard deviation of each unit, by which its activity is standardized."""
        count, total, squares = (torch.zeros(len(self.units), dtype=torch.float64) for _ in range(3))
        shift: Tensor | None = None
        for batch in batches:
            seen = (batch.observed & batch.valid.unsqueeze(-1))[..., self.units.to(batch.valid.device)]
            activity = batch.activity[..., self.units.to(batch.valid.device)].double()
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
        self.mean.copy_(mean + shift.cpu())
        self.scale.copy_(torch.where(variance > 1e-12, variance, 1.0).sqrt())  # a silent unit stays zero

    def loss(self, batch: Batch, step: int) -> Loss:
        """Return InfoNCE, in nats, as alignment and uniformity of each kind of positive.

        In training, negatives are gathered over processes; held-out draws are whole on each of them.
        """
        vectors = self._embed(batch.activity.transpose(0, 1), batch.observed.transpose(0, 1))[0]
        kinds = self._sampling.kinds
        reference, *positives, negative = self.criterion.normalize(vectors).chunk(len(kinds) + 2)
        if not bool(batch.valid.all()):
            usable = batch.valid.all(1).view(len(kinds) + 2, -1)
            keep = usable[:-1].all(0)
            reference, positives, negative = reference[keep], [rows[keep] for rows in positives], negative[usable[-1]]
        weight = vectors.new_tensor(float(len(reference)))
        if not len(reference) or not len(negative):
            return Loss({f"{kinds[0]}_align": 0 * vectors.sum()}, torch.zeros_like(weight))
        if self.training:
            negative = gather(negative)
        terms = {}
        for kind, positive in zip(kinds, positives, strict=True):
            terms[f"{kind}_align"], terms[f"{kind}_uniform"] = self.criterion(reference, positive, negative)
        return Loss(terms, weight)

    @torch.no_grad()
    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the embedding of every bin; beyond a trial's first and last bin, that bin is repeated."""
        rows = _padded_rows(batch.valid, self._sampling.before, self._sampling.after)
        observed = batch.observed & batch.valid.unsqueeze(-1)
        trials = torch.arange(batch.n_trials, device=rows.device)
        result = self.mean.new_zeros(batch.n_bins, batch.n_trials, self.config.latents)
        chunk = max(1, _BINS_AT_ONCE // max(batch.n_trials, 1))
        for start in range(0, batch.n_bins, chunk):
            stop = min(start + chunk, batch.n_bins)
            cut = rows[:, start : stop + self._sampling.window_bins - 1].T
            result[start:stop] = self._embed(batch.activity[trials, cut], observed[trials, cut])
        return torch.where(batch.valid.unsqueeze(-1), self.criterion.normalize(result.transpose(0, 1)), 0)

    def _embed(
        self, activity: Num[Tensor, "bin window all_units"], observed: Bool[Tensor, "bin window all_units"]
    ) -> Float[Tensor, "shorter window latent"]:
        """Return the encoder's output for standardized activity, the training mean where nothing was observed."""
        if self._hides:
            activity, observed = activity[..., self.units], observed[..., self.units]
        standardized = activity.to(self.mean.dtype, copy=True).sub_(self.mean).div_(self.scale)
        if not _all(observed):
            standardized = torch.where(observed, standardized, 0)
        return self.encoder(standardized)


def _all(flags: Bool[Tensor, ...]) -> bool:
    """Return whether all are true; of a broadcast view, one of each is looked at: the rest costs as much as a layer."""
    distinct = tuple(slice(None) if stride else slice(1) for stride in flags.stride())
    return bool(flags[distinct].all())


def _padded_rows(valid: Bool[Tensor, "trial bin"], before: int, after: int) -> Int[Tensor, "trial padded"]:
    """Return the bins of each trial from ``before`` earlier to ``after - 1`` later, held at its first and last."""
    bins = valid.shape[1]
    rows = torch.arange(-before, bins + after - 1, device=valid.device)
    first = valid.int().argmax(1, keepdim=True)
    last = bins - 1 - valid.flip(1).int().argmax(1, keepdim=True)
    return torch.minimum(torch.maximum(rows, first), last).clamp(0, max(bins - 1, 0))


def _sampling(config: ContrastiveConfig, layout: Layout) -> PairSampling:
    field = config.receptive_field_bins
    before = field - 1 if config.causal else field // 2
    behavior = tuple(layout.behavior) if config.behavior is None else tuple(config.behavior)
    if config.positives == "time":
        behavior = ()
    elif not behavior:
        raise UserError(
            f"model.positives={config.positives} needs behavior, and session '{layout.session}' has none in use.",
            f"Its behavior variables are: {', '.join(layout.behavior) or 'none'}.",
            "Set model.positives=time, or name variables in model.behavior and data.behavior.",
        )
    for name in behavior:
        if name not in layout.behavior:
            raise unknown("behavior variable", name, layout.behavior, fix="Set model.positives=time.")
    if config.balanced and not any(layout.behavior[name].kind is Kind.CATEGORICAL for name in behavior):
        raise UserError(
            "model.balanced=true, but no variable that defines positives is categorical.",
            "Balancing draws every category equally often.",
            "Set model.balanced=false, or give a variable's kind in data.behavior_kinds.",
        )
    return PairSampling(
        before=before,
        after=field - before,
        positives=config.positives,
        time_offset_bins=config.time_offset_bins,
        behavior=behavior,
        delta=config.delta,
        balanced=config.balanced,
    )


def _check(config: ContrastiveConfig) -> None:
    if config.positives not in ("time", "behavior", "hybrid"):
        raise unknown("kind of positives", config.positives, ("time", "behavior", "hybrid"))
    if config.similarity not in ("cosine", "euclidean"):
        raise unknown("similarity", config.similarity, ("cosine", "euclidean"))
    lowest = {
        "latents": 2 if config.similarity == "cosine" else 1,  # a sphere of one dimension is two points
        "time_offset_bins": 1,
        "receptive_field_bins": 1,
        "hidden": 1,
    }
    for field, least in lowest.items():
        if getattr(config, field) < least:
            raise UserError(
                f"model.{field}={getattr(config, field)} of contrastive is too small.",
                f"With model.similarity={config.similarity} it is at least {least}.",
                f"Set model.{field}={least} or more.",
            )
    for field in ("temperature", "minimum_temperature", "delta"):
        value = getattr(config, field)
        if value is not None and not value > 0:
            raise UserError(
                f"model.{field}={value} of contrastive is not positive.",
                "Temperatures and the spread of a label are numbers above zero.",
                f"Set model.{field}=0.1, for instance.",
            )
    if config.minimum_temperature is not None and config.minimum_temperature > config.temperature:
        raise UserError(
            f"model.minimum_temperature={config.minimum_temperature} is above model.temperature={config.temperature}.",
            "Learning starts at the temperature and never goes below the minimum.",
            f"Set model.minimum_temperature below {config.temperature}.",
        )


def _tiny(layout: Layout) -> ContrastiveConfig:
    return ContrastiveConfig(latents=2, hidden=8, receptive_field_bins=3, time_offset_bins=1)


register(
    Entry(
        model=Contrastive,
        config=ContrastiveConfig,
        family=Family.BEHAVIOR,
        reference=Reference(
            "Schneider, Lee & Mathis (2023). Learnable latent embeddings for joint behavioural and neural analysis. "
            "Nature 617, 360-368.",
            "10.1038/s41586-023-06031-6",
            "schneider2023cebra",
        ),
        tiny=_tiny,
        training=Training(max_steps=5000, batch_size=512, learning_rate=1e-3),
        window_bins=lambda config: config.receptive_field_bins,
    )
)
