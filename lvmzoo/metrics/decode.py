"""Readouts of behavior from latents: ridge regression and nearest neighbors, fitted on training bins.

Angles are read out as (cos, sin), categories as one indicator a level; so one regression and one average over neighbors
serve every kind of variable, and an angle never jumps at the end of its range.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvmzoo.batch import Kind, Variable
from lvmzoo.errors import unknown
from lvmzoo.metrics.factorized import Nearest, Ridge
from lvmzoo.metrics.gathered import Gathered
from lvmzoo.metrics.pieces import in_stretches, stretches

__all__ = [
    "Decoder",
    "KnnDecoder",
    "Neighbors",
    "RidgeDecoder",
    "all_neighbors",
    "angular_error",
    "decoder_from_state",
    "fit_decoder",
    "fit_ridge",
    "quality",
]

PENALTIES = tuple(np.logspace(-4, 0, 9).tolist())
NEIGHBORS = (1, 2, 4, 8, 16, 32, 64)
REFERENCES = 20_000  # training bins that neighbors are looked for in; longer recordings are thinned evenly
KNN_BINS = 4_000  # whose neighbors are averaged at once
QUERIES = 5_000  # validation bins that the number of neighbors is chosen on


class Decoder(abc.ABC):
    """Predicts one behavior variable from latents."""

    kind: ClassVar[str]
    variable: Variable

    @abc.abstractmethod
    def encoded(self, latents: Float[np.ndarray, "bin latent"]) -> Float[np.ndarray, "bin code"]:
        """Return the prediction before angles and categories are read from their code."""

    @abc.abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return plain JSON types and tensors, from which ``decoder_from_state`` builds the decoder again."""

    def predict(self, latents: Float[np.ndarray, "bin latent"]) -> Float[np.ndarray, "bin channel"]:
        """Return the variable in each bin: its own unit, radians in (-pi, pi], or the index of a level."""
        return decode(self.encoded(latents), self.variable)

    @property
    @abc.abstractmethod
    def settings(self) -> str:
        """What was chosen on training or validation bins, for people to read."""


@dataclass(frozen=True)
class RidgeDecoder(Decoder):
    """Linear regression with an L2 penalty on centered latents of unit variance in the mean.

    One scale serves all latents: dividing each by its own would blow up those that hardly vary.
    """

    kind: ClassVar[str] = "ridge"
    variable: Variable
    mean: Float[np.ndarray, " latent"]
    scale: float
    weights: Float[np.ndarray, "latent code"]
    intercept: Float[np.ndarray, " code"]
    penalty: float

    def encoded(self, latents: Float[np.ndarray, "bin latent"]) -> Float[np.ndarray, "bin code"]:
        """Return the affine prediction."""
        return in_stretches(lambda x: (x - self.mean) / self.scale @ self.weights + self.intercept, latents)

    @property
    def settings(self) -> str:
        """The penalty."""
        return f"ridge penalty {self.penalty:.2g}"

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the penalty, and the weights as tensors."""
        tensors = {name: torch.from_numpy(getattr(self, name)) for name in ("mean", "weights", "intercept")}
        plain = {"kind": self.kind, "variable": _to_json(self.variable)}
        return plain | {"scale": self.scale, "penalty": self.penalty}, tensors


@dataclass(frozen=True)
class KnnDecoder(Decoder):
    """Mean over the nearest training bins (circular for angles, majority for categories)."""

    kind: ClassVar[str] = "knn"
    variable: Variable
    references: Float[np.ndarray, "reference latent"]
    codes: Float[np.ndarray, "reference code"]
    neighbors: int
    distance: str  # "cosine" or "euclidean"

    def encoded(self, latents: Float[np.ndarray, "bin latent"]) -> Float[np.ndarray, "bin code"]:
        """Return the mean code of the neighbors."""
        return in_stretches(lambda x: self.codes[self._nearest(x, self.neighbors)].mean(1), latents, KNN_BINS)

    @functools.cached_property
    def _nearest(self) -> Nearest:
        return Nearest(self.references, self.distance)

    @property
    def settings(self) -> str:
        """The number of neighbors and their distance."""
        return f"{self.neighbors} neighbors, {self.distance}"

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the number of neighbors and the distance, and the reference bins as tensors."""
        plain = {"kind": self.kind, "variable": _to_json(self.variable)}
        tensors = {"references": torch.from_numpy(self.references), "codes": torch.from_numpy(self.codes)}
        return plain | {"neighbors": self.neighbors, "distance": self.distance}, tensors


