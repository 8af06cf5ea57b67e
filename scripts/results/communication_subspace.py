"""V1 -> V2 needs fewer predictive dimensions than V1 -> V1: the values of Semedo et al. (2019) on their recording."""

from __future__ import annotations

import tempfile
from typing import Any

from _recordings import recording

from lvmzoo.findings import Question
from lvmzoo.models.multi_region.reduced_rank_regression import ReducedRankRegression
from lvmzoo.store import compose
from lvmzoo.train import train

SOURCE = "v1v2_residuals.npz, 400 trials, ten folds"


def run() -> list[dict[str, Any]]:
    """Return the explained variance by rank, and the ranks that the one-standard-error rule chooses."""
    overrides = ["experiment=v1v2", f"data.path={recording('v1v2_residuals.npz')}"]
    with tempfile.TemporaryDirectory() as folder:
        fitted = train(compose([*overrides, "trainer.progress=false", "report=false", f"output={folder}"]))
    assert isinstance(fitted.model, ReducedRankRegression)
    curve = fitted.model.of().curve
    explained, error = curve["explained"], curve["standard_error"]
    assert isinstance(explained, list)
    assert isinstance(error, list)
    rows = [
        {
            "claim": f"1 - NSE of V2 from V1 at rank {rank}",
            "source": SOURCE,
            "bound": f"{expected} ± 0.003",
            "measured": round(explained[rank], 4),
            "spread": round(error[rank], 4),
            "ok": abs(explained[rank] - expected) <= 0.003,
        }
        for rank, expected in ((1, 0.104), (2, 0.123), (3, 0.125))
    ]
    (findings,) = fitted.findings.values()
    (claim,) = [
        claim
        for claim in findings.claims
        if claim.question is Question.DIMENSIONS and (claim.source, claim.target) == ("V1_source", "V2")
    ]
    assert claim.control is not None
    for target, rank, interval, allowed in (
        ("V2", claim.value, claim.interval, (2,)),
        ("V1_target", claim.control, claim.control_interval, (5, 6)),
    ):
        rows.append(
            {
                "claim": f"rank of V1 -> {target} by the one-standard-error rule",
                "source": SOURCE,
                "bound": " or ".join(map(str, allowed)),
                "measured": int(rank),
                "spread": None if interval is None else f"{interval[0]:g} to {interval[1]:g} over resampled trials",
                "ok": rank in allowed,
            }
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
