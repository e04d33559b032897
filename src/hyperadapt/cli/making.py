"""Commands that train: quickstart, train, pretrain, compare, reproduce, fewshot, bench; and init."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperadapt import tiny_t5
from hyperadapt.cli.app import (
    AllowChangedData,
    AllowChangedInRuns,
    ConfigFile,
    Jobs,
    Overrides,
    Processes,
    RayAddress,
    Resume,
    RunDirectory,
    app,
)
from hyperadapt.cli.printing import say, show, table
from hyperadapt.errors import UserError, nearest

if TYPE_CHECKING:
    from hyperadapt.config.written import RunConfig


@app.command()
def quickstart(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Fields to change, as output_dir=mine."),
    ] = None,
    resume: Resume = False,
) -> None:
    """Train, predict and report on small tasks that come with the package; minutes on two cores."""
    from hyperadapt.cli.quickstart import commands

    for arguments in commands(overrides or [], resume):
        typer.secho(f"$ hyperadapt {shlex.join(arguments)}", bold=True)
        app(arguments, standalone_mode=False)


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory.")],
) -> None:
    """Write a configuration, a task file and rows to begin your own from; they train in two minutes."""
    from hyperadapt.cli.starter import write_starter

    for file in write_starter(directory):
        typer.echo(file)
    typer.echo(f"now: cd {shlex.quote(str(directory))} && hyperadapt train config.yaml")


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Resume = False,
    allow_changed_data: AllowChangedData = False,
) -> None:
    """Train a method on a mixture of tasks, and evaluate it."""
    from hyperadapt.config.written import RunConfig

    run_and_show(RunConfig.load(config, overrides or []), resume, allow_changed_data)


@app.command()
def pretrain(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Resume = False,
    allow_changed_data: AllowChangedData = False,
) -> None:
    """Pretrain a T5 on plain text, from random weights or further."""
    from hyperadapt.config.written import PretrainConfig

    run_config = PretrainConfig.load(config, overrides or [])
    from hyperadapt.pretraining.train import pretrain
    from hyperadapt.threads import with_threads

    results = pretrain(with_threads(run_config, resume), resume, allow_changed_data)
    if int(os.environ.get("RANK", "0")) == 0:
        table(
            "pretraining", [{"": name.replace("_", " "), "value": value} for name, value in results.items()]
        )
        say(f"The model is in {run_config.output_dir}/model")


@app.command()
def compare(
    config: ConfigFile,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Fields to change, as base.training.max_steps=100."),
    ] = None,
    jobs: Jobs = 1,
    ray: RayAddress = None,
    processes: Processes = 1,
    allow_changed_data: AllowChangedInRuns = False,
) -> None:
    """Train several variants with several seeds, and set them side by side; what is finished is not run again."""
    from hyperadapt.config.written import CompareConfig

    compare_config = CompareConfig.load(config, overrides or [])
    from hyperadapt.studies.comparison import columns_of, compare, readable

    rows = compare(compare_config, jobs, ray, processes, allow_changed_data)
    names = columns_of(rows)
    table("mean ± deviation", [{name: readable(name, row.get(name)) for name in names} for row in rows])
    say(f"The table is in {compare_config.output_dir}: table.md, table.csv, table.svg")


@app.command()
def reproduce(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="An experiment; see --list.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Of all runs, as training.batch_size=16; data.balanced=true of those on few rows.",
        ),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            help="paper: as reported, for a cluster; small: tiny-t5 on real rows, minutes a run on a core; smoke: two "
            "steps on rows that are made up."
        ),
    ] = "small",
    base: Annotated[str | None, typer.Option(help="Another base model, a hub name or a directory.")] = None,
    data_dir: Annotated[str | None, typer.Option(help="A local copy of the data.")] = None,
    output_dir: Annotated[str, typer.Option(help="Of all runs, and the page.")] = "runs/reproduce",
    jobs: Jobs = 1,
    ray: RayAddress = None,
    processes: Processes = 1,
    allow_changed_data: AllowChangedInRuns = False,
    show_list: Annotated[
        bool, typer.Option("--list", help="What there is, its runs and steps, and what is done.")
    ] = False,
) -> None:
    """Run a table or figure of one of the three papers, and set our numbers beside the printed ones."""
    from hyperadapt.studies.experiments import EXPERIMENTS, named, overview, plan, reproduce

    if show_list:
        table(f"experiments at scale {scale}", overview(scale, output_dir, base, named(name)))
        return
    if name is None:
        raise UserError(f"name an experiment; {nearest('', EXPERIMENTS)}")
    planned = plan(name, scale, output_dir, base, data_dir, overrides or [])
    say(f"The page is {reproduce(planned, jobs, ray, processes, allow_changed_data)}")


@app.command()
def fewshot(
    run: RunDirectory,
    task: Annotated[
        str,
        typer.Option(
            help="A name, or the path of a task file; one that the run has goes on with what it has learnt."
        ),
    ],
    samples: Annotated[
        int | None, typer.Option(min=1, help="Training rows, drawn by the seed; all by default.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="As training.max_steps=100; by default those of the run, at most 5,000."
        ),
    ] = None,
    init_from: Annotated[
        list[str] | None,
        typer.Option(
            help="The run's task whose parameters the new one starts from; repeated, the mean of theirs. Else they are "
            "drawn anew."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of the rows, and of the training.")] = 1,
    balanced: Annotated[bool, typer.Option("--balanced", help="Draw as many rows of each class.")] = False,
    task_embedding_only: Annotated[
        bool, typer.Option("--task-embedding-only", help="Train the new task's embedding alone.")
    ] = False,
    output_dir: Annotated[str | None, typer.Option(help="By default a folder of the run.")] = None,
    resume: Resume = False,
    allow_changed_data: AllowChangedData = False,
) -> None:
    """Transfer a trained run to another task, from few rows."""
    from hyperadapt.studies.fewshot import fewshot_config

    config = fewshot_config(
        run, task, samples, init_from or [], seed, balanced, task_embedding_only, output_dir, overrides or []
    )
    run_and_show(config, resume, allow_changed_data)


@app.command()
def bench(
    sections: Annotated[
        list[str] | None, typer.Argument(metavar="SECTION", help="As step; all by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each contender that are timed.")] = 18,
    launches: Annotated[int, typer.Option(min=1, help="In which all start anew, and share the rounds.")] = 6,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU; all by default.")] = None,
    dropout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Of the models in training; T5's is 0.1.")
    ] = 0.0,
    data_dir: Annotated[
        str | None, typer.Option(help="A local copy of GLUE, for rows of real lengths.")
    ] = None,
    tokenizer: Annotated[
        str, typer.Option(metavar="NAME", help="Whose tokens those lengths are; a directory or hub name.")
    ] = tiny_t5.NAME,
    adapters_python: Annotated[
        str | None,
        typer.Option(
            metavar="PYTHON", help="Of an environment with `adapters`, which needs older libraries."
        ),
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="Of what is measured.")] = Path("runs/bench"),
    page: Annotated[
        Path | None, typer.Option(help="Where the page is written, else OUTPUT_DIR/benchmarks.md.")
    ] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny models, to see that all runs.")] = False,
) -> None:
    """Measure speed and memory side by side with full fine-tuning and other libraries, as ratios."""
    from hyperadapt.studies.bench import Setting, bench

    asked: dict[str, Any] = {} if threads is None else {"threads": threads}
    setting = Setting(
        rounds,
        launches,
        dropout=dropout,
        data_dir=data_dir,
        tokenizer=tokenizer,
        adapters_python=adapters_python,
        smoke=smoke,
        **asked,
    )
    if page is not None and not page.parent.exists():
        raise UserError(f"--page: there is no folder {page.parent}")
    page = page or output_dir / "benchmarks.md"
    if goals := bench(sections or [], setting, output_dir, page):
        table("what was asked", goals)
    say(f"The page is {page}")


def run_and_show(config: RunConfig, resume: bool, allow_changed_data: bool) -> None:
    """Train a run, and print its scores."""
    from hyperadapt.files.paths import shown
    from hyperadapt.runs import results_file
    from hyperadapt.runs.train import train
    from hyperadapt.threads import with_threads

    results = train(with_threads(config, resume), resume, allow_changed_data)
    if int(os.environ.get("RANK", "0")) == 0:
        majority = results_file.read(Path(config.output_dir))["majority"]
        for split, result in results.items():
            show(result, f"{split} rows", majority[split])
        say(f"The run is in {config.output_dir}")
        run, task = shlex.quote(shown(config.output_dir)), next(iter(results["validation"].scores)).task
        say(f"next: hyperadapt report {run}, or: hyperadapt predict {run} --task {task} --input …")
