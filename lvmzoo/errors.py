"""What a user can get wrong, said in three lines: what, why, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["DivergedError", "Interrupted", "UserError", "nearest", "printable", "unknown", "unknown_session"]

_SPELLED = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class UserError(ValueError):
    """A mistake in the user's input or configuration (exit code 2).

    Parameters
    ----------
    what : the file, field and value that is wrong.
    why : what is allowed there.
    fix : what to do about it.
    """

    def __init__(self, what: str, why: str, fix: str) -> None:
        super().__init__(what, why, fix)
        self.what, self.why, self.fix = what, why, fix

    def __str__(self) -> str:
        return f"{self.what}\n{self.why}\n{self.fix}"


class Interrupted(Exception):  # noqa: N818 - it is no error: the user asked for it
    """A run was stopped by a signal, after saving what was trained (exit code 128 + signal).

    Parameters
    ----------
    signal : the number of the signal.
    folder : the run folder to resume from; None when there is none yet, or nothing is written to disk.
    """

    def __init__(self, signal: int, folder: str | None) -> None:
        super().__init__(signal, folder)
        self.signal, self.folder = signal, folder

    def __str__(self) -> str:
        if self.folder is None:
            return f"Stopped by signal {self.signal}, before there was anything to save."
        return f"Stopped by signal {self.signal} after saving. Continue with: lvmzoo train resume={self.folder}"


class DivergedError(RuntimeError):
    """Training produced a value that is not finite (exit code 3)."""


def printable(text: str) -> str:
    """Return a text in which control characters are spelled out; from a file's names, they would steer a terminal."""
    return text.translate(_SPELLED)


def nearest(name: str, options: Iterable[str]) -> str | None:
    """Return the option that looks most like ``name``, or None."""
    found = difflib.get_close_matches(str(name), list(options), n=1, cutoff=0.5)
    return found[0] if found else None


def unknown(kind: str, name: str, options: Iterable[str], fix: str = "") -> UserError:
    """Build the error for a name that does not exist, with the nearest one that does."""
    options = sorted(options)
    close = nearest(name, options)
    return UserError(
        f"There is no {kind} named '{name}'.",
        f"Available: {', '.join(options) or 'none'}.",
        f"Did you mean '{close}'?" if close else fix or "Choose one of the available ones.",
    )


def unknown_session(session: str, known: Iterable[str], part: str = "readout") -> UserError:
    """Build the error for data of a session that a model has no readout, or other part, for."""
    return UserError(
        f"The model has no {part} for session '{session}'.",
        f"It was built for: {', '.join(known)}.",
        "Fit the model with this session among its data.",
    )
