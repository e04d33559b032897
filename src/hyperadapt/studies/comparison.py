"""Comparisons: runs of several variants, each with several seeds, and the table that sets them side by side.

config.yaml          the comparison            VARIANT/seed-S/      a run, as `hyperadapt train` writes it
table.md, .csv       means and deviations      VARIANT/seed-S.yaml  its configuration, to run it by hand
table.svg            the same as a picture     VARIANT/seed-S.log   what it printed

Every run is a process of its own: its peak memory is its own, and what goes wrong in one leaves the others alone.
"""

from __future__ import annotations

import csv
import ctypes
import io
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from hyperadapt.config.written import CompareConfig, RunConfig
from hyperadapt.errors import CheckpointError, Interrupted, UserError, notice, printable
from hyperadapt.files.locks import locked
from hyperadapt.files.writing import write_atomically
from hyperadapt.runs import results_file
from hyperadapt.signals import end, heard_by

if TYPE_CHECKING:
    from hyperadapt.tasks import Task

MAJORITY = "majority"
PR_SET_PDEATHSIG = 1  # of Linux' prctl
STOPPED = [128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT]  # exit codes


@dataclass(frozen=True, eq=False)
class Cell:
    """One run of a comparison.

    Attributes:
        variant, seed: by which it is known.
        config: what is run.
        allow_changed_data: train it, or go on with it, though rows have changed since runs began.
    """

    variant: str
    seed: int
    config: RunConfig
    allow_changed_data: bool = False

    @property
    def name(self) -> str:
        """What people read."""
        return f"{self.variant}, seed {self.seed}"

    @property
    def directory(self) -> Path:
        """Where the run lies."""
        return Path(self.config.output_dir)

    def beside(self, suffix: str) -> Path:
        """Return the file of this suffix that lies beside the run."""
        return self.directory.with_name(self.directory.name + suffix)

    @property
    def finished(self) -> bool:
        """Whether the run has been trained and evaluated to its end."""
        return self.results() is not None

    def results(self) -> dict[str, Any] | None:
        """Read the run's results, None where it has none yet."""
        try:
            return results_file.read(self.directory)
        except CheckpointError:
            return None

    def command(self, threads: int, processes: int) -> list[str]:
        """Make the command that trains the run, or goes on with it."""
        environment = [f"OMP_NUM_THREADS={threads}"] if "OMP_NUM_THREADS" not in os.environ else []
        resume = ["--resume"] if (self.directory / "config.yaml").exists() else []
        changed = ["--allow-changed-data"] if self.allow_changed_data else []
        train = ["-m", "hyperadapt.cli", "train", str(self.beside(".yaml")), *resume, *changed]
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        return ["env", *environment, sys.executable, *(torchrun if processes > 1 else []), *train]


def cells_of(config: CompareConfig, allow_changed_data: bool = False) -> list[Cell]:
    """List a comparison's runs."""
    return [Cell(variant, seed, run, allow_changed_data) for (variant, seed), run in config.runs().items()]


def compare(
    config: CompareConfig,
    jobs: int = 1,
    ray: str | None = None,
    processes: int = 1,
    allow_changed_data: bool = False,
) -> list[dict[str, Any]]:
    """Train what is not finished, and write the table; everything that was given is checked before.

    Args:
        config: what to run.
        jobs: runs at once; with Ray, on each of its machines.
        ray: address of a Ray cluster that shares this file system ("local" starts one here), instead of processes here.
        processes: of each run, with a GPU each where there are any.
        allow_changed_data: keep and go on with runs though rows have changed since they were trained.

    Returns:
        The table's rows, as `table_rows` makes them.

    Raises:
        UserError: for anything wrong with what was given, or where runs failed; the others are finished by then.
        Interrupted: after SIGTERM or Ctrl-C.
    """
    from hyperadapt.runs.resume import check_place

    cells, directory = cells_of(config, allow_changed_data), Path(config.output_dir)
    with locked(directory):
        check_place(directory, config, ("config.yaml",))
        check_cells(cells, ray, processes)
        config.save(directory / "config.yaml")
        train_cells(cells, jobs, ray, processes, finished=lambda: write_table(cells, directory))
        return write_table(cells, directory)


