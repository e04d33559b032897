"""Commands that read a trained run: report, evaluate, embed, encoder-only, features, predict."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperadapt.cli.app import (
    AllowChangedData,
    AllowChangedToPrint,
    BaseModel,
    BatchSize,
    NumBeams,
    RunDirectory,
    app,
    check_run,
    delay_bars,
)
from hyperadapt.cli.printing import say, show, show_beside, table
from hyperadapt.errors import UserError, nearest, notice

if TYPE_CHECKING:
    from hyperadapt.evaluation import Results
    from hyperadapt.methods import Method
    from hyperadapt.runs.run import Prediction, Run
    from hyperadapt.tasks import Task


@app.command()
def report(run: RunDirectory) -> None:
    """Write a run's report.html: curves, scores, and the map of its task embeddings."""
    from hyperadapt.studies.report import write_report

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
            "parameters, or with those that its description gives, beside controls, where the run's tasks are "
            "described; may be repeated. The scores are only printed."
        ),
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Where the data lie now.")] = None,
    batch_size: BatchSize = None,
    num_beams: NumBeams = None,
    base_model: BaseModel = None,
    allow_changed_data: AllowChangedToPrint = False,
) -> None:
    """Score a trained run's model on a split of its tasks; scores of all tasks are added to its results.json.

    Of a run that keeps best_per_task they are only printed: it has each task's by its own best checkpoint.
    """
    from hyperadapt.runs import results_file

    check_run(run, task or [], None if unseen else split)  # a task that is new to it may have other splits
    check_described(run, unseen or [])
    model = results_file.model_entries(run)  # before it is loaded: another that comes meanwhile is not scored
    loaded, chosen = load(run, base_model), list(task or [])
    if unseen:
        trained = len(loaded.tasks)
        loaded = loaded.with_unseen(unseen)
        chosen += [task.name for task in loaded.tasks[trained:]]
    from hyperadapt.runs.predictions import write_predictions

    # Before the scores are there, which could not be added to damaged ones.
    kept = {} if chosen else results_file.read(run)
    results = loaded.evaluate(split, chosen, data_dir, batch_size, num_beams, allow_changed_data)
    majority = None if results.rows.changed else kept.get("majority", {}).get(split)
    show(results, f"{split} rows", majority)  # before they are written, which may fail
    if unseen and is_described(loaded):
        show_controls(loaded, loaded.tasks[trained:], results, batch_size, num_beams)
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
    from hyperadapt.studies.embeddings import write_embeddings

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
    allow_changed_data: AllowChangedToPrint = False,
) -> None:
    """Score a run's frozen encoder with new classifiers in its decoder's place, on validation rows.

    The scores are added to its results.json.
    """
    from hyperadapt.runs import results_file

    check_run(run, split="validation")
    from hyperadapt.studies.encoder_only import KEY, check_numbers, score_encoder_only

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
    from hyperadapt.studies.features import write_features

    check_writable("--output", output)
    summary = write_features(RunConfig.load(config, overrides or []), kind, output, max_rows, steps)
    table("task features", [{"task": task, **numbers} for task, numbers in summary.items()])
    say(f"The features are in {output}")


