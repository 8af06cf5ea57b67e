"""A training step of the neural ODE: its own fixed-step solver against torchdiffeq's rk4 on the same grid."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from lvmzoo.batch import Batch
from lvmzoo.config import DataConfig
from lvmzoo.data.load import prepare
from lvmzoo.models.single_region.neural_ode import NeuralODE, NeuralODEConfig
from lvmzoo.simulate.planar import van_der_pol

TRIALS, BINS, UNITS, STEPS, REPEATS = 64, 100, 40, 3, 9


class Peer(NeuralODE):
    """The same model, solved by torchdiffeq."""

    def _solve(self, start: Tensor, bins: int, bin_width_s: float, inputs: Tensor | None) -> Tensor:
        from torchdiffeq import odeint

        times = bin_width_s / self._timescale_s * torch.arange(bins)
        solution: Tensor = odeint(lambda _, z: self.field(z), start, times, method="rk4")
        return solution.transpose(0, 1)


def seconds(model: NeuralODE, batch: Batch) -> float:
    """Return the CPU seconds of a step: loss and gradient."""
    start = time.process_time()
    for step in range(STEPS):
        torch.manual_seed(step)
        model.zero_grad()
        model.loss(batch, step).total.backward()
    return (time.process_time() - start) / STEPS


def run() -> list[dict[str, Any]]:
    """Return a row for a step of one bin, and one for the stride of two bins; sides alternate, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [row(1, 1.5), row(2, 1.5)]
    finally:
        torch.set_num_threads(threads)


def row(stride: int, bound: float) -> dict[str, Any]:
    """Return the comparison at one stride with the peer's step of one bin."""
    recording = van_der_pol(trials=2 * TRIALS, bins=BINS, units=UNITS)
    (session,) = prepare([recording], DataConfig(simulator="van_der_pol"))
    batch = session.train.batch(range(TRIALS))
    config = NeuralODEConfig(stride=stride, dropout=0.0)
    ours, peer = NeuralODE(config, [session.layout]), Peer(config, [session.layout])
    ours.prepare([batch])
    peer.load_state_dict(ours.state_dict())
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(REPEATS + 1):  # the first warms up
        for name, model in (("ours", ours), ("peer", peer)):
            times[name].append(seconds(model, batch))
    ratios = sorted(b / a for a, b in zip(times["ours"][1:], times["peer"][1:], strict=True))
    ratio = statistics.median(ratios)
    pairs = zip(ours.parameters(), peer.parameters(), strict=True)
    gradients = [(a.grad, b.grad) for a, b in pairs]
    difference = max(float((a - b).norm() / b.norm()) for a, b in gradients if a is not None and b is not None)
    size = f"{TRIALS} trials x {BINS} bins, {UNITS} units, {config.latents} latents, {config.hidden} hidden"
    return {
        "claim": f"neural ODE, step of training (loss and gradient), {size}, steps of {stride} bins, s",
        "source": "the same model through torchdiffeq's rk4, steps of 1 bin",
        "bound": bound,
        "ours": round(statistics.median(times["ours"][1:]), 4),
        "peer": round(statistics.median(times["peer"][1:]), 4),
        "ratio": round(ratio, 2),
        "spread": [round(ratios[0], 2), round(ratios[-1], 2)],
        "ok": ratio >= bound and difference < 1e-2,
        "note": f"one thread; largest relative difference of a gradient {difference:.1e} (float32)",
    }


if __name__ == "__main__":
    for line in run():
        print(line)
