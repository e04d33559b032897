"""Scores of a finished run on tasks that it was not trained on, kept beside it (Hyperdecoders, Tables 5 and 15)."""

from __future__ import annotations

import json

from hyperadapt.files import manifest
from hyperadapt.files.writing import write_atomically
from hyperadapt.files.yaml_and_json import parse_json
from hyperadapt.runs import results_file
from hyperadapt.runs.predictions import write_predictions
from hyperadapt.studies.comparison import Cell
from hyperadapt.studies.experiments.beside import Read, drawn_of
from hyperadapt.tasks import resolve_tasks

SCORES = "scores.json"


def scored_unseen(cell: Cell, suite: str) -> Read:
    """Score a run on a suite, with the mean of its tasks' parameters, or read what it has scored there.

    Args:
        cell: the finished run.
        suite: whose tasks have test rows; they are predicted once, and the predictions lie beside the run.
    """
    folder = cell.beside(f"-{suite}")
    model = manifest.digest(results_file.model_entries(cell.directory))
    if not (folder / SCORES).is_file() or parse_json((folder / SCORES).read_text())["of"] != model:
        predict_unseen(cell, suite, model)
    tasks = parse_json((folder / SCORES).read_text())["tasks"]
    values = {
        f"{task}.{metric}": value for task, metrics in tasks.items() for metric, value in metrics.items()
    }
    return values, *drawn_of(folder, "test", (suite,))


def predict_unseen(cell: Cell, suite: str, model: str) -> None:
    """Predict a suite's test rows with a run; the scores are written last, with what they are of."""
    from hyperadapt.runs.run import load_run

    folder = cell.beside(f"-{suite}")
    folder.mkdir(exist_ok=True)
    run = load_run(cell.directory).with_unseen([suite])
    results = run.evaluate("test", [task.name for task in resolve_tasks([suite])])
    write_predictions(folder, "test", results)
    scores = {"of": model, "tasks": {score.task: score.metrics for score in results.scores}}
    write_atomically(folder / SCORES, json.dumps(scores, indent=1).encode())
