"""``lvmzoo train``: overrides in, a run folder and a short table out; ``-m`` runs a sweep."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lvmzoo.commands import console_of_width
from lvmzoo.errors import Interrupted, UserError, printable
from lvmzoo.fields import describe_fields
from lvmzoo.findings import Findings, Question
from lvmzoo.processes import process_number
from lvmzoo.sentences import CAUTION, answers
from lvmzoo.store import compose, config_folder, fill_store, group_options, load
from lvmzoo.wrong_config import explain

if TYPE_CHECKING:
    from lvmzoo.config import Experiment
    from lvmzoo.run import Run

__all__ = ["call_hydra", "print_answers", "run", "train_and_print"]

GROUPS = ("model", "data", "trainer", "logger", "sweep", "experiment")
HELP = """\
[bold]lvmzoo train[/bold] [OVERRIDES] [--config-dir DIR] [-m]

Fits a model to a recording, scores it, and writes a run folder with report.html.

[bold]Examples[/bold]
  lvmzoo train                                          the default model on simulated reaches
  lvmzoo train model=lds model.latents=8 data=nwb data.path=FILE.nwb trainer.max_epochs=50 seed=1
  lvmzoo train experiment=reach_lds                     a whole experiment from configs/experiment
  lvmzoo train --config-dir DIR experiment=mine         one of your own, DIR/experiment/mine.yaml
  lvmzoo train -m model=lds,contrastive seed=0,1        a sweep of four runs
  lvmzoo train -m hydra/launcher=laptop seed=0,1,2,3    several at a time; again: what is not done
  lvmzoo train -m sweep=lfads data=nwb data.path=FILE.nwb    a search with settings worth trying
  lvmzoo train resume=RUN_FOLDER                        continue a run that was stopped
"""
FLAGS = """\
[bold]Flags[/bold]
  -m, --multirun       run every combination of values that are separated by commas
  -cd, --config-dir    a folder of your own configs, searched first
  --cfg job            print the composed configuration and stop
  -sc install=bash     print a script for tab completion: eval "$(lvmzoo -sc install=bash)"
"""


def run(arguments: Sequence[str]) -> int:
    """Run ``lvmzoo train`` with these arguments and return the exit code."""
    options = _parse(arguments)
    if options.help:
        _help()
    elif options.shell_completion or options.cfg or options.info or options.hydra_help:
        if not options.shell_completion:
            load(options.overrides, options.config_dir)  # refuses what would run code when Hydra composes it
        call_hydra(arguments)
    elif options.multirun:
        from lvmzoo import sweep_command

        return sweep_command.run(arguments, options)
    else:
        _refuse_changes_of_a_resumed_run(options.overrides)
        train_and_print(compose(options.overrides, options.config_dir))
    return 0


def _refuse_changes_of_a_resumed_run(overrides: Sequence[str]) -> None:
    resumed = [word for word in overrides if word.startswith("resume=")]
    others = [word for word in overrides if not word.startswith("resume=")]
    if resumed and others:
        raise UserError(
            f"{resumed[0]} was given together with {', '.join(others)}.",
            "A resumed run goes on with its own settings, those of config.yaml in its folder.",
            f"Give {resumed[0]} alone, or start a new run without it.",
        )


def call_hydra(arguments: Sequence[str], task: Any = None) -> None:
    """Hand over to Hydra's own command line; raises UserError for what it refuses."""
    fill_store()
    main = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="train")
    with _as_command_line(["lvmzoo", *arguments]):
        try:
            main(task or _nothing)()
        except Exception as error:
            raise explain(error, [word for word in arguments if "=" in word]) from error


def train_and_print(experiment: Experiment) -> None:
    """Train, saying what happens on standard error; print scores and where the run and its report lie."""
    process_number("LOCAL_RANK")  # before what is imported here stumbles over it
    from lvmzoo.slurm import requeue
    from lvmzoo.train import train

    with _spoken():
        try:
            finished = train(experiment)
        except Interrupted as stopped:
            if stopped.folder is not None:
                requeue(stopped.signal)
            raise
    if os.environ.get("LOCAL_RANK", "0") == "0":  # the other processes of DDP run this command, too
        _print_scores(finished)


