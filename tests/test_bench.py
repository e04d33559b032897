"""The benchmarks: contenders do the work that they are timed at, and the page says what came out."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hyperadapt.errors import UserError
from hyperadapt.fast import cuda_graphs as graphs
from hyperadapt.studies.bench import (
    NOTES,
    SECTIONS,
    Setting,
    arithmetic,
    asked_of,
    bench,
    measure,
    operators,
    real_rows,
    section_text,
    sections,
    worker,
    written,
)
from hyperadapt.studies.bench.measure import (
    WARM_UP,
    Contender,
    Measured,
    Ratio,
    Spec,
    peak_alone,
    side_by_side,
)
from hyperadapt.studies.bench.section import Goal
from hyperadapt.studies.bench.sections import FLOOR, FULL, LORA, OUR_FLOOR, options_of, spec
from tiny import repeated_call
from tiny_run import assert_one_line, hyperadapt

TINY = Setting(rounds=1, threads=1, smoke=True)
CPU = torch.device("cpu")
CONTENDERS = {
    FULL: spec(TINY, "transformers", {"train": "all"}),
    FLOOR: spec(TINY, "transformers", {"train": "layer_norms"}),
    "hyperformer++": spec(TINY, "hyperadapt", options_of("hyperformer++")),
    "hyperdecoder": spec(TINY, "hyperadapt", options_of("hyperdecoder")),
    "lora": spec(TINY, "peft", LORA),
    "ia3": spec(TINY, "peft", {"kind": "ia3"}),
}


def fields(of: Spec, **changes: Any) -> dict[str, Any]:
    """A specification as the worker reads it."""
    return json.loads(json.dumps(asdict(replace(of, **changes))))


@pytest.mark.parametrize("name", CONTENDERS)
def test_a_step_changes_what_is_trained_and_nothing_else(name: str) -> None:
    given = fields(CONTENDERS[name])
    torch.manual_seed(0)
    model = worker.adapted(given)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    step = worker.training(given, model, CPU)
    for _ in range(3):  # LoRA's first factor has no gradient until the second has moved
        step()
    for parameter, tensor in model.named_parameters():
        assert torch.equal(tensor, before[parameter]) != tensor.requires_grad, parameter


def test_what_is_trained_is_what_the_floor_and_full_fine_tuning_are() -> None:
    trained = {
        name: [
            key for key, p in worker.adapted(fields(CONTENDERS[name])).named_parameters() if p.requires_grad
        ]
        for name in (FULL, FLOOR)
    }
    assert "shared.weight" in trained[FULL]
    assert trained[FLOOR]
    assert all("layer_norm" in key for key in trained[FLOOR])


def test_batches_are_padded_to_their_longest_row_or_as_asked() -> None:
    given = fields(CONTENDERS["hyperformer++"], batches=[[(3, 0), (5, 2)], [(2, 1)]])
    first, second = worker.inputs(given, CPU)
    assert first["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert (first["input_ids"] != 0).equal(first["attention_mask"].bool())
    assert first["task_ids"].tolist() == [0, 2]
    assert second["input_ids"].shape == (1, 2)
    assert worker.inputs(given | {"pad_to": 7}, CPU)[1]["input_ids"].shape == (1, 7)


def test_both_ways_to_evaluate_generate_as_many_tokens_for_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[(4, 0), (6, 0), (3, 0)], [(5, 1)]]
    both = fields(CONTENDERS["hyperformer++"], batches=rows, answers=[2, 3], pad_to=8, tasks=2)
    model = worker.adapted(both)
    made: list[list[int]] = []
    generate = type(model).generate

    def counting(self: Any, **inputs: Any) -> Any:
        out = generate(self, **inputs)
        made.append([*inputs["input_ids"].shape, out.shape[1] - 1])
        return out

    monkeypatch.setattr(type(model), "generate", counting)
    worker.evaluation(both, model, CPU)()
    worker.by_task(both, model, CPU)()
    assert sorted(made) == [[1, 5, 3], [1, 8, 3], [3, 6, 2], [3, 8, 2]]


def test_contenders_run_in_processes_of_their_own_and_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    asked: list[tuple[str, str]] = []

    class Noted(Contender):
        def __init__(self, name: str, of: Spec) -> None:
            begun.append(name)
            super().__init__(name, of)

        def put(self, question: Any) -> None:
            asked.append((self.name, question))
            super().put(question)

    monkeypatch.setattr(measure, "Contender", Noted)
    others = {"ours": CONTENDERS["hyperformer++"]}
    found = side_by_side({FLOOR: CONTENDERS[FLOOR]}, others, replace(TINY, rounds=3, launches=2))
    assert list(found) == [FLOOR, "ours"]
    ours = found["ours"]
    assert (len(ours.seconds), len(ours.beside[FLOOR]), ours.a_launch) == (3, 3, 2)
    assert ours.beside["ours"] == ours.seconds
    assert ours.trained > found[FLOOR].trained
    assert ours.operators > found[FLOOR].operators
    assert 50 < ours.peak < 10_000  # MB
    assert begun == 2 * [FLOOR, "ours"]
    runs = [name for name, what in asked if what == "run"]
    turns = [runs[start : start + 2] for start in range(0, len(runs), 2)]
    assert len(turns) == 3 + 2 * WARM_UP
    assert all(sorted(turn) == sorted(found) for turn in turns)
    assert len({tuple(turn) for turn in turns}) == 2


def test_operators_are_counted_without_those_that_do_no_work() -> None:
    x = torch.ones(2, 3)
    copied_and_added = worker.operators(lambda: x.t().reshape(6).view(2, 3) + 1, CPU)
    assert copied_and_added == 2
    assert worker.operators(lambda: x.view(6)[None].unbind(1), CPU) == 0


def test_arithmetic_is_of_products_and_bytes_are_what_operators_read_and_write() -> None:
    left, right, table = torch.ones(2, 3), torch.ones(3, 4), torch.ones(100, 5)
    assert worker.arithmetic(lambda: left @ right) == (2 * 2 * 3 * 4, 4 * (6 + 12 + 8))
    assert worker.arithmetic(lambda: left + left.new_ones(3)) == (0, 4 * (3 + 6 + 3 + 6))
    assert worker.arithmetic(lambda: left.add_(left[:1].expand(2, 3))) == (0, 4 * (6 + 3 + 6))
    ids = torch.tensor([1, 2])
    assert worker.arithmetic(lambda: F.embedding(ids, table)) == (0, 2 * 8 + 2 * 4 * 10)
    assert worker.arithmetic(lambda: left.view(6)[None]) == (0, 0)


def test_a_step_of_full_fine_tuning_has_a_third_more_products_than_the_floor() -> None:
    """Frozen weights have no gradients: of three products as large, two are left."""
    big = {**CONTENDERS[FULL].model, "d_ff": 2048}
    full, floor = (
        worker.arithmetic(worker.work_of(given, worker.adapted(given), CPU))
        for given in (fields(CONTENDERS[name], model=big) for name in (FULL, FLOOR))
    )
    assert 1.4 < full[0] / floor[0] < 1.6
    assert full[1] > floor[1]


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (lambda x, weight: F.rms_norm(x, (4,), weight), [(2, 3, 4), (4,)]),
        (F.scaled_dot_product_attention, [(2, 3, 4)] * 3),
    ],
)
def test_what_is_a_kernel_on_an_accelerator_is_one_operator_and_one_for_each_gradient(
    function: Any, inputs: list[tuple[int, ...]]
) -> None:
    given = [torch.empty(size, device=operators.META, requires_grad=True) for size in inputs]
    gradient = torch.empty(inputs[0], device=operators.META)

    def both() -> None:
        with operators.AsOnAnAccelerator():
            y = function(*given)
        y.backward(gradient)

    assert worker.operators(both, operators.META) == 1 + len(inputs)
    assert [of.grad.shape for of in given if of.grad is not None] == [of.shape for of in given]


def test_a_model_of_one_task_has_fewer_operators_and_our_norms_fewer_than_t5s() -> None:
    rows = SECTIONS["operators"].measure(TINY).rows
    counts = {row[""]: int(row["operators"]) for row in rows}
    assert counts[OUR_FLOOR] < counts[FLOOR] < counts[FULL]
    assert counts[OUR_FLOOR] < counts["hyperformer++, a model of 1 task"] < counts["hyperformer++, 8 tasks"]


def test_a_compiled_step_asks_for_compiled_contenders_and_counts_no_operators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Spec] = []

    def keep(references: Any, others: Any, setting: Setting) -> dict[str, Measured]:
        asked.extend([*references.values(), *others.values()])
        return {
            name: replace(of, operators=0)
            for name, of in in_this_process(references, others, setting).items()
        }

    monkeypatch.setattr(sections, "side_by_side", keep)
    found = SECTIONS["compiled"].measure(TINY)
    assert all(of.compile for of in asked)
    assert all("operators" not in row for row in found.rows)


def in_this_process(references: Any, others: Any, setting: Setting) -> dict[str, Measured]:
    """Let every contender do its work once, in the groups of `side_by_side`, which has processes of their own."""

    def take_turns(
        specs: dict[str, Spec], rounds: int, a_launch: int, warm_up_together: bool
    ) -> dict[str, Measured]:
        seconds = {name: [worked(of) * (2 + number)] for number, (name, of) in enumerate(specs.items())}
        return {name: Measured(seconds[name], seconds, 1.0, 1, 1) for name in specs}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(measure, "take_turns", take_turns)
        return side_by_side(references, others, setting)


def worked(of: Spec) -> float:
    """Do a contender's work once; the adapters library is in an environment of its own, which tests do not make."""
    if of.library != "adapters":
        given = fields(of, compile=False)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(graphs, "on_the_gpu", lambda: repeated_call)
            work = worker.work_of(given, worker.adapted(given), CPU)
            for _ in range(2 if of.captured else 1):
                work()
    return 1.0


