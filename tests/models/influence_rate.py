"""How often multi_region_lds claims influence between regions that have none, of simulations with fixed seeds.

Run by test_multi_region_lds_nulls.py in a process of its own, without type checks of every call:
python -m tests.models.influence_rate autocorrelated gaussian 0 200
"""

from __future__ import annotations

import json
import sys
from collections import Counter

import torch

from lvmzoo.claims import influence_refits
from lvmzoo.models.multi_region.multi_region_lds import MultiRegionLDS, MultiRegionLDSConfig
from tests.models.regions_world import independent

PASSES = 2  # of EM in the fit, on which no p-value depends
REFITS = 4  # passes of EM for the observed trials as for recombined ones: any number of them keeps the level


def rejections(kind: str, emissions: str, seeds: range) -> dict[str, int]:
    """Return in how many simulations any pair of regions had evidence, by question."""
    influence_refits.PASSES = REFITS
    found: Counter[str] = Counter(communication=0, direction=0, delay=0, dimensions=0)
    for seed in seeds:
        batch = independent(kind, seed, trials=40, bins=6, units=(3, 3), latents=1, counts=emissions == "poisson")
        config = MultiRegionLDSConfig(latents=1, emissions=emissions, permutations=19, resamples=1)
        model = MultiRegionLDS(config, [batch.layout])
        model.prepare([batch])
        for _ in range(PASSES):
            model.update(model.statistics(batch))
        model.finish()
        claims = model.findings(batch, seed).claims
        found.update({claim.question.value for claim in claims if claim.evidence})
    return dict(found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, emissions, first, last = sys.argv[1:]
    print(json.dumps(rejections(kind, emissions, range(int(first), int(last)))))