class _Printable(logging.Formatter):
    """Messages, with the names of files and data in them."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextmanager
def _spoken() -> Iterator[None]:
    """Show on standard error what the run says about itself: its data, its stages."""
    handler, logger = logging.StreamHandler(), logging.getLogger("lvmzoo")
    handler.setFormatter(_Printable("%(message)s"))
    handler.setLevel(logging.INFO if os.environ.get("LOCAL_RANK", "0") == "0" else logging.WARNING)
    handler.addFilter(lambda record: record.levelno < logging.ERROR)  # the command says by itself how it failed
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _print_scores(finished: Run) -> None:
    from lvmzoo.flags import CHANCE
    from lvmzoo.report.text import bounds

    console = console_of_width()
    table = Table(box=None, pad_edge=False)
    # A split that lets nothing be decoded by itself is nothing to read about.
    scores = [score for score in finished.scores if score.metric != "split_canary" or score.value > CHANCE]
    beside = ["; ".join(bounds(score)) for score in scores]
    several = len({score.session for score in scores}) > 1
    columns = ["metric", "target", "value", "unit", *["beside it"] * any(beside), *["session"] * several]
    for column in columns:
        table.add_column(column, justify="right" if column == "value" else "left")
    for score, remarks in zip(scores, beside, strict=True):
        tells = score.spread and score.spread > 1e-9 * abs(score.value)  # else none, of a single thing, or rounding
        spread = f" ± {score.spread:.2g}" if tells else ""
        cells = [score.metric, score.target, f"{score.value:.4g}{spread}", score.unit]
        cells += [*[remarks] * any(beside), *[score.session] * several]
        table.add_row(*map(escape, cells))
    if scores:
        console.print(table)
    for session, found in finished.findings.items():
        if len(finished.findings) > 1:
            console.print(f"\n[bold]{escape(session)}[/bold]")
        print_answers(console, found)
    if finished.folder is not None:
        report = finished.folder / "report.html"
        print(f"Run: {finished.folder}")
        if report.exists():
            print(f"Report: {report}")


def print_answers(console: Console, found: Findings) -> None:
    """Print claims by question, each sentence after a word that says how it stands, evidence first."""
    for answer in answers(found.claims):
        console.print(f"\n[bold]{answer.heading}[/bold]", highlight=False)
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(min_width=14, no_wrap=True)
        table.add_column(overflow="fold")
        for word, sentence in answer.lines:
            table.add_row(f"  [bold]{word}[/bold]" if word == "evidence" else f"  {word}", escape(sentence))
        for note in (answer.note, CAUTION if answer.question is Question.DIRECTION else ""):
            if note:
                table.add_row("", f"[dim]{escape(note)}[/dim]")
        console.print(table, highlight=False)
    if found.claims:
        console.print()


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = get_args_parser()
    parser.prog = "lvmzoo train"
    parser.error = _refuse  # type: ignore[method-assign] # Hydra makes the parser; it would print its usage
    options = parser.parse_args(list(arguments))
    if options.config_name or options.config_path:
        raise UserError(
            "--config-name and --config-path are not supported.",
            "The primary config is the shipped train.yaml.",
            "Put your own choices in DIR/experiment/NAME.yaml: --config-dir DIR experiment=NAME.",
        )
    return options


def _refuse(message: str) -> NoReturn:
    raise UserError(
        f"lvmzoo train: {message}.",
        "Settings are written name=value, without dashes; flags are -m and --config-dir DIR.",
        "`lvmzoo train --help` shows examples.",
    )


def _help() -> None:
    from lvmzoo.config import Experiment, TrainerConfig

    console = console_of_width()
    console.print(HELP, soft_wrap=True)
    console.print("[bold]Choices[/bold]")
    for group in GROUPS:
        console.print(f"  {group + '=':<12}{', '.join(group_options(group))}", markup=False, soft_wrap=True)
    console.print("\n[bold]Settings[/bold] (`lvmzoo show NAME` lists those of a model, `--cfg job` all of a run)")
    for prefix, config in (("", Experiment), ("trainer.", TrainerConfig)):
        for field in describe_fields(config):
            if field.meaning and field.name != "model":
                console.print(f"  {prefix + field.name:<29}{field.meaning}", markup=False, soft_wrap=True)
    console.print()
    console.print(FLAGS, soft_wrap=True)


@contextmanager
def _as_command_line(words: list[str]) -> Iterator[None]:
    """Let Hydra read its arguments where it looks for them, and raise its errors rather than print them."""
    argv, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = words, "1"
    try:
        yield
    finally:
        sys.argv = argv
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


def _nothing(_: DictConfig) -> None:
    """Stand in where Hydra wants a task and runs none."""
