"""The command line. Nothing heavy is imported until a command runs, so that --help answers at once."""

from hyperadapt.cli import listing, making, reading
from hyperadapt.cli.entry import main

__all__ = ["listing", "main", "making", "reading"]
