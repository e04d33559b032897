"""The HyperFormer paper's experiments: each runs to its page, and the formulas are the real counts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import T5Config

from hyperadapt.comparison import Cell
from hyperadapt.errors import UserError
from hyperadapt.experiments import EXPERIMENTS, SCALES, overview, plan, reproduce
from hyperadapt.experiments.costs import (
    adapters_count,
    adapters_dagger_count,
    hyperformer_pp_count,
    real_count,
)
from hyperadapt.experiments.glue import best_by_validation, rows_of
from hyperadapt.experiments.scales import HYPER, HYPER_PP, Target
from hyperadapt.experiments.transfer import by_rows, nearest_tasks
from tiny_run import hyperadapt


@pytest.fixture(scope="module")
def smoke_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all experiments, as what two of them need is run once."""
    return tmp_path_factory.mktemp("reproduce")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.usefixtures("in_one_process")
def test_smoke(smoke_folder: Path, name: str) -> None:
    planned = plan(name, "smoke", smoke_folder)
    page = reproduce(planned)
    assert all(cell.finished for cell in planned.cells())
    text = page.read_text()
    assert text.startswith(f"# {EXPERIMENTS[name].source}: ")
    assert all((page.parent / picture).is_file() for picture in re.findall(r"\((.+\.svg)\)", text))
    assert "nan" not in text


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_run_of_every_scale_is_a_configuration(name: str, scale: str) -> None:
    planned = plan(name, scale)
    names = [cell.directory for cell in planned.cells()]
    assert len(set(names)) == len(names)
    assert (not names) == (name == "parameters")
    for cell in planned.cells():
        cell.config.build_method()
        assert cell.config.training.max_steps <= {"paper": 2**18, "small": 600, "smoke": 2}[scale]


@pytest.mark.parametrize(
    ("layers", "h", "r", "t", "tasks"), [(2, 32, 8, 8, 3), (3, 48, 4, 16, 1), (1, 64, 2, 64, 20)]
)
def test_the_formulas_are_the_real_counts(layers: int, h: int, r: int, t: int, tasks: int) -> None:
    config = T5Config(
        d_model=h, num_layers=layers, num_heads=4, d_kv=8, d_ff=2 * h, vocab_size=64, decoder_start_token_id=0
    )
    d = h // r
    for method, count in (("adapters", adapters_count), ("adapters_dagger", adapters_dagger_count)):
        assert count(layers, h, d, tasks) == real_count(method, config, tasks, reduction_factor=r)
    options = {"reduction_factor": r, "task_embedding_dim": t}
    assert hyperformer_pp_count(layers, h, d, t, tasks) == real_count(HYPER_PP, config, tasks, **options)


def test_a_transfer_goes_on_from_a_run_of_table_1_and_the_task_most_like_its_own() -> None:
    trained = {str(cell.directory.resolve()): cell.config for cell in plan("table-1", "small").cells()}
    starting = [cell.config for cell in plan("table-2", "small").cells() if cell.config.start is not None]
    assert len(starting) == 7 * 2 * 4 * 3  # tasks, sizes, variants, seeds
    init_from = {}
    for run in starting:
        assert run.start is not None
        assert run.method["name"] == trained[run.start.run].method["name"]
        assert run.data.subsample_seed is None
        assert init_from.setdefault(run.data.tasks[0], run.start.init_from) == run.start.init_from
    assert init_from == {
        **dict.fromkeys(("scitail-halved", "transfer-cb", "trec"), ("mnli",)),
        **dict.fromkeys(("imdb", "yelp_polarity"), ("sst2",)),
        "transfer-boolq": ("qnli",),
        "paws-halved": ("qqp",),
    }


def test_a_task_embedding_that_is_trained_alone_can_move_as_far_as_tasks_are_apart() -> None:
    """Adam moves a number by its learning rate a step at most; those of two tasks are about 1 apart."""
    alone = [
        cell.config
        for name in ("table-2", "figure-3", "leave-one-out")
        for cell in plan(name, "small").cells()
        if cell.config.method.get("train_task_embeddings_only")
    ]
    assert len(alone) == 7 * 2 * 3 + 7 + 3
    assert min(run.training.learning_rate * run.training.max_steps / 2 for run in alone) > 1


