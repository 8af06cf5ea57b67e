"""A new session for a trained model: what sessions share is kept, and the new session's own layers are fitted."""

from __future__ import annotations

import dataclasses
import math

from torch import nn

from lvmzoo import registry
from lvmzoo.batch import Layout
from lvmzoo.config import Experiment
from lvmzoo.errors import UserError
from lvmzoo.models.base import Adapts, Model

__all__ = ["adaptation", "take_over"]

_SHARE_OF_STEPS = 0.1  # of those that the model was trained for: layers of one session are few


def adaptation(experiment: Experiment, source: str | None, everything: bool) -> Experiment:
    """Return the settings of a run that adapts the model of another one: the same, for a tenth of the steps at first.

    Parameters
    ----------
    experiment : of the trained run, as it was resolved; the run may have adapted a model itself.
    source : its folder; None for a model that is in memory.
    everything : fit all parameters, for as many steps as the first fit.
    """
    first = experiment.adapt_steps or experiment.trainer.max_steps
    steps = first if everything or first is None else math.ceil(_SHARE_OF_STEPS * first)
    return dataclasses.replace(
        experiment,
        trainer=dataclasses.replace(experiment.trainer, max_steps=steps),
        adapt=source,
        adapt_everything=everything,
        adapt_steps=first,
        name=None,
        resume=None,
    )


def take_over(model: Model, trained: Model, everything: bool) -> frozenset[str]:
    """Give a model what another one learned, and freeze what is not to be fitted; return the sessions that are new.

    Parameters
    ----------
    model : new, of the sessions that it is adapted to; those that ``trained`` knows begin with their own layers.
    trained : of the same architecture, for other sessions.
    everything : False freezes all but the layers of new sessions.

    Raises
    ------
    UserError
        For a model without layers of each session's own, other settings of its body, another bin width, or when there
        is nothing to fit: no session is new, or one is new and everything is to be fitted.
    """
    if not isinstance(model, Adapts) or not isinstance(trained, Adapts):
        able = [name for name, entry in registry.entries().items() if issubclass(entry.model, Adapts)]
        raise UserError(
            f"{model.config.name} cannot be adapted to a new session.",
            f"Models with a body that sessions share and layers of their own: {', '.join(able)}.",
            "Fit it to the new session by itself: lvmzoo train.",
        )
    state, learned = model.state_dict(), trained.state_dict()
    shared, body = ({*found} - _own(of) for found, of in ((state, model), (learned, trained)))
    if differing := [name for name in shared | body if not _same(state.get(name), learned.get(name))]:
        raise UserError(
            f"The settings of the model do not fit what was trained: '{min(differing)}' would have another shape.",
            "Adapting keeps the body of the model.",
            "Leave model.* as it was, but for what defines positives.",
        )
    _check_settings(model, trained)
    model.load_state_dict({**state, **{name: learned[name] for name in shared}})
    new = set()
    for session, layout in model.layouts.items():
        if _knows(trained, layout):
            model.own_layers(session).load_state_dict(trained.own_layers(session).state_dict())
        else:
            new.add(session)
    _check(new, model, trained, everything)
    if not everything:
        model.requires_grad_(False)
        for session in new:
            model.own_layers(session).requires_grad_(True)
    return frozenset(new)


def _check_settings(model: Model, trained: Model) -> None:
    """Refuse what the body was not trained with and its shapes do not show: where a window lies, a similarity."""
    assert isinstance(model, Adapts)
    for field in dataclasses.fields(model.config):
        given, known = (getattr(each.config, field.name, None) for each in (model, trained))
        if field.name not in model.adjustable and given != known:
            raise UserError(
                f"model.{field.name} is {given}, and the model was trained with {known}.",
                "Adapting keeps the body of the model, and what it was trained for.",
                f"Leave model.{field.name} as it was. These may be others: {', '.join(sorted(model.adjustable))}.",
            )


def _own(model: Model) -> set[str]:
    """Return the names of the parameters and buffers that belong to one session alone."""
    assert isinstance(model, Adapts)
    layers: list[nn.Module] = [model.own_layers(session) for session in model.layouts]
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if any(module is own for own in layers))
    return {name for name in model.state_dict() if name.startswith(prefixes)}


def _same(one: object, other: object) -> bool:
    return one is not None and other is not None and getattr(one, "shape", 0) == getattr(other, "shape", 1)


def _knows(model: Model, layout: Layout) -> bool:
    known = model.layouts.get(layout.session)
    return known is not None and (known.unit_ids, known.held_out) == (layout.unit_ids, layout.held_out)


def _check(new: set[str], model: Model, trained: Model, everything: bool) -> None:
    width = next(iter(trained.layouts.values())).bin_width_s
    for session, layout in model.layouts.items():
        if not math.isclose(layout.bin_width_s, width, rel_tol=1e-6):
            raise UserError(
                f"Session '{session}' has bins of {layout.bin_width_s:g} s.",
                f"The model was trained on bins of {width:g} s; its body counts in bins.",
                f"Set data.bin_width_s={width:g}.",
            )
    if everything and new:
        raise UserError(
            f"Session '{min(new)}' is new to the model, and everything is to be fitted.",
            "A body that is trained through layers that know nothing yet forgets what it learned.",
            "Adapt first, without --everything; then adapt the run that comes of it, with --everything.",
        )
    if not everything and not new:
        raise UserError(
            f"The model knows {' and '.join(model.layouts)} already: there is nothing to fit.",
            "Adapting fits the layers of sessions with other units, and keeps all else.",
            "Give another recording (data.path=NEW.nwb), or fit everything on (--everything).",
        )
