"""SIGTERM and Ctrl-C, which ask a program to stop.

Nothing is raised where they end it at once: libraries that are being imported, and code that is no Python, swallow an
exception or make another of it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

BOTH = (signal.SIGTERM, signal.SIGINT)
_HEARD: dict[int, Any] = {}  # signal -> what a child of this process does at it, which hears none of ours
_MASK = threading.local()
_BEFORE_THE_END: list[Callable[[], str | None]] = []


@contextmanager
def before_the_end(close: Callable[[], str | None]) -> Iterator[None]:
    """Have something done before `end` ends the process, for as long as this lasts.

    Args:
        close: may return what is to be said of what is left; of several the innermost that does is heard.
    """
    _BEFORE_THE_END.append(close)
    try:
        yield
    finally:
        with suppress(ValueError):  # in a child, which has none
            _BEFORE_THE_END.remove(close)


def end(number: int, _: object = None) -> None:
    """End the process at once, with a line that says so, as the signal would: with 128 and its number."""
    left: list[str] = []
    for close in reversed(_BEFORE_THE_END):
        with suppress(Exception):  # nothing may be in the way of the end
            left += [said] if (said := close()) else []
    with suppress(Exception):  # it may have come in the middle of a print
        sys.stdout.flush()
    if int(os.environ.get("RANK", "0")) == 0:
        os.write(2, f"\nstopped{f' at once; {left[0]}' if left else ''}\n".encode())
    os._exit(128 + number)


@contextmanager
def heard_by(handler: Callable[[int, Any], object]) -> Iterator[None]:
    """Have both signals call a handler, with the signal's number and the frame, for as long as this lasts.

    Python gives signals to the main thread alone: in another, nothing is heard. What the process was started to ignore,
    as with nohup, it goes on to ignore. Children that are forked meanwhile do as if nobody heard it.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in BOTH}
    heard = [number for number, previous in before.items() if previous is not signal.SIG_IGN]
    outermost = [number for number in heard if number not in _HEARD]
    try:
        for number in outermost:
            _HEARD[number] = before[number] or signal.SIG_DFL
        for number in heard:
            signal.signal(number, handler)
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number] or signal.SIG_DFL)
        for number in outermost:
            _HEARD.pop(number, None)


def _block() -> None:
    """Let signals wait while a child is forked: Python forgets those that come before the child is one."""
    _MASK.before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD) if _HEARD else None


def _unblock() -> None:
    if (before := getattr(_MASK, "before", None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_child() -> None:
    for number, previous in _HEARD.items():
        signal.signal(number, previous)
    _HEARD.clear()
    _BEFORE_THE_END.clear()
    _unblock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_in_child)
