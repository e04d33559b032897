"""An experiment at a scale, in a folder: its runs, and the page of their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hyperadapt.comparison import Cell, cells_of, check_cells, markdown, train_cells
from hyperadapt.config import CompareConfig, leaves, merged, parse_overrides
from hyperadapt.errors import UserError, nearest
from hyperadapt.experiments.scales import SCALES, Fields, Scale
from hyperadapt.fewshot import check_enough
from hyperadapt.files import write_atomically
from hyperadapt.locks import locked
from hyperadapt.methods import METHODS
from hyperadapt.paths import absolute
from hyperadapt.published import published_table
from hyperadapt.tasks import get_task


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper.

    Attributes:
        name: on the command line, and of its page.
        source: where it stands in the paper.
        title: what it shows.
        cells: makes its runs; those that start from another are trained after it.
        page: writes its pictures, and returns its page's text below the title.
        timed: whether its runs are timed, so that no two may run at once.
    """

    name: str
    source: str
    title: str
    cells: Callable[[Plan], list[Cell]]
    page: Callable[[Plan], str]
    timed: bool = False


@dataclass(frozen=True)
class Plan:
    """An experiment at a scale, in a folder.

    Attributes:
        experiment, scale, folder: these.
        overrides: fields of all runs, whatever the scale says; `data.balanced` of those that draw few rows.
    """

    experiment: Experiment
    scale: Scale
    folder: Path
    overrides: Fields = field(default_factory=dict)

    def cells(self) -> list[Cell]:
        """List all runs."""
        return self.experiment.cells(self)

    def methods(
        self, *names: str, factors: Sequence[int] | None = None, rates: Mapping[str, float] | None = None
    ) -> dict[str, Fields]:
        """Make variants of methods, each at its learning rate, and with each reduction factor that it can have.

        Args:
            names: of the methods.
            factors: the reduction factors, by default `scale.one_factor`.
            rates: learning rates by method, by default `scale.learning_rates`; of others the run's.
        """
        rates = self.scale.learning_rates if rates is None else rates
        variants = {}
        for name in names:
            training = {"training": {"learning_rate": rates[name]}} if name in rates else {}
            if "reduction_factor" not in METHODS[name].model_fields:
                variants[name] = {"method": {"name": name}, **training}
                continue
            for factor in factors or [self.scale.one_factor]:
                method = {"name": name, "reduction_factor": factor}
                variants[f"{name},r={factor}"] = {"method": method, **training}
        return variants

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

    def picture(self, what: str, svg: str) -> str:
        """Write one of the page's pictures, and return the name of its file."""
        name = f"{self.experiment.name}-{what}.svg"
        write_atomically(self.folder / name, svg.encode())
        return name


def as_printed(*numbers: str) -> str:
    """Write tables of the HyperFormer paper, by their numbers, for the page of ours."""
    tables = [published_table("hyperformer", number) for number in numbers]
    return "\n".join(
        f"Table {table.number}, {table.split or table.base_model}; {table.unit}:\n\n{markdown(table.printed())}"
        for table in tables
    )


def plan(
    name: str,
    scale: str = "small",
    output_dir: str | Path = "runs/reproduce",
    base: str | None = None,
    data_dir: str | None = None,
    overrides: Sequence[str] = (),
) -> Plan:
    """Plan an experiment.

    Args:
        name: of `EXPERIMENTS`.
        scale: of `SCALES`.
        output_dir: the scale's runs and pages get a folder there.
        base: another base model, hub name or directory, whose runs and pages get a folder of their own.
        data_dir: a local copy of the data; by default they come from the hub.
        overrides: as "data.balanced=true".

    Raises:
        UserError: if the name or the scale is unknown, or an override is not of that form, or of no run.
    """
    from hyperadapt.experiments import EXPERIMENTS

    if name not in EXPERIMENTS:
        raise UserError(f"experiment '{name}' is unknown; {nearest(name, EXPERIMENTS)}")
    if scale not in SCALES:
        raise UserError(f"--scale '{scale}' is unknown; {nearest(scale, SCALES)}")
    chosen, folder = SCALES[scale], scale
    if base is not None:
        chosen = replace(chosen, run={**chosen.run, "model": {"name": base}}, ablated={})
        folder = f"{scale}-{Path(base).name}"
    fields: Fields = {} if data_dir is None else {"data": {"data_dir": data_dir}}
    fields = merged(fields, parse_overrides(overrides))
    try:
        absolute(str(output_dir))
    except ValueError as error:
        raise UserError(f"--output-dir: {error}") from None
    planned = Plan(EXPERIMENTS[name], chosen, Path(output_dir) / folder, fields)
    balanced = fields.get("data", {}).get("balanced")
    if balanced and not any(cell.config.data.balanced for cell in planned.cells()):
        raise UserError(f"data.balanced is of runs on few rows; those of {name} have all rows")
    return planned


def reproduce(
    planned: Plan,
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
    with locked(planned.folder):
        experiment = planned.experiment
        cells = [replace(cell, allow_changed_data=allow_changed_data) for cell in planned.cells()]
        if experiment.timed and (jobs > 1 or ray is not None):
            raise UserError(
                f"the runs of {experiment.name} are timed, one by one on this machine: leave --jobs and --ray out"
            )
        check_cells(cells, ray, processes)
        first = [cell for cell in cells if cell.config.start is None]
        then = [cell for cell in cells if cell.config.start is not None]
        wanted = {
            (cell.config.data.tasks, cell.config.data.max_train_rows): cell.config.data for cell in then
        }
        for data in wanted.values():
            assert data.max_train_rows is not None
            check_enough(get_task(data.tasks[0]), data.max_train_rows, data.data_dir)
        failed = None
        for wave in filter(None, (first, then)):
            try:
                train_cells(wave, jobs, ray, processes)
            except UserError as error:
                failed = failed or error
        page = planned.folder / f"{experiment.name}.md"
        if failed is None or any(cell.finished for cell in cells):
            missing = [cell for cell in cells if not cell.finished]
            gaps = (
                f"{len(missing)} of {len(cells)} runs are not finished, and not in here.\n\n"
                if missing
                else ""
            )
            text = f"# {experiment.source}: {experiment.title}\n\n{gaps}{experiment.page(planned)}"
            write_atomically(page, text.encode())
        if failed is not None:
            raise failed
        return page


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
        results = [of for cell in cells if (of := cell.results()) is not None]
        rows.append(
            {
                "name": name,
                "paper": experiment.source,
                "shows": experiment.title,
                "runs": len(cells),
                "steps": sum(cell.config.training.max_steps for cell in cells),
                "finished": len(results),
                "hours of training": f"{sum(of['train_seconds'] for of in results) / 3600:.1f}",
            }
        )
    return rows
