"""What a run changes around it, and puts back: threads, the log, what Lightning prints."""

from __future__ import annotations

import contextlib
import errno
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
from lvmzoo.signals import Stopped

__all__ = ["full", "full_disk", "log_file", "quiet", "telling", "threads"]

logger = logging.getLogger("lvmzoo")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota, a limit on the size of files


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
def full_disk(folder: Path | None) -> Iterator[None]:
    """Say what is left where a disk filled up: raises UserError for an OSError of that kind, or of one within it."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = full(error)
        if folder is None or cause is None:
            raise
        saved = any((folder / "checkpoints").glob("last.ckpt*"))
        raise UserError(
            f"There is no space left for {cause.filename or folder} ({cause.strerror}).",
            "What was written before is whole, the last checkpoint included."
            if saved
            else "No checkpoint was written.",
            f"Free some space, then continue with: lvmzoo train resume={folder}",
        ) from error


def full(error: BaseException) -> OSError | None:
    """Return the error of a disk that is full, which an exception is or comes from; None where there is none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FULL:
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


class _LogFile(logging.FileHandler):
    """A log file that harms nothing where its disk is full: everything in it is said elsewhere, too."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Leave the record out."""

    def close(self) -> None:
        """Close the file, whether what is left can be written or not."""
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def log_file(folder: Path | None) -> Iterator[None]:
    """Write what lvmzoo says to the log of the run, too."""
    if folder is None:
        yield
        return
    handler = _LogFile(folder / "log.txt")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield
    except (Exception, Stopped) as error:
        expected = isinstance(error, UserError | Interrupted | Stopped)
        exc_info = None if expected else (type(error), error, error.__traceback__)
        message = (type(error).__name__, error)
        # To the file alone: on the screen, whoever catches the error says it.
        handler.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, "%s: %s", message, exc_info))
        raise
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()
