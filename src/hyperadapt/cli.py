"""The command line. Nothing heavy is imported until a command runs, so that --help answers at once."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from hyperadapt import __version__, tiny_t5
from hyperadapt.errors import Interrupted, PrintableRecord, UserError, nearest, notice, printable
from hyperadapt.signals import end, heard_by

if TYPE_CHECKING:
    from hyperadapt.config.written import RunConfig
    from hyperadapt.evaluation import Results
    from hyperadapt.runs.run import Prediction, Run
    from hyperadapt.tasks import Task


app = typer.Typer(
    help="Fine-tune one frozen transformer for many tasks, with hypernetworks that generate their parameters.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a trained run.")]
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


@app.command()
def quickstart(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Fields to change, as output_dir=mine."),
    ] = None,
    resume: Resume = False,
) -> None:
    """Train, predict and report on small tasks that come with the package; minutes on two cores."""
    from hyperadapt.quickstart import commands

    for arguments in commands(overrides or [], resume):
        typer.secho(f"$ hyperadapt {shlex.join(arguments)}", bold=True)
        app(arguments, standalone_mode=False)


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory.")],
) -> None:
    """Write a configuration, a task file and rows to begin your own from; they train in two minutes."""
    from hyperadapt.starter import write_starter

    for file in write_starter(directory):
        typer.echo(file)
    typer.echo(f"now: cd {shlex.quote(str(directory))} && hyperadapt train config.yaml")


@app.command()
def configs(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One to print, as NAME > mine.yaml.")
    ] = None,
) -> None:
    """List the configurations that come with the package, or print one."""
    from hyperadapt import bundled

    if name is None:
        table("Configurations", bundled.overview())
    else:
        typer.echo(bundled.file_of(name.removesuffix(".yaml")).read_text(encoding="utf-8"), nl=False)


@app.command()
def fields(
    section: Annotated[
        str | None,
        typer.Argument(
            metavar="SECTION",
            help="A section, as training; method, or one as method.hyperformer++; task, of task files. All "
            "configurations by default.",
        ),
    ] = None,
) -> None:
    """List the fields of a configuration or task file, with their defaults and what they mean."""
    from hyperadapt.listing import list_fields

    for line in list_fields(section):
        say(line)


@app.command()
def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A YAML file, or a name of `hyperadapt configs`.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Fields to change, as training.max_steps=100."),
    ] = None,
    resume: Resume = False,
    allow_changed_data: AllowChangedData = False,
) -> None:
    """Train a method on a mixture of tasks, and evaluate it."""
    from hyperadapt.config.written import RunConfig

    run_and_show(RunConfig.load(config, overrides or []), resume, allow_changed_data)


@app.command()
def pretrain(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A YAML file, or a name of `hyperadapt configs`.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Fields to change, as training.max_steps=100."),
    ] = None,
    resume: Resume = False,
    allow_changed_data: AllowChangedData = False,
) -> None:
    """Pretrain a T5 on plain text, from random weights or further."""
    from hyperadapt.config.written import PretrainConfig

    run_config = PretrainConfig.load(config, overrides or [])
    from hyperadapt.pretraining import pretrain
    from hyperadapt.threads import with_threads

    results = pretrain(with_threads(run_config, resume), resume, allow_changed_data)
    if int(os.environ.get("RANK", "0")) == 0:
        table(
            "pretraining", [{"": name.replace("_", " "), "value": value} for name, value in results.items()]
        )
        say(f"The model is in {run_config.output_dir}/model")


@app.command()
def compare(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A YAML file, or a name of `hyperadapt configs`.")
    ],
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
    from hyperadapt.comparison import columns_of, compare, readable

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
    from hyperadapt.errors import nearest
    from hyperadapt.experiments import EXPERIMENTS, named, overview, plan, reproduce

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
    from hyperadapt.fewshot import fewshot_config

    config = fewshot_config(
        run, task, samples, init_from or [], seed, balanced, task_embedding_only, output_dir, overrides or []
    )
    run_and_show(config, resume, allow_changed_data)


@app.command()
def report(run: RunDirectory) -> None:
    """Write a run's report.html: curves, scores, and the map of its task embeddings."""
    from hyperadapt.report import write_report

    say(f"The report is {write_report(run)}")


