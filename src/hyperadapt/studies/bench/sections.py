"""The sections of the benchmarks, in the order of the page."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import median
from typing import Any, NamedTuple

from hyperadapt.backbones import published_config
from hyperadapt.errors import UserError
from hyperadapt.studies.bench.measure import Measured, Spec, last_line, peak_alone, side_by_side, times_of
from hyperadapt.studies.bench.section import Comparable, Found, Goal, Setting

FULL, FLOOR, BARE = "full fine-tuning", "the floor", "the bare model"
OUR_FLOOR, OUR_BARE = f"{FLOOR}, as hyperadapt runs it", f"{BARE}, as hyperadapt runs it"
LORA: dict[str, Any] = {"kind": "lora", "r": 8, "target_modules": ["q", "v"]}
LORA_R8, IA3 = "PEFT LoRA, r = 8, q and v", "PEFT IA3"
PEERS: dict[str, dict[str, Any]] = {
    LORA_R8: LORA,
    "PEFT LoRA, r = 64, q and v": {**LORA, "r": 64},  # about as many trained parameters as HyperFormer++
    IA3: {"kind": "ia3"},
}
EQUAL_FACTOR = 5
ADAPTERS = {
    "Houlsby": "double_seq_bn[reduction_factor=32]",
    f"Houlsby, r = {EQUAL_FACTOR}": f"double_seq_bn[reduction_factor={EQUAL_FACTOR}]",
    "Compacter": "compacter",
}
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
# method -> tasks in the batch -> what is asked of a step: at most so many times the floor (None: nothing), and full
# fine-tuning.
STEP_GOALS: dict[str, dict[int, tuple[float | None, float]]] = {
    "hyperformer++": {1: (1.06, 0.64), 8: (1.10, 0.66)},
    "hyperformer": {8: (None, 0.68)},
    "adapters_dagger": {8: (None, 0.62)},
    "hyperdecoder": {8: (None, 0.64)},
}
DEVICE_STEP_GOAL = (None, 0.75)
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
TINY = {"d_model": 128, "d_kv": 32, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}


class Contest(NamedTuple):
    """Contenders, and what is asked of them.

    Attributes:
        references: run beside all others.
        others: by name.
        goals: set beside what was measured, or counted, of each.
    """

    references: Mapping[str, Spec]
    others: Mapping[str, Spec]
    goals: Callable[[Mapping[str, Comparable]], list[Goal]]


def t5(shape: str, setting: Setting) -> dict[str, Any]:
    """Return the fields of a published T5's configuration."""
    config = published_config(shape)
    fields = {name: getattr(config, name) for name in FIELDS} | {"dropout_rate": setting.dropout}
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
    defaults: dict[str, Any] = {
        "model": t5(setting.shape, setting),
        "batches": rows_of(setting, n_tasks),
        "targets": setting.batch[2],
        "dtype": "bfloat16" if setting.on_device else "float32",
        "autocast": setting.on_device,
        "threads": setting.threads,
    }
    return Spec(library=library, options=options, **{**defaults, **fields})


def cells_of(name: str, measured: Measured, references: Sequence[str]) -> dict[str, Any]:
    """Lay out what was measured of a contender."""
    cells: dict[str, Any] = {"": name, "seconds": f"{median(measured.seconds):.3f}"}
    cells |= {f"of {reference}": str(measured.ratio(reference)) for reference in references}
    trained = {"trained (M)": f"{measured.trained / 1e6:.2f}"} if measured.trained else {}
    called = {"operators": str(measured.operators)} if measured.operators else {}
    return cells | {"memory (MB)": f"{measured.peak:.0f}"} | trained | called


def named(shape: str, setting: Setting) -> str:
    """Name a model's shape."""
    return "a tiny T5" if setting.smoke else shape


def sizes(setting: Setting, shape: str | None = None) -> str:
    """Name the model and the batch."""
    rows, tokens, targets = setting.batch
    shape = named(shape or setting.shape, setting)
    return f"{shape}, {rows} rows of {tokens} source and {targets} target tokens"


def in_words(n_tasks: int) -> str:
    """Say how many tasks a batch has."""
    return f"{n_tasks} task" + "s" * (n_tasks > 1)


