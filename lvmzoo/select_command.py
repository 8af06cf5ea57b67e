"""``lvmzoo select``: one setting with several values in, the chosen value, its curve and a refitted model out."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from rich.markup import escape
from rich.table import Table

from lvmzoo.commands import console_of_width
from lvmzoo.errors import Interrupted, UserError
from lvmzoo.store import compose, parse

if TYPE_CHECKING:
    from lvmzoo.config import Experiment
    from lvmzoo.selection import Selection

__all__ = ["run"]

MOST_VALUES = 1000
CHOSEN = "chosen"  # the run folder of the refitted model
HELP = """\
[bold]lvmzoo select[/bold] SETTING=VALUES [OVERRIDES] [--config-dir DIR]

Chooses a setting of a model by cross-validation, and fits the model with the chosen value. The test part of the split
is looked at only then. Chosen is the smallest value within one standard error of the best. Writes a folder with
selection.html, selection.csv, selection.json and the run of the fit.

[bold]Examples[/bold]
  lvmzoo select model=gpfa 'model.latents=range(1,13)'                 1 to 12 latents, on simulated reaches
  lvmzoo select model=lds model.latents=2,4,8,16 data=nwb data.path=FILE.nwb
  lvmzoo select model=reduced_rank_regression 'model.rank=range(0,11)' data=two_regions data.split.folds=10
  lvmzoo select model=psid 'model.relevant=range(0,5)' data=dissociation          then, with the 2 that are chosen:
  lvmzoo select model=psid model.relevant=2 'model.latents=range(2,7)' data=dissociation
