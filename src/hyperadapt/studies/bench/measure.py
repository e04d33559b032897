"""Measure side by side: contenders in processes of their own, whose runs take turns."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from math import ceil, exp, inf, log, sqrt
from pathlib import Path
from random import Random
from statistics import median, quantiles, stdev
from tempfile import TemporaryFile
from typing import Any, Literal

from hyperadapt.errors import UserError
from hyperadapt.studies.bench.section import Goal, Setting, between

WORKER = Path(__file__).with_name("worker.py")
Question = Literal["run", "peak", "trained", "operators", "arithmetic"]
ENOUGH = 4  # rounds for quartiles to mean something
WARM_UP = 2  # runs before any is timed: the first allocates memory, the optimizer's state included
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spec:
    """What a contender is and does.

    Attributes:
        model: fields of a T5Config; the weights are random.
        library: "transformers" alone, or the one that adapts the model.
        options: the method's, as the library names them; of transformers {"train": "all" | "layer_norms"}, and
            "as_hyperadapt" for what hyperadapt does for any base model, before a method.
        tasks: how many the model is adapted for.
        batches: rows as (source tokens, task id), taken in turns.
        targets: target tokens of each row, or tokens to generate.
        work: "train", a step with AdamW; "generate", greedily; "evaluate", all of `batches` at once, each the rows of a
            task; or "evaluate by task", one after another.
        answers: tokens of each task's answers, to evaluate.
        choices: the tokens of each task's labels, of which one is chosen; none where the answer is generated.
        pad_to: width of every batch; None takes that of its longest row.
        quantization: of the base model's frozen weights, as transformers takes it.
        dtype: of the base model's weights.
        autocast: to bfloat16, in training.
        compile: torch.compile without a graph break, and a static cache to generate.
        captured: forward and backward are a CUDA graph.
        threads: of the CPU.
        python: the interpreter that runs it, where that is not this one.
    """

    model: dict[str, Any]
    library: Literal["transformers", "hyperadapt", "peft", "adapters"]
    options: dict[str, Any]
    batches: Sequence[Sequence[tuple[int, int]]]
    targets: int
    tasks: int = 8
    work: Literal["train", "generate", "evaluate", "evaluate by task"] = "train"
    answers: Sequence[int] = ()
    choices: Sequence[Sequence[Sequence[int]]] = ()
    pad_to: int | None = None
    quantization: dict[str, Any] | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    autocast: bool = False
    compile: bool = False
    captured: bool = False
    threads: int = 1
    python: str = field(default=sys.executable)


class Contender:
    """A running worker; a context that ends it."""

    def __init__(self, name: str, spec: Spec) -> None:
        self.name = name
        # Not a pipe: it would fill up, as nobody reads it while the worker runs.
        self.words = TemporaryFile("w+")  # noqa: SIM115 - closed on exit
        self.process = subprocess.Popen(
            [spec.python, str(WORKER), json.dumps(asdict(spec))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.words,
            text=True,
        )

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        self.words.close()

    def put(self, question: Question) -> None:
        """Put a question to the worker, and leave it to its work; one that has died says so when it should answer."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            print(question, file=self.process.stdin, flush=True)

    def answer(self) -> Any:
        """Wait for its answer.

        Raises:
            UserError: with its last words, if it has died.
        """
        assert self.process.stdout is not None
        try:
            return json.loads(self.process.stdout.readline())
        except json.JSONDecodeError:
            self.process.kill()
            self.process.wait()
            self.words.seek(0)
            raise UserError(f"bench: {self.name} ended: {last_line(self.words.read())}") from None

    def ask(self, question: Question) -> Any:
        """Put a question, and wait for its answer."""
        self.put(question)
        return self.answer()


def last_line(words: str) -> str:
    """Find what a program that failed said last."""
    return (words.strip().splitlines() or ["killed, perhaps for memory"])[-1]


@dataclass(frozen=True)
class Measured:
    """What was measured of a contender.

    Attributes:
        seconds: of each round's run.
        beside: by name, the seconds of all that ran beside it, itself included, in the same rounds.
        peak: the highest memory, in MB.
        trained: parameters that are trained.
        operators: how many a run calls, views left out, or on a GPU how many kernels it launches.
        a_launch: rounds of the same processes, before all start anew.
    """

    seconds: list[float]
    beside: dict[str, list[float]]
    peak: float
    trained: int
    operators: int
    a_launch: int = 1

    def ratio(self, reference: str) -> Ratio:
        """Return the time as a multiple of another's that ran beside it."""
        pairs = zip(self.seconds, self.beside[reference], strict=True)
        return Ratio(tuple(own / other for own, other in pairs), self.a_launch)


