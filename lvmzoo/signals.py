"""Stopping a run by a signal, wherever it is, without losing what it has done."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lvmzoo.errors import Interrupted

__all__ = ["Signals", "Stopped"]

SAME_WISH_S = 2.0  # Ctrl-C interrupts a sweep and its jobs at once, and the sweep then terminates them as well


class Stopped(BaseException):
    """Leaves the work at hand; `Signals.listening` turns it into `Interrupted`. No handler of errors catches it."""


class Signals:
    """Turns SIGINT and SIGTERM, and SIGUSR1 in a SLURM job, into `Interrupted`; a second signal ends at once.

    Attributes
    ----------
    received : the first signal; None until there is one.
    folder : the run folder that can be continued, once there is one.
    waiting : True leaves it to whoever looks at ``received`` when to stop.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.folder: str | None = None
        self.waiting = False
        self._at = 0.0
        self._held = 0

    @contextmanager
    def listening(self) -> Iterator[Signals]:
        """Handle the signals inside a ``with`` block; signals reach only the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in _numbers()}
        self.handle()
        try:
            yield self
        except Stopped:
            assert self.received is not None
            raise Interrupted(self.received, self.folder) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle(self) -> None:
        """Handle the signals from here on, whoever did before: Lightning puts handlers of its own around a fit."""
        if threading.current_thread() is threading.main_thread():
            for number in _numbers():
                signal.signal(number, self._receive)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Finish what is inside the ``with`` block before a signal is honored: its state is written as a whole."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self.received is not None and not self._held and not self.waiting:
            raise Stopped

    def _receive(self, number: int, frame: Any) -> None:
        if self.received is not None:
            if number == self.received or time.monotonic() - self._at > SAME_WISH_S:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.received, self._at = number, time.monotonic()
        if not self._held and not self.waiting:
            raise Stopped


def _numbers() -> tuple[int, ...]:
    """Return the signals that stop a run; SLURM sends SIGUSR1 ahead of a time limit where a job asks for it."""
    return (signal.SIGINT, signal.SIGTERM, *((signal.SIGUSR1,) if "SLURM_JOB_ID" in os.environ else ()))
