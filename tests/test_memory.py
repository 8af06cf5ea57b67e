"""What a run will need of the memory, and what the system lets it have."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

import lvmzoo.train as training
from lvmzoo import memory, registry
from lvmzoo.errors import UserError
from lvmzoo.train import train
from tests.test_faults import DATA, small


def test_limits_of_a_job_are_those_of_all_groups_that_it_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "slurm" / "job_7" / "step_0"
    inner.mkdir(parents=True)
    for folder, limit, used in ((inner, "max", "5"), (inner.parent, "4000000000", "1000000000")):
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(used)
    process = tmp_path / "cgroup"
    monkeypatch.setattr(memory, "PROCESS", process)
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    monkeypatch.setattr(memory, "memory_bytes", lambda: 64 * 10**9)
    process.write_text("1:cpu:/elsewhere\n0::/slurm/job_7/step_0\n")
    assert memory.limit_bytes() == 4 * 10**9
    assert memory.available_bytes() <= 3 * 10**9
    (tmp_path / "memory" / "box").mkdir(parents=True)
    (tmp_path / "memory" / "box" / "memory.limit_in_bytes").write_text("2000")
    (tmp_path / "memory" / "box" / "memory.usage_in_bytes").write_text("500")
    process.write_text("4:memory:/box\n")
    assert (memory.limit_bytes(), memory.available_bytes()) == (2000, 1500)
    process.write_text("0::/\n")
    assert memory.limit_bytes() == 64 * 10**9


def test_the_estimate_grows_with_bins_units_and_batches() -> None:
    for name in ("lds", "reduced_rank_regression", "contrastive"):
        made, model = small(name), registry.get(name).model
        once, said = memory.estimate(made, [DATA], model)
        twice, _ = memory.estimate(made, [DATA, dataclasses.replace(DATA, session="again")], model)
        assert once < twice <= 2 * once
        assert "16 units" in said
    smoothed = dataclasses.replace(made, data=dataclasses.replace(made.data, smoothing_s=0.1))
    assert memory.estimate(smoothed, [DATA], model)[0] > once


def test_a_model_that_holds_more_than_others_of_its_kind_says_so() -> None:
    usual, more = (memory.estimate(small(name), [DATA], registry.get(name).model)[0] for name in ("gpfa", "psid"))
    assert more > 5 * usual
    assert memory.estimate(small("pca"), [DATA], registry.get("pca").model)[0] > more


def test_what_cannot_fit_is_refused_before_the_activity_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "limit_bytes", lambda: 1000)
    monkeypatch.setattr(training, "prepare", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(UserError, match=r"This run needs .* GB of memory or more: \d+ bins of 16 units") as said:
        train(small("lds"), [DATA], write=False)
    assert "data.bin_width_s" in said.value.fix


def test_what_may_not_fit_is_warned_of_and_tried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, model = small("contrastive"), registry.get("contrastive").model
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with caplog.at_level(logging.WARNING, logger="lvmzoo"):
        memory.check_memory(made, [DATA], model)
    assert "are free now" in caplog.text
    assert "trainer.batch_size" in caplog.text
    caplog.clear()
    monkeypatch.undo()
    memory.check_memory(made, [DATA], model)
    assert not caplog.records
