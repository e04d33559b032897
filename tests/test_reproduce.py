"""The HyperFormer paper's experiments: each runs to its page, and the formulas are the real counts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from transformers import T5Config

from hyperadapt.comparison import Cell
from hyperadapt.experiments import EXPERIMENTS, SCALES, plan, reproduce
from hyperadapt.experiments.costs import adapters_count, hyperformer_pp_count, real_count
from hyperadapt.experiments.glue import best_by_validation, rows_of
from hyperadapt.experiments.scales import HYPER_PP, Target
from hyperadapt.tasks import SUITES
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


def test_a_transfer_goes_on_from_a_run_of_table_1() -> None:
    trained = {str(cell.directory.resolve()): cell.config for cell in plan("table-1", "small").cells()}
    starting = [cell.config for cell in plan("table-2", "small").cells() if cell.config.start is not None]
    assert len(starting) == 168
    for run in starting:
        assert run.start is not None
        source = trained[run.start.run]
        assert run.method["name"] == source.method["name"]
        assert (
            set(run.start.init_from)
            <= {"mnli", "qnli", "sst2", "qqp"}
            <= set(source.data.tasks) | set(SUITES["glue"])
        )
        assert run.data.subsample_seed is None


def test_experiments_with_runs_in_common_ask_for_the_same_ones() -> None:
    runs: dict[Path, object] = {}
    shared = 0
    for name in EXPERIMENTS:
        for cell in plan(name, "small").cells():
            shared += cell.directory in runs
            assert runs.setdefault(cell.directory, cell.config) == cell.config
    assert shared > 0


def test_a_task_of_few_rows_is_asked_for_no_more() -> None:
    assert Target("mnli", rows=250).sizes((4, 100, 500, 2000)) == (4, 100, 250)
    assert Target("mnli").sizes((4, 500)) == (4, 500)


def test_models_of_one_task_make_a_row_as_one_for_all_does(tmp_path: Path) -> None:
    def cell(seed: int, scores: dict[str, float]) -> Cell:
        """A finished run, as far as a table reads it."""
        directory = tmp_path / "-".join(scores) / f"seed-{seed}"
        config = next(iter(plan("table-3", "smoke").cells())).config
        config = config.model_copy(update={"output_dir": str(directory)})
        tasks = {task: {"score": score} for task, score in scores.items()}
        counts = {"base": 100, "total": 110, "trained": 15, "tasks": len(scores)}
        results = {"validation": {"tasks": tasks}, "parameters": counts, "train_seconds": 1.0}
        directory.mkdir(parents=True)
        (directory / "results.json").write_text(json.dumps(results))
        return Cell("adapters", seed, config)

    [alone] = rows_of(
        [cell(1, {"a": 10.0}), cell(1, {"b": 30.0}), cell(2, {"a": 30.0}), cell(2, {"b": 50.0})]
    )
    [together] = rows_of([cell(1, {"a": 10.0, "b": 30.0}), cell(2, {"a": 30.0, "b": 50.0})])
    same = ("a", "b", "average", "validation", "seeds")
    assert [alone[name] for name in same] == [together[name] for name in same]
    assert together["average"] == (30.0, pytest.approx(14.142, abs=1e-3))
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
        (["tables-5-6", "--jobs", "2"], "--jobs 2: the runs of tables-5-6 are timed"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    outcome = hyperadapt("reproduce", *arguments, "--output-dir", tmp_path / "out")
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "out").exists()


def test_the_list_says_what_is_done(tmp_path: Path) -> None:
    outcome = hyperadapt("reproduce", "--list", "--scale", "smoke", "--output-dir", tmp_path)
    assert outcome.code == 0
    assert all(name in outcome.out for name in EXPERIMENTS)