def check_cells(cells: Sequence[Cell], ray: str | None = None, processes: int = 1) -> None:
    """Check all that runs would find out only once they have begun.

    Raises:
        UserError: if something of it is wrong.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "many runs are started by one process, which gives each its own: leave accelerate launch or torchrun out, "
            f"and give --processes {os.environ['WORLD_SIZE']}"
        )
    if ray is not None:
        check_ray(ray)
    for cell in cells:
        check_unchanged(cell)
        cell.config.training.rows_at_once(processes)
    check_given([cell.config for cell in cells])
    check_same_rows(cells)


def train_cells(
    cells: Sequence[Cell],
    jobs: int = 1,
    ray: str | None = None,
    processes: int = 1,
    finished: Callable[[], object] = lambda: None,
) -> None:
    """Train the runs that are not finished.

    Args:
        cells: the runs.
        jobs, ray, processes: as of `compare`.
        finished: called whenever a run has ended.

    Raises:
        UserError: if runs failed; the others are finished by then.
        Interrupted: after SIGTERM or Ctrl-C.
    """
    for cell in cells:
        if not cell.finished:
            prepare(cell)
    # Again: one that was waited for may be finished by now.
    unfinished = [cell for cell in cells if not cell.finished]
    failed = {}
    spread = (
        spread_over_processes(unfinished, jobs, processes)
        if ray is None
        else spread_over_ray(unfinished, jobs, ray, processes)
    )
    # Closed here: a signal that comes outside of it must not leave it to the garbage collector to stop the runs.
    with (
        closing(spread),
        tqdm(total=len(cells), initial=len(cells) - len(unfinished), unit=" runs", desc="comparing") as bar,
    ):
        for cell, code in spread:
            results = cell.results()
            if code or results is None:
                failed[cell] = last_words(cell, code)
                bar.write(printable(f"{cell.name}: failed: {failed[cell]}"))
            else:
                bar.write(f"{cell.name}: average {scores_of(results)['average']:.2f}")
            bar.update()
            finished()
    if failed:
        cell, why = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} of {len(cells)} runs failed; {cell.name} ({cell.beside('.log')}): {why}"
        )


def check_given(runs: Sequence[RunConfig]) -> None:
    """Check what runs would find out only once they have begun: tasks, data, tokenizers, Trainer's arguments."""
    from hyperadapt.runs.base_model import load_tokenizer
    from hyperadapt.tasks import check_trainable, resolve_tasks
    from hyperadapt.training.arguments import check_optimizer

    # Of all runs together, so that all that is missing is said at once.
    read: dict[str | None, list[Task]] = {}
    for tasks, data_dir in dict.fromkeys((run.data.tasks, run.data.data_dir) for run in runs):
        read.setdefault(data_dir, []).extend(resolve_tasks(tasks))
    for data_dir, of_all in read.items():
        if data_dir is not None and not Path(data_dir).is_dir():
            raise UserError(f"data.data_dir: there is no folder {data_dir}")
        check_trainable(of_all, data_dir)
    for optimizer in {run.training.arguments.optim for run in runs}:
        check_optimizer(optimizer)
    for model in {run.model.tokenizer or run.model.name: run.model for run in runs}.values():
        load_tokenizer(model)
    for run in {repr((run.model, run.method, run.data.tasks)): run for run in runs}.values():
        check_fits(run)


def check_fits(run: RunConfig) -> None:
    """Check that a run's method and tasks fit its base model, as far as its configuration tells, without weights.

    Raises:
        UserError: if they do not.
    """
    from hyperadapt.architectures import ARCHITECTURES
    from hyperadapt.backbones import backbone_of_type
    from hyperadapt.counting import count_without_weights, model_config
    from hyperadapt.runs.base_model import built_config
    from hyperadapt.tasks import resolve_tasks

    method, tasks = run.build_method(), resolve_tasks(run.data.tasks)
    if run.model.gguf is not None or getattr(method, "task_features", None) is not None:
        return  # which are read with the weights
    config = (
        model_config(run.model.name) if run.model.name is not None else built_config(run.model.config or {})
    )
    architecture = ARCHITECTURES[backbone_of_type(config.model_type).architecture]
    architecture.check_config(run)
    architecture.num_labels(tasks)
    count_without_weights(config, method, len(tasks))


