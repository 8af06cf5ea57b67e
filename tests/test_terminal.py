"""Names in files reach a terminal spelled out: control characters could clear it, or write what was never said."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from lvmzoo.cli import main

CLEAR = "V1\x1b[2J\x9b31m"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    counts = np.random.default_rng(0).poisson(2.0, (300, 6))
    path = tmp_path / "a.npz"
    np.savez(path, counts=counts, bin_width_s=0.05, region=np.array([CLEAR] * 6))
    return path


def spoken(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_what_a_file_holds_is_spelled_out(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(recording)]) == 0
    said = spoken(capsys)
    assert r"V1\x1b[2J\x9b31m" in said
    assert not {"\x1b", "\x9b"} & set(said)


def test_errors_are_spelled_out(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "model=pca", "data=arrays", f"data.path={recording}", "data.regions=[V2]"]
    assert main([*words, f"output={recording.parent}"]) == 2
    said = spoken(capsys)
    assert r"V1\x1b[2J" in said
    assert not {"\x1b", "\x9b"} & set(said)


def test_warnings_are_spelled_out() -> None:
    assert main(["list"]) == 0  # commands say warnings in a line
    assert "\x1b" not in warnings.formatwarning(CLEAR, UserWarning, "", 0)
