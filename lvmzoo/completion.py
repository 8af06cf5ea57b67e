"""Tab completion: Hydra's, for a command that has subcommands."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Sequence

__all__ = ["complete", "run"]


def run(arguments: Sequence[str]) -> int:
    """Answer ``lvmzoo -sc install=bash`` and the questions (``query=bash``) of the script that it prints."""
    if list(arguments)[:1] and arguments[0].startswith("query="):
        print(" ".join(complete(os.environ.get("COMP_LINE", ""), shell=arguments[0].partition("=")[2])))
        return 0
    from lvmzoo.train_command import call_hydra

    call_hydra(["-sc", *arguments])
    return 0


def complete(line: str, shell: str = "bash") -> list[str]:
    """Return what may follow in a command line that begins with the program's name."""
    from lvmzoo.cli import COMMANDS

    words = line.split()
    typed = "" if line.endswith(" ") or len(words) < 2 else words[-1]
    before = words[1:] if not typed else words[1:-1]
    if not before:
        return _starting(typed, COMMANDS)
    if before[0] in ("train", "select"):
        return _ask_hydra(line.split(before[0], 1)[1].lstrip(), shell)
    if before == ["show"] or before == ["cite"]:
        from lvmzoo import registry

        return _starting(typed, registry.entries())
    if before == ["simulate"]:
        from lvmzoo.simulate import simulators

        return _starting(typed, simulators())
    return []


def _ask_hydra(line: str, shell: str) -> list[str]:
    from lvmzoo.train_command import call_hydra

    before = os.environ.get("COMP_LINE")
    os.environ["COMP_LINE"] = f"lvmzoo {line}"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            call_hydra(["-sc", f"query={shell}"])
    finally:
        if before is None:
            del os.environ["COMP_LINE"]
        else:
            os.environ["COMP_LINE"] = before
    return [word for word in printed.getvalue().split() if not word.startswith("schema")]


def _starting(typed: str, options: Iterable[str]) -> list[str]:
    return sorted(option for option in options if option.startswith(typed))
