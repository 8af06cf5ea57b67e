"""Fit one model on a number of processes; run as a program, which Lightning starts again for each process."""

from __future__ import annotations

import sys
from typing import Any

import torch
from safetensors.torch import save_file

from lvmzoo.train import train
from tests.contract.test_every_model import STATISTICS, experiment
from tests.contract.world import recording


def main(output: str, devices: int, *names: str) -> None:
    torch.set_num_threads(1)
    for name in names:
        limits: dict[str, Any] = {} if name in STATISTICS else {"max_steps": 10, "precision": "64"}
        made = experiment(name, devices=devices, accelerator="cpu", **limits)
        run = train(made, [recording(trials=43)], write=False)
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            save_file(run.model.state_dict(), f"{output}/{name}-{devices}.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
