"""What long work says of how far it is."""

from __future__ import annotations

import time

import pytest

from lvmzoo.context import telling


def test_progress_is_a_line_soon_and_each_minute_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for wanted, lines in ((True, ["trials: 10 %", "trials: 45 %"]), (False, [])):
        now = 0.0
        with telling(wanted) as progress:
            for now in range(0, 150, 10):
                progress("trials", now / 200)
        assert capsys.readouterr().err.splitlines() == lines


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with telling(True) as progress:
        progress("trials [A -> B]", 0.5)
    progress("later", 1.0)  # says nothing, and is no error
    assert capsys.readouterr().out == ""
