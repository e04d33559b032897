"""Comparisons and reports: the runs that are trained, those that are not trained again, and the tables of them."""

from __future__ import annotations

import base64
import csv
import importlib.util
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from sklearn.decomposition import PCA

from hyperadapt.config.written import CompareConfig
from hyperadapt.runs.run import load_run
from tiny_run import BASE, Forked, assert_one_line, contents, hyperadapt, one_after_another, write_tasks

pytestmark = pytest.mark.xdist_group("comparison")  # or each worker would train the runs that all look at

VARIANTS = {
    "adapters": {"method": {"name": "adapters", "reduction_factor": 2}},
    "r=4": {"method": {"name": "hyperformer++", "reduction_factor": 4}, "training": {"learning_rate": 3e-3}},
}


def write_comparison(directory: Path, **changes: Any) -> Path:
    """Write the configuration of a comparison of four tiny runs into `directory / "table"`."""
    values = {
        "output_dir": str(directory / "table"),
        "seeds": [0, 1],
        "base": {
            "model": {"config": BASE, "tokenizer": "bytes"},
            "data": {"tasks": write_tasks(directory / "tasks"), "max_source_length": 48},
            "training": {"max_steps": 4, "batch_size": 8, "eval_steps": 4, "logging_steps": 2},
        },
        "variants": VARIANTS,
        **changes,
    }
    (directory / "compare.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return directory / "compare.yaml"


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a comparison that is finished, for reading only."""
    directory = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("hyperadapt.studies.comparison.spread_over_processes", one_after_another)
        outcome = hyperadapt("compare", write_comparison(directory))
    assert outcome.code == 0, outcome.err
    assert "mean ± deviation" in outcome.out
    return directory


@pytest.fixture
def comparison(compared: Path, tmp_path: Path) -> Path:
    """A copy of the comparison, to be changed; its configuration is compare.yaml."""
    directory = Path(shutil.copytree(compared, tmp_path / "copy"))
    text = (directory / "compare.yaml").read_text().replace(str(compared / "table"), str(directory / "table"))
    (directory / "compare.yaml").write_text(text)
    return directory


def rows_of(directory: Path) -> list[dict[str, str]]:
    with (directory / "table/table.csv").open() as file:
        return list(csv.DictReader(file))


def weights(run: Path) -> dict[str, bytes]:
    """A run's trained tensors, bit for bit."""
    return {
        name: value.numpy().tobytes() for name, value in load_file(run / "model/model.safetensors").items()
    }


def trained_between(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    """Which runs were trained between two looks at a comparison."""
    changed = {name for name in after if before.get(name) != after[name]}
    return {name.removesuffix("/results.json") for name in changed if name.endswith("results.json")}


def test_the_table_has_the_means_and_deviations_of_its_runs(compared: Path) -> None:
    majority, *rows = rows_of(compared)
    assert [row["variant"] for row in rows] == list(VARIANTS)
    for row in rows:
        results = [
            json.loads((compared / f"table/{row['variant']}/seed-{seed}/results.json").read_text())
            for seed in (0, 1)
        ]
        for task in ("colour", "warmth"):
            scores = [result["test"]["tasks"][task]["score"] for result in results]
            assert float(row[task]) == pytest.approx(fmean(scores))
            assert float(row[f"{task} deviation"]) == pytest.approx(stdev(scores))
        assert float(row["average"]) == pytest.approx(fmean(result["test"]["average"] for result in results))
        on_validation = fmean(result["validation"]["average"] for result in results)
        assert float(row["validation"]) == pytest.approx(on_validation)
        answers = results[0]["majority"]
        assert float(majority["colour"]) == pytest.approx(answers["test"]["tasks"]["colour"]["score"])
        assert float(majority["average"]) == pytest.approx(answers["test"]["average"])
        assert float(majority["validation"]) == pytest.approx(answers["validation"]["average"])
        percent = results[0]["parameters"]["trained_per_task_percent"]
        assert float(row["% trained"]) == pytest.approx(percent)
        assert 0 < float(row["step (s)"]) < 10
        assert 100 < float(row["memory (MB)"]) < 10_000
    assert rows[0]["% trained"] != rows[1]["% trained"]
    markdown = (compared / "table/table.md").read_text().splitlines()
    assert len(markdown) == 5
    assert all(re.search(r"\| \d+\.\d ± \d+\.\d \|", line) for line in markdown[2:])
    picture = (compared / "table/table.svg").read_text()
    assert picture.count("<svg") == 1


def test_a_cell_is_the_run_that_train_makes_of_its_configuration(compared: Path, tmp_path: Path) -> None:
    config = compared / "table/r=4/seed-1.yaml"
    outcome = hyperadapt("train", config, f"output_dir={tmp_path / 'alone'}")
    assert outcome.code == 0, outcome.err
    alone = load_run(tmp_path / "alone")
    assert alone.config.seed == 1
    assert alone.config.training.learning_rate == 3e-3
    assert alone.config.training.max_steps == 4
    assert weights(tmp_path / "alone") == weights(compared / "table/r=4/seed-1")


@pytest.mark.usefixtures("in_one_process")
def test_what_is_finished_is_not_run_again_and_what_is_added_is(comparison: Path) -> None:
    before = contents(comparison / "table")
    assert hyperadapt("compare", comparison / "compare.yaml").code == 0
    assert trained_between(before, contents(comparison / "table")) == set()
    shutil.rmtree(comparison / "table/adapters/seed-1")
    outcome = hyperadapt("compare", comparison / "compare.yaml", "seeds=[0, 1, 2]")
    assert outcome.code == 0, outcome.err
    after = contents(comparison / "table")
    assert trained_between(before, after) >= {"adapters/seed-2", "r=4/seed-2"}
    assert not trained_between(before, after) & {"adapters/seed-0", "r=4/seed-0", "r=4/seed-1"}
    assert [row["seeds"] for row in rows_of(comparison)] == ["3", "3", "3"]


def test_a_finished_run_is_not_passed_off_as_one_of_another_configuration(comparison: Path) -> None:
    before = contents(comparison / "table")
    for change, message in (
        ("base.training.max_steps=5", "training.max_steps was 4 and is now 5"),
        ("variants.adapters.method.reduction_factor=4", "method.reduction_factor was 2"),
    ):
        outcome = hyperadapt("compare", comparison / "compare.yaml", change)
        assert outcome.code == 2
        assert message in outcome.err
        assert contents(comparison / "table") == before


def test_a_run_that_fails_leaves_the_others_alone_and_is_named(tmp_path: Path) -> None:
    hot = {"learning_rate": 1e30, "arguments": {"max_grad_norm": 0.0}}
    config = write_comparison(
        tmp_path,
        variants={"hot": {**VARIANTS["adapters"], "training": hot}, "adapters": VARIANTS["adapters"]},
        seeds=[0],
    )
    outcome = hyperadapt("compare", config, "--jobs", "2")
    last = [line for line in re.split(r"[\r\n]+", outcome.err) if line.strip()][-1]
    assert outcome.code == 2
    assert last.startswith("error: 1 of 2 runs failed; hot, seed 0 (")
    assert re.search(r"the loss is (nan|inf) at step", last)
    assert [row["variant"] for row in rows_of(tmp_path)] == ["majority", "adapters"]


@pytest.mark.slow
def test_sigterm_lets_the_runs_write_their_checkpoints_and_they_go_on_from_there(
    tmp_path: Path, started: Callable[..., Forked], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_comparison(tmp_path, seeds=[0])
    more = ["base.training.max_steps=200", "base.training.eval_steps=8"]
    process = started("compare", config, *more, "--jobs", "2")
    runs = [tmp_path / f"table/{variant}/seed-0" for variant in VARIANTS]

    def all_have_begun() -> bool:
        return all(list(run.glob("checkpoints/checkpoint-*/trainer_state.json")) for run in runs)

    process.wait_until(all_have_begun, 100)
    os.kill(process.pid, signal.SIGTERM)
    outcome = process.wait(100)
    assert outcome.code == 128 + signal.SIGTERM
    assert "the same command goes on" in outcome.err
    logs = [(tmp_path / f"table/{variant}/seed-0.log").read_text() for variant in VARIANTS]
    stops = [int(re.search(r"stopped at step (\d+) of 200", " ".join(log.split()))[1]) for log in logs]  # type: ignore[index]
    assert all(8 <= stop < 200 for stop in stops)
    for run in runs:
        (run / "marker").touch()
    monkeypatch.setattr("hyperadapt.studies.comparison.spread_over_processes", one_after_another)
    assert hyperadapt("compare", config, *more, "--jobs", "2").code == 0
    for run in runs:
        assert (run / "marker").exists()  # or it was begun anew
        assert json.loads((run / "results.json").read_text())["steps"] == 200
        history = json.loads((run / "history.json").read_text())
        again = [entry["step"] for entry in history if "loss" in entry]
        assert again == sorted(set(again))  # no step was trained twice


@pytest.mark.usefixtures("in_one_process")
def test_variants_of_different_tasks_have_no_common_average_and_each_task_its_majority(
    tmp_path: Path,
) -> None:
    colour, warmth = write_tasks(tmp_path / "tasks")
    variants = {
        name: {"method": {"name": "adapters", "reduction_factor": 2}, "data": {"tasks": [file]}}
        for name, file in (("a", colour), ("b", warmth))
    }
    config = write_comparison(tmp_path, variants=variants, seeds=[0])
    assert hyperadapt("compare", config).code == 0
    majority, a, b = rows_of(tmp_path)
    assert "average" not in a
    assert (bool(majority["colour"]), bool(majority["warmth"])) == (True, True)
    assert (bool(a["colour"]), bool(a["warmth"])) == (True, False)
    assert (bool(b["colour"]), bool(b["warmth"])) == (False, True)
    picture = (tmp_path / "table/table.svg").read_text()
    assert all(f"<!-- {task} -->" in picture for task in ("colour", "warmth"))
    assert "<!-- average -->" not in picture


def test_a_run_of_two_processes_is_the_run_of_one(compared: Path, tmp_path: Path) -> None:
    only = {"variants": {"adapters": VARIANTS["adapters"]}, "seeds": [0]}
    outcome = hyperadapt("compare", write_comparison(tmp_path, **only), "--processes", "2")
    assert outcome.code == 0, outcome.err
    one, two = (
        load_file(of / "table/adapters/seed-0/model/model.safetensors") for of in (compared, tmp_path)
    )
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)
    # Sums in another order: were they equal bit for bit, one process would have done it all.
    assert any(not torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_the_runs_of_a_ray_cluster_are_those_of_this_process(compared: Path, tmp_path: Path) -> None:
    only = {"variants": {"adapters": VARIANTS["adapters"]}, "seeds": [0]}
    outcome = hyperadapt("compare", write_comparison(tmp_path, **only), "--ray", "local")
    assert outcome.code == 0, outcome.err
    assert weights(tmp_path / "table/adapters/seed-0") == weights(compared / "table/adapters/seed-0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {}}, "variants"),
        (
            {"variants": {"a": {"method": "adaptors"}}},
            "method 'adaptors' is unknown; did you mean 'adapters'?",
        ),
        (
            {"variants": {"a": {"method": "adapters", "trainin": {}}}},
            "variants.a: field 'trainin' is unknown",
        ),
        ({"variants": {"a/b": {"method": "adapters"}}}, "variants"),
        (
            {"variants": {"a": {"method": "adapters", "seed": 3}}},
            "variants.a: seed is decided by the comparison",
        ),
        ({"seeds": [1, 1]}, "a seed comes twice"),
        ({"variants": {"a": {"method": "adapters", "data": {"tasks": ["colla"]}}}}, "did you mean 'cola'?"),
        ({"variants": {"a": {"method": "adapters", "data": {"data_dir": "nowhere"}}}}, "there is no folder"),
        (
            {
                "variants": {
                    task: {"method": "adapters", "data": {"data_dir": ".", "tasks": [task]}}
                    for task in ("rte", "cola", "xsum")
                }
            },
            "; 2 more tasks lack their rows: cola, xsum",
        ),
        (
            {"variants": {"a": {"method": "adapters", "training": {"arguments": {"bf61": True}}}}},
            "field 'training.arguments.bf61' is unknown; did you mean 'bf16'?",
        ),
        (
            {"variants": {"a": {"method": "adapters", "model": {"tokenizer": "./none"}}}},
            "/none'",
        ),
        (
            {"variants": {**VARIANTS, "gates": {"method": {"name": "hypergrid", "fan_in": 5, "fan_out": 4}}}},
            "5 blocks do not divide the output of",
        ),
        ({"sedes": [1]}, "did you mean 'seeds'?"),
    ],
)
def test_a_wrong_comparison_is_one_line_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = write_comparison(tmp_path, **changes)
    before = contents(tmp_path)
    assert_one_line(hyperadapt("compare", config), message)
    assert contents(tmp_path) == before


def test_the_resolved_comparison_makes_the_same_runs(compared: Path) -> None:
    asked = CompareConfig.load(compared / "compare.yaml")
    assert CompareConfig.load_saved(compared / "table/config.yaml").runs() == asked.runs()


# ------------------------------------------------------------------------------------------------------- reports


def test_a_report_needs_no_other_file_and_has_the_runs_own_numbers(run: Path) -> None:
    outcome = hyperadapt("report", run)
    assert outcome.code == 0, outcome.err
    page = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", page)
    assert "@import" not in page
    results = json.loads((run / "results.json").read_text())
    for split in ("validation", "test"):
        assert f"Scores on the {split} rows" in page
        for task in ("colour", "warmth"):
            score = results[split]["tasks"][task]["score"]
            majority = results["majority"][split]["tasks"][task]["score"]
            assert f'<td class="number">{score:.1f}<td class="number">{majority:.1f}' in page
    assert page.count("data:image/svg+xml;base64,") == 2  # loss, validation; adapters have no embedding
    assert "Task embeddings" not in page


def test_the_map_shows_the_task_embeddings_of_a_method_that_has_them(compared: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(compared / "table/r=4/seed-0", tmp_path / "run"))
    assert load_run(run).model.hyperadapt.task_embeddings().shape[0] == 2
    assert hyperadapt("report", run).code == 0
    assert "Task embeddings" not in (run / "report.html").read_text()  # two points always lie on a line
    third = tmp_path / "tasks/third.yaml"
    write_tasks(third.parent)
    third.write_text((third.parent / "colour.yaml").read_text().replace("name: colour", "name: third"))
    config = yaml.safe_load((compared / "table/r=4/seed-0.yaml").read_text())
    config["data"]["tasks"].append(str(third))
    config["output_dir"] = str(tmp_path / "three")
    (tmp_path / "three.yaml").write_text(yaml.safe_dump(config))
    assert hyperadapt("train", tmp_path / "three.yaml").code == 0
    assert hyperadapt("report", tmp_path / "three").code == 0
    page = (tmp_path / "three/report.html").read_text()
    embeddings = load_run(tmp_path / "three").model.hyperadapt.task_embeddings().detach().numpy()
    explained = 100 * PCA(2).fit(embeddings).explained_variance_ratio_
    assert "Task embeddings" in page
    pictures = [base64.b64decode(image).decode() for image in re.findall(r"svg\+xml;base64,([^\"]+)", page)]
    assert all(f"{share:.0f} %" in pictures[-1] for share in explained)
    assert all(f"<!-- {task} -->" in pictures[-1] for task in ("colour", "warmth", "third"))


def test_majority_is_what_the_most_frequent_training_target_scores(trained: Path) -> None:
    majority = json.loads((trained / "results.json").read_text())["majority"]["test"]["tasks"]
    targets = [json.loads(line)["label"] for line in (trained.parent / "tasks/colour-test.jsonl").open()]
    most_frequent = 0  # of the training rows' labels 0, 1, 0, 1: the first
    accuracy = 100 * sum(label == most_frequent for label in targets) / len(targets)
    assert majority["colour"]["metrics"]["accuracy"] == pytest.approx(accuracy)
    assert majority["warmth"]["score"] == 0.0


def test_a_run_without_results_has_no_report(run: Path) -> None:
    (run / "history.json").unlink()
    assert_one_line(hyperadapt("report", run), "history.json is missing, though manifest.json lists it")
    assert not (run / "report.html").exists()
