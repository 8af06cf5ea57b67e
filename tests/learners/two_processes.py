"""Fit models on a number of processes; run as a program, which Lightning starts again for each process."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import torch
from safetensors.torch import save_file

from lvmzoo.train import train
from tests.contract.test_every_model import STATISTICS, experiment
from tests.contract.world import recording


def main(output: str, devices: int, sessions: int, *names: str) -> None:
    torch.set_num_threads(1)
    for name in names:
        limits: dict[str, Any] = {} if name in STATISTICS else {"max_steps": 10, "precision": "64"}
        made = experiment(name, devices=devices, accelerator="cpu", **limits)
        if name == "contrastive" and sessions > 1:  # labels are what joins its sessions
            made = dataclasses.replace(made, model=dataclasses.replace(made.model, positives="hybrid"))
        data = [dataclasses.replace(recording(seed, 43 - seed), session=f"day{seed}") for seed in range(sessions)]
        run = train(made, data, write=False)
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            save_file(run.model.state_dict(), f"{output}/{name}-{devices}.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
