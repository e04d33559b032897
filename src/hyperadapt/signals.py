"""SIGTERM and Ctrl-C, which ask a program to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def heard_by(handler: Callable[[int, Any], object]) -> Iterator[None]:
    """Have both signals call a handler, with the signal's number and the frame, for as long as this lasts.

    Python gives signals to the main thread alone: in another, nothing is heard. What the process was started to ignore,
    as with nohup, it goes on to ignore.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    heard = [number for number, previous in before.items() if previous is not signal.SIG_IGN]
    try:
        for number in heard:
            signal.signal(number, handler)
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number] or signal.SIG_DFL)