@app.command()
def evaluate(
    run: RunDirectory,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    task: Annotated[
        list[str] | None,
        typer.Option(help="One of the run's tasks; may be repeated. The scores are only printed."),
    ] = None,
    unseen: Annotated[
        list[str] | None,
        typer.Option(
            help="A task, suite or task file that the run was not trained on, to be scored with the mean of its tasks' "
            "parameters; may be repeated. The scores are only printed."
        ),
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Where the data lie now.")] = None,
    batch_size: BatchSize = None,
    num_beams: NumBeams = None,
    base_model: BaseModel = None,
    allow_changed_data: Annotated[
        bool,
        typer.Option(
            "--allow-changed-data",
            help="Take rows that are not those that the run was trained with. The scores are only printed.",
        ),
    ] = False,
) -> None:
    """Score a trained run's model on a split of its tasks; scores of all tasks are added to its results.json.

    Of a run that keeps best_per_task they are only printed: it has each task's by its own best checkpoint.
    """
    from hyperadapt.runs import results_file

    check_run(run, task or [], None if unseen else split)  # a task that is new to it may have other splits
    model = results_file.model_entries(run)  # before it is loaded: another that comes meanwhile is not scored
    loaded, chosen = load(run, base_model), list(task or [])
    if unseen:
        trained = len(loaded.tasks)
        loaded = loaded.with_unseen(unseen)
        chosen += [of.name for of in loaded.tasks[trained:]]
    from hyperadapt.runs.predictions import write_predictions

    # Before the scores are there, which could not be added to damaged ones.
    kept = {} if chosen else results_file.read(run)
    results = loaded.evaluate(split, chosen, data_dir, batch_size, num_beams, allow_changed_data)
    majority = None if results.rows.changed else kept.get("majority", {}).get(split)
    show(results, f"{split} rows", majority)  # before they are written, which may fail
    if per_task := loaded.config.training.keep == "best_per_task":
        notice(
            f"the scores are of the run's model, and only printed: {run} keeps those of each task by its own best "
            "checkpoint (training.keep: best_per_task), which train … --resume makes anew"
        )
    if chosen or per_task:
        return
    if results.rows.changed:
        notice(f"the scores are only printed, as rows have changed: {run} keeps those that it has")
        return
    with results_file.adding(run, model):
        write_predictions(run, split, results)
        results_file.add(run, {split: results.as_dict()})


@app.command()
def embed(
    run: RunDirectory,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    max_rows: Annotated[int | None, typer.Option(min=2, help="Rows of each task; all by default.")] = None,
    probe: Annotated[
        bool, typer.Option(help="Also train a linear classifier for each task on its rows' embeddings.")
    ] = False,
    base_model: BaseModel = None,
    allow_changed_data: AllowChangedData = False,
) -> None:
    """Write what a run's parameters are generated from, of every row and task, with maps; the report shows them."""
    check_run(run, split=split)
    loaded = load(run, base_model)
    from hyperadapt.embeddings import write_embeddings

    folder, accuracies = write_embeddings(loaded, split, max_rows, probe, allow_changed_data)
    say(f"The embeddings are in {folder}")
    for task, accuracy in accuracies.items():
        say(f"{task}: linear probe, accuracy {accuracy:.1f}")


@app.command("encoder-only")
def encoder_only(
    run: RunDirectory,
    epochs: Annotated[float, typer.Option(help="How often each training row is seen.")] = 3.0,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW, after the warm-up; it falls to 0.")] = 2e-5,
    warmup_steps: Annotated[int, typer.Option(min=0, help="In which it grows from 0.")] = 500,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows in a step; by default as in the run's training.")
    ] = None,
    max_rows: Annotated[
        int | None, typer.Option(min=2, help="Training rows of each task; all by default.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="By default the run's.")] = None,
    base_model: BaseModel = None,
    allow_changed_data: Annotated[
        bool,
        typer.Option(
            "--allow-changed-data",
            help="Take rows that are not those that the run was trained with. The scores are only printed.",
        ),
    ] = False,
) -> None:
    """Score a run's frozen encoder with new classifiers in its decoder's place, on validation rows.

    The scores are added to its results.json.
    """
    from hyperadapt.runs import results_file

    check_run(run, split="validation")
    from hyperadapt.encoder_only import KEY, check_numbers, score_encoder_only

    check_numbers(epochs, learning_rate, warmup_steps, batch_size)
    model, kept = results_file.model_entries(run), results_file.read(run)
    loaded = load(run, base_model)
    scores = score_encoder_only(
        loaded, epochs, learning_rate, warmup_steps, batch_size, max_rows, seed, allow_changed_data
    )
    changed, per_task = scores["changed_data"], loaded.config.training.keep == "best_per_task"
    # Before they are written, which may fail.
    show_beside(scores, None if changed or per_task else kept["validation"])
    if per_task:
        notice(
            f"the scores of the whole model are not beside these: {run} keeps those of each task by its own best "
            "checkpoint (training.keep: best_per_task)"
        )
    if changed:
        notice(f"the scores are only printed, as rows have changed: {run} keeps those that it has")
        return
    with results_file.adding(run, model):
        results_file.add(run, {KEY: scores})


@app.command()
def features(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG",
            help="A YAML file, or a name of `hyperadapt configs`; its model, tasks and data count.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="A JSON file, to be given as method.task_features.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Fields to change, as data.data_dir=data.")
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            help="text: the mean state of the encoder; fisher: the Fisher information of its norms."
        ),
    ] = "text",
    max_rows: Annotated[int, typer.Option(min=1, help="Training rows of each task.")] = 500,
    steps: Annotated[
        int, typer.Option(min=0, help="fisher: of fine-tuning the model on each task before; the paper's do.")
    ] = 100,
) -> None:
    """Make task features z from data, to be used in place of learnt ones."""
    from hyperadapt.config.written import RunConfig
    from hyperadapt.features import write_features

    check_writable("--output", output)
    summary = write_features(RunConfig.load(config, overrides or []), kind, output, max_rows, steps)
    table("task features", [{"task": task, **of} for task, of in summary.items()])
    say(f"The features are in {output}")


