"""How often multi_region_lds claims influence that is not there, of simulations with fixed seeds; as a user has it.

Run by test_multi_region_lds_nulls.py in a process of its own, without type checks of every call:
python -m tests.models.influence_rate autocorrelated gaussian 0 200
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable

import torch

from lvmzoo.batch import Batch
from lvmzoo.inference.sampling import draw_trials
from lvmzoo.models.multi_region.multi_region_lds import MultiRegionLDS, MultiRegionLDSConfig
from tests.claims.influence_world import batch_of, planted, structure
from tests.models.regions_world import KINDS, independent

FITTED = 2  # passes of EM of the model itself, on which no p-value depends: nulls are fitted from a start of their own
FEWEST = 19  # permutations with which a test at 5 % can reject


def driven(seed: int, size: float, noise: float, bins: int) -> Batch:
    """Return trials of two regions of which only A drives B."""
    _, activity = draw_trials(
        planted(structure("AB", 2), 5, [("A", "B", 1)], seed, size, noise),
        40,
        bins,
        torch.Generator().manual_seed(seed),
    )
    return batch_of(activity, "AB")


def world_of(name: str, counts: bool) -> Callable[[int], Batch]:
    """Return what makes the session of a seed."""
    if name == "driven":
        return lambda seed: driven(seed, 0.6, 1.0, 10)
    if name == "driven noisy":
        return lambda seed: driven(seed, 0.6, 4.0, 20)
    if name == "three regions":
        return lambda seed: independent("drift", seed, trials=40, bins=10, units=(4, 4, 4), counts=counts)
    if name == "one long trial":
        return lambda seed: independent("drift", seed, trials=1, bins=3000, units=(3, 3), latents=1, counts=counts)
    assert name in KINDS
    return lambda seed: independent(name, seed, trials=40, bins=10, counts=counts)


def claimed(world: str, emissions: str, seeds: range) -> dict[str, int]:
    """Return in how many simulations there was evidence, by question and by direction."""
    found: Counter[str] = Counter(communication=0, direction=0, dimensions=0)
    session = world_of(world, emissions == "poisson")
    for seed in seeds:
        batch = session(seed)
        latents = 1 if world == "one long trial" else 2
        lag = 2 if world == "three regions" else 1
        config = MultiRegionLDSConfig(
            latents=latents, max_lag=lag, emissions=emissions, permutations=FEWEST, resamples=1
        )
        model = MultiRegionLDS(config, [batch.layout])
        model.prepare([batch])
        for _ in range(FITTED):
            model.update(model.statistics(batch))
        model.finish()
        claims = [claim for claim in model.findings(batch, seed).claims if claim.evidence]
        found.update({claim.question.value for claim in claims})
        found.update({f"{c.source} -> {c.target}" for c in claims if c.question.value == "direction"})
    return dict(found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    world, emissions, first, last = sys.argv[1:]
    print(json.dumps(claimed(world, emissions, range(int(first), int(last)))))
