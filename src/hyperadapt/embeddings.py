"""What parameters are generated from: the embeddings of a run's rows and tasks, maps of them, and linear probes.

A row's embedding is e, from which a Hyperdecoder generates the row's adapters, and for methods that are not conditioned
on the input the mean of the encoder's states, which e is without its MLP (Hyperdecoders, section 5).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hyperadapt.conditioning import Condition, EncodedInput, mean_state
from hyperadapt.errors import UserError
from hyperadapt.evaluation import (
    SECONDS_BEFORE_PROGRESS_SHOWS,
    EvaluationSet,
    encoder_states,
    evaluating,
    padded,
)
from hyperadapt.files import write_atomically
from hyperadapt.metrics import label_of

if TYPE_CHECKING:
    from datasets import Dataset

    from hyperadapt.metrics import Target
    from hyperadapt.runs import Run
    from hyperadapt.tasks import Task

Batch = dict[str, Tensor]  # as `padded` makes it
FOLDER = "embeddings"
ABOUT = "about.json"  # of which rows they are
ROWS_IN_MAPS = 2000  # t-SNE takes seconds for them, and a report stays small
MAPS = {
    "pca-task": "Rows by task, principal components",
    "pca-prediction": "Rows by predicted label, principal components",
    "tsne-task": "Rows by task, t-SNE",
    "tsne-prediction": "Rows by predicted label, t-SNE",
}


def embed(
    run: Run, inputs: Sequence[Sequence[int]], task_ids: Sequence[int], batch_size: int | None = None
) -> np.ndarray:
    """Embed tokenized inputs, (inputs, d_model).

    Args:
        run: the trained run.
        inputs: tokens.
        task_ids: of each.
        batch_size: as in the run's evaluation by default.
    """
    model, thread = run.model, get_ident()
    conditionings = [module for module in model.modules() if isinstance(module, EncodedInput)]
    if not conditionings:
        return mean_states(run, inputs, task_ids, batch_size)
    seen: list[Condition] = []

    def keep_condition(module: Any, args: Any, condition: Condition) -> None:
        if get_ident() == thread:  # a hook sees the forwards of all
            seen.append(condition)

    def embedding(batch: Batch) -> Tensor:
        rows = len(batch["input_ids"])
        model(**batch, decoder_input_ids=torch.full_like(batch["input_ids"][:, :1], start_token))
        condition = seen[-1]
        seen.clear()
        assert condition.embedding is not None
        of_groups = condition.embedding if condition.rows is None else condition.embedding[condition.rows]
        return of_groups.repeat_interleave(rows // len(of_groups), 0)

    start_token = model.config.decoder_start_token_id
    # The last in the order of the forward: the decoder's, where it has one.
    hook = conditionings[-1].register_forward_hook(keep_condition)
    try:
        return vectors_of(run, inputs, task_ids, embedding, batch_size)
    finally:
        hook.remove()


def mean_states(
    run: Run, inputs: Sequence[Sequence[int]], task_ids: Sequence[int], batch_size: int | None = None
) -> np.ndarray:
    """Average the encoder's states over the tokens of each input, whatever the method; all as of `embed`."""

    def mean(batch: Batch) -> Tensor:
        return mean_state(encoder_states(run.model, batch), batch["attention_mask"])

    return vectors_of(run, inputs, task_ids, mean, batch_size)


@torch.no_grad()
def vectors_of(
    run: Run,
    inputs: Sequence[Sequence[int]],
    task_ids: Sequence[int],
    vectors: Callable[[Batch], Tensor],
    batch_size: int | None,
) -> np.ndarray:
    """Compute a vector of each input, (inputs, d_model), in batches of like length.

    Args:
        run, inputs, task_ids, batch_size: as of `embed`.
        vectors: those of a batch, (batch, d_model).
    """
    model, batch_size = run.model, batch_size or run.config.evaluation.batch_size
    order = sorted(range(len(inputs)), key=lambda row: len(inputs[row]))
    found = np.zeros((len(inputs), model.config.d_model), dtype=np.float32)
    starts = range(0, len(order), batch_size)
    with evaluating(model):
        for start in tqdm(starts, desc="embedding", leave=False, delay=SECONDS_BEFORE_PROGRESS_SHOWS):
            rows = order[start : start + batch_size]
            batch = padded(
                model, run.tokenizer, [inputs[row] for row in rows], [task_ids[row] for row in rows]
            )
            found[rows] = vectors(batch).float().cpu().numpy()
    return found


def embed_rows(run: Run, rows: EvaluationSet) -> list[np.ndarray]:
    """Embed the rows of each task, (rows, d_model), of a context in chunks the first."""
    found = []
    for task, inputs, of in zip(rows.tasks, rows.sources, rows.rows, strict=True):
        first: dict[int, list[int]] = {}
        for ids, row in zip(inputs, of, strict=True):
            first.setdefault(row, ids)
        found.append(embed(run, list(first.values()), [run.model.task_id(task.name)] * len(first)))
    return found


