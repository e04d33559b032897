"""Few-shot transfer: a trained run goes on with a new task of which there are few rows (HyperFormer, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyperadapt.config.reading import merged, parse_overrides
from hyperadapt.config.written import RunConfig
from hyperadapt.errors import UserError
from hyperadapt.runs.run import load_run_config
from hyperadapt.tasks import Task, get_task, read_split, spelt_out

MOST_STEPS = 5_000  # as the `paper` scale's transfers; a run on all of GLUE has fifty times as many


def fewshot_config(
    run: str | Path,
    task: str,
    samples: int | None = None,
    init_from: Sequence[str] = (),
    seed: int = 1,
    balanced: bool = False,
    task_embedding_only: bool = False,
    output_dir: str | None = None,
    overrides: Sequence[str] = (),
) -> RunConfig:
    """Make the configuration of a run that transfers a trained one to a new task.

    Everything is as the trained run has it, but for what is given here; steps are `MOST_STEPS` at most unless given.

    Args:
        run: directory of the trained run.
        task: name, one of the run's too, or path of a task file. One that the run has goes on with what it has learnt.
        samples: training rows, drawn by the seed; those for fewer are among those for more. None is all.
        init_from: the trained task whose parameters the new one starts from, or several, from whose mean; none draws
            them anew.
        seed: of the rows, and of the run.
        balanced: draw as many rows of each class.
        task_embedding_only: train the task's embedding alone, so that the other tasks keep what they have; the paper
            tried it, and trains the hypernetworks too (section 3.2, footnote 4).
        output_dir: by default a folder of the trained run.
        overrides: as "training.max_steps=100".

    Raises:
        UserError: if the run, the task or its data cannot be had, there are fewer rows, or a field is wrong.
    """
    source, trained = Path(run), load_run_config(run)
    task = next((known for known in spelt_out(trained.data.tasks) if get_task(known).name == task), task)
    new = get_task(task)
    parts = [new.name, "all" if samples is None else str(samples)]
    parts += ["balanced"] * balanced + (["from", *init_from] if init_from else [])
    parts += ["task-embedding"] * task_embedding_only + ["seed", str(seed)]
    values = merged(
        trained.resolved(),
        {
            "output_dir": output_dir or str(source / "fewshot" / "-".join(parts)),
            "seed": seed,
            "start": {"run": str(source), "init_from": list(init_from)},
            "training": {
                "max_steps": min(trained.training.max_steps, MOST_STEPS),
                "epochs": None,
                "best_by": [],
                "threads": None,
            },
            "data": {
                "tasks": [task],
                "max_train_rows": samples,
                "subsample_seed": None,
                "balanced": balanced,
            },
        },
    )
    if task_embedding_only:
        values["method"] = {**values["method"], "train_task_embeddings_only": True}
    if trained.model.config is not None:
        values["model"] |= {
            "config": None,
            "name": str(source / "base"),
            "tokenizer": str(source / "tokenizer"),
        }
    config = RunConfig.from_values(merged(values, parse_overrides(overrides)), f"fewshot {run}")
    if balanced and not new.label_texts:
        raise UserError(f"--balanced: task '{new.name}' is of kind \"{new.kind}\", which has no classes")
    if samples is not None:
        check_enough(new, samples, config.data.data_dir)
    return config


def check_enough(task: Task, samples: int, data_dir: str | None) -> None:
    """Check that a task has so many training rows.

    Raises:
        UserError: if it has fewer, or they cannot be had.
    """
    there = len(read_split(task, "train", data_dir))
    if samples > there:
        raise UserError(f"task '{task.name}' has {there} training rows; {samples} samples are asked for")