def decoder_from_state(plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Decoder:
    """Build a decoder from what ``state`` returned; raises UserError for a kind that this release does not know."""
    stored = plain["variable"]
    variable = Variable(Kind(stored["kind"]), int(stored["channels"]), tuple(stored["levels"]))
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    if plain["kind"] == RidgeDecoder.kind:
        return RidgeDecoder(variable, scale=float(plain["scale"]), penalty=float(plain["penalty"]), **arrays)
    if plain["kind"] == KnnDecoder.kind:
        return KnnDecoder(variable, neighbors=int(plain["neighbors"]), distance=str(plain["distance"]), **arrays)
    raise unknown("decoder", plain["kind"], (RidgeDecoder.kind, KnnDecoder.kind))


def fit_decoder(
    latents: Float[np.ndarray, "bin latent"],
    behavior: Float[np.ndarray, "bin channel"],
    variable: Variable,
    kind: str = "ridge",
    validation: tuple[Float[np.ndarray, "_ latent"], Float[np.ndarray, "_ channel"]] | None = None,
    penalties: Sequence[float] = PENALTIES,
) -> Decoder:
    """Fit a readout on training bins; bins without a label are left out.

    Parameters
    ----------
    latents, behavior : training bins in order of time.
    variable : what ``behavior`` is.
    kind : "ridge", its penalty chosen by contiguous five-fold cross-validation on these bins; or
        "knn", its number of neighbors and its distance chosen on ``validation``.
    validation : latents and behavior; None, or without a label: the last fifth of the training bins serves for the
        choice, and the decoder then has them all.
    penalties : to choose from, on the sum of squared weights against the sum of squared errors.

    Raises
    ------
    UserError : for another kind.
    ValueError : when no bin has a label.
    """
    if kind not in (RidgeDecoder.kind, KnnDecoder.kind):
        raise unknown("decoder", kind, (RidgeDecoder.kind, KnnDecoder.kind))
    latents, behavior = _labeled(latents, behavior)
    if not len(latents):
        raise ValueError("no training bin has a label")
    if kind == RidgeDecoder.kind:
        return fit_ridge(Ridge(latents), behavior, variable, penalties)
    held = _labeled(*validation) if validation is not None else (latents[:0], behavior[:0])
    if not len(held[0]):
        cut = max(1, len(latents) * 4 // 5)
        chosen = Neighbors(latents[:cut], latents[cut:]).fit(behavior[:cut], behavior[cut:], variable)
        return all_neighbors(latents, behavior, chosen)
    return Neighbors(latents, held[0]).fit(behavior, held[1], variable)


def angular_error(
    truth: Float[np.ndarray, "bin channel"], predicted: Float[np.ndarray, "bin channel"]
) -> Float[np.ndarray, "bin channel"]:
    """Return the absolute difference of angles along the shorter way, in radians."""
    return np.abs((predicted - truth + np.pi) % (2 * np.pi) - np.pi)


def encode(values: Float[np.ndarray, "bin channel"], variable: Variable) -> Float[np.ndarray, "bin code"]:
    """Return what is regressed: values, (cos, sin) of angles, or an indicator for each level."""
    if variable.kind is Kind.CIRCULAR:
        return np.concatenate([np.cos(values), np.sin(values)], 1)
    if variable.kind is Kind.CATEGORICAL:
        levels = max(len(variable.levels), int(values.max(initial=0)) + 1)
        return np.eye(levels)[values[:, 0].astype(int)]
    return values


def decode(code: Float[np.ndarray, "bin code"], variable: Variable) -> Float[np.ndarray, "bin channel"]:
    """Return values from what was regressed; the inverse of ``encode``."""
    if variable.kind is Kind.CIRCULAR:
        half = code.shape[1] // 2
        return np.arctan2(code[:, half:], code[:, :half])
    if variable.kind is Kind.CATEGORICAL:
        return code.argmax(1, keepdims=True).astype(float)
    return code


def fit_ridge(
    ridge: Ridge, behavior: Float[np.ndarray, "bin channel"], variable: Variable, penalties: Sequence[float]
) -> RidgeDecoder:
    """Fit a linear readout of a variable that every bin of ``ridge`` has a label of."""

    def judge(fold: Int[np.ndarray, " some"], code: Float[np.ndarray, "some code"]) -> float:
        return quality(behavior[fold], decode(code, variable), variable)

    weights, intercept, penalty = ridge.fit(encode(behavior, variable), penalties, judge)
    return RidgeDecoder(variable, ridge.mean, ridge.scale, weights, intercept, penalty)


class Neighbors:
    """Readouts from the nearest of the same training bins, whose settings are chosen on the same other bins.

    Parameters
    ----------
    latents : training bins.
    held : bins to choose on; none: eight neighbors by the first distance.
    """

    def __init__(self, latents: Float[np.ndarray, "bin latent"], held: Float[np.ndarray, "_ latent"]) -> None:
        self.keep = slice(None, None, -(-len(latents) // REFERENCES))
        self.references = np.ascontiguousarray(latents[self.keep])
        self._queries = slice(None, None, -(-len(held) // QUERIES) or 1)
        self._options = [k for k in NEIGHBORS if k <= len(self.references)]
        norms = np.linalg.norm(self.references, axis=1)
        # On the unit sphere both distances order neighbors alike.
        alike = norms.size and np.allclose(norms, 1.0, atol=1e-4)
        self._distances = ("cosine",) if alike else ("euclidean", "cosine")
        queries = held[self._queries]
        self._found = {
            distance: Nearest(self.references, distance)(queries, self._options[-1])
            for distance in (self._distances if len(queries) else ())
        }

    def fit(
        self,
        behavior: Float[np.ndarray, "bin channel"],
        held: Float[np.ndarray, "_ channel"],
        variable: Variable,
    ) -> KnnDecoder:
        """Return the readout of a variable that every bin has a label of, with the settings that suit it best."""
        codes, truth = encode(behavior[self.keep], variable), held[self._queries]
        best, chosen = -np.inf, (self._options[min(3, len(self._options) - 1)], self._distances[0])
        for distance, found in self._found.items():
            for k in self._options:
                value = quality(truth, decode(codes[found[:, :k]].mean(1), variable), variable)
                if value > best:
                    best, chosen = value, (k, distance)
        return KnnDecoder(variable, self.references, codes, *chosen)


def all_neighbors(
    latents: Float[np.ndarray, "bin latent"], behavior: Float[np.ndarray, "bin channel"], chosen: KnnDecoder
) -> KnnDecoder:
    """Return the readout of all training bins with settings that were chosen on some of them."""
    keep = slice(None, None, -(-len(latents) // REFERENCES))
    references, codes = np.ascontiguousarray(latents[keep]), encode(behavior[keep], chosen.variable)
    return KnnDecoder(chosen.variable, references, codes, chosen.neighbors, chosen.distance)


def quality(
    truth: Float[np.ndarray, "bin channel"], predicted: Float[np.ndarray, "bin channel"], variable: Variable
) -> float:
    """Return what choices are made by: R2, mean cosine of the error, or accuracy; higher is better."""
    if variable.kind is Kind.CIRCULAR:
        return float(np.cos(predicted - truth).mean())
    if variable.kind is Kind.CATEGORICAL:
        return float((predicted == truth).mean())
    total = ((truth - truth.mean(0)) ** 2).sum(0)
    varies = total > 1e-20 * (truth**2).sum()
    residual = ((truth - predicted) ** 2).sum(0)
    return float((1 - residual[varies] / total[varies]).mean()) if varies.any() else -float(residual.sum())


def _labeled(latents: np.ndarray, behavior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(behavior).all(1)
    if known.all():
        return latents, behavior
    gathered = Gathered()
    for rows in stretches(0, *latents.shape):
        gathered.add(latents[rows][known[rows]])
    return gathered.array, behavior[known]


def _to_json(variable: Variable) -> dict[str, Any]:
    return {"kind": variable.kind.value, "channels": variable.channels, "levels": list(variable.levels)}
