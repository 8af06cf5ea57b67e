"""Which of the processes of a run this one is, as what started them says."""

from __future__ import annotations

import os

from lvmzoo.errors import UserError

__all__ = ["process_number"]


def process_number(variable: str, otherwise: str = "0") -> int:
    """Return what ``LOCAL_RANK`` or ``SLURM_PROCID`` says of this process; raises UserError where it is no number."""
    number = os.environ.get(variable, otherwise)
    if not number.isdecimal():
        raise UserError(
            f"The environment variable {variable} is '{number}'.",
            "Programs that start several processes of a run number them by it.",
            "Unset it: lvmzoo starts the processes of trainer.devices=N by itself.",
        )
    return int(number)