def adapted(setting: Setting, **fields: Any) -> dict[str, Spec]:
    """Specify our contenders, each with as many tasks in the batch as something is asked of it."""
    return {
        f"{method}, {in_words(n_tasks)}": spec(setting, "hyperadapt", options_of(method), n_tasks, **fields)
        for method, by_tasks in STEP_GOALS.items()
        for n_tasks in by_tasks
    }


def our_floor(setting: Setting, name: str = OUR_FLOOR, **fields: Any) -> dict[str, Spec]:
    """Specify the floor with what hyperadapt does for any base model: what a method costs beyond it is its own."""
    return {name: spec(setting, "transformers", {"train": "layer_norms", "as_hyperadapt": True}, **fields)}


def quantised(setting: Setting, **fields: Any) -> dict[str, Spec]:
    """Specify HyperFormer++ on a base model in four bits, which its frozen weights allow."""
    products = {"bnb_4bit_compute_dtype": "bfloat16"} if setting.on_device else {}
    low = spec(setting, "hyperadapt", options_of("hyperformer++"), quantization=NF4 | products, **fields)
    return {"hyperformer++, 8 tasks, base in 4 bits": low}


def frozen_or_not(setting: Setting, **fields: Any) -> dict[str, Spec]:
    """Specify what a step is measured beside."""
    full = spec(setting, "transformers", {"train": "all"}, **fields)
    low = {f"{FULL}, weights in bfloat16": full} if setting.on_device else {}
    return {
        FULL: replace(full, dtype="float32"),  # as it is trained, so that a step does not round away
        **low,
        FLOOR: spec(setting, "transformers", {"train": "layer_norms"}, **fields),
    }


def step_goals(setting: Setting, found: Mapping[str, Comparable]) -> list[Goal]:
    """Set what is asked of a step beside what was measured."""
    goals = []
    for method, by_tasks in STEP_GOALS.items():
        for n_tasks, bounds in by_tasks.items():
            name = f"{method}, {in_words(n_tasks)}"
            for reference, bound in zip(
                (FLOOR, FULL), DEVICE_STEP_GOAL if setting.on_device else bounds, strict=True
            ):
                if bound is not None:
                    goals.append(found[name].ratio(reference).goal(f"{name}: of {reference}", bound))
    return goals


def step_contest(setting: Setting) -> Contest:
    """Set each method's training step beside full fine-tuning's, the floor's and PEFT's."""
    ours = adapted(setting)
    peers = {name: spec(setting, "peft", options) for name, options in PEERS.items()}
    one_task, mixed = "hyperformer++, 1 task", "hyperformer++, 8 tasks"
    # HyperFormer++ and the peers are in one group, so that they have run in the same rounds.
    contenders = {one_task: ours[one_task], mixed: ours[mixed], **peers, **ours, **quantised(setting)}

    def goals(found: Mapping[str, Comparable]) -> list[Goal]:
        beside_peers = [
            found[name].ratio(peer).goal(f"{name}: of {peer}", 1.0)
            for name in (one_task, mixed)
            for peer in PEERS
        ]
        return [*step_goals(setting, found), *beside_peers]

    return Contest({**frozen_or_not(setting), **our_floor(setting)}, contenders, goals)


def lora_contest(setting: Setting) -> Contest:
    """Set generated LoRA, tasks mixed, beside one task's LoRA of PEFT."""
    options = {"r": LORA["r"], "target_modules": LORA["target_modules"]}
    ours = {
        f"{name}, 8 tasks": spec(setting, "hyperadapt", {"name": name, **options})
        for name in ("hyperlora", "lora")
    }

    def goals(found: Mapping[str, Comparable]) -> list[Goal]:
        return [found[name].ratio(LORA_R8).goal(f"{name}: of {LORA_R8}", 1.05) for name in ours]

    return Contest({LORA_R8: spec(setting, "peft", LORA, 1)}, ours, goals)


def lora_step(setting: Setting) -> Found:
    """Measure a training step of LoRA: generated, of a table, and PEFT's of one task."""
    contest = lora_contest(setting)
    found = side_by_side(contest.references, contest.others, setting)
    how = f"A training step of LoRA, r = 8 on q and v, {sizes(setting)}; all 8 tasks are in every batch, PEFT has one."
    rows = [cells_of(name, result, [LORA_R8]) for name, result in found.items()]
    return Found(how, rows, contest.goals(found), times_of(found))


