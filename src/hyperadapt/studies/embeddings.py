"""What parameters are generated from: the embeddings of a run's rows and tasks, maps of them, and linear probes.

A row's embedding is e, from which a Hyperdecoder generates the row's adapters, and for methods that are not conditioned
on the input the mean of the encoder's states, which e is without its MLP (Hyperdecoders, section 5.1). Of a long
context each chunk has one (section 3.1.2): it is encoded by itself, and answered with adapters of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hyperadapt.architectures import check_encoder_decoder
from hyperadapt.architectures.base import Answering, Request, evaluating, padded
from hyperadapt.architectures.encoder_decoder import encoder_states
from hyperadapt.conditioning import Condition, EncodedInput, mean_state
from hyperadapt.errors import UserError
from hyperadapt.evaluation import EvaluationSet, answer_inputs
from hyperadapt.files.writing import write_atomically
from hyperadapt.progress import SECONDS_BEFORE_PROGRESS_SHOWS
from hyperadapt.tasks.chunks import ChunkRule
from hyperadapt.tasks.kinds import label_of

if TYPE_CHECKING:
    from datasets import Dataset

    from hyperadapt.runs.run import Run
    from hyperadapt.tasks import Task
    from hyperadapt.tasks.kinds import Target

Batch = dict[str, Tensor]  # as `padded` makes it
FOLDER = "embeddings"
ABOUT = "about.json"  # of which rows they are
ROWS_IN_MAPS = 2000  # t-SNE takes seconds for them, and a report stays small
FEWEST_POINTS = 4  # of a map
MAPS = {
    "pca-task": "Rows by task, principal components",
    "pca-prediction": "Rows by predicted label, without tasks of scores, principal components",  # Figure 3
    "pca-answer": "Chunks by whether their answer is empty, principal components",  # Figure 4
    "tsne-task": "Rows by task, t-SNE",  # Figure 2
    "tsne-prediction": "Rows by predicted label, without tasks of scores, t-SNE",
    "tsne-answer": "Chunks by whether their answer is empty, t-SNE",
}


class Embedded(NamedTuple):
    """A split's inputs, rows or chunks of them, with what their parameters are generated from.

    Attributes:
        rows: of which tasks and rows the inputs are.
        written: for each task, what the model writes for each input.
        embeddings: for each task, (inputs, d_model).
    """

    rows: EvaluationSet
    written: list[list[str]]
    embeddings: list[np.ndarray]

    @property
    def points(self) -> np.ndarray:
        """The embeddings of all tasks, (inputs, d_model)."""
        return np.concatenate(self.embeddings)

    def columns(self) -> dict[str, list[Any]]:
        """Return for each input its task, row and label, what was written, and its embedding."""
        rows = self.rows
        return {
            "task": [task.name for task, inputs in zip(rows.tasks, rows.rows, strict=True) for _ in inputs],
            "row": [row for inputs in rows.rows for row in inputs],
            "label": [
                label_of(targets[row])
                for targets, inputs in zip(rows.targets, rows.rows, strict=True)
                for row in inputs
            ],
            "written": [text for of_task in self.written for text in of_task],
            "embedding": list(self.points),
        }

    def groups(self) -> dict[str, list[str | None]]:
        """Name for each colouring of the maps the group of each input; None leaves it out of these maps."""
        written = [
            (task, text)
            for task, of_task in zip(self.rows.tasks, self.written, strict=True)
            for text in of_task
        ]
        return {
            "task": [task.name for task, _ in written],
            "prediction": [label_group(task, text) for task, text in written],
            "answer": [answer_group(task, text) for task, text in written],
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
            requests = [Request(task_ids[row], inputs[row], (0, 0)) for row in rows]
            batch = padded(model, run.tokenizer, requests)
            found[rows] = vectors(batch).float().cpu().numpy()
    return found


def embed_rows(run: Run, rows: EvaluationSet) -> list[np.ndarray]:
    """Embed the inputs of each task, (inputs, d_model)."""
    return [
        embed(run, inputs, [run.model.task_id(task.name)] * len(inputs))
        for task, inputs in zip(rows.tasks, rows.sources, strict=True)
    ]


def embed_split(run: Run, rows: EvaluationSet) -> Embedded:
    """Embed and answer a split's inputs.

    A chunk may be answered with nothing, whatever evaluation.empty_answers says: it has learnt to where it does not
    hold the answer, and an answer that is forced from it says nothing about its embedding.
    """
    how = run.config.evaluation
    rule = ChunkRule(empty_answers=True)
    answers = answer_inputs(run.model, run.tokenizer, rows, Answering(how.batch_size, how.num_beams), rule)
    return Embedded(rows, [[answer.text for answer in of_task] for of_task in answers], embed_rows(run, rows))


def draw_maps(
    run: Run,
    split: str = "test",
    tasks: Sequence[str] = (),
    max_rows: int | None = None,
    allow_changed_data: bool = False,
) -> dict[str, str]:
    """Draw the maps of a split's inputs, as `write_embeddings` does, and write nothing.

    Args:
        run: the trained run.
        split: "train", "validation" or "test".
        tasks: names of some of them; by default all that have the split.
        max_rows, allow_changed_data: as of `write_embeddings`.

    Returns:
        Name -> SVG, of those of `MAPS` for which there are points.

    Raises:
        UserError: if the split or a task is unknown, or rows have changed since the training.
    """
    chosen = [run.task(name) for name in tasks] or run.tasks_with(split)
    rows = run.load_rows(chosen, split, "embed", None, max_rows, allow_changed_data)
    return maps(*in_maps(embed_split(run, rows), run.config.seed))


def in_maps(embedded: Embedded, seed: int) -> tuple[np.ndarray, dict[str, list[str | None]]]:
    """Draw the inputs that maps show, by the seed: their embeddings, (inputs, d_model), and their groups."""
    points = embedded.points
    drawn = np.sort(np.random.default_rng(seed).permutation(len(points))[:ROWS_IN_MAPS])
    return points[drawn], {
        name: [groups[place] for place in drawn] for name, groups in embedded.groups().items()
    }


def write_embeddings(
    run: Run,
    split: str = "test",
    max_rows: int | None = None,
    with_probe: bool = False,
    allow_changed_data: bool = False,
) -> tuple[Path, dict[str, float]]:
    """Write rows.parquet, tasks.parquet, about.json and maps of the rows into the run's folder of embeddings.

    rows.parquet has a row for every row of the split, of a long context one for each chunk: task, number of the row,
    label, what the model has written, and embedding. tasks.parquet has the embedding of every task, where the method
    has any. about.json tells the split, whether its rows have changed since the training, and what the maps show: at
    most 2,000 of these, drawn by the run's seed.

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

    check_encoder_decoder(run.model, "hyperadapt embed")

    rows = run.load_rows(run.tasks_with(split), split, "embed", None, max_rows, allow_changed_data)
    train = load_training_rows(run, rows.tasks, max_rows, allow_changed_data) if with_probe else None
    embedded = embed_split(run, rows)
    folder = run.directory / FOLDER
    write_parquet(Dataset.from_dict(embedded.columns()), folder / "rows.parquet")
    of_tasks = run.model.hyperadapt.task_embeddings()
    if of_tasks is not None:
        names = [task.name for task in run.tasks]
        by_task = {"task": names, "embedding": of_tasks.float().tolist()}
        write_parquet(Dataset.from_dict(by_task), folder / "tasks.parquet")
    points, groups = in_maps(embedded, run.config.seed)
    about = {
        "split": split,
        "rows": sum(map(len, rows.targets)),
        "inputs": sum(map(len, rows.sources)),
        "shown": {name: len(of_each) - of_each.count(None) for name, of_each in groups.items()},
        "changed_data": rows.changed,
    }
    write_atomically(folder / ABOUT, json.dumps(about, indent=1).encode())
    drawn = maps(points, groups)
    for name in MAPS:
        file = folder / f"{name}.svg"
        if name in drawn:
            write_atomically(file, drawn[name].encode())
        else:
            file.unlink(missing_ok=True)  # of other rows
    if train is None:
        return folder, {}
    place = {task.name: number for number, task in enumerate(rows.tasks)}
    return folder, {
        task.name: probe(
            inputs, targets, embedded.embeddings[place[task.name]], rows.targets[place[task.name]]
        )
        for task, inputs, targets in zip(train.tasks, embed_rows(run, train), train.targets, strict=True)
    }


