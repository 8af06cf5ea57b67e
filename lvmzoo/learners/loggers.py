"""Where the history goes while a run is under way: wandb or TensorBoard. The run folder has it in any case."""

from __future__ import annotations

import abc
import logging
import os
import shlex
import socket
import threading
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lvmzoo.config import LoggerConfig
from lvmzoo.errors import UserError, unknown

__all__ = ["History", "make_logger"]

logger = logging.getLogger("lvmzoo")

PROBE_S = 1.5  # that a run waits, at most, to learn whether there is a network
PRIVATE = {"output", "resume", "adapt", "data.path"}  # settings that are paths
SECRET_LENGTH = 8  # of values of environment variables that are looked for; shorter ones are words such as "en_US"


class History(abc.ABC):
    """Takes the values of each round; used in a ``with`` block, whose end, whatever ends it, closes it."""

    def __enter__(self) -> History:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)

    @abc.abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take the values of one round."""

    @abc.abstractmethod
    def close(self, failed: bool) -> None:
        """Write what is left."""


class _Nothing(History):
    def log(self, values: Mapping[str, float], step: int) -> None:
        pass

    def close(self, failed: bool) -> None:
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

    def close(self, failed: bool) -> None:
        self._writer.close()


class _Wandb(History):
    """Weights & Biases; offline where there is no network, and never in the way of a run."""

    def __init__(self, config: LoggerConfig, folder: Path, plain: Mapping[str, Any]) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE") or ("offline" if config.offline or not _online() else "online")
        if mode == "offline" and not config.offline:
            logger.warning("wandb has no network: the run is logged offline.")
        os.environ.setdefault("WANDB_SILENT", "true")
        sweep = folder.parent.name if folder.parent.name.startswith("sweep-") else None
        self._run = wandb.init(
            project=config.project,
            group=config.group or sweep,
            name=folder.name,
            dir=str(folder),
            config=public(plain),
            mode=mode,  # type: ignore[arg-type]  # wandb checks the name itself
            settings=wandb.Settings(
                init_timeout=20,
                finish_timeout=60,
                console="off",
                save_code=False,
                disable_code=True,
                disable_git=True,
                host="",
                x_disable_meta=True,  # the command line, paths, and who runs it where
                x_disable_machine_info=True,
                x_disable_stats=True,
            ),
        )
        self._left = Path(self._run.dir).parent if mode == "offline" else None

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._try(lambda: self._run.log(dict(values), step=step))

    def close(self, failed: bool) -> None:
        self._try(lambda: self._run.finish(exit_code=int(failed)))
        if self._left is not None:
            logger.info("The history is ready for wandb: wandb sync %s", shlex.quote(str(self._left)))

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


def public(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as others may see them: without paths, and without what came from environment variables."""
    secrets = {value: name for name, value in os.environ.items() if len(value) >= SECRET_LENGTH}

    def shown(value: Any, name: str) -> Any:
        if name in PRIVATE:
            return None
        if isinstance(value, Mapping):
            return {str(key): shown(item, f"{name}.{key}".lstrip(".")) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [shown(item, name) for item in value]
        if not isinstance(value, str):
            return value
        for secret, variable in secrets.items():
            value = value.replace(secret, f"${{oc.env:{variable}}}")
        return "(a path)" if Path(value).is_absolute() or value.startswith("~") else value

    return dict(shown(plain, ""))


def _online() -> bool:
    """Return whether wandb, or the proxy that leads to it, answers soon; names may take long to look up without one."""
    proxy = urllib.request.getproxies().get("https")
    there = urlsplit(proxy or os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai")
    found = threading.Event()

    def probe() -> None:
        try:
            socket.create_connection((there.hostname or "", there.port or 443), timeout=PROBE_S).close()
        except OSError:
            return
        found.set()

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_S)
    return found.is_set()