@pytest.mark.parametrize("name", [name for name in SECTIONS if name != "start-up"])
def test_every_section_measures_all_that_it_writes(
    name: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sections, real_rows):
        monkeypatch.setattr(module, "side_by_side", in_this_process)
    monkeypatch.setattr(sections, "peak_alone", lambda name, of: worked(of))
    monkeypatch.setattr(arithmetic, "count", lambda name, of: (int(2 * worked(of)), 1))
    setting = replace(TINY, data_dir=str(shared / "data"), adapters_python=sys.executable)
    found = SECTIONS[name].measure(setting)
    assert found.goals or name in ("operators", "compiled")  # of which nothing is asked on a CPU
    compared = [
        (goal, *goal.what.rsplit(": of ", 1))
        for goal in found.goals
        if goal.what.split(": of ")[0] in found.seconds and goal.what.rsplit(": of ", 1)[1] in found.seconds
    ]
    assert len(compared) == len(found.goals) or name not in ("step", "adapters", "generation")
    for goal, contender, reference in compared:  # whose times are told apart by in_this_process
        [own], [other] = found.seconds[contender][contender], found.seconds[contender][reference]
        assert goal.measured == pytest.approx(own / other)
        assert own != other
    assert found.rows
    assert "t5-" not in f"{found.how}{found.rows}"


