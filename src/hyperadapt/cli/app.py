"""The application, and the arguments and options that several commands have."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperadapt import __version__
from hyperadapt.cli.printing import say

if TYPE_CHECKING:
    from hyperadapt.tasks import Task


app = typer.Typer(
    help="Fine-tune one frozen transformer for many tasks, with hypernetworks that generate their parameters.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a trained run.")]
ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A YAML file, or a name of `hyperadapt configs`.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Fields to change, as training.max_steps=100."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")]
AllowChangedData = Annotated[
    bool,
    typer.Option("--allow-changed-data", help="Take rows that are not those that the run was trained with."),
]
AllowChangedInRuns = Annotated[
    bool,
    typer.Option(
        "--allow-changed-data",
        help="Keep and go on with runs that were trained with rows that have changed since.",
    ),
]
AllowChangedToPrint = Annotated[
    bool,
    typer.Option(
        "--allow-changed-data",
        help="Take rows that are not those that the run was trained with. The scores are only printed.",
    ),
]
Jobs = Annotated[int, typer.Option(min=1, help="Runs at once.")]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Spread over this Ray cluster; 'local' starts one here."),
]
Processes = Annotated[
    int, typer.Option(min=1, help="Processes of each run, as torchrun starts them, with a GPU each.")
]
BaseModel = Annotated[
    str | None, typer.Option(help="The base model, if it is not where it was in training.", metavar="MODEL")
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Rows a batch; by default as in training.")]
NumBeams = Annotated[
    int | None, typer.Option(min=1, help="1 is greedy; by default as in training, evaluation.num_beams.")
]


def show_version(asked: bool) -> None:
    """Print the version, and stop."""
    if asked:
        say(f"hyperadapt {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that belong to no command."""


def check_run(run: Path, tasks: Sequence[str] = (), split: str | None = None) -> list[Task]:
    """Check that a run is there and has these tasks and this split, which takes less time than to load it.

    Returns:
        The tasks of these names.
    """
    delay_bars()
    from hyperadapt.runs.run import check_asked

    return check_asked(run, tasks, split)


def delay_bars() -> None:
    """Show a progress bar, as of a base model's weights, only after two seconds."""
    os.environ.setdefault("TQDM_DELAY", "2")  # before anything imports tqdm, which reads it once
