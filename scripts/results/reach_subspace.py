"""Hand velocity from `psid`: its own decoding on held-out reaches, beside ridge on the counts of the same bin."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from _recordings import recording

from lvmzoo.metrics.spread import r2
from lvmzoo.models.behavior.psid import PSID
from lvmzoo.store import compose
from lvmzoo.train import train

# recording, width of the bins in seconds, R2 of ridge on the same bin (every fifth trial held out)
CASES = (("m1_reach_100ms.npz", 0.1, 0.55), ("m1_reach_50ms_moving.npz", 0.05, 0.585))


def run() -> list[dict[str, Any]]:
    """Return a row for each recording and each set of bins that states are inferred from."""
    rows = []
    for name, width, bound in CASES:
        for states in ("filter", "smoother"):
            overrides = ["experiment=psid_reach", f"data.path={recording(name)}", f"data.bin_width_s={width}"]
            overrides += [f"model.states={states}", "report=false", "trainer.progress=false"]
            with tempfile.TemporaryDirectory() as folder:
                made = train(compose([*overrides, f"output={folder}"]))
            assert isinstance(made.model, PSID)
            assert made.sessions is not None
            test = made.sessions[0].test.batch()
            decoded = made.model.decode(test.without_behavior())["hand_velocity"]
            trials = torch.arange(test.n_trials)[:, None].expand(test.valid.shape)
            truth, predicted, groups = (
                values[test.valid].double().numpy() for values in (test.behavior["hand_velocity"], decoded, trials)
            )
            value, spread = r2(truth, predicted, groups.astype(int))
            rows.append(
                {
                    "claim": f"{name}, psid, {states}: R2 of hand velocity, decoded by itself",
                    "source": "every fifth trial held out; 30 components, horizon 5, 20 latents, 8 relevant",
                    "bound": f">= {bound}, ridge on the same bin" if states == "smoother" else "causal, beside it",
                    "measured": round(value, 3),
                    "spread": None if spread is None else round(spread, 3),
                    "ok": value >= bound or states == "filter",
                }
            )
    return rows


if __name__ == "__main__":
    for line in run():
        print(line["claim"], line["measured"], line["spread"])
