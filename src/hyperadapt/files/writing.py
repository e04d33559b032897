"""Writing files: in one step, and where a place cannot be written to, said in one line."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hyperadapt.errors import UserError, reason_of

_TORCH_WRITES = re.compile(r"PytorchStreamWriter|inline_container|iostream error|I/?O ?error", re.IGNORECASE)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Say in one line why a file or folder cannot be written, whichever library writes it.

    Raises:
        UserError: if the disk is full, a file is too large, or the place is read-only or no folder.
    """
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        # torch has no error of its own for a full disk, and tokenizers raises a bare Exception.
        if not isinstance(error, OSError | SafetensorError) and not (
            type(error) is Exception or _TORCH_WRITES.search(reason)
        ):
            raise
        file = Path(str(getattr(error, "filename", None) or place))
        if file.is_relative_to(place):  # not the temporary one beside it
            place = file
        raise UserError(
            f"cannot write {place}: {reason_of(reason)}; mend that, and give the command again"
        ) from error


def make_directory(directory: Path) -> None:
    """Make a directory and those above it, where they are not there.

    Raises:
        UserError: if it cannot be made.
    """
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)


def write_atomically(file: Path, content: bytes) -> None:
    """Write a file, its directory made where needed, so that a reader, or a kill, finds the old content or the new.

    Raises:
        UserError: if the place cannot be written to.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    with writing(file):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, file)
        except BaseException:
            with suppress(OSError):  # where nothing can be written, nothing can be removed either
                temporary.unlink()
            raise


def check_empty(directory: Path) -> None:
    """Check that a directory may be written into: that it is none yet, or an empty one.

    Raises:
        UserError: if not.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file, not a directory")
    if directory.is_dir() and any(directory.iterdir()):
        raise UserError(f"{directory} is not empty; name a new directory, as nothing is written over")


@contextmanager
def appearing(directory: Path) -> Iterator[Path]:
    """Give a temporary directory beside one, which takes its place when all is written; nothing is left on failure."""
    temporary = directory.absolute().with_name(f".{directory.absolute().name}.{os.getpid()}.tmp")
    with writing(directory):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if directory.is_dir():
                directory.rmdir()  # an empty one
            temporary.replace(directory)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