@app.command()
def export(
    run: RunDirectory,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty directory.")],
    task: Annotated[str | None, typer.Option(help="One of the run's tasks.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them, each in a folder of its own.")] = False,
    format: Annotated[
        str,
        typer.Option(
            help="peft: a LoRA, for PEFT, vLLM, SGLang and LoRAX; merged: a plain model, of one task."
        ),
    ] = "peft",
    base_model: BaseModel = None,
) -> None:
    """Write a task's LoRA, or all tasks', in the format of the tools that serve them; of methods that are a LoRA."""
    from hyperadapt.export import FORMATS, MERGED, check_format
    from hyperadapt.files.writing import check_empty

    if (task is None) != every:
        raise UserError("name one task by --task, or take all of the run's by --all")
    if every and format == MERGED:
        raise UserError("--format merged is one whole model; name its task by --task")
    check_format(format, [*FORMATS, MERGED])
    check_empty(output)
    check_run(run, [] if task is None else [task])
    method = method_of(run)
    from hyperadapt.export import SERVING, export_all, serving_commands, write_merged
    from hyperadapt.export.task_lora import as_lora

    if format != MERGED or method.name != "full_fine_tuning":
        as_lora(method)
    model, tokenizer = (loaded := load(run, base_model)).model, loaded.tokenizer
    if task is None:
        folders = export_all(model, output, format=format)
        say(f"{len(folders)} LoRAs are in {output}, a folder a task")
    elif format == MERGED:
        write_merged(model, task, tokenizer, output)
        say(f"A plain model with '{task}' in its weights is in {output}")
        return
    else:
        folders = {task: model.export(task, output, format)}
        say(f"The LoRA of '{task}' is in {output}")
    if commands := serving_commands(model, folders):
        for line in commands:
            typer.echo(line)
        if every:
            say(f"They are in {output / SERVING} too")
    else:
        say("vLLM, SGLang and LoRAX serve LoRAs of decoder-only models; PEFT loads these onto the base model")


@app.command()
def predict(
    run: RunDirectory,
    task: Annotated[
        str | None,
        typer.Option(help="One of the run's tasks; with --describe, as whose rows are read and answered."),
    ] = None,
    describe: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What is to be done, of a run whose tasks are described (method.task_descriptions). Without --task "
            "rows have one column, and answers are free texts.",
        ),
    ] = None,
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
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k", min=1, help="The most likely labels beside it, so many, each with its probability."
        ),
    ] = None,
    base_model: BaseModel = None,
) -> None:
    """Predict with a trained run: each row as it was given, with its `prediction`, and what the model has `written`.

    The prediction is a label's name, a score or a text, and null where what is written is no answer. Of a task of
    classes it has its `probability`, unless the run generates such answers (evaluation.answers). A column of the row
    that has one of these names itself becomes `given_prediction`, say.
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
    if task is None and describe is None:
        raise UserError(f"name a task of {run} by --task, or say what is to be done by --describe")
    if describe is not None and not describe.strip():
        raise UserError("--describe: it is empty; say what is to be done")
    chosen = check_run(run, [] if task is None else [task])
    if describe is not None:
        check_describable(run, describe)
    example = chosen[0].row_in_words if chosen else '{"text": "…"}'  # before rows are waited for
    if input is None and sys.stdin.isatty():
        print(
            f"rows from standard input, one JSON object a line, as {example}; end with Ctrl-D",
            file=sys.stderr,
        )
    rows = list(read_file(input) if input else json_rows(sys.stdin, "standard input", example))
    if not rows:
        raise UserError(f"{input or 'standard input'}: there are no rows")
    loaded = load(run, base_model)
    if describe is not None:
        loaded = loaded.with_description(describe, list(rows[0][1]), task)
        task = loaded.tasks[-1].name
    assert task is not None
    if top_k is not None:
        check_has_probabilities(loaded, task)
    predictions = loaded.predict_placed(task, rows, num_beams, batch_size)
    answered = [
        with_answer(row, prediction, top_k) for (_, row), prediction in zip(rows, predictions, strict=True)
    ]
    if output is None:
        sys.stdout.write(written_rows(answered, ".jsonl"))
        return
    from hyperadapt.files.writing import write_atomically

    try:
        write_atomically(output, written_rows(answered, suffix_of(output)).encode())
    except UserError:
        sys.stdout.write(written_rows(answered, ".jsonl"))  # what took so long to make is not lost
        raise
    say(f"The predictions are in {output}: {len(answered)} rows")


def method_of(run: Path) -> Method:
    """Return the method of a run, without loading its model."""
    from hyperadapt.runs.run import load_run_config

    return load_run_config(run).build_method()


def check_described(run: Path, unseen: Sequence[str]) -> None:
    """Check that tasks which a run was not trained on are described, if its own are; before its model is loaded.

    Raises:
        UserError: if one is not, or there is no such task.
    """
    if unseen and method_of(run).description_encoder is not None:
        from hyperadapt.descriptions import texts_of
        from hyperadapt.tasks import resolve_tasks

        for task in resolve_tasks(unseen):
            texts_of(task.name, task.description)


def check_describable(run: Path, description: str) -> None:
    """Check that a run takes a description, before its rows are waited for.

    Raises:
        UserError: if its method reads none, its model is an encoder alone, or this one is too long.
    """
    from hyperadapt.descriptions import encode
    from hyperadapt.model.adapt import check_takes_descriptions

    encode([description], check_takes_descriptions(method_of(run)))


def is_described(run: Run) -> bool:
    """Tell whether a run's tasks are described, so that others can be too."""
    from hyperadapt.runs.unseen import task_embedding_of

    return task_embedding_of(run.model) is not None


