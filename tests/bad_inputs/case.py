"""A bad input, what has to come of it, and what it must not do."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CANARY = "executed"  # a file that every payload makes in the folder of its case


@dataclass(frozen=True)
class Case:
    """One input.

    Parameters
    ----------
    name : of the test.
    arguments : of ``lvmzoo``, or a function of the folder of the case that prepares it and returns them.
    says : a part of what is printed.
    code : exit code; 0 for an input that is used, with a warning that is right.
    environment : variables that are set.
    """

    name: str
    arguments: Sequence[str] | Callable[[Path], Sequence[str]]
    says: str
    code: int = 2
    environment: tuple[tuple[str, str], ...] = ()


class Payload:
    """An object that leaves the canary when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.canary = folder / CANARY

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.canary),)
