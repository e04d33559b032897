"""The sections of the benchmarks, in the order of the page."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from hyperadapt.backbones import published_config
from hyperadapt.bench.measure import Measured, Spec, peak_alone, side_by_side
from hyperadapt.bench.section import Found, Goal, Setting

FULL, FLOOR, BARE = "full fine-tuning", "the floor", "the bare model"
LORA: dict[str, Any] = {"kind": "lora", "r": 8, "target_modules": ["q", "v"]}
# Each method with the goals of its step: at most so many times the floor, and full fine-tuning, with a batch of one
# task and of eight; None where nothing is asked.
STEP_GOALS: dict[str, tuple[tuple[float | None, float], tuple[float | None, float]]] = {
    "hyperformer++": ((1.06, 0.64), (1.10, 0.66)),
    "hyperformer": ((None, 0.68), (None, 0.68)),
    "adapters_dagger": ((None, 0.62), (None, 0.62)),
    "hyperdecoder": ((None, 0.64), (None, 0.64)),
}
FIELDS = (
    "vocab_size",
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_decoder_layers",
    "num_heads",
    "feed_forward_proj",
    "decoder_start_token_id",
)
TINY = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}


def t5(shape: str, setting: Setting) -> dict[str, Any]:
    """Return the fields of a published T5's configuration, without dropout."""
    config = published_config(shape)
    fields = {name: getattr(config, name) for name in FIELDS} | {"dropout_rate": 0.0}
    return fields | {"vocab_size": 100, **TINY} if setting.smoke else fields


def options_of(method: str) -> dict[str, Any]:
    """Return a method's options, adapters a thirty-second of the model's width."""
    return {"name": method} if method == "hyperdecoder" else {"name": method, "reduction_factor": 32}


def rows_of(setting: Setting, n_tasks: int) -> list[list[tuple[int, int]]]:
    """Make the one batch of a step, its rows of so many tasks in turns."""
    rows, tokens, _ = setting.batch
    return [[(tokens, row % n_tasks) for row in range(rows)]]


def spec(setting: Setting, library: Any, options: dict[str, Any], n_tasks: int = 8, **fields: Any) -> Spec:
    """Specify a contender that trains on the setting's batch."""
    given: dict[str, Any] = {
        "model": t5(setting.shape, setting),
        "batches": rows_of(setting, n_tasks),
        "targets": setting.batch[2],
        "bf16": setting.on_device,
        "threads": setting.threads,
    }
    return Spec(library=library, options=options, **{**given, **fields})


def cells_of(name: str, measured: Measured, references: Sequence[str]) -> dict[str, Any]:
    """Lay out what was measured of a contender."""
    cells: dict[str, Any] = {"": name, "seconds": f"{median(measured.seconds):.3f}"}
    cells |= {f"of {reference}": str(measured.ratio(reference)) for reference in references}
    trained = {"trained (M)": f"{measured.trained / 1e6:.2f}"} if measured.trained else {}
    return cells | {"memory (MB)": f"{measured.peak:.0f}"} | trained | {"operators": str(measured.launches)}


def sizes(setting: Setting) -> str:
    """Name the model and the batch."""
    rows, tokens, targets = setting.batch
    shape = "a tiny T5" if setting.smoke else setting.shape
    return f"{shape}, {rows} rows of {tokens} source and {targets} target tokens"


