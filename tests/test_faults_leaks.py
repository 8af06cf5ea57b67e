"""Many runs in one process leave nothing behind: memory, open files, threads, temporary files, handlers."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path

import psutil
import pytest

import lvmzoo.train as training
from lvmzoo.errors import DivergedError
from lvmzoo.models.single_region.lds import LDS
from lvmzoo.train import train
from tests.test_faults import DATA, in_folder, small

WARM_UP = 40  # runs in which libraries fill their caches
MOST_GROWTH = 0.05e6  # bytes a run


def left() -> dict[str, object]:
    """Return what a process holds besides memory."""
    return {
        "files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - Path.iterdir holds a descriptor itself
        "threads": threading.active_count(),
        "handlers": len(logging.getLogger("lvmzoo").handlers),
        "temporary": sorted(os.listdir(tempfile.gettempdir())),  # noqa: PTH208
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let temporary files lie where nobody else has any."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


def test_a_run_leaves_nothing_behind_however_it_ends(
    temporary: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "score_all", lambda evaluations: [])
    monkeypatch.setattr(training, "readouts", lambda evaluations: {})
    train(in_folder(small("lds"), tmp_path / "first"), [DATA])
    before = left()
    train(in_folder(small("lds"), tmp_path / "second"), [DATA])
    monkeypatch.setattr(LDS, "update", lambda self, statistics: statistics[0].sum() * float("nan"))
    with pytest.raises(DivergedError):
        train(in_folder(small("lds"), tmp_path / "third"), [DATA])
    assert left() == before
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="what a process holds is read from /proc")
def test_two_hundred_runs_in_one_process(temporary: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tenth run is scored and writes its report; all are fitted, written and removed."""
    scores, readouts = training.score_all, training.readouts
    used, process, before = [], psutil.Process(), left()
    for number in range(200 + WARM_UP):
        whole = number % 10 == 0
        monkeypatch.setattr(training, "score_all", scores if whole else lambda evaluations: [])
        monkeypatch.setattr(training, "readouts", readouts if whole else lambda evaluations: {})
        name = ("lds", "contrastive", "reduced_rank_regression")[number % 3]
        train(dataclasses.replace(in_folder(small(name), tmp_path / "run"), report=whole), [DATA])
        shutil.rmtree(tmp_path / "run")
        gc.collect()
        used.append(process.memory_info().rss)
        if number + 1 == WARM_UP:
            before = left()
    growth = (min(used[-20:]) - min(used[WARM_UP : WARM_UP + 20])) / 180
    print(f"{growth / 1e6:.3f} MB a run")
    assert left() == before
    assert growth < MOST_GROWTH
