"""An experiment at a scale, in a folder: its runs, and the page of their numbers."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from hyperadapt.config.reading import leaves, merged, parse_overrides
from hyperadapt.config.written import CompareConfig
from hyperadapt.errors import UserError, nearest, notice
from hyperadapt.files.locks import locked
from hyperadapt.files.paths import absolute
from hyperadapt.files.writing import write_atomically
from hyperadapt.studies.comparison import Cell, cells_of, check_cells, train_cells
from hyperadapt.studies.experiments.beside import HOW_TO_READ
from hyperadapt.studies.experiments.budget import check_memory, cost_in_words, steps_in_words
from hyperadapt.studies.experiments.made_rows import write_made_rows
from hyperadapt.studies.experiments.scales import Fields, Scale
from hyperadapt.tasks import Task, get_task, resolve_tasks

AScale = TypeVar("AScale", bound=Scale)
MADE_ROWS = "made-rows"  # the folder of the rows that a smoke test makes up


@dataclass(frozen=True)
class Experiment(Generic[AScale]):
    """A table or figure of a paper, or several that the same runs make.

    Attributes:
        name: on the command line: the paper's, a slash, and that of its page.
        source: where it stands in the paper.
        title: what it shows.
        cells: makes its runs; those that start from another are trained after it.
        page: writes its pictures, and returns its page's text below the title.
        scales: how large its runs are, by the names of `--scale`.
        timed: whether its runs are timed, so that no two may run at once.
    """

    name: str
    source: str
    title: str
    cells: Callable[[Plan[AScale]], list[Cell]]
    page: Callable[[Plan[AScale]], str]
    scales: Mapping[str, AScale]
    timed: bool = False

    @property
    def paper(self) -> str:
        """Whose experiment it is."""
        return self.name.partition("/")[0]

    @property
    def short(self) -> str:
        """Its name within the paper's."""
        return self.name.partition("/")[2]


@dataclass(frozen=True)
class Plan(Generic[AScale]):
    """An experiment at a scale, in a folder.

    Attributes:
        experiment, scale, folder: these.
        overrides: fields of all runs, whatever the scale says; `data.balanced` of those that draw few rows.
        made_rows: where the rows are written that are made up for the runs, if they are.
        words: scale and overrides, as they were given.
    """

    experiment: Experiment[AScale]
    scale: AScale
    folder: Path
    overrides: Fields = field(default_factory=dict)
    made_rows: Path | None = None
    words: str = ""

    def cells(self) -> list[Cell]:
        """List all runs."""
        return self.experiment.cells(self)

    def runs(
        self,
        group: str,
        variants: Mapping[str, Fields],
        seeds: Sequence[int],
        of_scale: Fields | None = None,
        own: Fields | None = None,
    ) -> list[Cell]:
        """Make the runs of variants in a folder of their own.

        Args:
            group: the folder's name.
            variants: fields by name.
            seeds: of each.
            of_scale: in what the scale has these runs differ from `scale.run`.
            own: what makes the runs what they are.

        Raises:
            UserError: if an override is of what makes the runs, or their variants, what they are.
        """
        own, overrides = own or {}, self.overrides
        for fields in (own, *variants.values()):
            if taken := sorted(leaves(fields) & leaves(overrides)):
                raise UserError(
                    f"{self.experiment.name} sets {taken[0]} itself, for each of its runs; leave it out"
                )
        if overrides.get("data", {}).get("balanced"):
            if "max_train_rows" in own.get("data", {}):
                group = f"{group}-balanced"
            else:  # all rows are taken
                overrides = merged(overrides, {"data": {"balanced": False}})
        base = self.scale.run
        for fields in (of_scale or {}, own, overrides):
            base = merged(base, fields)
        return cells_of(
            CompareConfig(
                output_dir=str(self.folder / group), base=base, variants=dict(variants), seeds=tuple(seeds)
            )
        )

    @property
    def page_name(self) -> str:
        """The page's name, without its suffix; balanced draws have a page of their own, as their runs have a folder."""
        balanced = self.overrides.get("data", {}).get("balanced")
        return f"{self.experiment.short}-balanced" if balanced else self.experiment.short

    def picture(self, what: str, svg: str) -> str:
        """Write one of the page's pictures, and return the name of its file."""
        name = f"{self.page_name}-{what}.svg"
        write_atomically(self.folder / name, svg.encode())
        return name


