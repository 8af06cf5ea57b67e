"""A model that fails on its turn: installed by hand into a folder, as a plugin that a sweep can choose."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lvmzoo.batch import Batch, Layout
from lvmzoo.models.base import StatisticsModel
from lvmzoo.registry import Entry, Family, Reference, Training, register


@dataclass(frozen=True)
class FaultyConfig:
    """Whose turn it is."""

    name: str = "faulty"
    turn: int = 0  # of this run
    raises: str = ""  # turns that raise, as "1 5"
    exits: str = ""  # turns that call sys.exit(0)
    killed: str = ""  # turns that get SIGKILL
    hangs: str = ""  # turns that never end


class Bins(NamedTuple):
    """How many there are."""

    number: Tensor


class Faulty(StatisticsModel):
    """Latents are the mean activity, where it is not one of the turns that fail."""

    passes = 1
    config: FaultyConfig

    def __init__(self, config: FaultyConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        with Path("attempts.txt").open("a") as file:
            file.write(f"{config.turn}\n")
        self.register_buffer("scale", torch.ones(1))

    def statistics(self, batch: Batch) -> Bins:
        """Fail, or count the bins."""
        turn = str(self.config.turn)
        if turn in self.config.raises.split():
            raise RuntimeError("a planted fault")
        if turn in self.config.exits.split():
            sys.exit(0)
        if turn in self.config.killed.split():
            os.kill(os.getpid(), signal.SIGKILL)
        if turn in self.config.hangs.split():
            time.sleep(10_000)
        return Bins(batch.valid.double().sum())

    def update(self, statistics: Bins) -> Tensor:
        """Nothing is learned."""
        return statistics.number * 0

    def latents(self, batch: Batch) -> Tensor:
        """Return the mean activity."""
        return torch.where(batch.valid, batch.activity.double().nan_to_num().mean(-1), 0.0).unsqueeze(-1)


register(
    Entry(
        model=Faulty,
        config=FaultyConfig,
        family=Family.SINGLE_REGION,
        reference=Reference("Nobody (2026). A planted fault.", "10.0000/none", "none"),
        tiny=lambda layout: FaultyConfig(),
        training=Training(max_epochs=1),
    )
)