def load_training_rows(
    run: Run, tasks: Sequence[Task], max_rows: int | None, allow_changed_data: bool, purpose: str = "embed"
) -> EvaluationSet:
    """Load the training rows of the tasks that can be probed, at most as many as the run was trained on.

    Raises:
        UserError: if rows have changed since the training, or those of a task have one label alone.
    """
    probed = [task for task in tasks if task.label_texts and "train" in task.splits]
    train = run.load_rows(probed, "train", purpose, None, max_rows, allow_changed_data)
    for task, targets in zip(probed, train.targets, strict=True):
        if len(set(map(label_of, targets))) < 2:
            raise UserError(
                f"task '{task.name}': all {len(targets)} training rows have one label; raise max_rows"
            )
    return train


def label_group(task: Task, written: str) -> str | None:
    """Name the label that is written, the same for all tasks, as the decoder writes it; None where it is a score."""
    if task.label_texts:
        return written if task.is_valid(written) else "no label"
    return None if task.kind_of_task.closed else "text"


def answer_group(task: Task, written: str) -> str | None:
    """Say whether a chunk is answered with nothing; None where it is no question."""
    if not task.kind_of_task.in_chunks:
        return None
    return "answer" if written else "empty answer"


def write_parquet(rows: Dataset, file: Path) -> None:
    """Write a table in one step."""
    from io import BytesIO

    content = BytesIO()
    rows.to_parquet(content)
    write_atomically(file, content.getvalue())