def step(setting: Setting) -> Found:
    """Measure a training step of each method, and of PEFT's."""
    contest = step_contest(setting)
    found = side_by_side(contest.references, contest.others, setting)
    how = (
        f"A training step: {sizes(setting)}; reduction factor 32, the hyperdecoder's bottleneck 64. With 8 tasks all "
        "are in every batch. As hyperadapt runs it, as its methods do and no other: the trained norms in few passes, "
        "the output layer's product by oneDNN on a CPU, and no cache, which Trainer turns off and T5 keeps elsewhere."
    )
    rows = [cells_of(name, result, [FLOOR, OUR_FLOOR, FULL]) for name, result in found.items()]
    return Found(how, rows, contest.goals(found), times_of(found))


def captured(setting: Setting) -> Found:
    """Measure a training step whose forward and backward are a CUDA graph, full fine-tuning's and LoRA's too."""
    once: dict[str, Any] = {"captured": True}
    references = {**frozen_or_not(setting, **once), **our_floor(setting, **once)}
    contenders = {**adapted(setting, **once), LORA_R8: spec(setting, "peft", LORA, **once)}
    found = side_by_side(references, contenders, setting)
    how = (
        f"The same, forward and backward repeated as `training.cuda_graphs` does: {sizes(setting)}. The optimizer is "
        "no part of the graph."
    )
    rows = [cells_of(name, result, [FLOOR, OUR_FLOOR, FULL]) for name, result in found.items()]
    goals = step_goals(setting, found)
    goals.append(
        found["hyperformer++, 8 tasks"].ratio(LORA_R8).goal(f"hyperformer++, 8 tasks: of {LORA_R8}", 1.0)
    )
    return Found(how, rows, goals, times_of(found))


def compiled(setting: Setting) -> Found:
    """Measure a training step of compiled models, none with a graph break."""
    found = side_by_side(frozen_or_not(setting, compile=True), adapted(setting, compile=True), setting)
    how = f"The same under torch.compile, full fine-tuning and the floor too: {sizes(setting)}."
    rows = [cells_of(name, result, [FLOOR, FULL]) for name, result in found.items()]
    goals = step_goals(setting, found) if setting.on_device else []  # of a CPU nothing is asked
    return Found(how, rows, goals, times_of(found))


THEIR_FLOOR = f"{FLOOR} in its environment"


def adapters_contest(setting: Setting) -> Contest:
    """Set HyperFormer++ beside the adapters library, which runs in an environment of its own."""
    assert setting.adapters_python is not None
    theirs: dict[str, Any] = {"python": setting.adapters_python}
    first = "hyperformer++, 1 task"
    references = {
        FLOOR: spec(setting, "transformers", {"train": "layer_norms"}),
        THEIR_FLOOR: spec(setting, "transformers", {"train": "layer_norms"}, **theirs),
        first: spec(setting, "hyperadapt", options_of("hyperformer++"), 1),
    }
    others = {
        f"adapters {name}": spec(setting, "adapters", {"config": config}, **theirs)
        for name, config in ADAPTERS.items()
    }
    return Contest(
        references,
        others,
        lambda found: [found[first].ratio(peer).goal(f"{first}: of {peer}", 1.0) for peer in others],
    )


def beside_adapters(setting: Setting) -> Found:
    """Measure a training step of the adapters library beside HyperFormer++."""
    contest = adapters_contest(setting)
    found = side_by_side(contest.references, contest.others, setting)
    how = (
        f"{sizes(setting)}; the adapters library runs with the older transformers that it needs. With a reduction "
        f"factor of {EQUAL_FACTOR} its Houlsby adapters are about as many parameters as HyperFormer++ trains."
    )
    rows = [cells_of(name, result, [FLOOR, THEIR_FLOOR]) for name, result in found.items()]
    return Found(how, rows, contest.goals(found), times_of(found))


FEW, MANY = 8, 1000