def write_embeddings(
    run: Run,
    split: str = "test",
    max_rows: int | None = None,
    with_probe: bool = False,
    allow_changed_data: bool = False,
) -> tuple[Path, dict[str, float]]:
    """Write rows.parquet, tasks.parquet, about.json and maps of the rows into the run's folder of embeddings.

    rows.parquet has a row for every row of the split: task, label, what the model has written, and embedding.
    tasks.parquet has the embedding of every task, where the method has any. about.json tells the split, and whether its
    rows have changed since the training. The maps show at most 2,000 rows, drawn by the run's seed.

    Args:
        run: the trained run.
        split: "train", "validation" or "test".
        max_rows: of each task, drawn by the run's seed of subsamples.
        with_probe: also train a `probe` for each task of kind "class" that has training rows.
        allow_changed_data: embed rows though they are not those that the run was trained with.

    Returns:
        The folder, and the probes' accuracies in percent.

    Raises:
        UserError: if the split is unknown, rows have changed since the training, or the training rows of a probe have
            one label alone.
    """
    from datasets import Dataset

    rows = run.load_rows(run.tasks_with(split), split, "embed", None, max_rows, allow_changed_data)
    train = load_training_rows(run, rows.tasks, max_rows, allow_changed_data) if with_probe else None
    predictions = run.score(rows).predictions
    embedded = embed_rows(run, rows)
    owners = [task for task, of_task in zip(rows.tasks, predictions, strict=True) for _ in of_task]
    points, predicted = np.concatenate(embedded), [text for of_task in predictions for text in of_task]
    table = {
        "task": [task.name for task in owners],
        "label": [label_of(target) for targets in rows.targets for target in targets],
        "written": predicted,
        "embedding": list(points),
    }
    folder = run.directory / FOLDER
    write_parquet(Dataset.from_dict(table), folder / "rows.parquet")
    of_tasks = run.model.hyperadapt.task_embeddings()
    if of_tasks is not None:
        names = [task.name for task in run.tasks]
        by_task = {"task": names, "embedding": of_tasks.float().tolist()}
        write_parquet(Dataset.from_dict(by_task), folder / "tasks.parquet")
    drawn = np.sort(np.random.default_rng(run.config.seed).permutation(len(points))[:ROWS_IN_MAPS])
    groups = {
        "task": [owners[row].name for row in drawn],
        "prediction": [label_group(owners[row], predicted[row]) for row in drawn],
    }
    about = {"split": split, "rows": len(points), "rows_in_maps": len(drawn), "changed_data": rows.changed}
    write_atomically(folder / ABOUT, json.dumps(about, indent=1).encode())
    for name, svg in maps(points[drawn], groups).items():
        write_atomically(folder / f"{name}.svg", svg.encode())
    if train is None:
        return folder, {}
    place = {task.name: number for number, task in enumerate(rows.tasks)}
    return folder, {
        task.name: probe(inputs, targets, embedded[place[task.name]], rows.targets[place[task.name]])
        for task, inputs, targets in zip(train.tasks, embed_rows(run, train), train.targets, strict=True)
    }


def load_training_rows(
    run: Run, tasks: Sequence[Task], max_rows: int | None, allow_changed_data: bool, purpose: str = "embed"
) -> EvaluationSet:
    """Load the training rows of the tasks that can be probed, at most as many as the run was trained on.

    Raises:
        UserError: if rows have changed since the training, or those of a task have one label alone.
    """
    probed = [task for task in tasks if task.kind == "class" and "train" in task.splits]
    train = run.load_rows(probed, "train", purpose, None, max_rows, allow_changed_data)
    for task, targets in zip(probed, train.targets, strict=True):
        if len(set(map(label_of, targets))) < 2:
            raise UserError(
                f"task '{task.name}': all {len(targets)} training rows have one label; raise max_rows"
            )
    return train


def label_group(task: Task, prediction: str) -> str:
    """Name the label that a prediction writes, the same for all tasks, as the decoder writes it."""
    if task.kind != "class":
        return "score or text"
    return prediction if task.is_valid(prediction) else "no label"


def write_parquet(rows: Dataset, file: Path) -> None:
    """Write a table in one step."""
    from io import BytesIO

    content = BytesIO()
    rows.to_parquet(content)
    write_atomically(file, content.getvalue())


def maps(points: np.ndarray, groups: dict[str, list[str]]) -> dict[str, str]:
    """Draw points on their principal components and by t-SNE, coloured by each grouping, under the names of MAPS.

    Fewer than four points make no map.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    from hyperadapt.figures import point_map

    if len(points) < 4:
        return {}
    components = PCA(2).fit(points)
    shares = 100 * components.explained_variance_ratio_
    neighbours = min(30.0, (len(points) - 1) / 3)  # fewer than the points
    by_kind = {
        "pca": (components.transform(points), [f"component {k + 1} ({shares[k]:.0f} %)" for k in (0, 1)]),
        "tsne": (TSNE(2, perplexity=neighbours, random_state=0).fit_transform(points), ["", ""]),
    }
    return {
        f"{kind}-{grouping}": point_map(where, names, labels)
        for kind, (where, labels) in by_kind.items()
        for grouping, names in groups.items()
    }


def probe(
    inputs: np.ndarray, targets: Sequence[Target], test_inputs: np.ndarray, test_targets: Sequence[Target]
) -> float:
    """Train a linear classifier on embeddings, (rows, d_model), and return its accuracy on others in percent.

    The encoder stays as it was trained (Hyperdecoders, Table 7).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(inputs, [label_of(target) for target in targets])
    return 100 * classifier.score(test_inputs, [label_of(target) for target in test_targets])
