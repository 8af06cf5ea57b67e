"""Nothing in the project unpickles, evaluates or instantiates what a file says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import audit


def test_nothing_runs_what_a_file_says() -> None:
    assert [line for path in audit.files() for line in audit.insecure(path, path.read_text("utf-8"))] == []


def test_ruff_finds_nothing_insecure() -> None:
    assert audit.rules() == 0


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "exec(text)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.unsafe_load(text)",
        "import torch\ntorch.load(path, weights_only=True)",
        "from torch import load",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "from hydra.utils import instantiate",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import os\nos.system(text)",
    ],
)
def test_what_would_is_found(text: str) -> None:
    assert list(audit.insecure(Path("elsewhere.py"), text))


def test_even_the_one_place_has_to_be_safe() -> None:
    place = audit.ROOT / "lvmzoo" / "checkpoint.py"
    assert not list(audit.insecure(place, "torch.load(path, weights_only=True)"))
    assert list(audit.insecure(place, "torch.load(path)"))
    assert list(audit.insecure(place, "torch.load(path, weights_only=False)"))
