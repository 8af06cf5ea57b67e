"""V1 -> V2 needs fewer predictive dimensions than V1 -> V1: the values of Semedo et al. (2019) on their recording."""

from __future__ import annotations

import tempfile
from typing import Any

from _recordings import recording

from lvmzoo.models.multi_region.reduced_rank_regression import ReducedRankRegression
from lvmzoo.parts.regression_session import RegressionSession
from lvmzoo.store import compose
from lvmzoo.train import train

SOURCE = "v1v2_residuals.npz, 400 trials, ten folds"


def fit(target: str) -> RegressionSession:
    """Fit the shipped experiment to all trials, as the paper does."""
    overrides = ["experiment=v1v2", f"data.path={recording('v1v2_residuals.npz')}", f"model.target={target}"]
    overrides += ["data.split.test=0", "data.split.validation=0", "trainer.progress=false", "report=false"]
    with tempfile.TemporaryDirectory() as folder:
        model = train(compose([*overrides, f"output={folder}"])).model
    assert isinstance(model, ReducedRankRegression)
    return model.of()


def run() -> list[dict[str, Any]]:
    """Return the explained variance by rank, and the ranks that the one-standard-error rule chooses."""
    between, within = fit("V2").curve, fit("V1_target").curve
    assert isinstance(between["explained"], list)
    assert isinstance(between["standard_error"], list)
    rows = [
        {
            "claim": f"1 - NSE of V2 from V1 at rank {rank}",
            "source": SOURCE,
            "bound": f"{expected} ± 0.003",
            "measured": round(between["explained"][rank], 4),
            "spread": round(between["standard_error"][rank], 4),
            "ok": abs(between["explained"][rank] - expected) <= 0.003,
        }
        for rank, expected in ((1, 0.104), (2, 0.123), (3, 0.125))
    ]
    ranks = {"V2": (between["rank"], (2,)), "V1_target": (within["rank"], (5, 6))}
    rows += [
        {
            "claim": f"rank of V1 -> {target} by the one-standard-error rule",
            "source": SOURCE,
            "bound": " or ".join(map(str, allowed)),
            "measured": rank,
            "spread": None,
            "ok": rank in allowed,
        }
        for target, (rank, allowed) in ranks.items()
    ]
    return rows