@app.command()
def predict(
    run: RunDirectory,
    task: Annotated[str, typer.Option(help="One of the run's tasks.")],
    input: Annotated[
        Path | None,
        typer.Option(
            help="Rows with the task's text columns: .jsonl, .json, .csv, .tsv or .parquet; else JSON lines from "
            "standard input."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="A .jsonl, .csv or .tsv to write; else JSON lines on standard output.")
    ] = None,
    batch_size: BatchSize = None,
    num_beams: NumBeams = None,
    base_model: BaseModel = None,
) -> None:
    """Predict with a trained run: each row as it was given, with its `prediction`, and what the model has `written`.

    The prediction is a label's name, a score or a text, and null where what is written is no answer. A column of the
    row that has one of these names itself becomes `given_prediction` or `given_written`.
    """
    from hyperadapt.tasks.sources import (
        SUFFIXES,
        WRITTEN_SUFFIXES,
        json_rows,
        read_file,
        suffix_of,
        written_rows,
    )

    if input is not None:
        if not input.is_file():
            raise UserError(f"--input: there is no file {input}")
        if suffix_of(input) not in SUFFIXES:
            raise UserError(
                f"--input: '{input}' is of no known format; {nearest(suffix_of(input), SUFFIXES)}"
            )
    if output is not None:
        if suffix_of(output) not in WRITTEN_SUFFIXES:
            known = nearest(suffix_of(output), WRITTEN_SUFFIXES)
            raise UserError(f"--output: '{output}' is of no known format; {known}")
        check_writable("--output", output)
    example = check_run(run, [task])[0].row_in_words  # before rows are waited for
    if input is None and sys.stdin.isatty():
        print(
            f"rows from standard input, one JSON object a line, as {example}; end with Ctrl-D",
            file=sys.stderr,
        )
    rows = list(read_file(input) if input else json_rows(sys.stdin, "standard input", example))
    if not rows:
        raise UserError(f"{input or 'standard input'}: there are no rows")
    predictions = load(run, base_model).predict_placed(task, rows, num_beams, batch_size)
    answered = [with_answer(row, prediction) for (_, row), prediction in zip(rows, predictions, strict=True)]
    if output is None:
        sys.stdout.write(written_rows(answered, ".jsonl"))
        return
    from hyperadapt.files import write_atomically

    try:
        write_atomically(output, written_rows(answered, suffix_of(output)).encode())
    except UserError:
        sys.stdout.write(written_rows(answered, ".jsonl"))  # what took so long to make is not lost
        raise
    say(f"The predictions are in {output}: {len(answered)} rows")


def check_writable(option: str, file: Path) -> None:
    """Check that a file can be written, before the work whose outcome it is to hold.

    Raises:
        UserError: if there is such a file or folder already, no folder for it, or none can be made there.
    """
    if file.exists():
        raise UserError(f"{option}: there is a file {file} already")
    if not file.parent.exists():  # most often it is misspelt
        raise UserError(f"{option}: there is no folder {file.parent}")
    try:
        tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise UserError(f"{option}: cannot write {file}: {error.strerror or error}") from None


