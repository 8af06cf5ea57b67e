"""Train, kill with SIGKILL at a chosen point, resume; run as a program so that one import serves many processes.

Each line of standard input is a JSON object: name (of the model), output (folder), kill (null, or [where, how often]),
resume (folder or null). Each is done in a child process of its own; a line of output gives its exit code.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

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
    from lvmzoo import registry

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
    limits = {"batch_size": 7} if job["name"] == "lds" else {"max_steps": 23, "validate_every_steps": 5}
    made = experiment(job["name"], checkpoint_every_s=0.0, **limits)
    made = dataclasses.replace(made, output=job["output"], name="run", resume=job["resume"])
    if job["kill"]:
        arm(*job["kill"], job["name"])
    train(made, [recording()])


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            child(job)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