def test_batches_of_like_length_hold_the_same_rows_as_those_at_random(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Spec] = {}

    def keep(references: Any, others: Any, setting: Setting) -> dict[str, Measured]:
        assert setting.launches == 1  # or a batch would be timed twice, and another never
        seen.update({**references, **others})
        return in_this_process(references, others, setting)

    monkeypatch.setattr(real_rows, "side_by_side", keep)
    real_rows.training_lengths(replace(TINY, data_dir=str(shared / "data")))
    rows = [sorted(row for batch in of.batches for row in batch) for of in seen.values()]
    assert len(rows) == 3
    assert all(of == rows[0] for of in rows)


def test_a_contender_that_dies_says_why() -> None:
    broken = replace(CONTENDERS["hyperformer++"], options={"name": "hyperformer++", "reduction_factor": 0})
    with pytest.raises(UserError, match=r"bench: ours ended: .*reduction_factor"):
        peak_alone("ours", broken)


def test_a_ratio_is_the_median_of_the_rounds_and_not_of_the_times() -> None:
    measured = Measured(
        [1.0, 4.0, 3.0, 4.0, 5.0], {"other": [1.0, 2.0, 1.0, 1.0, 1.0]}, peak=0, trained=0, operators=0
    )
    ratio = measured.ratio("other")
    assert (ratio.median, ratio.quartiles) == (3.0, (2.0, 4.0))
    assert (ratio.inverse.median, ratio.inverse.quartiles) == (1 / 3, (1 / 4, 1 / 2))
    assert str(ratio) == "3.000 (2.000 to 4.000)"
    few = Measured([1.0, 4.0, 3.0], {"other": [1.0, 2.0, 1.0]}, peak=0, trained=0, operators=0)
    assert str(few.ratio("other")) == "2.000"