def with_answer(row: Mapping[str, Any], prediction: Prediction) -> dict[str, Any]:
    """Set the answer, and how it was written, beside a row's columns; one of such a name becomes given_NAME."""
    answer = {"prediction": prediction.label, "written": prediction.text}
    echoed: dict[str, Any] = {}
    for column, value in row.items():
        while column in answer or column in echoed:
            column = f"given_{column}"
        echoed[column] = value
    return {**echoed, **answer}


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
    from hyperadapt.bench import Setting, bench

    given: dict[str, Any] = {} if threads is None else {"threads": threads}
    setting = Setting(
        rounds,
        launches,
        dropout=dropout,
        data_dir=data_dir,
        tokenizer=tokenizer,
        adapters_python=adapters_python,
        smoke=smoke,
        **given,
    )
    if page is not None and not page.parent.exists():
        raise UserError(f"--page: there is no folder {page.parent}")
    page = page or output_dir / "benchmarks.md"
    if goals := bench(sections or [], setting, output_dir, page):
        table("what was asked", goals)
    say(f"The page is {page}")


@app.command()
def params(
    method: Annotated[str, typer.Option(help="A method; see `hyperadapt methods`.")] = "hyperformer++",
    model: Annotated[
        str, typer.Option(help="A published model, hub name or directory.")
    ] = "google-t5/t5-base",
    tasks: Annotated[int, typer.Option(min=1, help="Number of tasks.")] = 8,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="The method's options.")
    ] = None,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="Our counts of the papers' models, beside what the papers print; the words after it may name some "
            "of hyperformer, hyperdecoders and hypergrid.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count parameters, without downloading weights."""
    from hyperadapt.config.reading import parse_overrides

    if paper:
        from hyperadapt.counting import paper_tables

        tables = paper_tables(options or ())
        if as_json:
            print(json.dumps(tables, indent=2))
        else:
            for title, rows in tables.items():
                table(title, rows)
        return
    from hyperadapt.methods import method_from

    chosen = parse_overrides(options or [])
    if "name" in chosen:
        raise UserError("'name' is no option of a method; choose the method with --method")
    built = method_from({"name": method, **chosen})
    from hyperadapt.counting import count_without_weights, model_config

    counted = count_without_weights(model_config(model), built, tasks).as_dict()
    if as_json:
        print(json.dumps({"model": model, "method": method, **counted}, indent=2))
    else:
        table(
            f"{method} on {model}",
            [{"parameters": name.replace("_", " "), "": in_words(value)} for name, value in counted.items()],
        )


@app.command()
def tasks(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One of them, of which all is told.")
    ] = None,
) -> None:
    """List the tasks that come with the package, or tell all of one."""
    from hyperadapt.tasks import SUITES, TASKS, members_of

    if name is not None:
        from hyperadapt.listing import task_in_words

        table(f"Task {name}", task_in_words(name))
        return
    suites: dict[str, str] = {}
    for suite in SUITES:
        for name in members_of(suite):
            suites[name] = ", ".join(filter(None, [suites.get(name, ""), suite]))
    table(
        "Tasks",
        [
            {
                "task": task.name,
                "suite": suites.get(task.name, ""),
                "input": ", ".join(name or column for name, column in task.fields.items()),
                "labels": ", ".join(task.labels) if task.labels else task.kind,
                "metrics": ", ".join(task.metrics),
                "validation": task.splits.get("validation", ""),
                "test": task.splits.get("test", ""),
            }
            for task in TASKS.values()
        ],
    )


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One of them; all by default.")] = None,
) -> None:
    """List the methods and their options, or those of one, with the paper that it is from."""
    from hyperadapt.listing import list_methods

    for line in list_methods(name):
        say(line)


def run_and_show(config: RunConfig, resume: bool, allow_changed_data: bool) -> None:
    """Train a run, and print its scores."""
    from hyperadapt.paths import shown
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


def load(run: Path, base_model: str | None) -> Run:
    """Load a run."""
    delay_bars()
    from hyperadapt import threads
    from hyperadapt.runs.run import load_run

    threads.use(threads.fewer_threads())
    return load_run(run, base_model)


