"""What wandb is told: nothing private, in a group, always ended; and that it keeps no run waiting."""

from __future__ import annotations

import dataclasses
import logging
import re
import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

import lvmzoo.train as training
from lvmzoo.config import LoggerConfig
from lvmzoo.learners import loggers
from lvmzoo.learners.loggers import make_logger, public
from lvmzoo.models.single_region.lds import LDS
from lvmzoo.train import train
from tests.test_faults import DATA, in_folder, small

SECRET = "s3cr3t-token-of-mine"


def test_what_is_logged_holds_no_path_and_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_TOKEN", SECRET)
    plain = {
        "output": "/home/me/runs",
        "resume": None,
        "seed": 3,
        "name": f"with-{SECRET}",
        "data": {
            "path": ["/data/monday.nwb"],
            "signal": "/data/elsewhere",
            "bin_width_s": 0.02,
            "tags": ["~/x", "fine"],
        },
        "model": {"name": "lds", "latents": 4},
    }
    assert public(plain) == {
        "output": None,
        "resume": None,
        "seed": 3,
        "name": "with-${oc.env:LAB_TOKEN}",
        "data": {"path": None, "signal": "(a path)", "bin_width_s": 0.02, "tags": ["(a path)", "fine"]},
        "model": {"name": "lds", "latents": 4},
    }


def test_wandb_writes_nothing_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LAB_TOKEN", SECRET)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setattr(sys, "argv", ["lvmzoo", f"data.path=/private/{SECRET}.nwb"])
    folder = tmp_path / "sweep-20260101-000000" / "job-3"
    folder.mkdir(parents=True)
    plain = {"output": str(folder.parent), "name": f"x{SECRET}", "model": {"name": "lds"}, "data": {"path": "/a/b.nwb"}}
    caplog.set_level(logging.INFO, logger="lvmzoo")
    with make_logger(LoggerConfig(name="wandb", offline=True), folder, plain) as history:
        history.log({"train/loss": 0.25}, 1)
    wandb.teardown()  # its service writes on after the run
    (left,) = (folder / "wandb").glob("offline-run-*")
    assert f"wandb sync {left}" in caplog.text
    (sent,) = left.glob("*.wandb")
    content = {path: path.read_bytes() for path in (folder / "wandb").rglob("*") if path.is_file()}
    assert b"train/loss" in content[sent]
    assert b"sweep-20260101-000000" in content[sent]  # the group
    synced = [text for path, text in content.items() if path.suffix != ".log"]  # logs of wandb itself are not sent
    for text in synced:
        for private in (str(tmp_path), SECRET, "/a/b.nwb", sys.executable, sys.prefix):
            assert private.encode() not in text, private
        assert not re.search(rb"(?<![\w-])" + re.escape(socket.gethostname().encode()) + rb"(?![\w-])", text)
    for text in content.values():
        assert SECRET.encode() not in text
        assert b"0123456789" * 4 not in text


class FakeWandb:
    """Stands in for wandb, and keeps what was asked of its run."""

    Settings = SimpleNamespace

    def __init__(self) -> None:
        self.finished: list[int] = []
        self.dir = "/x/files"

    def init(self, **_: Any) -> FakeWandb:
        return self

    def log(self, values: Any, step: int) -> None:
        raise ConnectionError("wandb is down")

    def finish(self, exit_code: int) -> None:
        self.finished.append(exit_code)


@pytest.mark.parametrize("method", ["prepare", "statistics", None])
def test_wandb_is_ended_whatever_ends_the_fit(
    method: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type] # it is used like a module
    monkeypatch.setattr(training, "_finish", lambda run, sessions, folder: None)
    made = dataclasses.replace(in_folder(small("lds"), tmp_path / "run"), logger=LoggerConfig("wandb", offline=True))
    if method is None:
        train(made, [DATA])
    else:
        monkeypatch.setattr(LDS, method, lambda self, batches: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(made, [DATA])
    assert fake.finished == [0 if method is None else 1]


def test_a_network_that_does_not_answer_keeps_no_run_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        over.wait(20)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", hang)
    began = time.monotonic()
    assert not loggers._online()
    assert time.monotonic() - began < loggers.PROBE_S + 1
    over.set()


def test_the_proxy_is_asked_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        socket, "create_connection", lambda place, timeout: asked.append(place) or SimpleNamespace(close=int)
    )
    monkeypatch.setenv("https_proxy", "http://proxy.lab:3128")
    assert loggers._online()
    monkeypatch.delenv("https_proxy")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.lab")
    assert loggers._online()
    assert asked == [("proxy.lab", 3128), ("wandb.lab", 443)]
