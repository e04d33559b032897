"""A run's report: one HTML file that needs no other, with all that tells how the run did.

Scores, samples of its predictions, which class was taken for which, curves, the map of its task embeddings, its
configuration and the versions it was made with.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperadapt.errors import CheckpointError, printable
from hyperadapt.files import manifest
from hyperadapt.files.writing import write_atomically
from hyperadapt.metrics import metric_in_words
from hyperadapt.runs import results_file
from hyperadapt.tasks.kinds import label_of

if TYPE_CHECKING:
    from hyperadapt.runs.predictions import PredictedRow
    from hyperadapt.runs.run import Run
    from hyperadapt.tasks import Task

SAMPLES = 20  # predictions on the page


def write_report(directory: str | Path) -> Path:
    """Write report.html into a run's directory, of training or of pretraining, and return its path.

    Raises:
        CheckpointError: if the directory holds no finished run.
    """
    from jinja2 import Environment

    from hyperadapt.runs.run import check_is_run
    from hyperadapt.runs.train import versions

    directory = Path(directory)
    check_is_run(directory)
    file = directory / "config.yaml"
    manifest.check(file)
    configuration = shown_text(file) if file.is_file() else ""
    of_pretraining = any(line.startswith("text:") for line in configuration.splitlines())
    contents = pretraining_contents(directory) if of_pretraining else training_contents(directory)
    page = (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string((resources.files("hyperadapt") / "assets/report.html").read_text(encoding="utf-8"))
        .render(
            **contents,
            title=directory.resolve().name,
            configuration=configuration,
            version=", ".join(f"{name} {number}" for name, number in versions().items()),
            directory=directory,
        )
    )
    write_atomically(directory / "report.html", page.encode())
    return directory / "report.html"


def shown_text(file: Path) -> str:
    """Read a text that is only shown, with a sign in place of what is no UTF-8."""
    return file.read_bytes().decode(errors="replace")


def pretraining_contents(directory: Path) -> dict[str, Any]:
    """Gather what the page of a pretraining run shows."""
    from hyperadapt.studies.figures import curves

    results, history = results_file.read(directory), read_history(directory)
    facts = [
        (name.replace("held_out_", "held-out ").replace("_", " "), f"{value:.3f}")
        for name, value in results.items()
        if name.startswith("held_out_")
    ]
    facts += [
        (f"tokens of text, {results['passes']:.2f} passes", f"{results['tokens']:,}"),
        ("parameters", f"{results['parameters']:,}"),
        ("of training", duration(results["train_seconds"])),
    ]
    lines = {
        name.removeprefix("held_out_").removesuffix("_loss").replace("_", " "): line(
            history, name.replace("held_out", "eval")
        )
        for name in results
        if name.startswith("held_out_")
    }
    drawn = [
        picture("Held-out loss", curves(lines, "loss a target token"), "On text that is not trained on."),
        picture(
            "Loss",
            curves({"loss": line(history, "loss")}, "loss"),
            "On the training batches.",
        ),
    ]
    return {
        "lead": "Pretraining on plain text.",
        "facts": facts,
        "pictures": drawn,
        "versions": results.get("versions", {}),
    }


def line(history: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Read the steps and values of one logged number."""
    entries = [entry for entry in history if name in entry]
    return [entry["step"] for entry in entries], [entry[name] for entry in entries]


