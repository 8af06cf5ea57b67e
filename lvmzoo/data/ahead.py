"""The next value of a sequence, computed in a thread while the one before it is in use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Ahead"]

T = TypeVar("T")


class Ahead(Generic[T]):
    """Values of a function of a whole number, asked for mostly in order.

    A thread lives as long as one computation: there is nothing to shut down. Values do not depend on what was prepared.

    Parameters
    ----------
    compute : the function; it must not change anything that another thread sees.
    """

    def __init__(self, compute: Callable[[int], T]) -> None:
        self._compute = compute
        self._current: tuple[int, T] | None = None
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, number: int) -> T:
        """Return the value; what was prepared and is not asked for is dropped. Errors of the thread are raised here."""
        if self._current is None or self._current[0] != number:
            prepared = self._next is not None and self._next[0] == number
            value = self._next[1].result() if prepared and self._next is not None else self._compute(number)
            self._current, self._next = (number, value), None
        return self._current[1]

    def prepare(self, number: int) -> None:
        """Begin to compute a value that will be asked for next."""
        if self._next is None or self._next[0] != number:
            self._next = (number, self._begin(number))

    def _begin(self, number: int) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(self._compute(number))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name="lvmzoo-draws").start()
        return future