def show(results: Results, title: str, majority: Mapping[str, Any] | None = None) -> None:
    """Print scores as a table.

    Args:
        results: of a split.
        title: above them.
        majority: what always answering the most frequent training target scores there, as results.json has it.
    """
    from hyperadapt.metrics import metric_in_words
    from hyperadapt.tasks import suite_averages

    rows = [
        {
            "task": score.task,
            "metrics": "  ".join(metric_in_words(name, value, 2) for name, value in score.metrics.items()),
            "score": f"{score.score:.2f}",
            "rows": str(score.rows),
            "invalid": str(score.invalid),
        }
        for score in results.scores
    ]
    scores = {score.task: score.score for score in results.scores}
    for name, average in {**suite_averages(scores), "average": results.average}.items():
        rows.append({"task": name, "metrics": "", "score": f"{average:.2f}", "rows": "", "invalid": ""})
    if majority is not None:
        of = {name: majority["tasks"][name]["score"] for name in scores}
        of |= suite_averages(of)
        for row in rows:
            row["majority"] = f"{of.get(row['task'], majority['average']):.2f}"
    if results.steps:
        for row in rows:
            row["step"] = str(results.steps.get(row["task"], ""))
    table(title, rows)


def show_beside(encoder_only: Mapping[str, Any], whole: Mapping[str, Any] | None) -> None:
    """Print encoder-only scores beside those of the whole model, averaged over the same tasks.

    Args:
        encoder_only: of `score_encoder_only`.
        whole: of the run's validation rows, as results.json has them; None where they are of other rows or checkpoints.
    """
    from hyperadapt.metrics import metric_in_words

    scored = encoder_only["tasks"]
    of_whole = {} if whole is None else {task: whole["tasks"][task]["score"] for task in scored}
    rows = [
        {
            "task": task,
            **({"encoder-decoder": f"{of_whole[task]:.2f}"} if of_whole else {}),
            "encoder-only": f"{of['score']:.2f}",
            "metrics": "  ".join(metric_in_words(name, value, 2) for name, value in of["metrics"].items()),
            "rows": str(of["rows"]),
        }
        for task, of in scored.items()
    ]
    average = {"task": "average", "encoder-only": f"{encoder_only['average']:.2f}"}
    if of_whole:
        average["encoder-decoder"] = f"{fmean(of_whole.values()):.2f}"
    rows.append({name: average.get(name, "") for name in rows[0]})
    table("validation rows", rows)


def table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a table; the first one's keys are the columns.

    What it prints, as a task's or a file's name, may be a stranger's.
    """
    from rich.console import Console
    from rich.table import Table

    from hyperadapt.listing import as_records, fitting_widths

    cells = [[printable(name) for name in rows[0]]]
    cells += [[printable(in_words(value)) for value in row.values()] for row in rows]
    # No markup: brackets are part of a path or a split. A file or another program gets every row on one line.
    console = Console(width=None if sys.stdout.isatty() else 1000, markup=False, emoji=False)
    console.print(printable(title), style="bold", soft_wrap=True)
    widths = fitting_widths(cells, console.width - 3 * len(cells[0]) - 1)
    if widths is None:
        for line in as_records([dict(zip(cells[0], row, strict=True)) for row in cells[1:]]):
            print(line)
        return
    drawn = Table()
    for name, width in zip(cells[0], widths, strict=True):
        drawn.add_column(name, width=width)
    for row in cells[1:]:
        drawn.add_row(*row)
    console.print(drawn)


def say(message: str) -> None:
    """Print a line, safe for a terminal."""
    print(printable(message))


def in_words(value: Any) -> str:
    """Format a cell."""
    if isinstance(value, float) and abs(value) < 1000 and not value.is_integer():
        return f"{value:.4g}"
    if isinstance(value, float):
        return f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def in_our_words(error: TyperException) -> str:
    """Say what is wrong about a command line; a field of a configuration that is written as an option, how else."""
    message = error.format_message().replace("Input should be", "it must be")
    option, command = getattr(error, "option_name", None), getattr(getattr(error, "cmd", None), "name", None)
    if not option or not message.startswith("No such option"):
        return message
    from hyperadapt.config.written import KINDS, meant_by

    field = option.lstrip("-").replace("-", "_")
    places = [place for kind in KINDS if kind.command == command for place in meant_by(field, kind)[0]]
    written = " or ".join(f"{place}=…" for place in places)
    return f"No such option: {option}; write {written}" if places else message


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


if __name__ == "__main__":
    main()