def maps(points: np.ndarray, groups: Mapping[str, Sequence[str | None]]) -> dict[str, str]:
    """Draw points on their principal components and by t-SNE, coloured by each grouping, under the names of MAPS.

    Fewer than four points make no map.

    Args:
        points: (points, d_model).
        groups: grouping -> the group of each point; None leaves the point out, and out of the components too.
    """
    from hyperadapt.studies.figures import point_map

    drawn = {}
    layouts_of = cache(lambda places: layouts(points[list(places)]))  # most groupings have all points
    for grouping, names in groups.items():
        places = tuple(place for place, name in enumerate(names) if name is not None)
        if len(places) < FEWEST_POINTS:
            continue
        shown = [name for name in names if name is not None]
        for kind, (where, labels) in layouts_of(places).items():
            drawn[f"{kind}-{grouping}"] = point_map(where, shown, labels)
    return drawn


def layouts(points: np.ndarray) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Lay out points, (points, d_model), in two dimensions in each way, and name the axes where they mean something."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    components = PCA(2).fit(points)
    shares = 100 * components.explained_variance_ratio_
    neighbours = min(30.0, (len(points) - 1) / 3)  # fewer than the points
    return {
        "pca": (components.transform(points), [f"component {k + 1} ({shares[k]:.0f} %)" for k in (0, 1)]),
        "tsne": (TSNE(2, perplexity=neighbours, random_state=0).fit_transform(points), ["", ""]),
    }


def probe(
    inputs: np.ndarray, targets: Sequence[Target], test_inputs: np.ndarray, test_targets: Sequence[Target]
) -> float:
    """Train a linear classifier on embeddings, (rows, d_model), and return its accuracy on others in percent.

    The encoder stays as it was trained (Hyperdecoders, section 5.1); Table 7, with an MLP, is `score_encoder_only`'s.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(inputs, [label_of(target) for target in targets])
    return 100 * classifier.score(test_inputs, [label_of(target) for target in test_targets])
