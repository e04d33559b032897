"""SIGTERM and Ctrl-C, which ask a program to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

BOTH = (signal.SIGTERM, signal.SIGINT)


class Terminated(KeyboardInterrupt):
    """SIGTERM has come, and ends what runs as Ctrl-C would: whatever is open is closed, and locks are given back."""


def number_of(stopped: KeyboardInterrupt) -> int:
    """Return the number of the signal that has ended something."""
    return signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Have SIGTERM raise `Terminated` for as long as this lasts, where nothing within hears it by itself."""
    process = os.getpid()

    def end(number: int, _: object) -> None:
        if os.getpid() == process:
            raise Terminated
        signal.signal(
            number, signal.SIG_DFL
        )  # a child, as a worker of a loader, which is ended by a SIGTERM of ours
        os.kill(os.getpid(), number)

    with heard_by(end, (signal.SIGTERM,)):
        yield


@contextmanager
def heard_by(handler: Callable[[int, Any], object], numbers: Iterable[int] = BOTH) -> Iterator[None]:
    """Have signals call a handler, with the signal's number and the frame, for as long as this lasts.

    Python gives signals to the main thread alone: in another, nothing is heard. What the process was started to ignore,
    as with nohup, it goes on to ignore.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in numbers}
    heard = [number for number, previous in before.items() if previous is not signal.SIG_IGN]
    try:
        for number in heard:
            signal.signal(number, handler)
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number] or signal.SIG_DFL)