def check_unchanged(cell: Cell) -> None:
    """Check that a run that is there, finished or not, is the one that the comparison asks for."""
    from hyperadapt.runs.resume import check_same_run, check_same_tasks
    from hyperadapt.tasks import resolve_tasks

    if (cell.directory / "config.yaml").exists():
        check_same_run(
            cell.directory,
            cell.config,
            may_change=("output_dir", "data.data_dir", "data.tasks", "training.threads"),
        )
        tasks = resolve_tasks(cell.config.data.tasks)
        check_same_tasks(cell.directory, tasks, f"cannot go on with {cell.directory}")


def check_same_rows(cells: Sequence[Cell]) -> None:
    """Check that runs that are there, finished or begun, were trained and scored with the rows as they are now.

    The others will be. So all runs of a table are of the same rows, which are read once where runs draw them alike.

    Raises:
        UserError: naming the run, the task, the split and how many rows there were and are, unless it is allowed.
    """
    from hyperadapt.runs import same_data
    from hyperadapt.runs.resume import holds_work
    from hyperadapt.runs.rows import load_rows, rows_drawn
    from hyperadapt.runs.train import EVALUATED
    from hyperadapt.tasks import resolve_tasks

    digests: dict[tuple[Any, ...], same_data.SplitDigest] = {}

    def digest(task: Task, split: str, config: RunConfig) -> same_data.SplitDigest:
        drawn = (task.model_dump_json(), config.data.data_dir, split, rows_drawn(config, split))
        if drawn not in digests:
            digests[drawn] = same_data.digest_of(load_rows(task, split, config))
        return digests[drawn]

    changed: dict[str, str] = {}
    unknown: list[str] = []
    for cell in cells:
        if not holds_work(cell.directory):
            continue
        if (kept := same_data.read(cell.directory)) is None:
            unknown.append(cell.name)
            continue
        now: same_data.Digests = {
            task.name: {
                split: digest(task, split, cell.config)
                for split in ("train", *EVALUATED)
                if split in task.splits
            }
            for task in resolve_tasks(cell.config.data.tasks)
        }
        if found := same_data.changes(kept, now):
            changed[cell.name] = found[0]
            if not cell.allow_changed_data:
                raise UserError(
                    f"{cell.name} ({cell.directory}): {found[0]}; --allow-changed-data keeps it all the same"
                )
    if unknown:
        notice(
            f"{len(unknown)} of {len(cells)} runs have no {same_data.FILE}, as those of earlier versions, the first is "
            f"{unknown[0]}: whether their rows are those of now cannot be checked"
        )
    if changed:
        name, what = next(iter(changed.items()))
        notice(
            f"{len(changed)} of {len(cells)} runs were trained with rows that have changed since, and are kept all the "
            f"same; the first is {name}: {what}"
        )


def prepare(cell: Cell) -> None:
    """Write a run's configuration, once nobody trains it: one whose comparison was killed may not have stopped yet."""
    with locked(cell.directory, wait=True):
        cell.config.save(cell.beside(".yaml"))


