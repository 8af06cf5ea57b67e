"""What a run changes around it, and puts back: threads, the log, what Lightning prints."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from lvmzoo.config import TrainerConfig
from lvmzoo.errors import Interrupted, UserError
from lvmzoo.findings import Progress, quiet_progress
from lvmzoo.models.base import Model, StatisticsModel

__all__ = ["log_file", "quiet", "telling", "threads"]

logger = logging.getLogger("lvmzoo")


@contextlib.contextmanager
def threads(config: TrainerConfig, model: Model) -> Iterator[None]:
    """Use one thread for statistics models: on a busy machine LAPACK on two was seen to take a hundred times longer."""
    wanted = config.threads or (1 if isinstance(model, StatisticsModel) else None)
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def telling(wanted: bool) -> Iterator[Progress]:
    """Say how far long work is: a bar on a terminal; where there is none, a line after ten seconds and each minute."""
    if not wanted:
        yield quiet_progress
        return
    if not sys.stderr.isatty():
        shown = time.monotonic() - 50

        def say(what: str, fraction: float) -> None:
            nonlocal shown
            if time.monotonic() - shown > 60:
                shown = time.monotonic()
                print(f"{what}: {100 * fraction:.0f} %", file=sys.stderr)

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, fraction: bar.update(task, description=what, completed=fraction)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what Lightning says about devices and workers; its warnings are about choices made here."""
    talkers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [talker.level for talker in talkers]
    for talker in talkers:
        talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            warnings.filterwarnings("ignore", module="lightning_fabric")
            yield
    finally:
        for talker, level in zip(talkers, levels, strict=True):
            talker.setLevel(level)


@contextlib.contextmanager
def log_file(folder: Path | None) -> Iterator[None]:
    """Write what lvmzoo says to the log of the run, too."""
    if folder is None:
        yield
        return
    handler = logging.FileHandler(folder / "log.txt")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        expected = isinstance(error, UserError | Interrupted)
        exc_info = None if expected else (type(error), error, error.__traceback__)
        message = (type(error).__name__, error)
        # To the file alone: on the screen, whoever catches the error says it.
        handler.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, "%s: %s", message, exc_info))
        raise
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()