def test_a_goals_interval_holds_the_truth_though_a_process_differs_from_its_twin() -> None:
    torch.manual_seed(0)
    n_launches, a_launch = 6, 4
    of_process = torch.randn(1000, n_launches, 1)
    rounds = 10 + (of_process + torch.randn(1000, n_launches, a_launch)).flatten(1)
    goals = [Ratio(tuple(row), a_launch).goal("a", 10.0) for row in rounds.tolist()]
    held = sum(goal.met == "open" for goal in goals)
    assert 930 <= held <= 970  # 950 and three deviations of such a count
    wider = [Ratio(tuple(row), 1).goal("a", 10.0) for row in rounds.tolist()]
    assert sum(goal.met == "open" for goal in wider) < 900  # rounds of one process are not so many launches


def test_one_launch_decides_nothing() -> None:
    goal = Ratio((1.0, 1.0, 1.0), a_launch=3).goal("a", 2.0)
    assert asked_of(goal) == {
        "what": "a",
        "asked": "at most 2",
        "measured": "1.000 (0.000 to inf)",
        "met": "open",
    }


@pytest.mark.parametrize(
    ("goal", "asked", "met"),
    [
        (Goal("a", 1.0, 1.1), "at most 1.1", "yes"),
        (Goal("a", 1.2, 1.1), "at most 1.1", "no"),
        (Goal("a", 1.6, 1.5, at_most=False), "at least 1.5", "yes"),
        (Goal("a", 1.4, 1.5, at_most=False), "at least 1.5", "no"),
        (Goal("a", 1.5, 1.5, at_most=False), "at least 1.5", "yes"),
        (Goal("a", float("nan"), 1.5, at_most=False), "at least 1.5", "no"),
        (Goal("a", 1.0, 1.1, interval=(0.9, 1.1)), "at most 1.1", "yes"),
        (Goal("a", 1.0, 1.1, interval=(0.9, 1.2)), "at most 1.1", "open"),
        (Goal("a", 1.3, 1.1, interval=(1.2, 1.4)), "at most 1.1", "no"),
        (Goal("a", 1.6, 1.5, at_most=False, interval=(1.4, 1.7)), "at least 1.5", "open"),
    ],
)
def test_a_goal_is_met_on_its_own_side_of_the_bound(goal: Goal, asked: str, met: str) -> None:
    assert (asked_of(goal)["asked"], asked_of(goal)["met"]) == (asked, met)


def test_the_page_has_the_sections_that_were_measured(tmp_path: Path) -> None:
    other = "## Generation\n\nMeasured elsewhere.\n"
    (tmp_path / "page.md").write_text(f"# Old\n\n{other}\n{NOTES}\nBy hand.\n")
    goals = bench(["start-up"], TINY, tmp_path / "out", tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert page.endswith(f"\n{NOTES}\nBy hand.\n")
    assert "## Starting" in page
    assert other in page
    assert page.index(other) < page.index("## Starting") < page.index(NOTES)
    assert written(tmp_path / "out", page) == page
    assert all(f"| {goal['what']} | {goal['asked']} | {goal['measured']} |" in page for goal in goals)
    (tmp_path / "out" / "start-up.json").unlink()
    assert "## Starting" not in written(tmp_path / "out")


def test_the_page_says_how_many_rounds_were_timed() -> None:
    record = {"how": "A step.", "machine": "A machine.", "rows": [{"": "ours"}], "goals": [], "launches": 2}
    timed = {"ours": {"ours": [1.0, 2.0, 3.0], "theirs": [1.0, 2.0, 3.0]}}
    assert "A step. 3 rounds in 2 launches.\n" in section_text(SECTIONS["step"], {**record, "seconds": timed})
    assert "A step.\n" in section_text(SECTIONS["memory"], record)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generatoin"], "section 'generatoin' is unknown; did you mean 'generation'?"),
        (["lengths"], "section 'lengths' needs --data-dir"),
        (
            ["lengths", "--data-dir", ".", "--tokenizer", "./none"],
            "--tokenizer: there is no directory './none'",
        ),
        (["adapters"], "section 'adapters' needs --adapters-python"),
        (
            ["adapters", "--adapters-python", "no/python"],
            "--adapters-python no/python cannot be run: No such file",
        ),
        (["step", "--adapters-python", sys.executable], "has no library adapters"),
        (["step", "--rounds", "0"], "--rounds"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    assert_one_line(hyperadapt("bench", *arguments, "--output-dir", str(tmp_path / "out")), message)
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("hyperadapt.studies.bench.find_spec", lambda name: None)
    with pytest.raises(UserError, match="'step' measures peft too: pip install peft"):
        bench(["step"], TINY, tmp_path / "out", tmp_path / "page.md")