def spread_over_processes(
    cells: Sequence[Cell], jobs: int, processes: int
) -> Generator[tuple[Cell, int], None, None]:
    """Train runs, so many at once, each process with its share of the processor's cores and with one of the GPUs."""
    import torch

    threads, gpus = max((os.cpu_count() or 1) // (jobs * processes), 1), torch.cuda.device_count()
    free = list(range(jobs))
    live: set[subprocess.Popen[bytes]] = set()

    def train(cell: Cell) -> int:
        place = free.pop()
        own = ",".join(str((place * processes + number) % gpus) for number in range(processes) if gpus > 1)
        own_gpus = {"CUDA_VISIBLE_DEVICES": own} if own else {}
        with cell.beside(".log").open("wb") as log:
            # In a session of its own, as an interrupt from the keyboard would end it without a checkpoint.
            process = subprocess.Popen(
                cell.command(threads, processes),
                stdout=log,
                stderr=log,
                env={**os.environ, **own_gpus},
                start_new_session=True,
                preexec_fn=stopped_with(os.getpid()),
            )
            live.add(process)
            try:
                return process.wait()
            finally:
                live.remove(process)
                free.append(place)

    with ThreadPoolExecutor(jobs) as pool, terminating(live, pool):
        futures = {pool.submit(train, cell): cell for cell in cells}
        for future in as_completed(futures):
            yield futures[future], future.result()


def stopped_with(parent: int) -> Callable[[], None] | None:
    """Return what a new process is to do first, so that it stops, with a checkpoint, when its parent is killed.

    Linux alone can do that. Elsewhere the run goes on, and its lock keeps others from training it as well.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # here, as between fork and exec as little as possible is done

    def be_told() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has been killed in between
            os._exit(128 + signal.SIGTERM)

    return be_told


@contextmanager
def terminating(live: set[subprocess.Popen[bytes]], pool: ThreadPoolExecutor) -> Iterator[None]:
    """On SIGTERM or Ctrl-C, let the runs write their checkpoints and stop, and begin no others.

    A second one ends this process at once; the runs, which have been told, end by themselves.

    Raises:
        Interrupted: after the first.
    """
    told = False

    def stop(number: int, _: object) -> None:
        nonlocal told
        if told:
            end(number)
        told = True
        raise Interrupted("stopped; the same command goes on", number)

    with heard_by(stop):
        try:
            yield
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(live):
                process.terminate()
            pool.shutdown()
            raise


def check_ray(address: str) -> None:
    """Check that Ray is installed, and that a cluster of a host and port answers there: Ray itself asks for minutes."""
    import socket
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise UserError("--ray needs the package ray: pip install 'hyperadapt[ray]'")
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"--ray {address}: nothing answers there ({error})") from None


def spread_over_ray(
    cells: Sequence[Cell], jobs: int, address: str, processes: int
) -> Generator[tuple[Cell, int], None, None]:
    """Train runs as Ray's tasks, each with its share of a machine's cores and, where there are any, with its GPUs."""
    import ray

    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"--ray {address}: {' '.join(str(error).split())}") from None
    # The smallest machine's, so that a run fits on any.
    threads = max(
        int(min(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])) // jobs, 1
    )
    gpus = processes if ray.cluster_resources().get("GPU", 0) else 0

    @ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)
    def train(command: list[str], log: str, cwd: str) -> int:
        with open(log, "wb") as file:
            return subprocess.run(
                command, cwd=cwd, stdout=file, stderr=file, check=False, preexec_fn=stopped_with(os.getpid())
            ).returncode

    try:
        pending = {
            train.remote(
                cell.command(max(threads // processes, 1), processes),
                str(cell.beside(".log").resolve()),
                os.getcwd(),
            ): cell
            for cell in cells
        }
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            cell = pending.pop(done)
            try:
                yield cell, ray.get(done)
            except ray.exceptions.RayError as error:
                cell.beside(".log").write_text(f"error: {type(error).__name__}: {error}\n")
                yield cell, 1
    finally:
        ray.shutdown()


def last_words(cell: Cell, code: int) -> str:
    """Find what a run that failed printed last."""
    lines = cell.beside(".log").read_text(errors="replace").replace("\r", "\n").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    if code in STOPPED:
        return "it was stopped; the same command goes on"
    return f"exit code {code}; " + " / ".join(line.strip() for line in lines if line.strip())[-300:]


def scores_of(results: dict[str, Any]) -> dict[str, Any]:
    """Return a run's scores on its test rows, or, where its tasks have none, on its validation rows."""
    return results["test"] if "test" in results else results["validation"]


def table_rows(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """Summarise the finished runs, a row a variant, below a row of what the most frequent answers would score.

    Returns:
        variant, seeds, then for each task and, where all variants have the same tasks, the average (mean, deviation
        over the seeds or None), then the average on the "validation" rows, by which a choice between variants leaves
        the test rows unseen, "% trained" per task, "step (s)", the mean of the runs' medians, and "memory (MB)", the
        process's or the device's peak; where not all runs are of the same rows, also how many of the variant's are of
        "other rows" than the first.
    """
    by_variant: dict[str, list[dict[str, Any]]] = {}
    finished: list[Cell] = []
    for cell in cells:
        by_variant.setdefault(cell.variant, [])
        if (results := cell.results()) is not None:
            by_variant[cell.variant].append(results)
            finished.append(cell)
    of_other_rows = Counter(cell.variant for cell in with_other_rows(finished))
    majority: dict[str, Any] = {"variant": MAJORITY}
    rows = []
    for variant, runs in by_variant.items():
        if not runs:
            continue
        majority |= {"seeds": len(runs)} | score_columns([results["majority"] for results in runs])
        row = {"variant": variant, "seeds": len(runs), **score_columns(runs)}
        row["% trained"] = runs[0]["parameters"]["trained_per_task_percent"]
        steps = [results["step_seconds"] for results in runs if results["step_seconds"] is not None]
        row["step (s)"] = fmean(steps) if steps else None
        row["memory (MB)"] = max(results["peak_memory_mb"] for results in runs)
        if of_other_rows:
            row["other rows"] = of_other_rows[variant]
        rows.append(row)
    if not rows:
        return []
    rows.insert(0, majority)
    if len({frozenset(scores_of(run)["tasks"]) for runs in by_variant.values() for run in runs}) > 1:
        del majority["validation"]
        for row in rows:
            del row["average"]
    return rows


def with_other_rows(cells: Sequence[Cell]) -> list[Cell]:
    """Return the finished runs whose rows are not those of the first run that draws as many, or changed in training."""
    from hyperadapt.runs import same_data
    from hyperadapt.runs.rows import rows_drawn

    first: dict[tuple[Any, ...], same_data.SplitDigest] = {}
    found = []
    for cell in cells:
        digests = same_data.read(cell.directory) or {}
        other = bool(same_data.since_steps(digests))
        for task, splits in digests.items():
            for split, digest in splits.items():
                drawn = (task, split, rows_drawn(cell.config, split))
                other |= not same_data.is_same(first.setdefault(drawn, digest), digest)
        found += [cell] * other
    return found


def score_columns(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the means and deviations of what runs score.

    Of each task, of suites that are there beside others, the average, and that on the validation rows.
    """
    from hyperadapt.tasks import suite_averages

    scores = [scores_of(results) for results in runs]
    of_runs = [{task: result["score"] for task, result in score["tasks"].items()} for score in scores]
    columns = [{**of_tasks, **suite_averages(of_tasks)} for of_tasks in of_runs]
    return {
        **{name: spread_of([scores_of_run[name] for scores_of_run in columns]) for name in columns[0]},
        "average": spread_of([score["average"] for score in scores]),
        "validation": spread_of([results["validation"]["average"] for results in runs]),
    }


def spread_of(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample deviation; the latter None for one value."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def write_table(cells: Sequence[Cell], directory: Path) -> list[dict[str, Any]]:
    """Write the table of the finished runs as table.md, table.csv and table.svg."""
    rows = table_rows(cells)
    if rows:
        from hyperadapt.studies.figures import scores_by_variant

        write_atomically(directory / "table.md", markdown(rows).encode())
        write_atomically(directory / "table.csv", as_csv(rows).encode())
        write_atomically(directory / "table.svg", scores_by_variant(rows).encode())
    return rows


def columns_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the columns of a table, whose rows may be of different tasks."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    scores, costs = (
        ["average", "average by metric", "validation"],
        ["total", "% trained", "step (s)", "memory (MB)"],
    )
    last = [*scores, *costs, "other rows"]
    return [name for name in names if name not in last] + [name for name in last if name in names]


def readable(name: str, value: Any) -> str:
    """Say a value of a table's column."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        mean, deviation = value
        return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"
    if name in ("% trained", "step (s)"):
        return f"{value:.3g}" if value < 100 else f"{value:.1f}"
    return str(value)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Write a table's rows as markdown."""
    names = columns_of(rows)
    lines = [names, ["---"] * len(names)]
    lines += [[readable(name, row.get(name)) for name in names] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Write a table's rows as comma-separated values, means and deviations in columns of their own."""
    flat = []
    for row in rows:
        cells: dict[str, Any] = {}
        for name in columns_of(rows):
            value = row.get(name)
            if isinstance(value, tuple):
                cells[name], cells[f"{name} deviation"] = value
            else:
                cells[name] = value
        flat.append(cells)
    wide = [part for name in columns_of(rows) for part in (name, f"{name} deviation")]
    names = [name for name in wide if any(name in cells for cells in flat)]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()
