"""A bad input, what has to come of it, and what it must not do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lvmzoo.cli import failure, main

CANARY = "executed"  # a file that every payload makes in the folder of its case


@dataclass(frozen=True)
class Case:
    """One input.

    Parameters
    ----------
    name : of the test.
    arguments : of ``lvmzoo``, or a function of the folder of the case that prepares it and returns them; or one that
        returns what to call in Python instead.
    says : a part of what is printed.
    code : exit code; 0 for an input that is used, with a warning that is right.
    environment : variables that are set.
    """

    name: str
    arguments: Sequence[str] | Callable[[Path], Sequence[str] | Callable[[], object]]
    says: str
    code: int = 2
    environment: tuple[tuple[str, str], ...] = ()


def run(case: Case, folder: Path) -> int:
    """Give the input to lvmzoo and return the exit code; errors in Python are told as the command line tells them."""
    given = case.arguments(folder) if callable(case.arguments) else case.arguments
    if not callable(given):
        return main(list(given))
    try:
        given()
    except Exception as error:
        code, lines = failure(error)
        print("\n".join(lines), file=sys.stderr)
        return code
    return 0


class Payload:
    """An object that leaves the canary when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.canary = folder / CANARY

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.canary),)
