r"""Second moments of block-Hankel matrices, streamed: additive over trials, batches and ranks, with exact edges.

The windows of L bins of a segment are the columns of its block-Hankel matrix H. With the first block row of H H' known,
:math:`G_{0b} = \sum_t v_t v_{t+b}'`, every other block follows by displacement, :math:`G_{a+1,b+1} = G_{ab} - v_a v_b'
+ v_{j+a} v_{j+b}'` (j windows): H itself, L times as large as the data, is never formed. Missing samples count as zero
in the sums, and the number of pairs that were there is summed in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "HankelMoments", "Segment", "add_windows", "column_means", "covariance", "gram", "segments", "steadying_noise",
    "zero_moments",
]  # fmt: skip

CHUNK_SAMPLES = 2**16  # converted to float64 at a time: 512 KB, which stay in the processor's cache


class Segment(NamedTuple):
    """Bins [start, stop) of some trials of a batch, whose windows belong to a group."""

    rows: Int[Tensor, " trial"]
    start: int
    stop: int
    group: int


class HankelMoments(NamedTuple):
    """Sums over the windows of each group; pairs are of what was observed (0 or 1), and zero if all was."""

    windows: Float[Tensor, " group"]
    sums: Float[Tensor, "group lag column"]  # of the bins of the windows, first bin first
    products: Float[Tensor, "group lag column column"]  # of the first bin with the others
    edges: Float[Tensor, "group shorter shorter"]  # last bins of the segments with each other, less the first bins
    pair_sums: Float[Tensor, "group lag kind"]
    pair_products: Float[Tensor, "group lag kind kind"]
    pair_edges: Float[Tensor, "group shorter_kinds shorter_kinds"]


def zero_moments(groups: int, lags: int, columns: int, kinds: int) -> HankelMoments:
    """Return the sums over no windows of ``lags`` bins, an even number.

    ``kinds`` of columns differ in what is missing; 0: nothing is.
    """
    kinds = max(kinds, 1)

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(groups, *shape, dtype=torch.float64)

    shorter = (lags - 1) * columns, (lags - 1) * kinds
    return HankelMoments(
        zeros(),
        zeros(lags, columns), zeros(lags, columns, columns), zeros(shorter[0], shorter[0]),
        zeros(lags, kinds), zeros(lags, kinds, kinds), zeros(shorter[1], shorter[1]),
    )  # fmt: skip


def segments(
    valid: Bool[Tensor, "trial bin"], fold: Int[Tensor, " trial"], cuts: int, groups: int, lags: int
) -> list[Segment]:
    """Return the stretches without a gap that are long enough for a window.

    Parameters
    ----------
    valid : the bins that exist.
    fold : the group of each trial; -1 cuts a trial into ``cuts`` stretches, one a group. Windows that would span a cut
        go to the last group, so that the others share no bin and all of them together are all windows.
    groups : number of groups.
    lags : bins of a window.
    """
    found: dict[tuple[int, int, int], list[int]] = {}
    ends = torch.nn.functional.pad(valid.to(torch.int8), (1, 1)).diff(dim=1)
    rows, starts = (ends == 1).nonzero(as_tuple=True)
    stops = (ends == -1).nonzero(as_tuple=True)[1]
    for row, start, stop in zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True):
        group, length = int(fold[row]), stop - start
        if group >= 0 or length < cuts * lags:
            found.setdefault((start, stop, max(group, start % max(groups - 1, 1) if group < 0 else 0)), []).append(row)
            continue
        at = [start + length * k // cuts for k in range(cuts + 1)]
        for k in range(cuts):
            found.setdefault((at[k], at[k + 1], k), []).append(row)
        for cut in at[1:-1]:
            found.setdefault((cut - lags + 1, cut + lags - 1, groups - 1), []).append(row)
    return [
        Segment(torch.tensor(rows, device=valid.device), start, stop, group)
        for (start, stop, group), rows in sorted(found.items())
        if stop - start >= lags
    ]


def add_windows(
    moments: HankelMoments,
    segment: Segment,
    fetch: Callable[[Tensor, int, int], tuple[Float[Tensor, "trial bin column"], Float[Tensor, "trial bin kind"]]],
) -> None:
    """Add the windows of a segment, in place.

    Parameters
    ----------
    moments : sums so far.
    segment : with at least one window.
    fetch : gives centered values (zero where missing), and 1 where they were observed, of some bins of some trials.
    """
    lags, columns = moments.sums.shape[1:]
    windows = segment.stop - segment.start - lags + 1
    together = max(1, CHUNK_SAMPLES // ((windows + lags) * columns))
    step = windows if together > 1 else max(lags, CHUNK_SAMPLES // columns)
    moments.windows[segment.group] += windows * len(segment.rows)
    sums = (moments.sums, moments.pair_sums)
    products, edges = (moments.products, moments.pair_products), (moments.edges, moments.pair_edges)
    for rows in segment.rows.split(together):
        first: list[Tensor] = []
        for start in range(0, windows, step):
            stop = min(start + step, windows)
            chunk = fetch(rows, segment.start + start, segment.start + stop + lags - 1)
            for k, values in enumerate(chunk if chunk[1].shape[2] else chunk[:1]):
                _add_products(products[k][segment.group], values, stop - start)
                sums[k][segment.group] += values[:, : stop - start].sum((0, 1))
                if start == 0:
                    first.append(values[:, : lags - 1])
                if stop == windows:
                    head, tail = first[k].flatten(1), values[:, stop - start :].flatten(1)
                    edges[k][segment.group].addmm_(tail.T, tail).addmm_(head.T, head, alpha=-1)
                    change = (tail - head).sum(0).view(lags - 1, -1).cumsum(0)
                    sums[k][segment.group, 1:] += change


def _add_products(products: Tensor, values: Tensor, windows: int) -> None:
    """Add the products of the first bin of each window with the others: two lags at a time, which is faster."""
    lags, width, _ = products.shape
    early = values[:, :windows].reshape(-1, width).T
    pairs = torch.cat([values[:, :-1], values[:, 1:]], 2)
    for lag in range(0, lags, 2):
        added = early @ pairs[:, lag : lag + windows].reshape(-1, 2 * width)
        products[lag : lag + 2] += added.view(width, 2, width).transpose(0, 1)


def gram(
    products: Float[Tensor, "lag column column"], edges: Float[Tensor, "shorter shorter"]
) -> Float[Tensor, "lag_and_column lag_and_column"]:
    """Return H H' of all windows; rows and columns are bins of the window, and the columns of the data within them."""
    lags, columns, _ = products.shape
    result = products.new_empty(lags, columns, lags, columns)
    result[0] = products.transpose(0, 1)
    displaced = edges.view(lags - 1, columns, lags - 1, columns)
    for a in range(lags - 1):
        result[a + 1, :, 1:] = result[a, :, :-1] + displaced[a]
        result[a + 1, :, 0] = result[0, :, a + 1].T
    return result.view(lags * columns, lags * columns)


