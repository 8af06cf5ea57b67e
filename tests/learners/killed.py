"""Train, kill with SIGKILL at a chosen point, resume; run as a program so that one import serves many processes.

Each line of standard input is a JSON object: name (of the model), output (folder), kill (null, [where, how often], or
["after", seconds]), resume (folder or null). Each is done in a child process of its own, without scores; a line of
output gives its exit code and the seconds that it took.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

import lvmzoo.train
from lvmzoo import registry
from lvmzoo.models.base import StatisticsModel
from lvmzoo.train import train
from tests.contract.test_every_model import experiment
from tests.contract.world import recording


def kill_after(count: int) -> Any:
    """Return a function that kills the process when it is called for the ``count``-th time."""
    calls = 0

    def called() -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)

    return called


def arm(where: str, count: int, name: str) -> None:
    """Make the process die within a step, or between writing a checkpoint and putting it in its place."""
    die = kill_after(count)
    if where == "replace":
        replace = Path.replace

        def dying_replace(self: Path, target: Any) -> Path:
            if "last.ckpt" in str(target):
                die()
            return replace(self, target)

        Path.replace = dying_replace  # type: ignore[method-assign] # the very method dies
        return
    model: Any = registry.get(name).model
    method = "statistics" if hasattr(model, "statistics") else "loss"
    original = getattr(model, method)

    def dying(self: Any, *arguments: Any) -> Any:
        die()
        return original(self, *arguments)

    setattr(model, method, dying)


def child(job: dict[str, Any]) -> None:
    import dataclasses

    torch.set_num_threads(1)
    lvmzoo.train.score_all = lambda evaluations: []  # type: ignore[attr-defined] # weights are what is compared
    lvmzoo.train.readouts = lambda evaluations: {}
    lvmzoo.train.Connects = type(None)  # type: ignore[misc] # nor what a model says of its regions
    statistics = issubclass(registry.get(job["name"]).model, StatisticsModel)
    limits = {"batch_size": 7} if statistics else {"max_steps": 23, "validate_every_steps": 5}
    made = experiment(job["name"], checkpoint_every_s=0.0, **limits)
    made = dataclasses.replace(made, output=job["output"], name="run", resume=job["resume"])
    if job["kill"] and job["kill"][0] != "after":
        arm(*job["kill"], job["name"])
    train(made, [recording()])


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            child(job)
            os._exit(0)
        if job["kill"] and job["kill"][0] == "after":
            time.sleep(job["kill"][1])
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), time.monotonic() - began, flush=True)


if __name__ == "__main__":
    main()