def test_experiments_with_runs_in_common_ask_for_the_same_ones() -> None:
    runs: dict[Path, object] = {}
    shared = 0
    for name in EXPERIMENTS:
        for cell in plan(name, "small").cells():
            shared += cell.directory in runs
            assert runs.setdefault(cell.directory, cell.config) == cell.config
    assert shared > 0


def test_an_override_is_of_all_runs() -> None:
    for cell in plan("table-2", "small", data_dir="copy", overrides=["training.warmup_steps=7"]).cells():
        assert cell.config.training.warmup_steps == 7
        assert cell.config.data.data_dir == str(Path("copy").resolve())


def test_balanced_draws_are_of_the_runs_on_few_rows_and_kept_apart_from_others() -> None:
    plain = {cell.directory for cell in plan("table-2", "small").cells()}
    for cell in plan("table-2", "small", overrides=["data.balanced=true"]).cells():
        few = cell.config.start is not None
        assert cell.config.data.balanced == few
        assert (cell.directory not in plain) == few


def test_the_protocol_of_the_paper() -> None:
    steps = {
        name: {cell.config.training.max_steps for cell in plan(name, "paper").cells()} for name in EXPERIMENTS
    }
    whole = 2**18
    assert steps == {
        **{name: {whole} for name in ("table-1", "table-3", "table-4")},
        **{name: {whole, 5000} for name in ("table-2", "figure-3", "leave-one-out")},
        "figure-2": {15_000},
        "tables-5-6": {1000},
        "parameters": set(),
    }
    methods = {
        name: {cell.config.method["name"] for cell in plan(name, "paper").cells()}
        for name in ("table-3", "table-4", "figure-2")
    }
    assert methods == {
        "table-3": {"adapters_dagger", "hyperformer"},
        "table-4": {"hyperformer"},
        "figure-2": {"full_fine_tuning", "adapters_dagger", "hyperformer++"},
    }


def test_a_task_of_few_rows_is_asked_for_no_more() -> None:
    assert Target("mnli", rows=250).sizes((4, 100, 500, 2000)) == (4, 100, 250)
    assert Target("mnli").sizes((4, 500)) == (4, 500)


def test_models_of_one_task_make_a_row_as_one_for_all_does(tmp_path: Path) -> None:
    def cell(seed: int, scores: dict[str, float]) -> Cell:
        """A finished run, as far as a table reads it."""
        directory = tmp_path / "-".join(scores) / f"seed-{seed}"
        config = next(iter(plan("table-3", "smoke").cells())).config
        config = config.model_copy(update={"output_dir": str(directory)})
        tasks = {
            task: {
                "score": score,
                "metrics": {"f1": score + 1, "accuracy": score - 1} if task == "a" else {"f1": score},
            }
            for task, score in scores.items()
        }
        counts = {"base": 100, "total": 110, "trained": 15, "tasks": len(scores)}
        results = {"validation": {"tasks": tasks}, "parameters": counts, "train_seconds": 1.0}
        directory.mkdir(parents=True)
        (directory / "results.json").write_text(json.dumps(results))
        return Cell("adapters", seed, config)

    [alone] = rows_of(
        [cell(1, {"a": 10.0}), cell(1, {"b": 30.0}), cell(2, {"a": 30.0}), cell(2, {"b": 50.0})]
    )
    [together] = rows_of([cell(1, {"a": 10.0, "b": 30.0}), cell(2, {"a": 30.0, "b": 50.0})])
    same = ("a", "b", "average", "average by metric", "validation", "seeds")
    assert [alone[name] for name in same] == [together[name] for name in same]
    assert together["average"] == (30.0, pytest.approx(14.142, abs=1e-3))
    assert together["average by metric"][0] == pytest.approx(
        80 / 3
    )  # (11 + 9 + 30) / 3 and (31 + 29 + 50) / 3
    # Of 100 parameters 5 layer norms and 10 new ones are trained, in one model or in each of two.
    assert (together["total"], together["% trained"]) == ("1.10x", 7.5)
    assert (alone["total"], alone["% trained"]) == ("1.25x", 15.0)

    # A seed without all of its tasks is in no average.
    [alone] = rows_of(
        [
            cell(3, {"a": 10.0}),
            cell(3, {"b": 30.0}),
            cell(4, {"a": 99.0}),
            Cell("adapters", 4, plan("table-3", "smoke", tmp_path).cells()[0].config),
        ]
    )
    assert (alone["seeds"], alone["average"]) == (1, (20.0, None))
    assert (
        rows_of(
            [cell(5, {"a": 10.0}), Cell("adapters", 5, plan("table-3", "smoke", tmp_path).cells()[0].config)]
        )
        == []
    )