def step(setting: Setting) -> Found:
    """Measure a training step of each method and of its peers."""
    lora, ia3 = "PEFT LoRA, r = 8, q and v", "PEFT IA3"
    of_tasks = {1: "1 task", 8: "8 tasks"}
    contenders: dict[str, Spec] = {}
    for n_tasks, tasks in of_tasks.items():
        contenders[f"hyperformer++, {tasks}"] = spec(
            setting, "hyperadapt", options_of("hyperformer++"), n_tasks
        )
    contenders[lora] = spec(setting, "peft", LORA)
    contenders[ia3] = spec(setting, "peft", {"kind": "ia3"})
    for method in STEP_GOALS:
        for n_tasks, tasks in of_tasks.items():
            contenders.setdefault(
                f"{method}, {tasks}", spec(setting, "hyperadapt", options_of(method), n_tasks)
            )
    if setting.adapters_python is not None:
        for name, config in (("Houlsby", "double_seq_bn[reduction_factor=32]"), ("Compacter", "compacter")):
            options = {"config": config}
            contenders[f"adapters {name}"] = spec(
                setting, "adapters", options, python=setting.adapters_python
            )
    if setting.on_device:
        contenders |= {
            f"{name}, compiled": replace(of, compile=True)
            for name, of in contenders.items()
            if of.library == "hyperadapt"
        }
    references = {
        FULL: spec(setting, "transformers", {"train": "all"}),
        FLOOR: spec(setting, "transformers", {"train": "layer_norms"}),
    }
    found = side_by_side(references, contenders, setting.rounds)
    goals = []
    for method, by_tasks in STEP_GOALS.items():
        for tasks, (of_floor, of_full) in zip(of_tasks.values(), by_tasks, strict=True):
            name = f"{method}, {tasks}"
            if of_floor is not None:
                goals.append(Goal(f"{name}: of {FLOOR}", found[name].ratio(FLOOR).median, of_floor))
            goals.append(Goal(f"{name}: of {FULL}", found[name].ratio(FULL).median, of_full))
    to_lora = (
        found["hyperformer++, 1 task"].ratio(FLOOR).median,
        found[lora].ratio(FLOOR).median,
    )
    goals.append(Goal(f"hyperformer++, 1 task: of {lora}", to_lora[0] / to_lora[1], 1.0))
    how = (
        f"A training step: {sizes(setting)}; reduction factor 32, the hyperdecoder's bottleneck 64. With 8 tasks all "
        "are in every batch."
    )
    return Found(how, [cells_of(name, of, [FLOOR, FULL]) for name, of in found.items()], goals)