"""


def run(arguments: Sequence[str]) -> int:
    """Run ``lvmzoo select`` with these arguments and return the exit code."""
    if not arguments or {"-h", "--help"} & {*arguments}:
        console_of_width().print(HELP, soft_wrap=True)
        return 0
    options = _parse(arguments)
    fixed, key, texts = _swept(options.overrides)
    experiments = [compose([*fixed, f"{key}={text}"], options.config_dir) for text in texts]
    _select(experiments[0], key, [_setting(experiment, key) for experiment in experiments])
    return 0


def _select(experiment: Experiment, key: str, values: Sequence[Any]) -> None:
    from lvmzoo.context import telling
    from lvmzoo.report.selection import write_selection_page
    from lvmzoo.selection import select, usual
    from lvmzoo.selection_metric import named
    from lvmzoo.train_command import train_and_print

    folder: Path | None = None

    def keep(found: Selection) -> None:
        nonlocal folder
        folder = folder or _new_folder(experiment, key)
        _write(folder, found)

    began = time.monotonic()
    try:
        with telling(experiment.trainer.progress) as progress:
            found = select(experiment, key, values, progress=progress, keep=keep)
    except (Interrupted, KeyboardInterrupt):
        if folder is not None:
            print(f"Scores so far: {folder / 'selection.csv'}", file=sys.stderr)
        raise
    assert folder is not None
    seconds = time.monotonic() - began
    write_selection_page(folder, found, experiment, seconds)
    _print(found)
    print(f"Fitting {experiment.model.name} with {key}={named(found.chosen)} to the training part", file=sys.stderr)
    train_and_print(usual(replace(experiment, output=str(folder), name=CHOSEN), key, found.chosen))
    if experiment.report:
        write_selection_page(folder, found, experiment, seconds, run=CHOSEN)
    print(f"Selection: {folder / 'selection.html'}")


def _print(found: Selection) -> None:
    from lvmzoo.selection_metric import named

    table = Table(box=None, pad_edge=False)
    unit = f" ({found.unit})" if found.unit else ""
    for heading, side in ((found.key, "right"), (f"score{unit}", "right"), ("± difference", "right"), ("", "left")):
        table.add_column(escape(heading), justify="right" if side == "right" else "left", overflow="fold")
    means, errors = found.shown(found.means), found.shown(found.errors)
    for place, value in enumerate(found.values):
        cells = [named(value), means[place], errors[place]]
        marks = [word for word, marked in (("chosen", found.chosen), ("best", found.best)) if marked == value]
        if place in found.failed:
            table.add_row(escape(cells[0]), "", "", f"[red]left out:[/red] {escape(found.failed[place])}")
        else:
            style = "bold" if "chosen" in marks else ""
            table.add_row(*map(escape, cells), ", ".join(marks), style=style)
    console = console_of_width()
    console.print(f"Score: {found.metric}, {found.folds} folds, higher is better.", markup=False, soft_wrap=True)
    console.print(table)
    if found.remark:
        console.print(f"! {found.key}={found.chosen} {found.remark}", style="yellow", markup=False, soft_wrap=True)


def _write(folder: Path, found: Selection) -> None:
    """Write what is known as selection.csv and selection.json; NaN is an empty cell, and null."""
    from lvmzoo.run import write_text

    stream = io.StringIO()
    writer = csv.writer(stream)
    folds = range(found.scores.shape[1])
    writer.writerow(["value", "mean", "standard_error", *(f"fold_{fold}" for fold in folds), "left_out"])
    for place, value in enumerate(found.values):
        numbers = [found.means[place], found.errors[place], *found.scores[place]]
        writer.writerow([value, *(_plain(number, "") for number in numbers), found.failed.get(place, "")])
    write_text(folder / "selection.csv", stream.getvalue())
    whole = bool(found.compared)
    description = {
        "setting": found.key,
        "metric": found.metric,
        "unit": found.unit,
        "values": list(found.values),
        "scores": [[_plain(number, None) for number in row] for row in found.scores],
        "best": found.best if whole else None,
        "chosen": found.chosen if whole else None,
        "remark": found.remark if whole else "",
        "left_out": {str(found.values[place]): reason for place, reason in found.failed.items()},
        "one_pass": found.one_pass,
    }
    write_text(folder / "selection.json", json.dumps(description, indent=2, default=str))


def _plain(number: float | np.floating[Any], missing: Any) -> Any:
    return float(number) if np.isfinite(number) else missing


def _new_folder(experiment: Experiment, key: str) -> Path:
    from lvmzoo.run import new_folder

    leaf = key.rpartition(".")[2]
    name = experiment.name or f"select-{experiment.model.name}-{leaf}-{time.strftime('%Y%m%d-%H%M%S')}"
    return new_folder(Path(experiment.output), name)


def _setting(experiment: Experiment, key: str) -> Any:
    """Return the value that a composed experiment has, of the type that its field says."""
    found: Any = experiment
    for name in key.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    return found


def _swept(overrides: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Return the overrides of one value, the setting with several, and these as texts.

    Raises
    ------
    UserError
        Where no setting, or more than one, has several values.
    """
    parsed = parse(overrides)
    swept = [override for override in parsed if override.is_sweep_override()]
    if len(swept) != 1:
        several = " and ".join(override.key_or_group for override in swept)
        ones = ", ".join(f"{one.input_line} is one value" for one in parsed if one.key_or_group.startswith("model."))
        none = f"No setting has several values to choose from{': ' * bool(ones)}{ones}."
        raise UserError(
            f"{several} have several values each." if swept else none,
            "`lvmzoo select` chooses one setting; all others are fixed.",
            "Choose one of them first, then the other with the first fixed at what was chosen."
            if swept
            else "Write model.latents=2,4,8, or 'model.latents=range(1,13)' (quoted; it ends before 13).",
        )
    if not swept[0].is_discrete_sweep():
        raise UserError(
            f"{swept[0].input_line} is a range to draw from.",
            "Values are compared one by one.",
            f"List them: {swept[0].key_or_group}=0.1,0.3,1.",
        )
    fixed = [str(override.input_line) for override in parsed if override is not swept[0]]
    try:
        texts = list(itertools.islice(swept[0].sweep_string_iterator(), MOST_VALUES + 1))
    except Exception as error:  # OmegaConf's, for a range among other values
        raise UserError(
            f"{swept[0].input_line} cannot be read.",
            "Values are a list (1,2,4), or one range (range(1,13) or range(0.1,0.5,0.1), which ends before its end).",
            "Write all values out.",
        ) from error
    line, name = swept[0].input_line, swept[0].key_or_group
    if not texts:
        raise UserError(
            f"{line} holds no value.",
            "A range rises, and ends before its end: range(1,4) is 1, 2 and 3.",
            f"Write '{name}=range(FIRST,LAST+1)', or {name}=1,2,4.",
        )
    if len(texts) > MOST_VALUES:
        raise UserError(
            f"{line} holds more than {MOST_VALUES} values.",
            "Each of them is fitted to every fold.",
            f"List some of them first: {name}={texts[0]},{texts[10]},{texts[100]}.",
        )
    return fixed, name, texts


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(
            f"lvmzoo select: {message}.",
            "Settings are written name=value, without dashes; the one flag is --config-dir DIR.",
            "`lvmzoo select --help` shows examples.",
        )


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="lvmzoo select", add_help=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--config-dir", "-cd")
    return parser.parse_intermixed_args(list(arguments))
