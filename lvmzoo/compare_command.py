"""``lvmzoo compare``: sweeps and runs in, one table and one page out, best first."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from lvmzoo import sweep_table
from lvmzoo.commands import console_of_width
from lvmzoo.comparison import compare
from lvmzoo.comparison_settings import words_of
from lvmzoo.config_files import check_file
from lvmzoo.errors import UserError, nearest
from lvmzoo.run import new_folder
from lvmzoo.run_files import read_json
from lvmzoo.sweep_folder import outcomes_in

__all__ = ["COMPARED", "name_undone", "own_words", "present", "run"]

COMPARED = ("done", "failed", "diverged")  # what a table of a sweep has lines for
RUN_FILES = ("run.json", "config.yaml", "metrics.json")


def run(sources: Sequence[str], out: str | None) -> None:
    """Compare what the folders hold, print the table and write the page.

    Parameters
    ----------
    sources : folders of sweeps and of runs.
    out : the folder to write to; None: that of the sweep, if it is the only one, else a new one beside the sources.

    Raises
    ------
    UserError
        For a folder that is not there, or that holds neither a sweep nor a finished run.
    """
    folders = list(dict.fromkeys(_existing(source) for source in sources))
    found = [_outcomes_of(folder) for folder in folders]
    alone = len(folders) == 1 and _is_sweep(folders[0])
    outcomes = found[0] if alone else _told_apart(_named(found, folders))
    present(_target(folders, out, alone), outcomes)
    name_undone(outcomes)


def present(folder: Path, outcomes: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of some runs, write it as table.md and table.csv, and write leaderboard.html.

    Parameters
    ----------
    folder : to write to.
    outcomes : of the jobs of a sweep, as in its job-N.json.
    """
    from lvmzoo.report.leaderboard import write_leaderboard
    from lvmzoo.run_sizes import with_sizes
    from lvmzoo.sweep_runs import with_consistency

    outcomes = with_sizes(with_consistency(outcomes, [row.jobs for row in compare(outcomes).rows]))
    comparison = compare(outcomes)
    sweep_table.write(folder, comparison)
    page = write_leaderboard(folder / "leaderboard.html", outcomes)
    console = console_of_width()
    console.print(sweep_table.show(comparison))
    for line in sweep_table.warnings(comparison):
        console.print(f"! {line}", style="yellow", markup=False, soft_wrap=True)
    for line in (*sweep_table.order(comparison), *sweep_table.limits(comparison)):
        console.print(line, markup=False)
    legend = " ".join([*sweep_table.legend(comparison, comparison.shown), sweep_table.TIME])
    console.print(legend, style="dim", markup=False)
    print(f"Table: {folder / 'table.md'}")
    print(f"Leaderboard: {page}")


def name_undone(outcomes: Sequence[Mapping[str, Any]]) -> None:
    """Print on standard error which jobs failed or were stopped, and why."""
    undone = [outcome for outcome in outcomes if outcome["status"] in ("failed", "diverged", "stopped")]
    own = own_words(outcomes)
    table = Table(box=None, pad_edge=False)
    for heading in ("job", "status", "settings", "why"):
        table.add_column(
            heading, overflow="fold", no_wrap=heading == "status", max_width=20 if heading == "job" else None
        )
    alike: dict[tuple[str, str], list[int]] = {}
    for outcome in undone:
        reason = " ".join(line.strip() for line in outcome["error"]).removeprefix("Error: ")
        alike.setdefault((outcome["status"], reason), []).append(outcome["job"])
    for (status, reason), jobs in alike.items():
        what = own[jobs[0]] if len(jobs) == 1 else f"{len(jobs)} jobs"
        table.add_row(*map(Text, (",".join(map(str, jobs)), status, what, reason)))
    if undone:
        console_of_width(stderr=True).print(table)


