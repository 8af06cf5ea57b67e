"""The end of a sweep: the table of what is done, the jobs that are not, and why."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from lvmzoo.compare_command import COMPARED, name_undone, present
from lvmzoo.sweep_folder import KEPT, Sweep, outcome_paths, outcomes_in

__all__ = ["conclude", "counted"]

PAGE = "leaderboard.html"
OFFLINE = "*/wandb/offline-run-*"


def conclude(sweep: Sweep, command: str) -> None:
    """Print the table of all jobs, name those that are not done with their reasons, say how to go on.

    Parameters
    ----------
    sweep : whose folder holds the outcomes; its leaderboard is written there.
    command : that runs the same sweep again.
    """
    outcomes = outcomes_in(sweep.folder)
    page = sweep.folder / PAGE
    if page.is_file() and all(
        path.stat().st_mtime_ns <= page.stat().st_mtime_ns for path in outcome_paths(sweep.folder)
    ):
        print(f"Nothing is new since the table and the page were written.\nLeaderboard: {page}")
    elif any(outcome["status"] == "done" for outcome in outcomes):
        present(sweep.folder, [outcome for outcome in outcomes if outcome["status"] in COMPARED])
    name_undone(outcomes)
    best = sweep.folder / "optimization_results.yaml"  # written by Optuna's sweeper
    if best.is_file():
        found = yaml.safe_load(best.read_text())
        words = " ".join(f"{name}={value}" for name, value in found["best_params"].items())
        print(f"Best of the search: {words} (objective {found['best_value']:.5g})")
    print(f"Sweep: {sweep.folder}, {counted(outcomes)}")
    if any(sweep.folder.glob(OFFLINE)):
        print(f"Send the histories to wandb: wandb sync {shlex.quote(str(sweep.folder))}/{OFFLINE}")
    if sweep.jobs and any(outcome["status"] not in KEPT for outcome in outcomes):
        print(f"Run the rest: {command}", file=sys.stderr)


def counted(outcomes: Sequence[Mapping[str, Any]], total: int | None = None) -> str:
    """Return how many jobs, of all or of ``total``, are done, failed and so on, in words."""
    found = Counter(outcome["status"] for outcome in outcomes)
    rest = [f"{number} {status}" for status, number in found.items() if status != "done"]
    return ", ".join([f"{found['done']} of {len(outcomes) if total is None else total} runs done", *rest])
