"""What a sweep shows while it runs: how far it is, a line for each running job, the best run so far."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lvmzoo.compare_command import own_words
from lvmzoo.comparison import compare
from lvmzoo.errors import UserError
from lvmzoo.sentences import duration
from lvmzoo.sweep_end import counted
from lvmzoo.sweep_folder import FINAL, Sweep, job_numbers, job_path, live_path, read_outcome
from lvmzoo.sweep_table import number as value_text

__all__ = ["watching"]

EVERY_S = 1.0


@contextlib.contextmanager
def watching(sweep: Sweep, total: int | None) -> Iterator[None]:
    """Show on standard error how the sweep goes: live in a terminal, else a line for each job that ends.

    Parameters
    ----------
    sweep : that runs.
    total : how many jobs it will have, where its folder does not know them all.
    """
    over = threading.Event()
    watch = _Watch(sweep, total)
    thread = threading.Thread(target=watch.follow, args=(over,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _Watch:
    def __init__(self, sweep: Sweep, total: int | None) -> None:
        self._sweep = sweep
        self._total = total
        self._own = own_words([{"job": number, "overrides": words} for number, words in enumerate(sweep.jobs or ())])
        self._since = time.monotonic()  # when a job ended
        self._ended: dict[int, dict[str, Any]] = {}
        self._running: dict[int, dict[str, Any]] = {}
        self._look()
        self._before = len(self._ended)
        self._best = ""

    def follow(self, over: threading.Event) -> None:
        """Look once a second until the sweep is over."""
        console = Console(stderr=True, highlight=False)
        if self._sweep.continued:
            console.print(f"Going on with {self._sweep.folder}: {self._headline()}.", markup=False, soft_wrap=True)
            if self._before == self._jobs:
                console.print("To run it anew, move that folder away, or choose another output=DIR.", soft_wrap=True)
        shown = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        with shown or contextlib.nullcontext():
            last = False
            while not last:
                last = over.wait(EVERY_S)
                for outcome in self._look():
                    if shown is None or outcome["status"] != "done":
                        console.print(self._line(outcome), markup=False, soft_wrap=True)
                if shown is not None:
                    shown.update(Text("\n".join([self._headline(), *map(self._progress, self._running)])), refresh=True)

    def _look(self) -> list[dict[str, Any]]:
        """Return the jobs that ended since the last look; keep which ones run."""
        folder, self._running, fresh = self._sweep.folder, {}, []
        for number in job_numbers(folder):
            if number in self._ended:
                continue
            try:
                outcome = read_outcome(job_path(folder, number))
            except UserError:  # the end of the sweep says what is damaged
                continue
            if outcome["status"] in FINAL:
                self._ended[number] = outcome
                fresh.append(outcome)
            elif outcome["status"] == "running":
                self._running[number] = outcome
        if fresh:
            self._since = time.monotonic()
            self._best = self._best_so_far()
        return fresh

    def _best_so_far(self) -> str:
        comparison = compare([outcome for outcome in self._ended.values() if outcome["status"] == "done"])
        if not comparison.shown or len({row.data for row in comparison.rows}) != 1:  # runs of other data do not rank
            return ""
        row, column = comparison.rows[0], comparison.shown[0]
        label = row.label if len(comparison.rows) > 1 else self._own.get(row.jobs[0], row.label)
        return f". Best {column.heading} {value_text(row.values.get(column.key))}: {label}"

    def _headline(self) -> str:
        return f"{counted(list(self._ended.values()), self._jobs)}{self._left()}{self._best}"

    @property
    def _jobs(self) -> int:
        return len(self._sweep.jobs or ()) or self._total or len(self._ended) + len(self._running)

    def _left(self) -> str:
        """Say how long the rest will take, counted down from when the last job ended."""
        seconds = [outcome["seconds"] for outcome in self._ended.values() if "seconds" in outcome]
        left = self._jobs - len(self._ended)
        if not seconds or not left:
            return ""
        at_a_time = max(1, len(self._running))
        rest = left * sum(seconds) / len(seconds) / at_a_time - (time.monotonic() - self._since)
        minutes = math.ceil(rest / 60)
        return f", about {minutes} min left" if minutes > 1 else ", less than a minute left"

    def _progress(self, number: int) -> str:
        """Return the line of a running job."""
        try:
            text = live_path(self._sweep.folder, number).read_text(errors="replace")
        except FileNotFoundError:  # it has not begun to train, or ended just now
            text = "starting"
        return f"  job {number} {self._words(self._running[number])}: {text}"

    def _words(self, outcome: Mapping[str, Any]) -> str:
        """Return what tells a job from the others."""
        return self._own.get(outcome["job"]) or " ".join(outcome["overrides"])

    def _line(self, outcome: Mapping[str, Any]) -> str:
        """Return the line of a job that ended."""
        seconds = f" after {duration(outcome['seconds'])}" if "seconds" in outcome else ""
        why = f": {outcome['error'][0].removeprefix('Error: ')}" if outcome["error"] else ""
        place = f"{len(self._ended)} of {self._jobs}{self._left()}"
        return f"Job {outcome['job']} {outcome['status']}{seconds} ({place}): {self._words(outcome)}{why}"
