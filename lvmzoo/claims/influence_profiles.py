"""Curves behind the claims about pairs of regions: by frequency, by lag, by dimension and by time in the trial."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.claims.influence_channels import Channels
from lvmzoo.claims.influence_study import Study, shifted_interval
from lvmzoo.claims.nulls import bootstrap, null_summary
from lvmzoo.claims.support import Measured
from lvmzoo.findings import Profile
from lvmzoo.inference.linear_gaussian import smoothed_means
from lvmzoo.inference.messages import Loss, ablation, origins, owed

__all__ = ["by_block", "by_dimension", "by_frequency", "by_lag", "by_time"]

SHARE = "share of the variance of the target's latents made in one bin"
LOST = "log-likelihood lost without the connection (nats/bin)"
WORSE = "1 - NSE of the target's next bin lost without the connection"
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

    There is no such curve of a single trial, and none of a region whose units show nothing.

    Parameters
    ----------
    study : of the session.
    channels : of its trials as they were recorded.
    readout : of its units.
    """
    batch, model = study.batch, channels.model
    if batch.n_trials < 2 or batch.n_bins > LONGEST_TRACE:
        return []
    smoothed = smoothed_means(model, channels.activity, channels.valid, channels.observed)
    parts = origins(model.dynamics, study.structure, smoothed, batch.valid)
    place = {name: k for k, name in enumerate(study.structure.names)}
    found = []
    for source, target in _shown(study, channels):
        shares = owed(parts, readout[batch.layout.region(target)], batch.valid).numpy()
        found.append(
            Profile(
                "trace",
                source,
                target,
                "share of expected activity that arose in the source",
                {"time in trial (s)": (np.arange(batch.n_bins) + 0.5) * batch.layout.bin_width_s},
                shares[place[source]],
                control=shares[place[target]],
            )
        )
    return found


def by_block(study: Study, channels: Channels, parts: Channels, seed: int) -> list[Profile]:
    """Return how much each connection does: a share of variance, and what the fitted model loses without it.

    Parameters
    ----------
    study : of the session.
    channels : of its trials as they were recorded.
    parts : what is resampled: the same trials, or stretches of a long one.
    seed : of resamples.
    """
    reach = study.structure.max_lag * 1000 * study.batch.layout.bin_width_s
    copies = 0 if study.boot is None else len(study.boot.share)
    generator = torch.Generator().manual_seed(seed)
    orders = [bootstrap(len(parts.valid), generator) for _ in range(copies)]
    again = f"interval: resampled {'trials' if parts is channels else 'stretches'}, the model as it is"
    found = []
    for source, target in _shown(study, channels):
        i, j = study.at(source, target)
        boot = None if study.boot is None else study.boot.share[:, i, j]
        value, null = float(study.observed.share[0, i, j]), study.null.share[:, i, j]
        most = null_summary(null)[1] if len(null) else None
        refits = "of refits from regions apart, as the claims are; interval: refits to resampled trials"
        loss = _loss(study, channels, source, target)
        varied = loss if parts is channels else _loss(study, parts, source, target)
        lost = Measured(loss.log_likelihood(), resamples=[varied.log_likelihood(order) for order in orders])
        whole, without = loss.explained()
        less = [varied.explained(order) for order in orders]
        worse = Measured(whole - without, resamples=[one - other for one, other in less])
        found += [
            _block(source, target, SHARE, reach, value, shifted_interval(value, boot), refits, most),
            _block(source, target, LOST, reach, lost.value, lost.interval, again),
            _block(source, target, WORSE, reach, worse.value, worse.interval, f"{without:.3f} of {whole:.3f}; {again}"),
        ]
    return found


def _block(
    source: str,
    target: str,
    what: str,
    reach: float,
    value: float,
    interval: tuple[float, float] | None,
    note: str,
    null: float | None = None,
) -> Profile:
    """Return one number about a connection, over all its lags."""
    low, high = (None, None) if interval is None else map(np.atleast_1d, interval)
    return Profile(
        "block",
        source,
        target,
        what,
        {"longest lag (ms)": np.array([reach])},
        np.array([value]),
        low,
        high,
        None if null is None else np.array([null]),
        note=note,
    )


def _loss(study: Study, channels: Channels, source: str, target: str) -> Loss:
    data = channels.activity, channels.valid, channels.observed
    return ablation(channels.model, study.structure, data, channels.regions[target], source, target)


def _shown(study: Study, channels: Channels) -> list[tuple[str, str]]:
    """Return the connections between regions whose units show something.

    A fit uses the latents of a region that shows nothing as more latents of others.
    """
    shown = {name for name, own in channels.regions.items() if own.stop > own.start}
    return [edge for edge in study.edges if set(edge) <= shown]


def _band(value: Float[Tensor, " place"], samples: Tensor | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    if samples is None:
        return None, None
    places = [shifted_interval(float(v), samples[:, k]) for k, v in enumerate(value)]
    low, high = zip(*(place for place in places if place is not None), strict=True)
    return np.array(low), np.array(high)


def _most(null: Float[Tensor, "draw place"]) -> np.ndarray | None:
    """Return the 95th percentile of the largest value of each draw, the same at all places."""
    return np.full(null.shape[1], null_summary(null.amax(1))[1]) if len(null) else None