@dataclass(frozen=True)
class Ratio:
    """A multiple, measured in several rounds.

    Attributes:
        rounds: what came out in each.
        a_launch: how many of them are of the same processes, which no chance parts.
    """

    rounds: tuple[float, ...]
    a_launch: int = 1

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return median(self.rounds)

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """How far the rounds lie apart; None if they are fewer than `ENOUGH`."""
        if len(self.rounds) < ENOUGH:
            return None
        low, _, high = quantiles(self.rounds, n=4, method="inclusive")
        return low, high

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % confidence interval, Student's of the launches' medians' logarithms; boundless of one launch."""
        from scipy.stats import t

        starts = range(0, len(self.rounds), self.a_launch)
        launches = [log(median(self.rounds[start : start + self.a_launch])) for start in starts]
        if len(launches) < 2:
            return 0.0, inf
        quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(launches) - 1))
        factor = exp(quantile * stdev(launches) / sqrt(len(launches)))
        return self.median / factor, self.median * factor

    @property
    def inverse(self) -> Ratio:
        """The ratio the other way round."""
        return Ratio(tuple(1 / ratio for ratio in self.rounds), self.a_launch)

    def goal(self, what: str, bound: float, at_most: bool = True) -> Goal:
        """Set it beside what is asked."""
        return Goal(what, self.median, bound, at_most, self.interval)

    def __str__(self) -> str:
        return f"{self.median:.3f}{between(self.quartiles)}"


def times_of(found: Mapping[str, Measured]) -> dict[str, dict[str, list[float]]]:
    """Return all times, of each contender those of its whole group."""
    return {
        name: {other: [round(taken, 4) for taken in times] for other, times in one.beside.items()}
        for name, one in found.items()
    }


def side_by_side(
    references: Mapping[str, Spec],
    others: Mapping[str, Spec],
    setting: Setting,
) -> dict[str, Measured]:
    """Time contenders whose runs take turns, so that what else the machine does falls on all alike.

    Args:
        references: run beside every group of the others.
        others: in groups of `at_once`, as memory has to hold a group.
        setting: with the rounds, which the launches share; each begins with `WARM_UP` runs that are not timed.
    """
    names, measured = list(others), dict[str, Measured]()
    for start in range(0, max(len(names), 1), setting.at_once):
        group = {**references, **{name: others[name] for name in names[start : start + setting.at_once]}}
        a_launch = ceil(setting.rounds / setting.launches)
        for name, one in take_turns(group, setting.rounds, a_launch, setting.on_device).items():
            measured.setdefault(name, one)
    return measured


def take_turns(
    specs: Mapping[str, Spec], rounds: int, a_launch: int, warm_up_together: bool
) -> dict[str, Measured]:
    """Time contenders that all fit into memory, in each round in another order."""
    seconds: dict[str, list[float]] = {name: [] for name in specs}
    peaks = dict.fromkeys(specs, 0.0)
    order = Random(0)
    counted: dict[str, tuple[int, int]] = {}
    for start in range(0, rounds, a_launch):
        with ExitStack() as stack:
            running = [stack.enter_context(Contender(name, spec)) for name, spec in specs.items()]
            # On a device all at once, as one may take minutes to compile; on a CPU they would be in each other's way.
            for some in WARM_UP * ([running] if warm_up_together else [[one] for one in running]):
                for one in some:
                    one.put("run")
                for one in some:
                    one.answer()
            for _ in range(min(a_launch, rounds - start)):
                for one in order.sample(running, len(running)):
                    seconds[one.name].append(one.ask("run"))
            for one in running:
                peaks[one.name] = max(peaks[one.name], one.ask("peak"))
                if start + a_launch >= rounds:
                    counted[one.name] = int(one.ask("trained")), int(one.ask("operators"))
    return {name: Measured(seconds[name], seconds, peaks[name], *counted[name], a_launch) for name in specs}


def peak_alone(name: str, spec: Spec) -> float:
    """Measure the highest memory of a contender that has the machine to itself, in MB."""
    with Contender(name, spec) as one:
        for _ in range(WARM_UP):
            one.ask("run")
        return float(one.ask("peak"))
