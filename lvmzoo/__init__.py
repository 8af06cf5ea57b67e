"""A zoo of latent-variable models for neural population recordings.

>>> import lvmzoo
>>> model = lvmzoo.Estimator("lds", latents=8)

Names are imported when they are first used, so that `lvmzoo list` costs no import of torch's trainer.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lvmzoo.config import DataConfig as DataConfig
    from lvmzoo.config import Experiment as Experiment
    from lvmzoo.config import SplitConfig as SplitConfig
    from lvmzoo.config import TrainerConfig as TrainerConfig
    from lvmzoo.data.arrays import from_arrays as from_arrays
    from lvmzoo.data.recording import Recording as Recording
    from lvmzoo.errors import UserError as UserError
    from lvmzoo.estimator import Estimator as Estimator
    from lvmzoo.estimator import load as load
    from lvmzoo.registry import entries as entries
    from lvmzoo.registry import get as get
    from lvmzoo.registry import register as register
    from lvmzoo.run import Run as Run
    from lvmzoo.selection import Selection as Selection
    from lvmzoo.selection import select as select

__version__ = "0.1.0"

_HOMES = {
    "DataConfig": "lvmzoo.config",
    "Estimator": "lvmzoo.estimator",
    "Experiment": "lvmzoo.config",
    "Recording": "lvmzoo.data.recording",
    "Run": "lvmzoo.run",
    "Selection": "lvmzoo.selection",
    "SplitConfig": "lvmzoo.config",
    "TrainerConfig": "lvmzoo.config",
    "UserError": "lvmzoo.errors",
    "entries": "lvmzoo.registry",
    "from_arrays": "lvmzoo.data.arrays",
    "get": "lvmzoo.registry",
    "load": "lvmzoo.estimator",
    "register": "lvmzoo.registry",
    "select": "lvmzoo.selection",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lvmzoo' has no attribute '{name}'")
    from lvmzoo.processes import process_number

    process_number("LOCAL_RANK")  # before what is imported here stumbles over it
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
