"""Sessions with behavior labels, whose activity tells which bin it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from lvmzoo.batch import Kind, Layout, Observation, Variable
from lvmzoo.data.trials import Trials


def labeled_trials(
    lengths: Sequence[int],
    labels: Mapping[str, tuple[Kind, np.ndarray]] | None = None,
    activity: np.ndarray | None = None,
    session: str = "made",
    held_out: tuple[int, ...] = (),
) -> Trials:
    """Return trials laid end to end; without ``activity``, one unit holds the index of the bin.

    ``labels`` gives for each variable its kind and its values, (bins,) or (bins, channels).
    """
    stop = np.cumsum(lengths)
    bins = int(stop[-1])
    if activity is None:
        activity = np.arange(bins, dtype=np.int32)[:, None]
    values = {name: v.reshape(bins, -1) for name, (_, v) in (labels or {}).items()}
    layout = Layout(
        session=session,
        units={"region": activity.shape[1]},
        unit_ids=tuple(map(str, range(activity.shape[1]))),
        observation=Observation.COUNTS,
        bin_width_s=0.02,
        behavior={name: Variable(kind, values[name].shape[1]) for name, (kind, _) in (labels or {}).items()},
        held_out=held_out,
    )
    return Trials(
        layout,
        torch.from_numpy(activity),
        stop - np.asarray(lengths),
        stop,
        torch.ones(bins, dtype=torch.bool),
        pd.DataFrame({"start_s": (stop - np.asarray(lengths)) * 0.02}),
        behavior={name: torch.from_numpy(v.astype(np.float64)) for name, v in values.items()},
    )
