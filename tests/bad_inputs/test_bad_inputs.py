"""Every bad input is answered: its exit code, what is said, no traceback, nothing executed, no secret told."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

import pytest

from lvmzoo import registry
from tests.bad_inputs import arrays, configs, environment, good, nwb, plugins, runs
from tests.bad_inputs.case import CANARY, Case, run

CASES = [*configs.CASES, *nwb.CASES, *arrays.CASES, *plugins.CASES, *runs.CASES, *environment.CASES]
SECRET = "a-secret-of-the-environment"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LVMZOO_DEBUG", raising=False)
    monkeypatch.setenv("LVMZOO_SECRET", SECRET)
    monkeypatch.setenv("HOME", str(tmp_path))
    registry.entries()  # found before the environment of a case says otherwise
    return tmp_path


@pytest.mark.parametrize("case", [*CASES, *good.CASES], ids=lambda case: case.name)
def test_a_bad_input_is_answered(
    case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in case.environment:
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with plugins.installed(folder / "site") if case.name.startswith("plugin") else contextlib.nullcontext():
            code = run(case, folder)
    printed = capsys.readouterr()
    said = printed.err + "".join(f"{warning.message}\n" for warning in warned)
    if case.code == 0:
        said += printed.out  # notes of what is used
    assert code == case.code, said
    assert case.says in said
    assert "Traceback" not in printed.out + said
    assert SECRET not in printed.out + said
    assert case.code == 0 or len(printed.err.strip().splitlines()) == 3, "what, why, and what to do"
    assert not list(folder.rglob(CANARY)), "the input ran code"


def test_there_are_enough_of_them_and_each_is_named_once() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 100
    assert len(good.CASES) >= 10
