"""Write info_nce.json: what cebra's own criterions give for seeded vectors.

python tests/parts/frozen/make_info_nce.py      (with cebra 0.6.1 of the dependency group "bench")
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

TEMPERATURES = (1.0, 0.07)
FORMS = {
    "fixed_cosine": ("cosine", None),
    "fixed_euclidean": ("euclidean", None),
    "learned_cosine": ("cosine", 0.1),
    "learned_euclidean": ("euclidean", 0.1),
}


def vectors() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return references, positives and negatives on the unit sphere; the test draws the same."""
    random = np.random.default_rng(8)
    drawn = random.normal(size=(3, 40, 5))
    drawn[1] += 2 * drawn[0]
    drawn /= np.linalg.norm(drawn, axis=-1, keepdims=True)
    return drawn[0], drawn[1], drawn[2]


def main() -> None:
    import cebra.models.criterions as criterions
    import torch

    classes = {
        "fixed_cosine": criterions.FixedCosineInfoNCE,
        "fixed_euclidean": criterions.FixedEuclideanInfoNCE,
        "learned_cosine": criterions.LearnableCosineInfoNCE,
        "learned_euclidean": criterions.LearnableEuclideanInfoNCE,
    }
    found = {}
    for form, (_, floor) in FORMS.items():
        for temperature in TEMPERATURES:
            arguments = {} if floor is None else {"min_temperature": floor}
            criterion = classes[form](temperature=temperature, **arguments).double()
            loss, align, uniform = criterion(*map(torch.from_numpy, vectors()))
            found[f"{form} {temperature}"] = [loss.item(), align.item(), uniform.item()]
    Path(__file__).with_name("info_nce.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
