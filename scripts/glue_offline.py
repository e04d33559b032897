"""All five methods on real GLUE data with configs/glue-offline.yaml, and the table of docs/results.md.

Every method gets the same budget and the same search: each learning rate with the first seed, then the other seeds with
the one that has the best average validation score. Finished runs are kept, so that it can be stopped and started.

    python scripts/glue_offline.py [--jobs 2] [--output-dir runs/glue-offline]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

METHODS = {
    "full_fine_tuning": "{name: full_fine_tuning}",
    "adapters": "{name: adapters, reduction_factor: 4}",
    "adapters_dagger": "{name: adapters_dagger, reduction_factor: 4}",
    "hyperformer": "{name: hyperformer, reduction_factor: 4}",
    "hyperformer++": "{name: hyperformer++, reduction_factor: 4}",
}
LEARNING_RATES = ("3e-4", "1e-3", "3e-3")
SEEDS = (1, 2, 3)
CONFIG = "configs/glue-offline.yaml"


def run(directory: Path, method: str, rate: str, seed: int) -> dict:
    """Train one cell, unless it is done, and return its results."""
    cell = directory / f"{method}-{rate}-{seed}"
    results = cell / "results.json"
    if not results.is_file():
        resume = ["--resume"] if list(cell.glob("checkpoints/checkpoint-*/trainer_state.json")) else []
        if not resume:
            subprocess.run(["rm", "-rf", str(cell)], check=True)
        overrides = [
            f"output_dir={cell}",
            f"method={METHODS[method]}",
            f"training.learning_rate={rate}",
            f"seed={seed}",
        ]
        cell.parent.mkdir(parents=True, exist_ok=True)
        with cell.with_suffix(cell.suffix + ".log").open("w") as log:
            command = [sys.executable, "-m", "hyperadapt.cli", "train", CONFIG, *overrides, *resume]
            # One thread each: two runs side by side use two cores better than one run alone.
            subprocess.run(
                command, stdout=log, stderr=log, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        print("done", cell.name, flush=True)
    return json.loads(results.read_text())


def majority() -> dict[str, float]:
    """Score the most frequent training target of each task on its test rows."""
    from hyperadapt.config import RunConfig
    from hyperadapt.metrics import score_task
    from hyperadapt.tasks import load_split, resolve_tasks

    data = RunConfig.load(CONFIG).data
    scores = {}
    for task in resolve_tasks(data.tasks):
        most = Counter(load_split(task, "train", data.data_dir)["target"]).most_common(1)[0][0]
        targets = list(load_split(task, "test", data.data_dir)["target"])
        scores[task.name] = score_task(task, [most] * len(targets), targets).score
    return scores


def row(name: str, rate: str, trained: str, cells: list[dict[str, float]]) -> str:
    """Write a line of the table: every task's mean over seeds, and the average with its deviation."""
    tasks = list(cells[0])
    means = [f"{statistics.mean(cell[task] for cell in cells):.1f}" for task in tasks]
    averages = [statistics.mean(cell.values()) for cell in cells]
    deviation = f" ± {statistics.stdev(averages):.1f}" if len(averages) > 1 else ""
    return (
        f"| {name} | {trained} | {rate} | {' | '.join(means)} | {statistics.mean(averages):.1f}{deviation} |"
    )


def main() -> None:
    """Run all cells and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/glue-offline"))
    args = parser.parse_args()
    with ThreadPoolExecutor(args.jobs) as pool:
        searched = {
            (method, rate): pool.submit(run, args.output_dir, method, rate, SEEDS[0])
            for method in METHODS
            for rate in LEARNING_RATES
        }
        validation = {key: future.result()["validation"]["average"] for key, future in searched.items()}
        best = {method: max(LEARNING_RATES, key=lambda rate: validation[method, rate]) for method in METHODS}
        finals = {
            method: [pool.submit(run, args.output_dir, method, best[method], seed) for seed in SEEDS]
            for method in METHODS
        }
        results = {method: [future.result() for future in futures] for method, futures in finals.items()}

    print("Average validation score of the first seed at each learning rate\n")
    print(f"| method | {' | '.join(LEARNING_RATES)} |\n|---|{'---|' * len(LEARNING_RATES)}")
    for method in METHODS:
        print(f"| {method} | {' | '.join(f'{validation[method, rate]:.1f}' for rate in LEARNING_RATES)} |")
    baseline = majority()
    print(f"\nTest scores, mean of {len(SEEDS)} seeds\n")
    print(
        f"| method | trained | lr | {' | '.join(baseline)} | average |\n|---|---|---|{'---|' * (len(baseline) + 1)}"
    )
    print(row("majority", "", "", [baseline]))
    for method, cells in results.items():
        scores = [{task: of["score"] for task, of in cell["test"]["tasks"].items()} for cell in cells]
        print(row(method, best[method], f"{cells[0]['parameters']['trained']:,}", scores))


if __name__ == "__main__":
    main()