def own_words(outcomes: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Return for each job the overrides that not all of them have."""
    shared = set.intersection(*(set(outcome["overrides"]) for outcome in outcomes)) if len(outcomes) > 1 else set()
    return {o["job"]: " ".join(word for word in o["overrides"] if word not in shared) for o in outcomes}


def _existing(source: str) -> Path:
    folder = Path(source).expanduser()
    if not folder.is_dir():
        close = nearest(folder.name, [path.name for path in folder.parent.glob("*/")])
        raise UserError(
            f"There is no folder '{source}'.",
            "`lvmzoo compare` takes folders of sweeps and of runs.",
            f"Did you mean '{folder.parent / close}'?" if close else "Give the folders that `lvmzoo train` printed.",
        )
    return folder.resolve()


def _is_sweep(folder: Path) -> bool:
    return any(folder.glob("job-*.json"))


def _outcomes_of(folder: Path) -> list[dict[str, Any]]:
    """Return the outcomes of a sweep, or of the one run in a folder."""
    if not _is_sweep(folder):
        return [_outcome(folder)]
    outcomes = [outcome for outcome in outcomes_in(folder) if outcome["status"] in COMPARED]
    for outcome in outcomes:
        if "folder" in outcome:
            outcome["folder"] = str(folder / Path(outcome["folder"]).name)  # the sweep may have been moved
    return outcomes


def _outcome(folder: Path) -> dict[str, Any]:
    """Return what a job of a sweep would have left of a run, but for its overrides."""
    missing = [name for name in RUN_FILES if not (folder / name).is_file()]
    if "config.yaml" in missing:
        raise UserError(
            f"There is neither a sweep nor a run in {folder}.",
            f"A sweep holds job-0.json and more of them; a run holds {', '.join(RUN_FILES)}.",
            "Give the folders that `lvmzoo train` printed.",
        )
    if missing:
        raise UserError(
            f"The run in {folder} is not finished.",
            f"It has no {' and no '.join(missing)}.",
            f"Finish it: lvmzoo train resume={folder}, or leave it out.",
        )
    facts, scores = _read(folder / "run.json"), _read(folder / "metrics.json")
    try:
        return {
            "job": 0,
            "overrides": [],
            "status": "done",
            "code": 0,
            "error": [],
            "model": facts["model"],
            "folder": str(folder),
            "scores": [score | {"value": math.nan if score["value"] is None else score["value"]} for score in scores],
            "seconds": sum(facts["facts"].get("seconds", {}).values()),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder / "run.json", error) from error


def _named(found: Sequence[Sequence[dict[str, Any]]], folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return all outcomes with what each run is called: its folder, or its sweep and job."""
    short = len({folder.name for folder in folders}) == len(folders)
    named = []
    for outcomes, folder in zip(found, folders, strict=True):
        name = folder.name if short else f"{folder.parent.name}/{folder.name}"
        sweep = _is_sweep(folder)
        named += [outcome | {"run": f"{name}/job-{outcome['job']}" if sweep else name} for outcome in outcomes]
    return named


def _told_apart(outcomes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return outcomes with numbers of their own, and overrides from the differences of what made them."""
    there = [outcome for outcome in outcomes if not outcome["code"]]
    configs, fingerprints = [], []
    for outcome in there:
        folder = Path(outcome["folder"])
        configs.append(_read(folder / "config.yaml"))
        fingerprints.append(str(_read(folder / "run.json")["facts"].get("fingerprint", "")))
    words = words_of(configs, fingerprints)
    for outcome, own in zip(there, words, strict=True):
        again = words.count(own) > 1  # the same settings fitted twice are two rows, not two seeds
        outcome["overrides"] = [*own, *([f"run={Path(outcome['folder']).name}"] if again else [])]
    for outcome in outcomes:
        if outcome["code"] and "model" in outcome:
            outcome["overrides"] = [f"model={outcome['model']}", *(w for w in outcome["overrides"] if "seed=" in w)]
    return [outcome | {"job": number} for number, outcome in enumerate(outcomes)]


def _target(folders: Sequence[Path], out: str | None, alone: bool) -> Path:
    if out is None and alone:
        return folders[0]
    try:
        if out is None:
            parent = Path(os.path.commonpath([folder.parent for folder in folders]))
            return new_folder(parent, time.strftime("comparison-%Y%m%d-%H%M%S"))
        Path(out).expanduser().mkdir(parents=True, exist_ok=True)
    except (OSError, UserError) as error:
        raise UserError(
            f"No folder can be made for the page: {str(error).splitlines()[0]}",
            "The page and the tables go into one folder.",
            "Choose another one with --out DIR.",
        ) from error
    return Path(out).expanduser()


def _read(path: Path) -> Any:
    try:
        if path.suffix != ".yaml":
            return read_json(path)
        check_file(path)
        return yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be read: {' '.join(str(error).split())}.", "It is damaged.", "Leave it out, or train it again."
    )
