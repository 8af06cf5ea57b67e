"""What linear dynamics are made of, whatever the bins they are seen in."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

__all__ = ["modes_of"]


def modes_of(dynamics: Float[np.ndarray, "latent latent"], step_s: float) -> pd.DataFrame:
    """Return the modes of x[t+1] = A x[t] + w, slowest first.

    An eigenvalue that is not zero, or the two of a complex pair, are exp(-step / timescale ± 2 pi i frequency step).

    Parameters
    ----------
    dynamics : A, real, without a negative real eigenvalue, which has no time course between steps.
    step_s : one step, in seconds.

    Returns
    -------
    A row for each mode: ``timescale_s`` (negative for one that grows) and ``frequency_hz``.
    """
    values = np.linalg.eigvals(dynamics)
    values = values[values.imag >= 0]
    values = values[np.lexsort((values.imag, -np.abs(values)))]
    with np.errstate(divide="ignore"):
        timescale = -step_s / np.log(np.abs(values))
    return pd.DataFrame({"timescale_s": timescale, "frequency_hz": np.angle(values) / (2 * np.pi * step_s)})
