"""The HyperFormer paper's experiments: each runs to its page, and the formulas are the real counts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import T5Config

from hyperadapt.comparison import Cell
from hyperadapt.errors import UserError
from hyperadapt.experiments import EXPERIMENTS, SCALES, overview, plan, reproduce
from hyperadapt.experiments.costs import adapters_count, hyperformer_pp_count, real_count
from hyperadapt.experiments.glue import best_by_validation, rows_of
from hyperadapt.experiments.scales import HYPER_PP, Target
from hyperadapt.experiments.transfer import by_rows
from tiny_run import hyperadapt


@pytest.fixture(scope="module")
def smoke_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all experiments, as what two of them need is run once."""
    return tmp_path_factory.mktemp("reproduce")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_smoke(smoke_folder: Path, name: str) -> None:
    planned = plan(name, "smoke", smoke_folder)
    page = reproduce(planned, jobs=1 if EXPERIMENTS[name].timed else 2)
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


@pytest.mark.parametrize(
    ("layers", "h", "r", "t", "tasks"), [(2, 32, 8, 8, 3), (3, 48, 4, 16, 1), (1, 64, 2, 64, 20)]
)
def test_the_formulas_are_the_real_counts(layers: int, h: int, r: int, t: int, tasks: int) -> None:
    config = T5Config(
        d_model=h, num_layers=layers, num_heads=4, d_kv=8, d_ff=2 * h, vocab_size=64, decoder_start_token_id=0
    )
    d = h // r
    assert adapters_count(layers, h, d, tasks) == real_count(
        "adapters_dagger", config, tasks, reduction_factor=r
    )
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
    for cell in plan("table-2", "small", data_dir="copy", overrides=["data.balanced=true"]).cells():
        assert cell.config.data.balanced
        assert cell.config.data.data_dir == str(Path("copy").resolve())


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
        (["table-1", "--scale", "smal"], "--scale 'smal' is unknown; did you mean 'small'?"),
        ([], "name an experiment; choices: table-1"),
        (["table-2", "--data-dir", "nowhere"], "there is no folder"),
        (["table-2", "--data-dir", "."], "holds no 'glue'"),
        (["table-3", "data.balancd=true"], "field 'data.balancd' is unknown; did you mean 'balanced'?"),
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
    done = {of["name"]: (of["runs"], of["finished"]) for of in overview("smoke", tmp_path)}
    assert set(done) == set(EXPERIMENTS)
    assert (done["table-3"], done["table-4"]) == ((2, 1), (6, 0))
    [row] = [of for of in overview("smoke", tmp_path) if of["name"] == "table-3"]
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
    assert "The picture's mean is that of long, other." in text
    assert "| short | 6 | 65.0 | 65.0 |" in text


@pytest.mark.slow
def test_a_run_that_failed_leaves_a_page_of_the_others(tmp_path: Path) -> None:
    planned = plan("table-3", "smoke", tmp_path)
    diverging = replace(planned.scale, learning_rates={HYPER_PP: 1e30})
    with pytest.raises(UserError, match=r"1 of 2 runs failed; hyperformer\+\+,r=8, seed 1 .*the loss is nan"):
        reproduce(replace(planned, scale=diverging), jobs=2)
    text = (planned.folder / "table-3.md").read_text()
    assert "1 of 2 runs are not finished" in text
    assert "| adapters_dagger,r=2 | 1 |" in text
    assert "hyperformer++" not in text.partition("## As printed")[0]
