"""Checkpoints on a disk that fills up, in a file that is damaged, in a folder that others write to as well."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import lvmzoo.train as training
from lvmzoo.checkpoint import MAGIC, read_checkpoint, write_checkpoint
from lvmzoo.cli import failure
from lvmzoo.errors import UserError
from lvmzoo.run import new_folder
from lvmzoo.train import train
from tests.test_faults import DATA, at_call, in_folder, small

ROOT = Path(__file__).resolve().parents[1]


def test_one_byte_that_changed_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "last.ckpt"
    for step in (1, 2):
        write_checkpoint(path, {"step": step, "weights": torch.full((5000,), float(step))})
    content = bytearray(path.read_bytes())
    place = content.index(torch.full((8,), 2.0).numpy().tobytes()) + 4000
    content[place] ^= 1
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="lvmzoo"):
        assert read_checkpoint(path)["step"] == 1
    assert "last.ckpt is damaged; the one before it, last.ckpt.previous, is used" in caplog.text


def test_a_checkpoint_with_a_right_checksum_runs_no_code_either(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "last.ckpt", {"step": Path("/")})
    assert (tmp_path / "last.ckpt").read_bytes().startswith(MAGIC)
    with pytest.raises(UserError, match="no usable checkpoint"):
        read_checkpoint(tmp_path / "last.ckpt")


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Let the system refuse files beyond a size, as it refuses all on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_the_system_refuses_leaves_the_old_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for step in (1, 2):
        write_checkpoint(path, {"step": step})
    with files_at_most(200_000), pytest.raises(OSError, match="File too large"):
        write_checkpoint(path, {"step": 3, "weights": torch.zeros(100_000)})
    assert read_checkpoint(path) == {"step": 2}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "last.ckpt.previous"]


@pytest.fixture
def no_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "score_all", lambda evaluations: [])
    monkeypatch.setattr(training, "readouts", lambda evaluations: {})


def test_a_disk_that_fills_up_during_a_run_is_said_and_the_run_goes_on_later(
    no_scores: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "run/checkpoints/.last.ckpt.partial"))

    whole = train(small("lds"), [DATA], write=False)
    made = in_folder(small("lds", checkpoint_every_s=0.0), tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", at_call(8, os.fsync, full))
        with pytest.raises(UserError) as said:
            train(made, [DATA])
    assert failure(said.value)[0] == 2
    assert "No space left on device" in said.value.what
    assert "the last checkpoint included" in said.value.why
    assert said.value.fix.endswith(f"lvmzoo train resume={tmp_path}/run")
    state = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert 0 < state["progress"]["step"] < 8
    resumed = train(dataclasses.replace(made, resume=str(tmp_path / "run")), [DATA])
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key


def test_a_disk_without_room_for_checkpoints_is_said_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage: Any = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(UserError, match=r"The disk of .* has 0 MB left") as said:
        train(in_folder(small("lds"), tmp_path / "run"), [DATA])
    assert "output=DIR" in said.value.fix


def test_ten_processes_of_the_same_moment_get_ten_folders(tmp_path: Path) -> None:
    start, go = os.pipe()
    children = []
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            os.close(go)
            os.read(start, 1)  # until the parent closes its end
            folder = new_folder(tmp_path, "lds-20260101-000000")
            (folder / "pid").write_text(str(os.getpid()))
            os._exit(0)
        children.append(pid)
    os.close(start)
    os.close(go)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 10
    assert sorted(int(path.read_text()) for path in tmp_path.glob("*/pid")) == sorted(children)


FULL = """
import dataclasses, sys
from pathlib import Path
import pytorch_lightning as pl
import torch
from lvmzoo.checkpoint import read_checkpoint, write_checkpoint
from lvmzoo.cli import failure
from lvmzoo.train import train
from tests.test_faults import DATA, small

folder, step = Path(sys.argv[1]), 0
while True:
    step += 1
    try:
        write_checkpoint(folder / "last.ckpt", {"step": step, "weights": torch.ones(step * 40_000)})
    except OSError as error:
        assert error.errno == 28, error
        break
assert read_checkpoint(folder / "last.ckpt")["step"] == step - 1
assert not list(folder.glob(".*"))
for path in folder.iterdir():
    path.unlink()

class Fill(pl.Callback):
    def on_train_epoch_end(self, trainer, learner):
        if learner.step == 4:
            with open(folder / "other", "wb") as other:
                try:
                    while True:
                        other.write(bytes(1000)); other.flush()
                except OSError:
                    pass
made = dataclasses.replace(small("lds", checkpoint_every_s=0.0), output=str(folder), name="run")
try:
    train(made, [DATA], callbacks=[Fill()])
except Exception as error:
    code, lines = failure(error)
    print(code, *lines, sep="\\n")
(folder / "other").unlink()
train(dataclasses.replace(made, resume=str(folder / "run")), [DATA])
print("done")
"""


@pytest.mark.slow
def test_a_small_disk_that_is_full(tmp_path: Path) -> None:
    """A real one of 4 MB, mounted where nobody else sees it; temporary files lie elsewhere."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=4m none {disk} && exec {sys.executable} -c "$0" {disk}'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, FULL]
    if subprocess.run([*command[:4], "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a disk of their own")
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    code, what, why, fix, last = done.stdout.split("\n")[:5]
    assert (code, last) == ("2", "done"), done.stdout
    assert "There is no space left" in what
    assert "the last checkpoint included" in why
    assert f"resume={disk}/run" in fix
    assert "Traceback" not in done.stderr
    assert "Logging error" not in done.stderr


@pytest.mark.slow
def test_two_hundred_kills_while_checkpoints_are_written(tmp_path: Path) -> None:
    path, seen, partial = tmp_path / "last.ckpt", 0, 0
    draw = random.Random(0)
    write_checkpoint(path, {"step": 0, "weights": torch.zeros(300_000)})
    for _ in range(200):
        pid = os.fork()
        if pid == 0:
            for step in range(seen + 1, 10**9):
                write_checkpoint(path, {"step": step, "weights": torch.full((300_000,), float(step))})
        time.sleep(draw.uniform(0.005, 0.06))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        partial += any(tmp_path.glob("*.partial"))
        state = read_checkpoint(path)
        assert state["step"] >= seen
        assert (state["weights"] == state["step"]).all()
        seen = state["step"]
    assert seen > 20
    assert partial > 20  # kills did fall into the writing
