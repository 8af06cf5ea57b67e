"""A training step of LFADS: its loop against torch's GRU cells, and the whole of it against bare GRU layers.

Loss and backward pass in float32 on one thread; CPU time of this process, both sides alternating.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lvmzoo import from_arrays
from lvmzoo.batch import Batch
from lvmzoo.config import DataConfig, SplitConfig
from lvmzoo.data.load import prepare
from lvmzoo.models.single_region.lfads import LFADS, LFADSConfig
from lvmzoo.parts.recurrent_loop import controlled_generator

TRIALS, BINS, UNITS, REPEATS = 64, 100, 30, 21
CODE, INPUTS, LATENTS, HIDDEN = 128, 4, 8, 64


def by_cells(
    controller: nn.GRUCell,
    generator: nn.GRUCell,
    to_inputs: nn.Linear,
    factors: Tensor,
    codes: Tensor,
    external: Tensor,
    noise: Tensor,
    start: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the same loop with cells under autograd."""
    c, g = start
    states, moments, drawn = [], [], []
    for t in range(len(codes)):
        c = controller(torch.cat([codes[t], g @ factors.T], -1), c)
        moments.append(to_inputs(c))
        mean, log_variance = moments[-1].chunk(2, -1)
        drawn.append(mean + torch.exp(0.5 * log_variance) * noise[t])
        g = generator(torch.cat([drawn[-1], external[t]], -1), g)
        states.append(g)
    return torch.stack(states), torch.stack(moments), torch.stack(drawn)


def loop() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a step of the controlled generator, ours and by cells."""
    controller, generator = nn.GRUCell(CODE + LATENTS, HIDDEN), nn.GRUCell(INPUTS, HIDDEN)
    to_inputs = nn.Linear(HIDDEN, 2 * INPUTS)
    factors = torch.randn(LATENTS, HIDDEN, requires_grad=True)
    codes = torch.randn(BINS, TRIALS, CODE, requires_grad=True)
    noise = torch.randn(BINS, TRIALS, INPUTS)
    first = (torch.zeros(TRIALS, HIDDEN), torch.randn(TRIALS, HIDDEN, requires_grad=True))
    leaves = [*controller.parameters(), *generator.parameters(), *to_inputs.parameters(), factors, codes, first[1]]

    def step(run: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> None:
        values = run(controller, generator, to_inputs, factors, codes, codes[..., :0], noise, first)
        torch.autograd.grad([value.square().sum() for value in values], leaves)

    return lambda: step(controlled_generator), lambda: step(by_cells)


def batch() -> Batch:
    """Return counts."""
    counts = np.random.default_rng(0).poisson(0.15, (TRIALS, BINS, UNITS))
    config = DataConfig(bin_width_s=0.01, split=SplitConfig(validation=0.0, test=0.0, gap_s=0.0))
    return prepare([from_arrays(counts, bin_width_s=0.01)], config)[0].train.batch()


def whole() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a step of LFADS without a controller, and one of its two recurrent layers alone."""
    data = batch()
    model = LFADS(LFADSConfig(generator=HIDDEN, encoder=HIDDEN), [data.layout])
    model.prepare([data])
    model.train()
    encoder, generator = nn.GRU(UNITS, HIDDEN, bidirectional=True), nn.GRU(1, HIDDEN)
    activity = data.activity.float().transpose(0, 1).contiguous()
    nothing = torch.zeros(BINS, TRIALS, 1)

    def ours() -> None:
        model.zero_grad()
        model.loss(data, 1000).total.backward()

    def bare() -> None:
        encoder.zero_grad()
        generator.zero_grad()
        _, last = encoder(activity)
        states, _ = generator(nothing, last[:1])
        states.sum().backward()

    return ours, bare


def compare(sides: tuple[Callable[[], Any], Callable[[], Any]]) -> tuple[float, float, list[float]]:
    """Return the median milliseconds of both sides, and the sorted ratios of second to first."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(REPEATS + 2):
        for side, found in zip(sides, times, strict=True):
            start = time.process_time()
            side()
            if repeat >= 2:
                found.append(1e3 * (time.process_time() - start))
    ratios = sorted(b / a for a, b in zip(*times, strict=True))
    return statistics.median(times[0]), statistics.median(times[1]), ratios


def run() -> list[dict[str, Any]]:
    """Return one row for each comparison."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = f"{TRIALS} trials x {BINS} bins, networks of {HIDDEN}"
    rows = []
    for claim, source, bound, sides in (
        (f"LFADS with a controller: its loop, {size}, ms", "torch GRUCell loop with autograd", 1.8, loop()),
        (
            f"LFADS without a controller: a training step, {size}, {UNITS} units, ms",
            "bare nn.GRU layers",
            1 / 1.3,
            whole(),
        ),
    ):
        ours, peer, ratios = compare(sides)
        ratio = statistics.median(ratios)
        rows.append(
            {
                "claim": claim,
                "source": source,
                "bound": round(bound, 2),
                "ours": round(ours, 1),
                "peer": round(peer, 1),
                "ratio": round(ratio, 2),
                "spread": [round(ratios[len(ratios) // 4], 2), round(ratios[3 * len(ratios) // 4], 2)],
                "ok": ratio >= bound,
                "note": "CPU time on one thread; spread: quartiles",
            }
        )
    torch.set_num_threads(threads)
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