def show_controls(
    run: Run, unseen: Sequence[Task], results: Results, batch_size: int | None, num_beams: int | None
) -> None:
    """Print what described tasks score beside their controls.

    Args:
        run: that has them.
        unseen: the described ones, its last tasks.
        results: with their scores, and rows.
        batch_size, num_beams: as of `evaluate`.
    """
    from hyperadapt.runs.unseen import controls, set_features

    names = [task.name for task in unseen]
    rows_of_unseen = results.rows.only(names)
    scores = {score.task: score.score for score in results.scores}
    rows: list[dict[str, Any]] = [{"task": name, "described": f"{scores[name]:.2f}"} for name in names]
    averages: dict[str, Any] = {
        "task": "average",
        "described": f"{fmean(scores[name] for name in names):.2f}",
    }
    for control in controls(run.model, run.tasks[: -len(unseen)], unseen):
        set_features(run.model, dict(zip(names, control.features, strict=True)))
        found = run.score(rows_of_unseen, batch_size, num_beams)
        of_task = {score.task: score.score for score in found.scores}
        for place, (row, name) in enumerate(zip(rows, names, strict=True)):
            near = f" ({control.of[place]})" if control.of else ""
            row[control.name] = f"{of_task[name]:.2f}{near}"
        averages[control.name] = f"{found.average:.2f}"
    table("described, beside controls", [*rows, averages])


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


def check_has_probabilities(run: Run, task: str) -> None:
    """Check that a run's answers to a task have probabilities.

    Raises:
        UserError: if not.
    """
    if not run.task(task).label_texts:
        raise UserError(f"--top-k: '{task}' is no task of classes, and its answers have no probabilities")
    if run.choices(run.task(task)) is None:
        raise UserError(
            "--top-k: the run generates its answers, which have no probabilities; train with evaluation.answers=rate"
        )


def with_answer(row: Mapping[str, Any], prediction: Prediction, top_k: int | None = None) -> dict[str, Any]:
    """Set the answer, and how it was written, beside a row's columns; one of such a name becomes given_NAME.

    Args:
        row: as it was given.
        prediction: of it.
        top_k: how many labels are listed with their probabilities.
    """
    answer: dict[str, Any] = {"prediction": prediction.label, "written": prediction.text}
    if (found := prediction.probabilities) is not None:
        answer["probability"] = round(found[str(prediction.label)], 6)
        likeliest = sorted(found, key=lambda label: -found[label])[: top_k or 0]
        if top_k is not None:
            answer["top"] = {label: round(found[label], 6) for label in likeliest}
    echoed: dict[str, Any] = {}
    for column, value in row.items():
        while column in answer or column in echoed:
            column = f"given_{column}"
        echoed[column] = value
    return {**echoed, **answer}


def load(run: Path, base_model: str | None) -> Run:
    """Load a run."""
    delay_bars()
    from hyperadapt import threads
    from hyperadapt.runs.run import load_run

    threads.use(threads.fewer_threads())
    return load_run(run, base_model)