def plan(
    name: str,
    scale: str = "small",
    output_dir: str | Path = "runs/reproduce",
    base: str | None = None,
    data_dir: str | None = None,
    overrides: Sequence[str] = (),
) -> Plan[Any]:
    """Plan an experiment.

    Args:
        name: of `EXPERIMENTS`, or of `ALIASES`.
        scale: of the experiment's.
        output_dir: the scale's runs and pages get a folder there.
        base: another base model, hub name or directory, whose runs and pages get a folder of their own.
        data_dir: a local copy of the data; by default they come from the hub.
        overrides: as "data.balanced=true".

    Raises:
        UserError: if the name or the scale is unknown, or an override is not of that form, or of no run.
    """
    experiment = find(name)
    if scale not in experiment.scales:
        raise UserError(f"--scale '{scale}' is unknown; {nearest(scale, experiment.scales)}")
    chosen, folder = experiment.scales[scale], scale
    if base is not None:
        chosen, folder = chosen.on(base), f"{scale}-{Path(base).name}"
    try:
        absolute(str(output_dir))
    except ValueError as error:
        raise UserError(f"--output-dir: {error}") from None
    asked = parse_overrides(overrides)
    check_overridable(leaves(asked))
    if apart := [override for override in overrides if not override.startswith(WHERE_THEY_ARE)]:
        folder = f"{folder}-{re.sub(r'[^A-Za-z0-9.=_-]+', '_', '-'.join(sorted(apart)))[:100]}"
    place = Path(output_dir) / folder
    made_rows = place / MADE_ROWS if scale == "smoke" and data_dir is None else None
    fields: Fields = {} if data_dir is None else {"data": {"data_dir": data_dir}}
    if made_rows is not None:
        fields = {"data": {"data_dir": str(made_rows)}}
    of_base = [] if base is None else ["--base", base]
    words = shlex.join(["--scale", scale, *of_base, *overrides])
    planned = Plan(experiment, chosen, place / experiment.paper, merged(fields, asked), made_rows, words)
    balanced = planned.overrides.get("data", {}).get("balanced")
    if balanced and not any(cell.config.data.balanced for cell in planned.cells()):
        raise UserError(f"data.balanced is of runs on few rows; those of {experiment.name} have all rows")
    return planned


# Overrides with which runs stay where they are: they have a place of their own already, or change no run.
WHERE_THEY_ARE = ("data.balanced=", "training.threads=")


def check_overridable(names: Iterable[str]) -> None:
    """Check that overrides are of what an experiment leaves open.

    Raises:
        UserError: naming the option that decides it.
    """
    for name in names:
        for decided, by in (
            ("seed", "the seeds are the experiment's"),
            ("output_dir", "--output-dir decides it"),
            ("model.name", "--base decides it"),
            ("model.config", "--base decides it"),
            ("data.data_dir", "--data-dir decides it"),
            ("start", "the experiment decides it"),
        ):
            if name == decided or name.startswith(f"{decided}."):
                raise UserError(f"{name} cannot be overridden: {by}")


def find(name: str) -> Experiment[Any]:
    """Find an experiment by its name, or by another that it has had, or has as one of several tables.

    Raises:
        UserError: if there is none; with the nearest, and all of the paper's if one is named.
    """
    from hyperadapt.studies.experiments import ALIASES, EXPERIMENTS

    full = ALIASES.get(name, name)
    if full in EXPERIMENTS:
        return EXPERIMENTS[full]
    papers = list(dict.fromkeys(experiment.paper for experiment in EXPERIMENTS.values()))
    if name in papers:
        raise UserError(f"'{name}' is a paper; `hyperadapt reproduce {name} --list` has its experiments")
    names = [*EXPERIMENTS, *ALIASES]
    if of_others := [other for other in names if other.partition("/")[2] == name]:
        raise UserError(f"experiment '{name}' is unknown: give its paper, as {' or '.join(of_others)}")
    of_paper = [other for other in names if other.startswith(f"{name.partition('/')[0]}/")]
    raise UserError(
        f"experiment '{name}' is unknown; {nearest(name, of_paper or names)}; `hyperadapt reproduce --list` has all"
    )


def named(name: str | None) -> list[str]:
    """List the experiments of a name: all of a paper's, one, or with none all that there are.

    Raises:
        UserError: if there is none; with the nearest.
    """
    from hyperadapt.studies.experiments import EXPERIMENTS

    if name is None:
        return list(EXPERIMENTS)
    return [experiment.name for experiment in EXPERIMENTS.values() if experiment.paper == name] or [
        find(name).name
    ]


def old_runs(planned: Plan[Any]) -> list[Path]:
    """Return the folders of runs where earlier versions wrote them, beside the folders of papers."""
    return [
        folder
        for folder in planned.folder.parent.glob("*")
        if folder.name not in ("hyperformer", "hyperdecoders", "hypergrid", "beyond", MADE_ROWS)
        and any(folder.glob("*/seed-*/config.yaml"))
    ]