def training_contents(directory: Path) -> dict[str, Any]:
    """Gather what the page of a training run shows."""
    from hyperadapt.runs.run import load_run

    run = load_run(directory)
    predicted = kept_predictions(run)
    results, history = results_file.read(run.directory), read_history(run.directory)
    counted = results["parameters"]
    method = f"{run.model.method.name} on {run.config.model.name or 'a T5 with random weights'}"
    facts = [
        (f"average on {split} rows", f"{results[split]['average']:.1f}")
        for split in ("test", "validation")
        if split in results
    ]
    facts += [
        ("of the model trained, per task", f"{counted['trained_per_task_percent']:.2f} %"),
        ("parameters trained", f"{counted['trained']:,}"),
        (f"steps; the best is step {results['best_step']}", f"{results['steps']:,}"),
        ("of training", duration(results["train_seconds"])),
    ]
    if results["step_seconds"] is not None:
        facts.append(("a step", f"{1000 * results['step_seconds']:.0f} ms"))
    return {
        "lead": f"{method}; {len(run.tasks)} tasks: {', '.join(task.name for task in run.tasks)}"
        + "".join(
            f"; {task}: the {split} rows are others since step {step}"
            for task, splits in results.get("changed_data", {}).items()
            for split, step in splits.items()
        ),
        "facts": facts,
        "splits": [score_table(name, results) for name in ("test", "validation") if name in results],
        "samples": sample_table(run, predicted),
        "confusions": [
            confusion_table(task, split, rows)
            for task in run.tasks
            for split, rows in predicted.get(task.name, {}).items()
            if task.label_texts
        ],
        "kept": bool(predicted),
        "pictures": pictures(run, history),
        "versions": results.get("versions", {}),
    }


def kept_predictions(run: Run) -> dict[str, dict[str, list[PredictedRow]]]:
    """Read each task's predictions of the split that tells most of it: test, or validation where it has no test rows.

    Returns:
        Task -> the split's name -> its rows.
    """
    from hyperadapt.runs.predictions import by_task, read_predictions

    found: dict[str, dict[str, list[PredictedRow]]] = {}
    for split in ("validation", "test"):
        for task, rows in by_task(read_predictions(run.directory, split, run.tasks)).items():
            found[task] = {split: rows}
    return found


def sample_table(run: Run, predicted: dict[str, dict[str, list[PredictedRow]]]) -> list[dict[str, str]]:
    """Prepare rows of all tasks for the page, each task's share the same ones every time."""
    from hyperadapt.runs.predictions import samples, verdict

    parted = {task: rows for task, by_split in predicted.items() for rows in by_split.values()}
    tasks = {task.name: task for task in run.tasks}
    return [
        {
            "task": row.task,
            "split": next(iter(predicted[row.task])),
            "input": printable(row.input),
            "target": printable(said(tasks[row.task], label_of(row.target))),
            "prediction": printable(said(tasks[row.task], row.written)),
            "verdict": verdict(tasks[row.task], row),
        }
        for row in samples(parted, SAMPLES)
    ]


def said(task: Task, text: str) -> str:
    """Say what a text of a task stands for, as "1 (acceptable)"."""
    label = task.label_name(text) if task.label_texts else None
    return text if label in (None, text) else f"{text} ({label})"


def confusion_table(task: Task, split: str, rows: Sequence[PredictedRow]) -> dict[str, Any]:
    """Prepare a class task's confusion matrix for the page, each cell with its share of the target's rows."""
    from hyperadapt.runs.predictions import INVALID, confusion

    return {
        "task": task.name,
        "split": split,
        "columns": [*(printable(label) for label in task.labels or ()), INVALID],
        "rows": [
            {
                "label": printable(label),
                "cells": [
                    {"count": count, "share": count / max(1, sum(counts)), "right": column == place}
                    for column, count in enumerate(counts)
                ],
            }
            for place, (label, counts) in enumerate(
                zip(task.labels or (), confusion(task, rows), strict=True)
            )
        ],
    }


def read_history(directory: Path) -> list[dict[str, float]]:
    """Read the losses and scores over a finished run's steps."""
    file = directory / "history.json"
    manifest.check(file)
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} is missing or damaged ({error}); a report needs a run trained to its end"
        ) from None


