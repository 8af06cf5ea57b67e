"""Reduced-rank regression: a target region predicted from source regions through a few dimensions.

The coefficient matrix of a ridge regression is projected on the leading directions of its own predictions,
``B_r = B V_r V_r'``, with ``V`` the eigenvectors of ``Sxy' (Sxx + ridge I)^-1 Sxy``; or, as factor regression, the
target is regressed on the leading latents of a factor analysis of the source. The source is a window of past bins of
one region or several. Fitted values of every rank, ridge and cross-validation fold follow from the second moments of
each fold, so that one pass over the data suffices.

Semedo, Zandvakili, Machens, Yu & Kohn (2019), Cortical areas interact through a communication subspace, Neuron 102,
doi:10.1016/j.neuron.2019.01.026; Izenman (1975), doi:10.1016/0047-259X(75)90042-1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lvmzoo.batch import Batch, Layout
from lvmzoo.claims.regression_findings import regression_findings
from lvmzoo.claims.support import Questions
from lvmzoo.errors import UserError, unknown
from lvmzoo.findings import Findings, Progress, quiet_progress
from lvmzoo.inference.reduced_rank import Moments
from lvmzoo.models.base import Communicates, Connects, Selects, StatisticsModel
from lvmzoo.parts.regression_session import RegressionSession, Route
from lvmzoo.parts.residuals import Residuals
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["ReducedRankRegression", "ReducedRankRegressionConfig"]


@dataclass(frozen=True)
class ReducedRankRegressionConfig:
    """Which region is predicted from which, and through how many dimensions."""

    name: str = "reduced_rank_regression"
    source: Any = None  # region that predicts, or a list of regions; null: all others
    target: str | None = None  # region that is predicted; null: the second of the layout
    lags: list[int] = field(default_factory=lambda: [0])  # bins of the source before the one that is predicted
    method: str = "reduced_rank"  # reduced_rank; factor: regression on the leading latents of the source
    rank: int | None = None  # number of predictive dimensions; null: by cross-validation
    ridge: list[float] = field(
        default_factory=lambda: [0.0]
    )  # penalties on the sum of squares; several: by cross-validation
    folds: int = 10  # contiguous folds of trials, or of bins where there are fewer trials than folds
    rule: str = "one_se"  # one_se: smallest rank within one standard error of the best; best: the best
    residuals: bool = False  # subtract each condition's mean course over the training trials
    control: str | None = None  # region that stands for the source's own, as target; null: halves of the source
    history: int = 5  # bins, most lags that claims about direction and delay look at; 0: no such claims
    permutations: int = 200  # of trials between regions, for the null; 0: no null
    resamples: int = 100  # bootstrap of trials, for intervals; 0: none

    def __post_init__(self) -> None:
        """Refuse what there is not; raises UserError."""
        for name, value, allowed in (
            ("rule", self.rule, ("one_se", "best")),
            ("method", self.method, ("reduced_rank", "factor")),
        ):
            if value not in allowed:
                raise unknown(f"choice of model.{name}", value, allowed, f"Set model.{name} to one of these.")
        if self.folds < 2:
            raise UserError(f"model.folds is {self.folds}.", "At least 2 are needed.", "The usual choice is 10.")
        if not self.ridge or not all(ridge >= 0 for ridge in self.ridge):  # NaN is not
            raise UserError(
                f"model.ridge is {list(self.ridge)}.",
                "It is a list of penalties, each zero or positive.",
                "For instance model.ridge=[0,10,100].",
            )
        if self.method == "factor" and any(self.ridge):
            raise UserError(
                f"model.ridge is {list(self.ridge)} and model.method is 'factor'.",
                "Factor regression has few regressors and takes no penalty.",
                "Leave model.ridge=[0], or set model.method=reduced_rank.",
            )
        if not self.lags or min(self.lags) < 0 or len(set(self.lags)) < len(self.lags):
            raise UserError(
                f"model.lags is {list(self.lags)}.",
                "It lists bins of the past, each once: 0 is the bin that is predicted, 1 the one before it.",
                "For instance model.lags=[0,1,2].",
            )
        for name in ("history", "permutations", "resamples"):
            if getattr(self, name) < 0:
                raise UserError(f"model.{name} is {getattr(self, name)}.", "It is a number of them.", "0 means none.")


class Sums(NamedTuple):
    """The :class:`Moments` of all sessions, each leaf of them one after the other."""

    bins: Float[Tensor, " number"]
    x: Float[Tensor, " number"]
    y: Float[Tensor, " number"]
    xx: Float[Tensor, " number"]
    xy: Float[Tensor, " number"]
    yy: Float[Tensor, " number"]


class ReducedRankRegression(StatisticsModel, Communicates, Connects, Selects):
    """Predict a target region from source regions through a low-dimensional communication subspace."""

    passes = 1
    selects = MappingProxyType({"rank": "1 - NSE of the target region in held-out trials"})

    def __init__(self, config: ReducedRankRegressionConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        self.sources, self.target = _regions(config, layouts[0])
        self.residuals = Residuals(layouts, config.residuals)
        route = Route(
            self.sources, self.target, tuple(config.lags), tuple(config.ridge), config.folds, config.rule, config.method
        )
        fitted = []
        for layout in layouts:
            for region in (*self.sources, self.target):
                layout.region(region)  # raises for a region that does not exist
            if 0 < layout.longest_bins <= max(config.lags):
                raise UserError(
                    f"model.lags reaches {max(config.lags)} bins into the past.",
                    f"The longest trial of session '{layout.session}' has {layout.longest_bins} bins.",
                    "Choose smaller lags, or bins that are not as wide (data.bin_width_s).",
                )
            fitted.append(RegressionSession(route, layout, self.residuals.number_of_groups(layout)))
            if config.rank is not None and not 0 <= config.rank <= fitted[-1].largest:
                raise UserError(
                    f"model.rank is {config.rank}.",
                    f"The rank lies between 0 and the size of the smaller region, {fitted[-1].largest}.",
                    f"Choose model.rank of at most {fitted[-1].largest}, or null for cross-validation.",
                )
        self.sessions = nn.ModuleList(fitted)
        self._place = {layout.session: place for place, layout in enumerate(layouts)}

    def of(self, session: str | None = None) -> RegressionSession:
        """Return the regression of a session; of the first one where none is named."""
        if session is not None and session not in self._place:
            raise unknown("session", session, self._place)
        found = self.sessions[self._place[session] if session is not None else 0]
        assert isinstance(found, RegressionSession)
        return found

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Find the means of the training data."""
        self.residuals.prepare(batches)
        for session in self._place:
            own = (batch for batch in batches if batch.layout.session == session)
            self.of(session).prepare(own, self.residuals)

    def statistics(self, batch: Batch) -> Sums:
        """Return the second moments of one batch, a set for each fold; zeros for the other sessions."""
        found = self.of(batch.layout.session).statistics(batch, self.residuals)
        flat = [leaf.flatten() for leaf in found]
        if len(self.sessions) == 1:
            return Sums(*flat)
        shapes = [self._shapes(session) for session in self._place]
        place = self._place[batch.layout.session]
        padded = []
        for leaf, values in enumerate(flat):
            sizes = [math.prod(shape[leaf]) for shape in shapes]
            total = values.new_zeros(sum(sizes))
            total[sum(sizes[:place]) :][: sizes[place]] = values
            padded.append(total)
        return Sums(*padded)

    def update(self, statistics: Sums) -> Float[Tensor, ""]:
        """Solve for every session, fold, ridge and rank; return the cross-validated 1 - NSE, the mean over sessions."""
        shapes = [self._shapes(session) for session in self._place]
        leaves = [leaf.split([math.prod(shape[number]) for shape in shapes]) for number, leaf in enumerate(statistics)]
        scores = []
        for place, session in enumerate(self._place):
            moments = Moments(*(leaf[place].view(shape) for leaf, shape in zip(leaves, shapes[place], strict=True)))
            scores.append(self.of(session).update(moments, self.config.rank))
        return torch.stack(scores).mean()

    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the projection of the source on its predictive dimensions; their number is that of the session.

        What is not observed of a window, or lies before the trial, is replaced by its expectation given the rest.
        """
        return self.of(batch.layout.session).latents(batch, self.residuals)

    @property
    def routes(self) -> Mapping[str, tuple[str, ...]]:
        """The target region, predicted from the source regions."""
        return {self.target: self.sources}

    def compared(self, setting: str) -> dict[int, Float[Tensor, " fold"]]:
        """Return 1 - NSE of each fold left out by rank, at the ridge that is best of all."""
        curves = torch.stack([self.of(session).by_fold for session in self._place]).mean(0)
        return dict(enumerate(curves.T))

    def predict_target(self, batch: Batch, target: str) -> Float[Tensor, "trial bin target_unit"]:
        """Return the expected activity of the target region given the source regions alone."""
        return self.of(batch.layout.session).predicted(batch, self.residuals)

    def findings(self, batch: Batch, seed: int, progress: Progress = quiet_progress) -> Findings:
        """Return claims about every pair of regions, with the settings of the model.

        COMMUNICATION: one region predicts the other at the best lag. DIRECTION: the past of a region predicts another
        beyond what the pasts of all others do. DELAY: the best lag. DIMENSIONS: the rank, beside that of predicting
        the source's own units. Of several source regions: what each adds to the others.
        """
        questions = Questions(
            history=self.config.history,
            permutations=self.config.permutations,
            resamples=self.config.resamples,
            control=self.config.control,
        )
        session = self.of(batch.layout.session)
        return regression_findings(batch, self.residuals, session, questions, seed, progress)

    def _shapes(self, session: str) -> list[tuple[int, ...]]:
        fitted = self.of(session)
        p, q, folds, groups = len(fitted.shift_source), len(fitted.shift_target), self.config.folds, fitted.groups
        return [(folds, groups), (folds, groups, p), (folds, groups, q), (folds, p, p), (folds, p, q), (folds,)]


def _regions(config: ReducedRankRegressionConfig, layout: Layout) -> tuple[tuple[str, ...], str]:
    """Return the source regions and the target."""
    names = list(layout.units)
    given = [] if config.source is None else [config.source] if isinstance(config.source, str) else list(config.source)
    named = [*given, *(name for name in (config.target, config.control) if name is not None)]
    for name in named:
        layout.region(name)  # raises for a region that does not exist
    free = [name for name in names if name not in named]
    if len(names) < 2 or (not free and (config.target is None or not given)):
        raise UserError(
            f"Session '{layout.session}' has {'one region' if len(names) == 1 else 'no other region'} "
            f"({', '.join(names)}).",
            "Reduced-rank regression predicts a target region from another, the source region.",
            "Give each unit its region (an electrodes.location in NWB, `regions=` for arrays), or check data.regions.",
        )
    target = config.target if config.target is not None else free[min(len(free) - 1, 0 if given else 1)]
    sources = tuple(given) if given else tuple(name for name in free if name != target)
    if not sources or len(set(sources)) < len(sources) or (config.source is not None and not given):
        raise UserError(
            f"model.source is {given}.",
            "It names one region or several, each once.",
            f"The session has: {', '.join(names)}.",
        )
    for what, name, others in (("Source and target", target, sources), ("Control and", config.control, named[:-1])):
        if name in others:
            raise UserError(
                f"{what} {'are both' if what.endswith('target') else 'source or target are'} '{name}'.",
                "A region predicts another region; of itself it would predict everything.",
                f"Set model.source, model.target and model.control to different ones of: {', '.join(names)}.",
            )
    return sources, target


def _tiny(layout: Layout) -> Any:
    return ReducedRankRegressionConfig(folds=3, history=2, permutations=19, resamples=10)


register(
    Entry(
        model=ReducedRankRegression,
        config=ReducedRankRegressionConfig,
        family=Family.MULTI_REGION,
        reference=Reference(
            "Semedo, Zandvakili, Machens, Yu & Kohn (2019). Cortical areas interact through a communication subspace. "
            "Neuron 102(1), 249-259.",
            "10.1016/j.neuron.2019.01.026",
            "semedo2019cortical",
        ),
        tiny=_tiny,
        training=Training(max_epochs=1),
    )
)