def reproduce(
    planned: Plan[Any],
    jobs: int = 1,
    ray: str | None = None,
    processes: int = 1,
    allow_changed_data: bool = False,
) -> Path:
    """Train what is not finished of an experiment, and write its page of what is.

    Args:
        planned: from `plan`.
        jobs, ray, processes, allow_changed_data: as of `compare`.

    Returns:
        The page.

    Raises:
        UserError: for anything wrong with what was given, before any run begins; or where runs failed, once the others
            are finished and in the page.
    """
    experiment = planned.experiment
    cells = [replace(cell, allow_changed_data=allow_changed_data) for cell in planned.cells()]
    if experiment.timed and (jobs > 1 or ray is not None):
        raise UserError(
            f"the runs of {experiment.name} are timed, one by one on this machine: leave --jobs and --ray out"
        )
    if ray is None:
        check_memory([cell.config for cell in cells if not cell.finished], processes, jobs)
    if experiment.paper == "hyperformer" and (old := old_runs(planned)):
        notice(
            f"{len(old)} folders of runs lie in {planned.folder.parent}, as those of earlier versions; moved to "
            f"{planned.folder} they would count"
        )
    with locked(planned.folder):
        with made_up(planned, tasks_of(cells)):
            check_cells(cells, ray, processes)
        unfinished = [cell.config for cell in cells if not cell.finished]
        notice(f"{experiment.name}, {planned.words}: {cost_in_words(unfinished)}")
        first = [cell for cell in cells if cell.config.start is None]
        then = [cell for cell in cells if cell.config.start is not None]
        wanted = {
            (cell.config.data.tasks, cell.config.data.max_train_rows): cell.config.data for cell in then
        }
        from hyperadapt.studies.fewshot import check_enough

        for data in wanted.values():
            assert data.max_train_rows is not None
            check_enough(get_task(data.tasks[0]), data.max_train_rows, data.data_dir)
        failed = None
        for wave in filter(None, (first, then)):
            try:
                train_cells(wave, jobs, ray, processes)
            except UserError as error:
                failed = failed or error
        page = planned.folder / f"{planned.page_name}.md"
        if failed is None or any(cell.finished for cell in cells):
            missing = [cell for cell in cells if not cell.finished]
            gaps = (
                f"{len(missing)} of {len(cells)} runs are not finished, and not in here.\n\n"
                if missing
                else ""
            )
            title = f"# {experiment.source}: {experiment.title}\n\n"
            text = f"{title}{head(planned, cells)}{gaps}{experiment.page(planned)}"
            text += f"\n{HOW_TO_READ}" if "standard deviation" in text or "95 % CI" in text else ""
            write_atomically(page, text.encode())
        if failed is not None:
            raise failed
        return page


def head(planned: Plan[Any], cells: Sequence[Cell]) -> str:
    """Say what a page's numbers are of: command, base models, steps and rows."""
    command = f"`hyperadapt reproduce {planned.experiment.name} {planned.words}`"
    runs = [cell.config for cell in cells]
    if not runs:
        return f"{command}\n\n"
    models = ", ".join(dict.fromkeys(run.model.name or "a tiny T5 with random weights" for run in runs))
    lengths = {
        f"{run.training.max_steps:,} steps"
        if run.training.epochs is None
        else f"{run.training.epochs:g} epochs"
        for run in runs
    }
    steps = " or ".join(sorted(lengths))
    if planned.made_rows is not None:
        return (
            f"{command}: **no result**, but a test that all of it runs, of {models}, {steps}, on rows that are "
            "made up.\n\n"
        )
    return f"{command}: from {models}, {steps}.\n\n"


@contextmanager
def made_up(planned: Plan[Any], tasks: Sequence[Task]) -> Iterator[None]:
    """Write the rows that are made up for a plan, and take them away again if what follows them is refused."""
    rows = planned.made_rows
    if rows is None:
        yield
        return
    fresh = not rows.exists()
    write_made_rows(rows, tasks)
    try:
        yield
    except UserError:
        if fresh:
            shutil.rmtree(rows)
            with suppress(OSError):  # a folder that holds something else stays
                for folder in rows.parents[:2]:
                    folder.rmdir()
        raise


def tasks_of(cells: Iterable[Cell]) -> list[Task]:
    """List the tasks of runs."""
    names = dict.fromkeys(cell.config.data.tasks for cell in cells)
    return list({task.name: task for name in names for task in resolve_tasks(name)}.values())


def overview(
    scale: str, output_dir: str | Path, base: str | None, names: Iterable[str]
) -> list[dict[str, Any]]:
    """List experiments: how many runs and steps they are at a scale, how many runs are finished, and their hours.

    Runs that another experiment has too are counted in both.

    Raises:
        UserError: if a name or the scale is unknown.
    """
    rows = []
    for name in names:
        planned = plan(name, scale, output_dir, base)
        experiment, cells = planned.experiment, planned.cells()
        results = [result for cell in cells if (result := cell.results()) is not None]
        rows.append(
            {
                "name": experiment.name,
                "paper": experiment.source,
                "shows": experiment.title,
                "runs": len(cells),
                "steps": steps_in_words([cell.config for cell in cells]).removesuffix(" steps"),
                "finished": len(results),
                "hours so far": f"{sum(result['train_seconds'] for result in results) / 3600:.1f}",
            }
        )
    return rows
