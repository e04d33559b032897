"""What the encoder knows of the labels (Hyperdecoders, Table 7), and maps of what it hands on (Figures 2 to 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyperadapt.errors import UserError, nearest
from hyperadapt.runs import results_file
from hyperadapt.studies.comparison import Cell
from hyperadapt.studies.experiments.beside import Labels, Measure, Pair, Read, beside, ours
from hyperadapt.studies.experiments.hyperdecoders.glue import table_1_rows
from hyperadapt.studies.experiments.hyperdecoders.question_answering import table_4_rows
from hyperadapt.studies.experiments.hyperdecoders.rows import OURS, SOURCE, OurPlan, listed
from hyperadapt.studies.experiments.hyperdecoders.scales import SCALES
from hyperadapt.studies.experiments.plan import Experiment
from hyperadapt.studies.published import published_table
from hyperadapt.tasks import resolve_tasks

WHOLE, ONLY = "Encoder-decoder", "Encoder-only"  # the table's columns


APPENDIX_C = {"epochs": 3, "learning_rate": 2e-5, "warmup_steps": 500, "max_rows": None}


def table_7_rows(planned: OurPlan) -> dict[Labels, list[Cell]]:
    """Return Table 1's runs whose encoders are looked at."""
    rows = table_1_rows(planned)
    return {(name,): rows[(name,)] for name in (OURS, "Adapter")}


def with_encoder_only(cell: Cell, options: dict[str, Any]) -> dict[str, Any]:
    """Score a run's encoder without its decoder, or read what it has scored with the same options.

    Args:
        cell: the finished run; the scores are added to its results.
        options: of `score_encoder_only`.
    """
    from hyperadapt.runs.run import load_run
    from hyperadapt.studies.encoder_only import KEY, score_encoder_only

    results = results_file.read(cell.directory)
    trained = results.get(KEY, {}).get("training", {})
    if any(trained.get(name) != value for name, value in {**APPENDIX_C, **options}.items()):
        model = results_file.model_entries(cell.directory)
        scores = score_encoder_only(load_run(cell.directory), **options)
        with results_file.adding(cell.directory, model):
            results_file.add(cell.directory, {KEY: scores})
        results = results_file.read(cell.directory)
    return results


def table_7_page(planned: OurPlan) -> str:
    """Set models with and without a decoder beside the printed rows, averaged over the tasks that have labels."""
    from hyperadapt.studies.encoder_only import KEY

    table, options = published_table("hyperdecoders", 7), planned.scale.encoder_only
    tasks = [task for task in resolve_tasks(planned.scale.run["data"]["tasks"]) if task.label_texts]

    def both(cell: Cell) -> Read:
        results = with_encoder_only(cell, options)
        splits = {WHOLE: results["validation"], ONLY: results[KEY]}
        values = {
            f"{column}.{task.name}": scores["tasks"][task.name]["score"]
            for column, scores in splits.items()
            for task in tasks
        }
        return values, {}, {}

    columns: dict[str, Measure] = {
        column: [f"{column}.{task.name}" for task in tasks] for column in (WHOLE, ONLY)
    }
    found = {
        labels: ours([cell for cell in cells if cell.finished], columns, read=both)
        for labels, cells in table_7_rows(planned).items()
    }
    pairs = [
        Pair(f"{name}: {WHOLE} − {ONLY}", ((name,), WHOLE), ((name,), ONLY)) for name in (OURS, "Adapter")
    ]
    pairs += [
        Pair(f"{column}: {OURS} − Adapter", ((OURS,), column), (("Adapter",), column))
        for column in (WHOLE, ONLY)
    ]
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in options.items())
    return (
        f"{beside(table, found, pairs)}\nAveraged over {len(tasks)} tasks, all but those of scores. The encoder is "
        "frozen; an MLP that the tasks share and a linear layer for each are trained on it anew"
        f"{f' ({said}; the rest as in appendix C)' if said else ', as in appendix C'}.\n"
    )


# By figure: whose run it is drawn of, which map, and what it shows.
FIGURES: dict[str, tuple[Callable[[OurPlan], dict[Labels, list[Cell]]], str, str]] = {
    "2": (table_1_rows, "tsne-task", "GLUE's validation rows by task, t-SNE"),
    "3": (table_1_rows, "pca-prediction", "GLUE's validation rows by predicted label, without STS-B"),
    "4": (table_4_rows, "pca-answer", "chunks of NewsQA by whether their answer is empty"),
}


def first_hyperdecoder(number: str) -> Callable[[OurPlan], dict[Labels, list[Cell]]]:
    """Make a function that returns the one run that a figure is drawn of."""
    rows, _, _ = FIGURES[number]
    return lambda planned: {(OURS,): rows(planned)[(OURS,)][:1]}


def map_page(number: str) -> Callable[[OurPlan], str]:
    """Make the page of a figure: the embeddings e of rows, from which the decoder's adapters are generated."""

    def page(planned: OurPlan) -> str:
        from hyperadapt.runs.run import load_run
        from hyperadapt.studies.embeddings import draw_maps

        _, name, shows = FIGURES[number]
        [cell] = first_hyperdecoder(number)(planned)[(OURS,)]
        if not cell.finished:
            raise UserError(f"{cell.directory} is not finished: there are no embeddings to draw")
        tasks = planned.scale.mapped if number == "4" else ()
        drawn = draw_maps(load_run(cell.directory), "validation", tasks, planned.scale.rows_in_maps)
        if name not in drawn:
            raise UserError(f"{cell.directory} has no map '{name}'; {nearest(name, drawn)}")
        picture = planned.picture(name, drawn[name])
        of_tasks = f" Of {', '.join(tasks)}." if tasks else ""
        return f"![{shows}]({picture})\n\nOf the Hyperdecoder's run {cell.name}.{of_tasks}\n"

    return page


EXPERIMENTS: tuple[Experiment[Any], ...] = (
    *(
        Experiment(
            f"hyperdecoders/figure-{number}",
            SOURCE.format(f"Figure {number}"),
            shows,
            listed(first_hyperdecoder(number)),
            map_page(number),
            SCALES,
        )
        for number, (_, _, shows) in FIGURES.items()
    ),
    Experiment(
        "hyperdecoders/table-7",
        SOURCE.format("Table 7"),
        "the encoder with and without its decoder",
        listed(table_7_rows),
        table_7_page,
        SCALES,
    ),
)
