"""Known inputs: measured variables, such as a stimulus, that drive a model instead of being read out from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from lvmzoo.batch import Kind, Variable
from lvmzoo.config import DataConfig
from lvmzoo.errors import UserError

__all__ = ["as_inputs", "encode", "split_config"]


def split_config(config: DataConfig, available: list[str]) -> tuple[DataConfig, DataConfig]:
    """Return the config of the behavior and that of the known inputs; a variable is one or the other.

    Raises
    ------
    UserError
        If a variable is asked for as both.
    """
    names = list(config.inputs or [])
    both = [name for name in config.behavior or [] if name in names]
    if both:
        raise UserError(
            f"'{both[0]}' is in data.behavior and in data.inputs.",
            "A variable is read out from the latents, or drives them: never both.",
            "Take it out of one of the two.",
        )
    kinds = config.behavior_kinds
    behavior = config.behavior if config.behavior is not None else [name for name in available if name not in names]
    return (
        replace(config, behavior=behavior, behavior_kinds={k: v for k, v in kinds.items() if k not in names}),
        replace(config, behavior=names, behavior_kinds={k: v for k, v in kinds.items() if k in names}),
    )


def as_inputs(
    values: Mapping[str, Float[np.ndarray, "bin _channel"]],
    variables: Mapping[str, Variable],
    valid: Bool[np.ndarray, " bin"],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the inputs of each bin, and a note on those that were not measured everywhere."""
    notes = []
    for name, array in values.items():
        share = float(np.isfinite(array[valid]).all(axis=1).mean()) if valid.any() else 1.0
        if share < 1:
            notes.append(f"Input '{name}' was measured in {share:.1%} of the bins; it is 0 in the others.")
    return {name: encode(array, variables[name]) for name, array in values.items()}, tuple(notes)


def encode(values: Float[np.ndarray, "bin _channel"], variable: Variable) -> Float[np.ndarray, "bin _input"]:
    """Return a variable as inputs: angles as cosine and sine, categories one-hot, 0 where there is no value."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0)
    if variable.kind is Kind.CIRCULAR:
        coded = np.concatenate([np.cos(filled), np.sin(filled)], axis=1)
        known = np.concatenate([known, known], axis=1)
    elif variable.kind is Kind.CATEGORICAL:
        coded = filled.astype(np.int64) == np.arange(len(variable.levels))
    else:
        coded = filled
    return np.where(known, coded, 0).astype(np.float32)