def many_tasks(setting: Setting) -> Found:
    """Measure a step of a model for 1,000 tasks beside one for 8."""
    few, many, rows = 8, 1000, setting.batch[0]
    batch = [[(setting.batch[1], number * many // rows) for number in range(rows)]]
    references = {f"{few} tasks": spec(setting, "hyperadapt", options_of("hyperformer++"))}
    others = {
        f"{many} tasks": spec(setting, "hyperadapt", options_of("hyperformer++"), tasks=many, batches=batch)
    }
    found = side_by_side(references, others, setting.rounds)
    [reference] = references
    ratio = found[f"{many} tasks"].ratio(reference).median
    how = (
        f"HyperFormer++ for {few} tasks and for {many:,}: {sizes(setting)}; of the latter every row has a task of its "
        "own."
    )
    rows_found = [cells_of(name, of, [reference]) for name, of in found.items()]
    return Found(how, rows_found, [Goal(f"{many:,} tasks: of {reference}", ratio, 1.05)])


def shapes(setting: Setting) -> Found:
    """Measure the overhead over the floor by depth and width."""
    rows, goals = [], []
    for shape in ("t5-small", "t5-base", "t5-large"):
        model = t5(shape, setting)
        references = {FLOOR: spec(setting, "transformers", {"train": "layer_norms"}, model=model)}
        others = {
            "hyperformer++, 8 tasks": spec(setting, "hyperadapt", options_of("hyperformer++"), model=model)
        }
        # A step of the large model takes ten of the small one's.
        found = side_by_side(references, others, max(setting.rounds // 2, 1))
        rows += [cells_of(f"{shape}: {name}", of, [FLOOR]) for name, of in found.items()]
        ratio = found["hyperformer++, 8 tasks"].ratio(FLOOR).median
        goals.append(Goal(f"{shape}: of {FLOOR}", ratio, 1.10))
    number, tokens, targets = setting.batch
    how = (
        f"A training step of HyperFormer++, {number} rows of {tokens} source and {targets} target tokens, by the "
        "model's shape."
    )
    return Found(how, rows, goals)


def memory(setting: Setting) -> Found:
    """Measure the peak of memory in training, each contender alone on the machine."""
    model = t5("t5-base", setting)
    contenders = {
        FULL: spec(setting, "transformers", {"train": "all"}, model=model),
        FLOOR: spec(setting, "transformers", {"train": "layer_norms"}, model=model),
        **{
            f"{method}, 8 tasks": spec(setting, "hyperadapt", options_of(method), model=model)
            for method in STEP_GOALS
        },
        "PEFT LoRA, r = 8, q and v": spec(setting, "peft", LORA, model=model),
    }
    peaks = {name: peak_alone(name, of) for name, of in contenders.items()}
    bound = 0.5 if setting.on_device else 0.55
    rows = [
        {"": name, "memory (MB)": f"{peak:.0f}", f"of {FULL}": f"{peak / peaks[FULL]:.3f}"}
        for name, peak in peaks.items()
    ]
    goals = [
        Goal(f"{name}: of {FULL}", peak / peaks[FULL], bound)
        for name, peak in peaks.items()
        if name.endswith("8 tasks")
    ]
    number, tokens, targets = setting.batch
    how = (
        f"The highest memory of two training steps: t5-base, {number} rows of {tokens} source and {targets} target "
        "tokens, gradient checkpointing off; the device's allocator, or on a CPU the process, its libraries included."
    )
    return Found(how, rows, goals)


def generation(setting: Setting) -> Found:
    """Measure greedy generation for a batch of mixed tasks."""
    work: Mapping[str, Any] = {"work": "generate", "targets": 3 if setting.smoke else 32}
    references = {BARE: spec(setting, "transformers", {"train": "all"}, **work)}
    bounds = {method: 1.15 if method == "hyperdecoder" else 1.10 for method in STEP_GOALS}
    others = {
        f"{method}, 8 tasks": spec(setting, "hyperadapt", options_of(method), **work) for method in bounds
    }
    others["hyperformer++, 1 task"] = spec(setting, "hyperadapt", options_of("hyperformer++"), 1, **work)
    found = side_by_side(references, others, setting.rounds)
    goals = [
        Goal(f"{name}: of {BARE}", found[name].ratio(BARE).median, bounds[name.partition(",")[0]])
        for name in others
    ]
    rows = [cells_of(name, of, [BARE]) for name, of in found.items()]
    for cells in rows:
        cells.pop("trained (M)", None)
    number, tokens, _ = setting.batch
    how = (
        f"Greedy generation of {work['targets']} tokens: {setting.shape}, {number} rows of {tokens} source tokens. "
        "Adapters are generated once a generation, so that one task costs what learnt adapters of its own would."
    )
    return Found(how, rows, goals)


def start_up(setting: Setting) -> Found:
    """Measure imports, the command line and `adapt`."""
    command = [sys.executable, "-c"]
    shape = "t5-small" if setting.smoke else "t5-base"
    adapting = (
        "import time, torch, transformers, hyperadapt as ha; from hyperadapt.backbones import published_config; "
        "from hyperadapt import model; "
        f"base = transformers.T5ForConditionalGeneration(published_config('{shape}')); "
        "start = time.perf_counter(); ha.adapt(base, ha.HyperFormerPlusPlus(), list('abcdefgh')); "
        "print(time.perf_counter() - start)"
    )
    timed = {
        "python -c pass": lambda: seconds_of([*command, "pass"]),
        "import hyperadapt": lambda: seconds_of([*command, "import hyperadapt"]),
        "hyperadapt --help": lambda: seconds_of([sys.executable, "-m", "hyperadapt.cli", "--help"]),
        "ha.adapt of T5-base": lambda: float(
            subprocess.run([*command, adapting], check=True, capture_output=True, text=True).stdout
        ),
    }
    taken: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(setting.rounds):
        for name, measure in timed.items():
            taken[name].append(measure())
    of = {name: median(times) for name, times in taken.items()}
    goals = [
        Goal(
            "import hyperadapt: seconds above an empty program",
            of["import hyperadapt"] - of["python -c pass"],
            0.3,
        ),
        Goal("hyperadapt --help: seconds", of["hyperadapt --help"], 0.5),
        Goal("ha.adapt of T5-base: seconds", of["ha.adapt of T5-base"], 1.0),
    ]
    rows = [{"": name, "seconds": f"{seconds:.3f}"} for name, seconds in of.items()]
    return Found(
        "Processes of their own, the median of the rounds; `adapt` without what it imports.", rows, goals
    )


def seconds_of(command: list[str]) -> float:
    """Time a program."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start
