"""Evaluation: batching changes no prediction, and every number is what counting by hand gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyperadapt.architectures import EncoderDecoder, Request
from hyperadapt.runs.run import Run, load_run
from hyperadapt.tasks.input_format import InputFormat
from tiny_run import SPLITS, hyperadapt, write_config


@pytest.fixture(scope="module")
def loaded(trained: Path) -> Run:
    return load_run(trained)


def rows_of(run: Run, task: str, split: str) -> list[dict[str, Any]]:
    """The rows of a split, read from its file by hand."""
    file = (run.task(task).files or {})[split]
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def predict_alone(run: Run, task: str, row: dict[str, Any], num_beams: int = 1) -> str:
    """What transformers itself generates for one row in a batch of its own."""
    inputs = run.tokenizer(f"text: {row['text']}", truncation=True, max_length=48, return_tensors="pt")
    generated = run.model.generate(
        **inputs,
        task_ids=torch.tensor([[each.name for each in run.tasks].index(task)]),
        max_new_tokens={"colour": 5, "warmth": 8}[task],
        num_beams=num_beams,
    )
    return run.tokenizer.decode(generated[0], skip_special_tokens=True).strip()


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("batch_size", [5, 64])
def test_mixed_batches_sorted_by_length_predict_what_each_row_gives_alone(
    loaded: Run, num_beams: int, batch_size: int
) -> None:
    results = loaded.evaluate("test", batch_size=batch_size, num_beams=num_beams)
    alone = [
        [predict_alone(loaded, task.name, row, num_beams) for row in rows_of(loaded, task.name, "test")]
        for task in loaded.tasks
    ]
    assert results.predictions == alone
    # Else the order of rows would not show.
    assert all(len(set(predictions)) > 1 for predictions in alone)


def test_the_length_of_a_prediction_does_not_depend_on_the_other_rows_of_its_batch(loaded: Run) -> None:
    texts = ["text: red rose", "text: blue whale", "text: azur é"]
    sources = EncoderDecoder().inputs({"source": texts}, loaded.tokenizer, InputFormat(48))[0]

    def generate(most: Sequence[int]) -> list[str]:
        requests = [Request(1, ids, (0, length)) for ids, length in zip(sources, most, strict=True)]
        found = EncoderDecoder().answer(loaded.model, loaded.tokenizer, requests)
        return [answer.text for answer in found]

    short, long = generate([2] * 3), generate([8] * 3)
    assert short != long
    assert generate([2, 8, 2]) == [short[0], long[1], short[2]]


def test_scores_average_and_invalid_counts_equal_those_counted_by_hand(loaded: Run) -> None:
    results = loaded.evaluate("test")
    colour, warmth = results.scores

    targets = [str(row["label"]) for row in rows_of(loaded, "colour", "test")]
    answers = results.predictions[0]
    right = sum(answer == target for answer, target in zip(answers, targets, strict=True))
    assert colour.metrics["accuracy"] == pytest.approx(100 * right / len(targets))
    # An answer that is neither class counts as the wrong one.
    classed = [a if a in "01" and a else str(1 - int(t)) for a, t in zip(answers, targets, strict=True)]
    pairs = list(zip(classed, targets, strict=True))
    hits, misses = pairs.count(("1", "1")), pairs.count(("1", "0")) + pairs.count(("0", "1"))
    assert colour.metrics["f1"] == pytest.approx(100 * 2 * hits / (2 * hits + misses))
    assert colour.score == pytest.approx((colour.metrics["accuracy"] + colour.metrics["f1"]) / 2)
    assert colour.invalid == sum(answer not in ("0", "1") for answer in answers)

    numbers, invalid = [], 0
    for answer in results.predictions[1]:
        try:
            numbers.append(float(answer))
        except ValueError:
            numbers.append(-1.0)
            invalid += 1
    assert warmth.invalid == invalid
    wanted = [row["warmth"] for row in rows_of(loaded, "warmth", "test")]
    varied = len(set(numbers)) > 1
    pearson = 100 * np.corrcoef(numbers, wanted)[0, 1] if varied else 0.0
    assert warmth.metrics["pearson"] == pytest.approx(pearson)

    assert colour.rows == warmth.rows == SPLITS["test"]
    assert results.average == pytest.approx((colour.score + warmth.score) / 2)
    assert results.flat()["average"] == results.as_dict()["average"] == results.average
    assert results.flat()["colour_accuracy"] == results.as_dict()["tasks"]["colour"]["metrics"]["accuracy"]
    # Else one of the counts above could be a constant.
    assert 0 < colour.invalid + warmth.invalid < 2 * SPLITS["test"]
    assert right > 0


def test_a_run_evaluated_on_one_task_scores_it_as_among_all(loaded: Run) -> None:
    everything = loaded.evaluate("validation")
    for index, task in enumerate(("colour", "warmth")):
        alone = loaded.evaluate("validation", [task])
        assert alone.predictions == [everything.predictions[index]]
        assert alone.scores == [everything.scores[index]]
        assert alone.average == everything.scores[index].score
    assert loaded.evaluate("validation", ["warmth", "colour"]).predictions == everything.predictions[::-1]


def test_the_model_goes_on_in_the_mode_it_was_in(loaded: Run) -> None:
    [ids] = EncoderDecoder().inputs({"source": ["text: red"]}, loaded.tokenizer, InputFormat(48))[0]
    for training in (True, False):
        loaded.model.train(training)
        EncoderDecoder().answer(loaded.model, loaded.tokenizer, [Request(0, ids, (0, 2))])
        assert loaded.model.training is training


def test_predictions_of_the_saved_run_are_those_of_the_model_in_training(
    tmp_path: Path, trained: Path
) -> None:
    from hyperadapt.config.written import RunConfig
    from hyperadapt.runs.train import train

    tasks = [str(trained.parent / f"tasks/{task}.yaml") for task in ("colour", "warmth")]
    config = RunConfig.load(
        write_config(tmp_path, tasks, method={"name": "full_fine_tuning"}),
        ["training.max_steps=60", "training.eval_steps=60"],
    )
    in_training = train(config)
    run = load_run(tmp_path / "run")
    for split, results in in_training.items():
        assert run.evaluate(split) == results
    assert len(set(in_training["test"].predictions[1])) > 1
    # With a method that does not condition on the task, the task stands in the text.
    row = rows_of(run, "warmth", "test")[0]
    assert [prediction.text for prediction in run.predict("warmth", [row])] == in_training[
        "test"
    ].predictions[1][:1]
    assert config.prefix


def test_of_several_tasks_only_those_with_test_rows_are_tested(tmp_path: Path, trained: Path) -> None:
    import yaml

    tasks = trained.parent / "tasks"
    spec = yaml.safe_load((tasks / "warmth.yaml").read_text())
    spec["files"] = {split: str(tasks / f"warmth-{split}.jsonl") for split in ("train", "validation")}
    (tmp_path / "warmth.yaml").write_text(yaml.safe_dump(spec))
    config = write_config(tmp_path, [str(tasks / "colour.yaml"), str(tmp_path / "warmth.yaml")])
    assert hyperadapt("train", config, "training.max_steps=2", "training.eval_steps=2").code == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert list(results["test"]["tasks"]) == ["colour"]
    assert list(results["validation"]["tasks"]) == ["colour", "warmth"]
    assert list(load_run(tmp_path / "run").evaluate("test").as_dict()["tasks"]) == ["colour"]
