"""The settings of a contrastive embedding, and how it draws pairs by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from lvmzoo.batch import Kind, Layout, PairSampling, Variable
from lvmzoo.errors import UserError, unknown

__all__ = ["ContrastiveConfig", "pair_sampling"]


@dataclass(frozen=True)
class ContrastiveConfig:
    """What belongs together, and the encoder that learns it."""

    name: str = "contrastive"
    latents: int = 3  # dimensions of the embedding
    positives: str = "time"  # time, behavior or hybrid (both): what makes two bins a positive pair
    behavior: list[str] | None = None  # variables of behavior positives, not time's; null: all that every session has
    behavior_weights: dict[str, float] = field(default_factory=dict)  # of variables in label distances; 1 where unnamed
    behavior_latents: int | None = None  # hybrid: behavior shapes the first so many latents, time the others; null: all
    time_offset_bins: int = 10  # from a reference to its positive in time; labels change over as many bins
    delta: float | None = None  # labels of a pair differ by so many SD (radians), categories never; null: as in time
    balanced: bool = False  # draw every category of discrete labels equally often
    receptive_field_bins: int = 10  # bins that the encoder looks at: 1, 5, 10, 15, 36 as published, or any other
    resample: bool = False  # look at them at a quarter of the rate: 20 and 40 bins as published, or a multiple of 4
    causal: bool = False  # look at the bin and earlier ones only; otherwise the window is centered
    hidden: int = 32  # channels of the encoder's layers
    similarity: str = "cosine"  # cosine (latents on a sphere) or euclidean
    temperature: float = 1.0  # of the softmax: lower tells finer differences apart
    minimum_temperature: float | None = None  # null: the temperature is fixed; else it is learned, down to this
    jacobian_penalty: float = 0.0  # weight of half the squared Jacobian, which makes attribution to units reliable
    jacobian_warmup_steps: int = 500  # steps without the penalty; it is phased in over as many

    def __post_init__(self) -> None:
        """Raise UserError for settings that do not exist, or do not fit each other."""
        _check(self)


def pair_sampling(config: ContrastiveConfig, layouts: Sequence[Layout]) -> PairSampling:
    """Return how a configuration draws pairs from the sessions.

    Raises
    ------
    UserError : a setting that does not exist or does not fit the others, or that the sessions do not allow.
    """
    field_bins = config.receptive_field_bins
    before = field_bins - 1 if config.causal else field_bins // 2
    behavior = _behavior(config, layouts)
    kinds = {name: layouts[0].behavior[name].kind for name in behavior}
    if config.balanced and Kind.CATEGORICAL not in kinds.values():
        raise UserError(
            "model.balanced=true, but no variable that defines positives is categorical.",
            "Balancing draws every category equally often.",
            "Set model.balanced=false, or give a variable's kind in data.behavior_kinds.",
        )
    for name in config.behavior_weights:
        if name not in behavior:
            raise unknown("variable that defines positives", name, behavior, fix="Set model.behavior_weights={}.")
        if not 0 < config.behavior_weights[name] < math.inf:
            raise UserError(
                f"model.behavior_weights gives '{name}' the weight {config.behavior_weights[name]}.",
                "Weights multiply distances: finite numbers above zero.",
                f"Give '{name}' another weight, or leave it out of model.behavior.",
            )
        if kinds[name] is Kind.CATEGORICAL:
            raise UserError(
                f"model.behavior_weights gives '{name}' a weight, and it is categorical.",
                "Categories of a positive are exactly those of its reference; weights are of distances.",
                f"Leave '{name}' out of model.behavior_weights.",
            )
    return PairSampling(
        before=before,
        after=field_bins - before,
        positives=config.positives,
        time_offset_bins=config.time_offset_bins,
        behavior=behavior,
        delta=config.delta,
        balanced=config.balanced,
        weights=tuple(config.behavior_weights.items()),
    )


def _behavior(config: ContrastiveConfig, layouts: Sequence[Layout]) -> tuple[str, ...]:
    """Return the variables that define positives; every session must have them, of one kind."""
    first, *others = layouts
    if config.positives == "time":
        if others:
            raise UserError(
                f"contrastive was given {len(layouts)} sessions and model.positives=time.",
                "Without labels nothing says which moments of two sessions belong together: latents would not match.",
                "Set model.positives=behavior or hybrid, or fit the sessions one by one: a sweep over data.path.",
            )
        return ()
    shared = [name for name in first.behavior if all(name in other.behavior for other in others)]
    chosen = tuple(shared if config.behavior is None else dict.fromkeys(config.behavior))
    if not chosen:
        raise UserError(
            f"model.positives={config.positives} needs behavior, and session '{first.session}' has none in use"
            f"{' that all sessions have' if others else ''}.",
            f"Its behavior variables are: {', '.join(first.behavior) or 'none'}.",
            "Set model.positives=time, or name variables in model.behavior and data.behavior.",
        )
    for name in chosen:
        for layout in layouts:
            if name not in layout.behavior:
                raise unknown("behavior variable", name, layout.behavior, fix="Set model.positives=time.")
            one, other = first.behavior[name], layout.behavior[name]
            if (one.kind, one.channels) != (other.kind, other.channels):
                raise UserError(
                    f"'{name}' is {_described(one)} in session '{first.session}' and {_described(other)} in "
                    f"'{layout.session}'.",
                    "Positives are found by labels across sessions, so a variable is the same in all of them.",
                    "Set its kind in data.behavior_kinds, or leave it out of model.behavior.",
                )
    return chosen


def _described(variable: Variable) -> str:
    return f"{variable.kind.value} with {variable.channels} channel{'s' * (variable.channels != 1)}"


def _check(config: ContrastiveConfig) -> None:
    if config.positives not in ("time", "behavior", "hybrid"):
        raise unknown("kind of positives", config.positives, ("time", "behavior", "hybrid"))
    if config.similarity not in ("cosine", "euclidean"):
        raise unknown("similarity", config.similarity, ("cosine", "euclidean"))
    least_latents = 2 if config.similarity == "cosine" else 1  # a sphere of one dimension is two points
    if config.behavior_latents is not None:
        if config.positives != "hybrid":
            raise UserError(
                f"model.behavior_latents={config.behavior_latents} with model.positives={config.positives}.",
                "Latents are shared out among the two losses of the hybrid mode; here there is one.",
                "Set model.positives=hybrid, or model.behavior_latents=null.",
            )
        if not least_latents <= config.behavior_latents <= config.latents - least_latents:
            raise UserError(
                f"model.behavior_latents={config.behavior_latents} of model.latents={config.latents} is not possible.",
                f"With model.similarity={config.similarity} behavior and time each have {least_latents} or more.",
                f"Set model.latents={max(config.latents, 2 * least_latents)} "
                f"and model.behavior_latents={max(config.latents, 2 * least_latents) // 2}.",
            )
    lowest = {
        "latents": least_latents,
        "time_offset_bins": 1,
        "receptive_field_bins": 1,
        "hidden": 1,
    }
    for name, least in lowest.items():
        if getattr(config, name) < least:
            raise UserError(
                f"model.{name}={getattr(config, name)} of contrastive is too small.",
                f"With model.similarity={config.similarity} it is at least {least}.",
                f"Set model.{name}={least} or more.",
            )
    for name in ("temperature", "minimum_temperature", "delta"):
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(
                f"model.{name}={value} of contrastive is not positive and finite.",
                "Temperatures and the spread of a label are finite numbers above zero.",
                f"Set model.{name}=0.1, for instance.",
            )
    for name, number in (
        ("jacobian_penalty", config.jacobian_penalty),
        ("jacobian_warmup_steps", config.jacobian_warmup_steps),
    ):
        if not 0 <= number < math.inf:
            raise UserError(
                f"model.{name}={number} of contrastive is negative or not finite.",
                "A penalty has a finite weight of zero or more, and begins at a step that there is.",
                f"Set model.{name}=0 or more.",
            )
    if config.minimum_temperature is not None and config.minimum_temperature > config.temperature:
        raise UserError(
            f"model.minimum_temperature={config.minimum_temperature} is above model.temperature={config.temperature}.",
            "Learning starts at the temperature and never goes below the minimum.",
            f"Set model.minimum_temperature below {config.temperature}.",
        )
