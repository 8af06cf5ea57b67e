r"""Linear dynamical system with Gaussian, Poisson or negative binomial emissions, fitted by EM.

.. math:: x_{t+1} = A x_t + B u_t + w_t, \quad y_t = C x_t + d + D u_t + v_t, \quad w_t \sim N(0, Q), v_t \sim N(0, R)

with diagonal R, or counts of mean :math:`\exp(C x_t + d + D u_t)`; each trial begins anew with
:math:`x_1 \sim N(\mu, V)`. The known inputs u of a bin (all of ``data.inputs``, one after the other, each less its mean
over the training data) drive the step to the next bin; where there are none, B and D do not exist. Sessions share the
dynamics and the way trials begin, and each has its own readout C, d, D, R. Ghahramani, Hinton (1996), Parameter
estimation for linear dynamical systems, University of Toronto CRG-TR-96-2; Shumway, Stoffer (1982),
doi:10.1111/j.1467-9892.1982.tb00349.x; of counts: Macke et al. (2011), Empirical models of spiking in neural
populations, NeurIPS 24; Khan, Lin (2017), https://arxiv.org/abs/1703.04265.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch, Layout
from lvmzoo.errors import UserError, unknown
from lvmzoo.inference.canonical import canonical
from lvmzoo.inference.given_values import with_given
from lvmzoo.inference.lagged_moments import Recorded
from lvmzoo.inference.linear_gaussian import LinearGaussian
from lvmzoo.inference.maximization import Constraints
from lvmzoo.inference.starting import starting_values
from lvmzoo.models.state_space import StateSpace
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["LDS", "LDSConfig"]


@dataclass(frozen=True)
class LDSConfig:
    """Linear dynamical system."""

    name: str = "lds"
    latents: int = 8  # dimensions of the latent state
    emissions: str = "gaussian"  # gaussian; of counts also poisson, or negative_binomial where units burst
    dynamics: str = "full"  # full, or diagonal: latents that decay independently of each other
    fixed: list[str] = field(default_factory=list)  # left at their starting values by EM: dynamics, readout
    given: dict[str, Any] = field(default_factory=dict)  # starting values of dynamics or readout, row by row
    initialization: str = "subspace"  # of EM: subspace (identification) or factor_analysis

    def __post_init__(self) -> None:
        """Refuse what there is not; raises UserError. Arrays of given values become lists, which files can hold."""
        if self.latents < 1:
            raise UserError(
                f"model.latents is {self.latents}.",
                "A linear dynamical system has at least one latent dimension.",
                "Set model.latents to 1 or more, such as 8.",
            )
        for name, value, allowed in (
            ("emissions", [self.emissions], ("gaussian", "poisson", "negative_binomial")),
            ("dynamics", [self.dynamics], ("full", "diagonal")),
            ("fixed", self.fixed, ("dynamics", "readout")),
            ("given", list(self.given), ("dynamics", "readout")),
            ("initialization", [self.initialization], ("subspace", "factor_analysis")),
        ):
            for choice in value:
                if choice not in allowed:
                    raise unknown(f"choice of model.{name}", choice, allowed, f"Set model.{name} to one of these.")
        given = {name: rows.tolist() if hasattr(rows, "tolist") else rows for name, rows in self.given.items()}
        object.__setattr__(self, "given", given)


class LDS(StateSpace):
    """Linear dynamical system: smooth latents with linear dynamics, Gaussian or count activity, EM."""

    def __init__(self, config: LDSConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts, config.latents, config.latents, config.emissions)
        self._constraints = Constraints(
            diagonal=config.dynamics == "diagonal",
            dynamics="dynamics" in config.fixed,
            readout="readout" in config.fixed,
        )

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Start from the covariances of the activity within and between bins."""
        if self.input_mean is not None:
            self.input_mean.copy_(self._mean_input(batches))

        def of_session(session: str) -> Iterable[Recorded]:
            return self._recorded(batches, session)

        units = {session: layout.n_units for session, layout in self.layouts.items()}
        subspace, diagonal = self.config.initialization == "subspace", self._constraints.diagonal
        start = starting_values(of_session, units, self.config.latents, self._counts, subspace, diagonal)
        self._set(with_given(self._emissions.start(start), self.config.given, diagonal))

    def _maximized(self, statistics: Any) -> LinearGaussian:
        return self._emissions.maximize(self._everything(), statistics, self._constraints)

    @torch.no_grad()
    def finish(self) -> None:
        """Choose among the equivalent parameters, see ``inference.canonical``; what is fixed leaves no choice."""
        if self._constraints.dynamics or self._constraints.readout:
            return
        values, moment = canonical(self._everything(), self.latent_moment, self._constraints.diagonal)
        self._set(values)
        self.latent_moment.copy_(moment)

    def advance(self, latents: Float[Tensor, "point latent"]) -> Float[Tensor, "point latent"]:
        """Return the expected latents one bin later, with known inputs at their training mean."""
        return latents @ self.dynamics.to(latents).T


register(
    Entry(
        model=LDS,
        config=LDSConfig,
        family=Family.SINGLE_REGION,
        reference=Reference(
            citation="Shumway RH, Stoffer DS (1982). An approach to time series smoothing and forecasting using the EM "
            "algorithm. Journal of Time Series Analysis 3(4), 253-264.",
            doi="10.1111/j.1467-9892.1982.tb00349.x",
            key="shumway1982approach",
        ),
        tiny=lambda layout: LDSConfig(latents=2),
        training=Training(max_epochs=100),
    )
)
