"""The runs of a table's rows, and the experiment that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import starmap

from hyperadapt.studies.comparison import Cell
from hyperadapt.studies.experiments.beside import Columns, Labels
from hyperadapt.studies.experiments.hyperdecoders.scales import SCALES, HyperdecodersScale
from hyperadapt.studies.experiments.plan import Experiment, Plan
from hyperadapt.studies.experiments.scales import Fields
from hyperadapt.studies.published_runs import PublishedRun

OurPlan = Plan[HyperdecodersScale]
Rows = dict[Labels, list[Cell]]
SOURCE = "Hyperdecoders, {}"
TRAINED: Columns = {"trained (%)": "trained"}
OURS = "Hyperdecoder (ours)"


def runs_of(
    planned: OurPlan,
    group: str,
    run: PublishedRun,
    seeds: Sequence[int],
    of_scale: Fields,
    sized: Callable[[PublishedRun], Fields] | None = None,
    own: Fields | None = None,
) -> list[Cell]:
    """Make the runs of a row; rows of several tables that train the same share them.

    Args:
        planned: the plan.
        group: the folder of runs on the same data from the same model.
        run: what is trained.
        seeds: of the runs.
        of_scale: in what they differ from the scale's runs on GLUE.
        sized: how the method is written, by default as on GLUE.
        own: what makes the runs what they are, beside the method.
    """
    method = (sized or planned.scale.sized)(run)
    options = {option: value for option, value in method.items() if option != "name"}
    name = ",".join([run.method, *starmap(in_words, options.items())])
    rates = planned.scale.learning_rates
    # A hypernetwork of task embeddings in the encoder needs the lower rate, whatever is beside it.
    rate = rates.get(run.method) if run.options.get("encoder") != "task" else None
    fields: Fields = {"method": method} | ({"training": {"learning_rate": rate}} if rate is not None else {})
    return planned.runs(group, {name: fields}, seeds, of_scale, own)


def in_words(option: str, value: object) -> str:
    """Name an option in a folder's name: widths and places by their values alone, switches by their names."""
    if isinstance(value, bool):
        return option if value else f"no_{option}"
    return str(value)


def listed(rows: Callable[[OurPlan], Mapping[Labels, list[Cell]]]) -> Callable[[OurPlan], list[Cell]]:
    """Make a function that lists the runs of rows, each once."""

    def cells(planned: OurPlan) -> list[Cell]:
        return list({cell.directory: cell for cells in rows(planned).values() for cell in cells}.values())

    return cells


def experiment(
    name: str, source: str, title: str, rows: Callable[[OurPlan], Rows], page: Callable[[OurPlan], str]
) -> Experiment[HyperdecodersScale]:
    """Make an experiment of its rows."""
    return Experiment(f"hyperdecoders/{name}", SOURCE.format(source), title, listed(rows), page, SCALES)
