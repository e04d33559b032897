"""From the shell to a command, and from an error to one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys

from typer.exceptions import TyperException

from hyperadapt.cli.app import app
from hyperadapt.cli.printing import in_our_words
from hyperadapt.errors import Interrupted, PrintableRecord, UserError, printable
from hyperadapt.signals import end, heard_by


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2.

    What was stopped by a signal ends as other programs do, with 128 and the signal's number: a script must not go on.
    """
    with heard_by(end):
        run_command_line()


def run_command_line() -> None:
    """Run the command line, whose signals are heard."""
    logging.setLogRecordFactory(PrintableRecord)  # of all libraries, before any is imported
    try:
        # Not standalone, or typer would draw its own errors in a box of several lines.
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))
    except Interrupted as stopped:
        if int(os.environ.get("RANK", "0")) == 0:
            tell(stopped)
        sys.exit(128 + stopped.signal)
    except (UserError, TyperException) as error:
        tell(f"error: {in_our_words(error) if isinstance(error, TyperException) else error}")
        sys.exit(2)


def tell(message: object) -> None:
    """Print a line on standard error, of its own where a bar stands unfinished."""
    from tqdm import tqdm

    tqdm.write(printable(" ".join(str(message).splitlines())), file=sys.stderr)
