"""Curves behind the claims about pairs of regions: by frequency, by lag, by dimension and by time in the trial."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from lvmzoo.claims.influence_channels import Channels
from lvmzoo.claims.influence_measures import contributions
from lvmzoo.claims.influence_study import Study, shifted_interval
from lvmzoo.claims.nulls import null_summary
from lvmzoo.findings import Profile
from lvmzoo.inference.linear_gaussian import smoothed_means
from lvmzoo.inference.messages import ablation, origins, owed

__all__ = ["by_dimension", "by_frequency", "by_lag", "by_time"]

LONGEST_TRACE = 10_000  # bins; a longer trial is a session, and has no course to be drawn


def by_frequency(study: Study, source: str, target: str) -> Profile:
    """Return Granger causality by frequency."""
    i, j = study.at(source, target)
    value, null = study.observed.spectrum[0, i, j], study.null.spectrum[:, i, j]
    low, high = _band(value, None if study.boot is None else study.boot.spectrum[:, i, j])
    hertz = study.frequencies.numpy() / study.batch.layout.bin_width_s
    axes = {"frequency (Hz)": hertz}
    return Profile("frequency", source, target, "Granger causality (nats)", axes, value.numpy(), low, high, _most(null))


def by_lag(study: Study, one: str, other: str) -> Profile:
    """Return what the latents of one lag alone tell; left of zero the first region follows the second."""
    value, null = study.by_lag(study.observed, one, other)[0], study.by_lag(study.null, one, other)
    low, high = _band(value, None if study.boot is None else study.by_lag(study.boot, one, other))
    axes = {"lag (ms)": 1000 * study.lags * study.batch.layout.bin_width_s}
    statistic = "what the latents of one lag tell (nats/bin)"
    return Profile("lag", one, other, statistic, axes, value.numpy(), low, high, _most(null))


def by_dimension(study: Study, source: str, target: str) -> Profile:
    """Return the partial canonical correlations of a target's coming latents with those of a source."""
    i, j = study.at(source, target)
    value, null = study.observed.correlations[0, i, j], study.null.correlations[:, i, j]
    low, high = _band(value, None if study.boot is None else study.boot.correlations[:, i, j])
    axes = {"dimension": np.arange(1.0, len(value) + 1)}
    statistic = "partial canonical correlation of latents"
    return Profile("rank", source, target, statistic, axes, value.numpy(), low, high, _most(null))


def by_time(study: Study, channels: Channels, readout: Float[Tensor, "unit state"]) -> list[Profile]:
    """Return how much of a target's activity arose in each source, by time in the trial.

    There is no such curve of a single trial.

    Parameters
    ----------
    study : of the session.
    channels : of its trials as they were recorded.
    readout : of its units.
    """
    batch, structure, model = study.batch, study.structure, channels.model
    if batch.n_trials < 2 or batch.n_bins > LONGEST_TRACE:
        return []
    data = channels.activity, channels.valid, channels.observed
    parts = origins(model.dynamics, structure, smoothed_means(model, *data), batch.valid)
    direct = contributions(model, structure)
    place = {name: k for k, name in enumerate(structure.names)}
    found = []
    for source, target in study.edges:
        units = batch.layout.region(target)
        shares = owed(parts, readout[units], batch.valid).numpy()
        loss = ablation(model, structure, data, channels.regions[target], source, target)
        full, without = loss.explained
        found.append(
            Profile(
                "trace",
                source,
                target,
                "share of expected activity that arose in the source",
                {"time in trial (s)": (np.arange(batch.n_bins) + 0.5) * batch.layout.bin_width_s},
                shares[place[source]],
                control=shares[place[target]],
                note=(
                    f"in one bin, {source} makes {100 * float(direct[place[target], place[source]]):.2g} % of the "
                    f"variance of {target}'s latents; without it, the log-likelihood is {loss.log_likelihood:.2g} "
                    f"nats/bin lower, and what {target} shows next is explained to {without:.3f} instead "
                    f"of {full:.3f}"
                ),
            )
        )
    return found


def _band(value: Float[Tensor, " place"], samples: Tensor | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    if samples is None:
        return None, None
    places = [shifted_interval(float(v), samples[:, k]) for k, v in enumerate(value)]
    low, high = zip(*(place for place in places if place is not None), strict=True)
    return np.array(low), np.array(high)


def _most(null: Float[Tensor, "draw place"]) -> np.ndarray | None:
    """Return the 95th percentile of the largest value of each draw, the same at all places."""
    return np.full(null.shape[1], null_summary(null.amax(1))[1]) if len(null) else None
