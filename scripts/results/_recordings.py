"""Where the recordings lie that some claims are measured on."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "data"


def recording(name: str) -> str:
    """Return the path of a recording, in the folder LVMZOO_RECORDINGS or ../shared/data."""
    path = Path(os.environ.get("LVMZOO_RECORDINGS", DEFAULT)) / name
    if not path.is_file():
        raise SystemExit(f"{name} is not in {path.parent}; set LVMZOO_RECORDINGS to the folder that holds it.")
    return str(path)
