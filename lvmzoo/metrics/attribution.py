"""How strongly each unit carries each behavior variable, by way of the latents and their linear readout."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from jaxtyping import Float

from lvmzoo.metrics.base import Evaluation, evaluating
from lvmzoo.metrics.decode import RidgeDecoder
from lvmzoo.metrics.decoding import fit_decoders
from lvmzoo.models.base import Attributes

__all__ = ["unit_attribution"]


def unit_attribution(evaluation: Evaluation, windows: int = 1000) -> dict[str, Float[np.ndarray, " unit"]]:
    """Return the share of each unit in what carries a variable, from training bins: variable -> shares, which sum to 1.

    A share is that of |J^+|, where J is the Jacobian of the variable's linear readout by the standardized activity.
    Units that are held out have none.

    Parameters
    ----------
    evaluation : of a model with the capability ``Attributes``.
    windows : bins to look at.
    """
    model = evaluation.model
    assert model is not None
    parameter = next(model.parameters())
    batch = evaluation.trials("train").batch().without_behavior().to(parameter.device)
    shares = {}
    for name, decoder in fit_decoders(evaluation, "ridge").items():
        readout = torch.from_numpy(np.asarray(cast("RidgeDecoder", decoder).weights)).to(parameter)
        with evaluating(model):
            strength = cast("Attributes", model).attribution(batch, readout, windows).inverse.sum(1).cpu().numpy()
        shares[name] = strength / max(strength.sum(), 1e-300)
    return shares
