"""Where the history goes while a run is under way: wandb or TensorBoard. The run folder has it in any case."""

from __future__ import annotations

import abc
import logging
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lvmzoo.config import LoggerConfig
from lvmzoo.errors import UserError, unknown

__all__ = ["History", "make_logger"]

logger = logging.getLogger("lvmzoo")


class History(abc.ABC):
    """Takes the values of each round."""

    @abc.abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take the values of one round."""

    @abc.abstractmethod
    def close(self) -> None:
        """Write what is left."""


class _Nothing(History):
    def log(self, values: Mapping[str, float], step: int) -> None:
        pass

    def close(self) -> None:
        pass


class _TensorBoard(History):
    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                "logger=tensorboard needs the package tensorboard.",
                "It is not installed here.",
                "pip install 'lvmzoo[tensorboard]', or leave logger at csv.",
            ) from error
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb(History):
    """Weights & Biases; offline where there is no network, and never in the way of a run."""

    def __init__(self, config: LoggerConfig, folder: Path, plain: Mapping[str, Any]) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE") or ("offline" if config.offline or not _online() else "online")
        if mode == "offline" and not config.offline:
            logger.warning(
                "wandb has no network: the run is logged offline. Later: wandb sync %s/wandb/latest-run", folder
            )
        os.environ.setdefault("WANDB_SILENT", "true")
        self._run = wandb.init(
            project=config.project,
            group=config.group,
            name=folder.name,
            dir=str(folder),
            config=dict(plain),
            mode=mode,  # type: ignore[arg-type]  # wandb checks the name itself
            settings=wandb.Settings(init_timeout=20, console="off", save_code=False, disable_git=True),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._try(lambda: self._run.log(dict(values), step=step))

    def close(self) -> None:
        self._try(self._run.finish)

    def _try(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # a service that breaks down must not stop a run
            logger.warning("wandb failed (%s); the history is in the run folder all the same.", error)


def make_logger(config: LoggerConfig, folder: Path | None, plain: Mapping[str, Any]) -> History:
    """Return the logger that the configuration names; without a run folder, one that keeps nothing.

    Raises
    ------
    UserError
        When there is no logger of that name, or its package is not installed.
    """
    if config.name not in ("csv", "tensorboard", "wandb"):
        raise unknown("logger", config.name, ("csv", "tensorboard", "wandb"))
    if folder is None or config.name == "csv":
        return _Nothing()
    if config.name == "tensorboard":
        return _TensorBoard(folder)
    try:
        return _Wandb(config, folder, plain)
    except Exception as error:  # a service that is down must not stop a run
        logger.warning("wandb could not be started (%s); the history is in the run folder all the same.", error)
        return _Nothing()


def _online() -> bool:
    try:
        socket.create_connection(("api.wandb.ai", 443), timeout=2).close()
    except OSError:
        return False
    return True
