"""Each latent across regions as either of two regions alone tells it, in trials left out.

What two regions predict of each other may be owed to one latent, while another is a course that every trial repeats:
its delay is then of nothing that the regions exchange. So each latent is asked for itself, in what differs between
trials. A strong course would leave a little of another latent in its own by chance, in all regions alike, and so models
are fitted on without courses; and the other latents are left free (their prior is made wide), since those expected to
be small would in part be taken for this one.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvmzoo.inference.delayed_expectations import posterior_means
from lvmzoo.inference.delayed_fit import EM_PASSES
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.inference.delayed_refits import Recordings, refine

__all__ = ["latents_alone", "same_latents", "without_courses"]

PASSES = 60  # of a fit at most
GAIN = 0.5  # nats over five steps below which it is over
FREE = 10.0  # prior deviations of the other latents; beyond it there is nothing more to free


def same_latents(model: DelayedProcesses, known: DelayedProcesses, data: Recordings) -> Int[Tensor, " across"]:
    """Return which latent across regions of a model each one of another model is, by their course in all trials.

    Each is given one of its own, so that correlations are largest in sum.
    """
    from scipy.optimize import linear_sum_assignment

    means = [posterior_means(one, *data)[data.valid][..., : known.across].flatten(0, 1) for one in (known, model)]
    means = [values - values.mean(0) for values in means]
    means = [values / values.norm(dim=0).clamp(min=1e-300) for values in means]
    alike = (means[0].T @ means[1]).abs().cpu().numpy()
    return torch.from_numpy(linear_sum_assignment(alike, maximize=True)[1]).to(data.valid.device)


def without_courses(model: DelayedProcesses, data: Recordings, counts: bool) -> DelayedProcesses:
    """Return a model fitted on to activity less the mean course of each condition, of trials that it was fitted to.

    Where each trial is the only one of its condition, nothing is left to fit, and the model stays.
    """
    if not bool(data.activity.any()):
        return model
    return refine(model._replace(offset=torch.zeros_like(model.offset)), data, counts, PASSES, GAIN, EM_PASSES)[0]


def latents_alone(
    model: DelayedProcesses, data: Recordings, region: int, order: Int[Tensor, " across"]
) -> Float[Tensor, "trial bin region across"]:
    """Return each latent across regions as one region alone tells it, when all regions see it.

    Parameters
    ----------
    model, data : fitted, and trials left out.
    region : whose activity is used.
    order : of the latents to return.
    """
    only, found = data.only(model.regions[region]), []
    for j in order.tolist():
        width = torch.ones_like(model.readout[0])
        width[: model.across] = FREE
        width[j] = 1.0
        free = model._replace(readout=model.readout * width)
        found.append(posterior_means(free, *only)[..., j])
    return torch.stack(found, -1)