def duration(seconds: float) -> str:
    """Say a duration, as 1 h 02 min, 3 min 20 s or 45 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    )


def score_table(split: str, results: dict[str, Any]) -> dict[str, Any]:
    """Prepare a split's scores for the page."""
    scores, majority = results[split], results["majority"][split]
    rows = [
        {
            "task": task,
            "metrics": ", ".join(metric_in_words(name, value, 1) for name, value in score["metrics"].items()),
            "score": f"{score['score']:.1f}",
            "majority": f"{majority['tasks'][task]['score']:.1f}",
            "rows": f"{score['rows']:,}",
            "invalid": f"{score['invalid']:,}",
            "calibration": f"{error:.1f}" if (error := score.get("calibration_error")) is not None else None,
            "step": f"{score['step']:,}" if "step" in score else None,
        }
        for task, score in scores["tasks"].items()
    ]
    averages = {"average": f"{scores['average']:.1f}", "majority": f"{majority['average']:.1f}"}
    calibrated = any(row["calibration"] is not None for row in rows)
    return {"name": split, "rows": rows, "calibrated": calibrated, **averages}


def pictures(run: Any, history: list[dict[str, float]]) -> list[dict[str, str]]:
    """Draw what there is to draw: the loss, the validation scores, the task embeddings."""
    from hyperadapt.studies.embeddings import FOLDER, MAPS
    from hyperadapt.studies.figures import curves, embedding_map

    drawn = []
    losses = line(history, "loss")
    if losses[0]:
        drawn.append(
            picture("Loss", curves({"loss": losses}, "loss a target token"), "On the training batches.")
        )
    evaluated = [entry for entry in history if "eval_average" in entry]
    if evaluated:
        steps = [entry["step"] for entry in evaluated]
        lines = {
            task.name: (steps, [entry[f"eval_{task.name}_score"] for entry in evaluated])
            for task in run.tasks
        }
        lines["average"] = steps, [entry["eval_average"] for entry in evaluated]
        kept = run.config.training
        best = f"average of {', '.join(kept.best_by)}" if kept.best_by else "average"
        caption = f"The checkpoint of the {'last step' if kept.keep == 'last' else f'best {best}'} was kept."
        if kept.keep == "best_per_task":
            caption += " Each task is scored by its own best checkpoint."
        drawn.append(picture("Validation scores", curves(lines, "score"), caption))
    embeddings = run.model.hyperadapt.task_embeddings()
    if embeddings is not None and len(run.tasks) > 2:
        from sklearn.decomposition import PCA

        components = PCA(2)
        points = components.fit_transform(embeddings.float().numpy())
        svg = embedding_map([task.name for task in run.tasks], points, components.explained_variance_ratio_)
        caption = (
            "The embeddings from which the tasks' parameters are generated, on their first two principal components "
            "(HyperFormer, Figure 3). Of few tasks any map shows some order: read distances with care."
        )
        drawn.append(picture("Task embeddings", svg, caption))
    for name, title in MAPS.items():
        file = run.directory / FOLDER / f"{name}.svg"
        manifest.check(file)
        if file.is_file():
            caption = (
                f"From hyperadapt embed{rows_of_map(run, name)}: what the parameters of each are generated from, or "
                "its mean encoder state."
            )
            drawn.append(picture(title, shown_text(file), caption))
    return drawn


def rows_of_map(run: Any, name: str) -> str:
    """Say of which rows a run's map is; of an earlier version, which kept it otherwise or nowhere, that it is one."""
    from hyperadapt.studies.embeddings import ABOUT, FOLDER

    file = run.directory / FOLDER / ABOUT
    about = json.loads(shown_text(file)) if file.is_file() else {}
    if "shown" not in about:
        return " of an earlier version, with scores and the first chunks of contexts"
    shown = about["shown"][name.partition("-")[2]]
    chunks = f"{about['inputs']:,} chunks of " if about["inputs"] != about["rows"] else ""
    changed = ", which are not those that the run was trained with" if about["changed_data"] else ""
    return f", of {shown:,} of {chunks}{about['rows']:,} {about['split']} rows{changed}"


def picture(title: str, svg: str, caption: str) -> dict[str, str]:
    """Prepare a picture for the page, as an image, in which no script runs: a run's maps may be a stranger's."""
    return {"title": title, "image": base64.b64encode(svg.encode()).decode(), "caption": caption}
