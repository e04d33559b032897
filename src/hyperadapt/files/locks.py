"""Locks on directories: what one process writes, no other may write at the same time.

The lock is the operating system's and ends with the process that holds it, however that ends. The file only names it:
one that a killed run has left behind is in nobody's way.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hyperadapt.errors import UserError, notice
from hyperadapt.signals import before_the_end

LOCK_FILE = ".lock"
# Of a file that another process removes at this moment, or that `holder` looks at, a lock is not to be had at once.
SECONDS_BEFORE_REFUSAL = 0.3
NOT_FOR_THIS_FILE_SYSTEM = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def locked(directory: Path, wait: bool = False) -> Iterator[None]:
    """Hold a directory, which is made where needed, and taken away again if nothing was put into it.

    Args:
        directory: what nobody else may write to.
        wait: until whoever holds it has ended, which is said; by default it is refused.

    Raises:
        UserError: if another process, which is named, holds it, or it cannot be written to.
    """
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    lock = FileLock(directory / LOCK_FILE, fallback_to_soft=False)

    def give_back() -> None:
        if lock.is_locked:
            # While it is held: who waits for it finds that it is gone, and makes another.
            (directory / LOCK_FILE).unlink(missing_ok=True)
            lock.release()
        with suppress(OSError):  # it is not empty
            for folder in made:
                folder.rmdir()

    try:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            acquire(lock, directory, wait)
        except OSError as error:
            if error.errno not in NOT_FOR_THIS_FILE_SYSTEM:
                raise UserError(
                    f"output_dir {directory} cannot be made or written to: {error.strerror}"
                ) from None
            notice(f"{directory} cannot be locked ({error.strerror}): see that nothing else writes into it")
        with before_the_end(give_back):
            yield
    finally:
        give_back()


def acquire(lock: FileLock, directory: Path, wait: bool) -> None:
    """Take a directory's lock, and write down who holds it."""
    try:
        lock.acquire(timeout=SECONDS_BEFORE_REFUSAL)
    except Timeout:
        if not wait:
            raise UserError(
                f"{directory} is in use by {written_holder(directory)}; wait until that has ended, or choose another "
                "output_dir"
            ) from None
        notice(f"waiting for {written_holder(directory)}, which is using {directory}")
        lock.acquire()
    (directory / LOCK_FILE).write_text(f"process {os.getpid()} on {socket.gethostname()}\n")


def holder(directory: Path) -> str | None:
    """Name the process that holds a directory; None if nobody does, or it cannot be told."""
    if not (directory / LOCK_FILE).is_file():
        return None
    try:
        with FileLock(directory / LOCK_FILE, fallback_to_soft=False, timeout=SECONDS_BEFORE_REFUSAL):
            return None
    except Timeout:
        return written_holder(directory)
    except OSError:
        return None


def written_holder(directory: Path) -> str:
    """Read who holds a directory."""
    try:
        return (directory / LOCK_FILE).read_text().strip() or "another process"
    except OSError:
        return "another process"