def covariance(
    moments: HankelMoments,
    groups: Bool[Tensor, " group"],
    kind: Int[Tensor, " column"],
    mean: Float[Tensor, " column"] | None = None,
) -> Float[Tensor, "lag_and_column lag_and_column"]:
    """Return the mean of h h' over the windows h of some groups, over the pairs that were observed if not all were.

    Parameters
    ----------
    moments : of all groups.
    groups : that are used.
    kind : of each column of the data, see ``pair_products``.
    mean : of each column, to subtract from h; None: nothing.
    """
    used = HankelMoments(*(leaf[groups].sum(0) for leaf in moments))
    lags, kinds = used.pair_sums.shape
    result = gram(used.products, used.edges)
    if bool(used.pair_sums.any()):
        where = (torch.arange(lags, device=kind.device)[:, None] * kinds + kind).flatten()
        pairs = gram(used.pair_products, used.pair_edges)[where][:, where]
        result.div_(pairs.clamp(min=1))
    else:
        result.div_(used.windows.clamp(min=1))
    if mean is not None:
        everywhere, of_rows = mean.repeat(lags), (used.sums / _counts(used, kind)).flatten()
        result -= torch.outer(everywhere, of_rows) + torch.outer(of_rows - everywhere, everywhere)
    return result


def steadying_noise(
    moments: HankelMoments,
    groups: Bool[Tensor, " group"],
    kind: Int[Tensor, " column"],
    covariance: Float[Tensor, "lag_and_column lag_and_column"],
    columns: int,
) -> Float[Tensor, " column"]:
    """Return the variance of white noise that some columns need where samples are missing; zero where none are.

    Each pair of places has its mean over other windows, so that directions with little variance are lost in the errors
    and some get less than none. With white noise, as if samples had been recorded with more of it, every direction has
    more variance than the errors, of norm 2 sqrt(places x share of pairs missing / windows); what lags say of each
    other, and so the dynamics, stays as it is.

    Parameters
    ----------
    moments, groups, kind : as for ``covariance``.
    covariance : what it returned.
    columns : the first columns of the data get noise, the others none.
    """
    result = torch.zeros(len(kind), dtype=covariance.dtype, device=covariance.device)
    pairs = moments.pair_products[groups].sum(0)[:, kind[:columns]][:, :, kind[:columns]]
    windows = float(moments.windows[groups].sum())
    missing = 1 - float(pairs.mean()) / max(windows, 1.0) if bool(moments.pair_sums.any()) and columns else 0.0
    if missing < 1e-12:
        return result
    lags = moments.sums.shape[1]
    places = (torch.arange(lags, device=kind.device)[:, None] * len(kind) + torch.arange(columns)).flatten()
    inner = covariance[places][:, places]
    scale = inner.diagonal().clamp(min=1e-300).rsqrt()
    least = float(torch.linalg.eigvalsh(inner * torch.outer(scale, scale))[0])
    share = max(0.0, 2 * (len(places) * missing / max(windows, 1.0)) ** 0.5 - least)
    result[:columns] = share * inner.diagonal().view(lags, columns).mean(0)
    return result


def column_means(
    moments: HankelMoments, groups: Bool[Tensor, " group"], kind: Int[Tensor, " column"]
) -> Float[Tensor, " column"]:
    """Return the mean of each column over all bins of the windows of some groups."""
    used = HankelMoments(*(leaf[groups].sum(0) for leaf in moments))
    return used.sums.sum(0) / _counts(used, kind).sum(0)


def _counts(used: HankelMoments, kind: Tensor) -> Tensor:
    """Return how many samples each bin of the windows has of each column, at least one."""
    counts = used.pair_sums[:, kind] if bool(used.pair_sums.any()) else used.windows.expand(used.sums.shape)
    return counts.clamp(min=1)