def test_the_nearest_task_is_that_towards_which_a_new_one_has_moved() -> None:
    trained = torch.tensor([[9.0, 1.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    mean = trained.mean(0)
    towards_the_third = mean + 0.1 * (trained[2] - mean)
    table = nearest_tasks(list("abcn"), torch.cat([trained, towards_the_third[None]]), 3)
    assert table[3]["nearest trained tasks, cosine"].startswith("c 1.00, ")
    assert table[3]["from their mean"] == f"{0.1 * (trained[2] - mean).norm().item():.2f}"
    assert not any(f"{row['task']} " in row["nearest trained tasks, cosine"] for row in table)


def test_timed_runs_are_set_beside_full_fine_tuning_of_their_own_round(tmp_path: Path) -> None:
    planned = plan("tables-5-6", "smoke", tmp_path)
    planned = replace(planned, scale=replace(planned.scale, few_seeds=(1, 2)))
    cells = planned.cells()
    assert [cell.seed for cell in cells] == [1] * 4 + [2] * 4
    assert cells[0].variant != cells[4].variant  # each round begins with another
    for cell in cells:
        of_t5 = cell.variant == "full_fine_tuning"
        seconds = cell.seed * (1.0 if of_t5 else 0.5)
        memory = {"loaded_memory_mb": 100, "peak_memory_mb": 500 if of_t5 else 200}
        results = {"step_seconds": seconds, **memory, "train_seconds": 1.0}
        cell.directory.mkdir(parents=True)
        (cell.directory / "results.json").write_text(json.dumps(results))
    lines = EXPERIMENTS["tables-5-6"].page(planned).splitlines()
    head, row = (
        [cell.strip() for cell in line.split("|")]
        for line in (lines[0], next(line for line in lines if "| adapters_dagger" in line))
    )
    found = dict(zip(head, row, strict=True))
    assert found["variant"].startswith("adapters_dagger")
    assert found["1,000 steps (s)"].startswith("750.0")  # the mean of 500 and 1,000
    assert found["of T5's 1,000 steps"] == "0.50 ± 0.00"
    assert found["of T5's memory"] == "0.40 ± 0.00"
    assert found["of T5's added by training"] == "0.25 ± 0.00"


def test_the_reduction_factor_is_chosen_by_the_validation_rows() -> None:
    rows = [
        {"variant": "a,r=4", "validation": (50.0, 1.0), "average": (70.0, 1.0)},
        {"variant": "a,r=8", "validation": (60.0, 1.0), "average": (10.0, 1.0)},
        {"variant": "b", "validation": (1.0, 1.0), "average": (2.0, 1.0)},
    ]
    assert [row["variant"] for row in best_by_validation(rows)] == ["a,r=8", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table-9"], "experiment 'table-9' is unknown; did you mean 'table-"),
        (["table-9", "--list"], "experiment 'table-9' is unknown; did you mean 'table-"),
        (["table-1", "--scale", "smal"], "--scale 'smal' is unknown; did you mean 'small'?"),
        ([], "name an experiment; choices: table-1"),
        (["table-2", "--data-dir", "nowhere"], "there is no folder"),
        (["table-2", "--data-dir", "."], "holds no 'glue'"),
        (["table-3", "data.balancd=true"], "field 'data.balancd' is unknown; did you mean 'balanced'?"),
        (
            ["table-3", "data.balanced=true"],
            "data.balanced is of runs on few rows; those of table-3 have all",
        ),
        (
            ["table-2", "data.max_train_rows=8"],
            "table-2 sets data.max_train_rows itself, for each of its runs",
        ),
        (["table-1", "training.learning_rate=1e-5"], "table-1 sets training.learning_rate itself, for each"),
        (["tables-5-6", "--jobs", "2"], "the runs of tables-5-6 are timed"),
        (
            ["table-3", "--scale", "smoke", "--processes", "3"],
            "training.batch_size 4 does not divide by 3 processes times 1 accumulated batches",
        ),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    outcome = hyperadapt("reproduce", *arguments, "--output-dir", tmp_path / "out")
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "out").exists()


def test_the_list_says_what_is_done(tmp_path: Path) -> None:
    first = plan("table-3", "smoke", tmp_path).cells()[0].directory
    first.mkdir(parents=True)
    (first / "results.json").write_text(json.dumps({"train_seconds": 1800.0}))
    done = {of["name"]: (of["runs"], of["finished"]) for of in overview("smoke", tmp_path, None, EXPERIMENTS)}
    assert set(done) == set(EXPERIMENTS)
    assert (done["table-3"], done["table-4"]) == ((2, 1), (6, 0))
    [row] = overview("smoke", tmp_path, None, ["table-3"])
    assert row["hours of training"] == "0.5"
    outcome = hyperadapt("reproduce", "--list", "--scale", "smoke", "--output-dir", tmp_path)
    assert outcome.code == 0
    assert all(name in outcome.out for name in EXPERIMENTS)


def test_the_mean_over_tasks_is_of_those_that_have_every_size(tmp_path: Path) -> None:
    planned = plan("table-2", "smoke", tmp_path)
    runs = {}
    for task, sizes in (("long", (4, 8)), ("short", (4, 6)), ("other", (4, 8))):
        for size in sizes:
            cells = planned.runs(f"{task}-{size}", planned.methods(HYPER_PP), (1,))
            score = {"average": 10.0 * size + len(task), "tasks": {task: {"score": 1.0}}}
            cells[0].directory.mkdir(parents=True)
            facts = {
                "parameters": {"trained_per_task_percent": 1.0},
                "step_seconds": 1.0,
                "peak_memory_mb": 1,
            }
            results = {"test": score, "validation": score, "majority": {"test": score, "validation": score}}
            (cells[0].directory / "results.json").write_text(
                json.dumps(facts | results | {"train_seconds": 1.0})
            )
            runs[task, size] = cells
    text = by_rows(planned, runs)
    assert "The mean, of each seed's own, is over long, other." in text
    assert "| short | 6 | 65.0 | 65.0 |" in text


@pytest.mark.slow
@pytest.mark.usefixtures("in_one_process")
def test_a_run_that_failed_leaves_a_page_of_the_others(tmp_path: Path) -> None:
    planned = plan("table-3", "smoke", tmp_path)
    diverging = replace(planned.scale, learning_rates={HYPER: 1e30})
    with pytest.raises(UserError, match=r"1 of 2 runs failed; hyperformer,r=8, seed 1 .*the loss is nan"):
        reproduce(replace(planned, scale=diverging))
    text = (planned.folder / "table-3.md").read_text()
    assert "1 of 2 runs are not finished" in text
    assert "| adapters_dagger,r=2 | 1 |" in text
    assert "hyperformer,r=8" not in text.partition("## As printed")[0]


def test_table_4_at_the_papers_scale_is_of_t5_small_with_its_batch_and_of_the_base_that_is_given() -> None:
    for base, model, rows in ((None, "google-t5/t5-small", 64), ("mine", "mine", 32)):
        cells = plan("table-4", "paper", base=base).cells()
        assert {cell.config.model.name for cell in cells} == {model}
        assert {cell.config.training.batch_size for cell in cells} == {rows}
    # At other scales they are runs of Table 1, trained once for both.
    ours = {cell.directory for cell in plan("table-4", "small").cells()}
    assert ours & {cell.directory for cell in plan("table-1", "small").cells()}
