"""The table of what each connection does."""

from __future__ import annotations

import numpy as np

from lvmzoo.findings import Claim, Findings, Profile, Question
from lvmzoo.report.connections import connection_figures
from lvmzoo.report.style import Table


def block(source: str, target: str, statistic: str, value: float, *around: float) -> Profile:
    low, high, null = (np.array([v]) for v in around) if around else (None, None, None)
    return Profile("block", source, target, statistic, {"longest lag (ms)": np.array([20.0])}, np.array([value]), low,
                   high, null)  # fmt: skip


def test_a_row_for_each_connection() -> None:
    claim = Claim(Question.DIRECTION, "V1", "V2", 0.1, "Granger causality")
    profiles = (
        block("V1", "V2", "share of variance", 0.25, 0.2, 0.31, 0.05),
        block("V1", "V2", "log-likelihood lost", 0.012),
        block("V2", "V1", "share of variance", 0.01, 0.0, 0.02, 0.05),
    )
    *_, table = connection_figures({"V1": 3, "V2": 4}, Findings((claim,), profiles))
    assert isinstance(table, Table)
    assert table.header == ["Connection", "Share of variance", "Log-likelihood lost"]
    assert table.rows == [["V1 → V2", "0.25 (0.2 to 0.31) / 0.05", "0.012"], ["V2 → V1", "0.01 (0 to 0.02) / 0.05", ""]]


def test_no_table_without_numbers() -> None:
    claim = Claim(Question.DIRECTION, "V1", "V2", 0.1, "Granger causality")
    found = [part.caption for part in connection_figures({"V1": 3}, Findings((claim,))) if isinstance(part, Table)]
    assert not any("connection do" in caption for caption in found)