def tasks_contest(setting: Setting) -> Contest:
    """Set a step of a model for 1,000 tasks beside one for 8."""
    rows, options = setting.batch[0], options_of("hyperformer++")
    batch = [[(setting.batch[1], number * MANY // rows) for number in range(rows)]]
    few, many = f"{FEW} tasks", f"{MANY} tasks"
    return Contest(
        {few: spec(setting, "hyperadapt", options)},
        {many: spec(setting, "hyperadapt", options, tasks=MANY, batches=batch)},
        lambda found: [found[many].ratio(few).goal(f"{MANY:,} tasks: of {few}", 1.05)],
    )


def many_tasks(setting: Setting) -> Found:
    """Measure a step of a model for 1,000 tasks beside one for 8."""
    contest = tasks_contest(setting)
    found = side_by_side(contest.references, contest.others, setting)
    how = (
        f"HyperFormer++ for {FEW} tasks and for {MANY:,}: {sizes(setting)}; of the latter every row has a task of its "
        "own."
    )
    rows = [cells_of(name, result, list(contest.references)) for name, result in found.items()]
    return Found(how, rows, contest.goals(found), times_of(found))


SHAPES = ("t5-small", "t5-base", "t5-large")


def shape_contest(setting: Setting, shape: str) -> Contest:
    """Set HyperFormer++ beside the floor on a model of another shape."""
    model, ours = t5(shape, setting), "hyperformer++, 8 tasks"
    return Contest(
        {FLOOR: spec(setting, "transformers", {"train": "layer_norms"}, model=model)},
        {ours: spec(setting, "hyperadapt", options_of("hyperformer++"), model=model)},
        lambda found: [found[ours].ratio(FLOOR).goal(f"{shape}: of {FLOOR}", 1.10)],
    )


def shapes(setting: Setting) -> Found:
    """Measure the overhead over the floor by depth and width."""
    # A step of the large model takes ten of the small one's.
    rows, goals, fewer = [], [], replace(setting, rounds=max(setting.rounds // 3, 1))
    seconds: dict[str, dict[str, list[float]]] = {}
    for shape in SHAPES:
        contest = shape_contest(setting, shape)
        found = side_by_side(contest.references, contest.others, fewer)
        rows += [
            cells_of(f"{named(shape, setting)}: {name}", result, [FLOOR]) for name, result in found.items()
        ]
        goals += contest.goals(found)
        seconds |= {f"{shape}: {name}": result for name, result in times_of(found).items()}
    number, tokens, targets = setting.batch
    how = (
        f"A training step of HyperFormer++, {number} rows of {tokens} source and {targets} target tokens, by the "
        "model's shape."
    )
    return Found(how, rows, goals, seconds)


def memory(setting: Setting) -> Found:
    """Measure the peak of memory in training."""
    model = t5("t5-base", setting)
    contenders = {
        **frozen_or_not(setting, model=model),
        **adapted(setting, model=model),
        **quantised(setting, model=model),
        **{name: spec(setting, "peft", options, model=model) for name, options in PEERS.items()},
    }
    if setting.adapters_python is not None:
        theirs: dict[str, Any] = {"python": setting.adapters_python, "model": model}
        contenders |= {
            f"adapters {name}": spec(setting, "adapters", {"config": config}, **theirs)
            for name, config in ADAPTERS.items()
        }
    # A device's allocator is a process's own; on a CPU each has the machine to itself.
    with ThreadPoolExecutor(setting.at_once if setting.on_device else 1) as pool:
        peaks = dict(zip(contenders, pool.map(peak_alone, contenders, contenders.values()), strict=True))
    bound = 0.5 if setting.on_device else 0.55
    rows = [
        {"": name, "memory (MB)": f"{peak:.0f}", f"of {FULL}": f"{peak / peaks[FULL]:.3f}"}
        for name, peak in peaks.items()
    ]
    goals = [Goal(f"{name}: of {FULL}", peaks[name] / peaks[FULL], bound) for name in adapted(setting)]
    how = (
        f"The highest memory of two training steps: {sizes(setting, 't5-base')}, gradient checkpointing off; the "
        "device's allocator, or on a CPU the process, its libraries included. Of a base in 4 bits transformers leaves "
        "the embeddings and the feed-forward's second matrices as they are."
    )
    return Found(how, rows, goals)


def tokens_generated(setting: Setting) -> int:
    """Return how many tokens a generation has."""
    return 3 if setting.smoke else 32


def generation_contest(setting: Setting) -> Contest:
    """Set a generation for mixed tasks, and for one task with adapters of its own, beside the bare model's."""
    work: Mapping[str, Any] = {
        "work": "generate",
        "targets": tokens_generated(setting),
        "compile": setting.on_device,
    }
    references = {
        BARE: spec(setting, "transformers", {"train": "layer_norms"}, **work),
        **our_floor(setting, OUR_BARE, **work),
    }
    mixed, alone = "hyperformer++, 8 tasks", "one task's adapters in a table"
    others = {
        f"{method}, 8 tasks": spec(setting, "hyperadapt", options_of(method), **work) for method in STEP_GOALS
    }
    # What materialising a task leaves: a table of one row in place of the hypernetwork.
    others[alone] = spec(setting, "hyperadapt", options_of("adapters_dagger"), 1, tasks=1, **work)

    def goals(found: Mapping[str, Comparable]) -> list[Goal]:
        bounds = {name: 1.15 if name.startswith("hyperdecoder") else 1.10 for name in others}
        of_bare = [
            found[name].ratio(BARE).goal(f"{name}: of {BARE}", bound) for name, bound in bounds.items()
        ]
        return [*of_bare, found[alone].ratio(mixed).goal(f"{alone}: of {mixed}", 1.0)]

    return Contest(references, others, goals)


def generation(setting: Setting) -> Found:
    """Measure greedy generation for a batch of mixed tasks, and for one task with adapters of its own."""
    contest = generation_contest(setting)
    found = side_by_side(contest.references, contest.others, setting)
    rows = [cells_of(name, result, [BARE, OUR_BARE]) for name, result in found.items()]
    for cells in rows:
        cells.pop("trained (M)", None)
    number, tokens, _ = setting.batch
    how = (
        f"Greedy generation of {tokens_generated(setting)} tokens: {named(setting.shape, setting)}, {number} rows "
        f"of {tokens} source tokens{', a static cache, compiled where generate does so' * setting.on_device}. A "
        "table of one task's adapters is what materialising it would leave. As hyperadapt runs it: the output layer's "
        "product by oneDNN on a CPU, the norms by PyTorch's kernel on a GPU."
    )
    return Found(how, rows, contest.goals(found), times_of(found))


def start_up(setting: Setting) -> Found:
    """Measure imports, the command line and `adapt`."""
    command = [sys.executable, "-c"]
    shape = "t5-small" if setting.smoke else "t5-base"
    adapting = (
        "import time, torch, transformers, hyperadapt as ha; from hyperadapt.backbones import published_config; "
        "from hyperadapt.model import adapt; "
        f"base = transformers.T5ForConditionalGeneration(published_config('{shape}')); "
        "start = time.perf_counter(); ha.adapt(base, ha.HyperFormerPlusPlus(), list('abcdefgh')); "
        "print(time.perf_counter() - start)"
    )
    timed = {
        "python -c pass": lambda: seconds_of([*command, "pass"]),
        "import hyperadapt": lambda: seconds_of([*command, "import hyperadapt"]),
        "hyperadapt --help": lambda: seconds_of([sys.executable, "-m", "hyperadapt.cli", "--help"]),
        "ha.adapt of T5-base": lambda: float(output_of([*command, adapting])),
    }
    taken: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(setting.rounds):
        for name, measure in timed.items():
            taken[name].append(measure())
    medians = {name: median(times) for name, times in taken.items()}
    goals = [
        Goal(
            "import hyperadapt: seconds above an empty program",
            medians["import hyperadapt"] - medians["python -c pass"],
            0.3,
        ),
        Goal("hyperadapt --help: seconds", medians["hyperadapt --help"], 0.5),
        Goal("ha.adapt of T5-base: seconds", medians["ha.adapt of T5-base"], 1.0),
    ]
    rows = [{"": name, "seconds": f"{seconds:.3f}"} for name, seconds in medians.items()]
    return Found(
        f"Processes of their own, the median of {setting.rounds} rounds; `adapt` without what it imports.",
        rows,
        goals,
    )


def output_of(command: list[str]) -> str:
    """Run a program.

    Raises:
        UserError: with its last words, if it fails.
    """
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"bench: {' '.join(command)[:80]} failed: {last_line(done.stderr)}")
    return done.stdout


def seconds_of(command: list[str]) -> float:
    """Time a program."""
    start = time.perf_counter()
    output_of(command)
    return time.perf_counter() - start
