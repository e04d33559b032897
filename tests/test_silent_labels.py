"""Labels: a column's numbers and names mean what they say, or are refused; none is the class beside it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyperadapt.errors import UserError
from hyperadapt.tasks import TASKS, Task, load_split, load_task_file, read_split
from row_files import FORMATS, write
from tiny_run import assert_one_line, hyperadapt, write_config


def task_of(labels: list[str], path: Path = Path("rows.jsonl"), **changes: Any) -> Task:
    """A task with these labels in its column `stars`."""
    fields = {
        "name": "reviews",
        "files": {"train": path},
        "fields": ["text"],
        "label": "stars",
        "labels": labels,
        "metrics": ["accuracy"],
    }
    return Task(**{**fields, **changes})


def numbers(labels: list[str], *values: object) -> list[str]:
    """The numbers of the labels that these values of a column are."""
    task = task_of(labels)
    return [task.label_number({"stars": value}) for value in values]


# ---------------------------------------------------------------------------------- names that are themselves numbers


def test_names_that_are_numbers_are_matched_as_numbers_however_they_are_written() -> None:
    for one, two, three in (("1.0", "2.0", "3.0"), ("1", "2", "3"), ("01", "02", "03"), ("1e0", "+2", "3.")):
        assert numbers([one, two, three], 1, 2, 3) == ["0", "1", "2"]
        assert numbers([one, two, three], "1", "2.0", "3.00", 1.0, "1e0", Decimal("2.0")) == list("012001")
    assert numbers(["-1", "0", "0.5"], -1, "-1.0", -0.0, 0.5, ".5", "5e-1") == list("001222")
    assert numbers(["0", "1", "unsure"], 1, "unsure", "0.0") == ["1", "2", "0"]


def test_numbers_too_long_for_a_float_are_told_apart() -> None:
    longs = ["12345678901234567890", "12345678901234567891"]
    assert numbers(longs, 12345678901234567891, "12345678901234567890.0") == ["1", "0"]


@pytest.mark.parametrize("value", [0, "4", 1.5, "one", None, True, "", float("nan"), "0x1", "１"])
def test_what_is_none_of_such_names_is_refused(value: object) -> None:
    with pytest.raises(
        UserError, match=r"^column 'stars' holds .+, which is no label; .*1\.0, 2\.0, 3\.0\)?$"
    ):
        numbers(["1.0", "2.0", "3.0"], value)


def test_names_that_would_be_the_same_label_are_refused() -> None:
    for labels in (["1", "1.0"], ["0", "-0"], ["2", "3", "02"], ["true", "True"]):
        with pytest.raises(ValueError, match=r"labels: '.+' and '.+' would be the same label"):
            task_of(labels)


# ------------------------------------------------------------------------------------------ numbers for other names


def test_numbers_of_named_labels_count_from_0_however_they_are_written() -> None:
    assert numbers(["bad", "fair", "good"], 0, "1", 2.0, "2.0", "good", Decimal(1)) == list("012221")


def test_truth_values_are_names_of_their_own_and_not_the_numbers_0_and_1() -> None:
    for labels in (["False", "True"], ["false", "true"], ["FALSE", "TRUE"]):
        assert numbers(labels, True, False, "true", "False", "TRUE", 1, 0) == list("1010110")
    with pytest.raises(
        UserError,
        match=r"^column 'stars' holds True, which is no label; choices: ham, spam, 0, 1; for truth ",
    ):
        numbers(["ham", "spam"], True)
    with pytest.raises(UserError, match=r"^column 'stars' holds 'false', which is no label; "):
        numbers(["ham", "spam"], "false")


@pytest.mark.parametrize("value", [0, 1, "0", 1.0])
def test_a_number_is_not_taken_for_the_truth_value_that_it_denies(value: object) -> None:
    assert numbers(["true", "false"], True, False, "TRUE", "false") == list("0101")
    with pytest.raises(UserError) as refusal:
        numbers(["true", "false"], value)
    labels = yaml.safe_load(str(refusal.value).partition("; for truth values write labels: ")[2])
    assert numbers(labels, 0, 1, False, True) == list("0101")


COUNTS_FROM_1 = (
    "column 'stars' holds 3 and never 0, but the 3 labels are numbered from 0; count from 0 there, or name all that "
    "the column holds, as labels: [1, 2, 3]"
)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("as_text", [False, True])
def test_a_column_that_counts_from_1_is_refused_though_the_rows_that_are_drawn_do_not_show_it(
    suffix: str, as_text: bool, tmp_path: Path
) -> None:
    stars: list[int] = [1, 2] * 10 + [3]
    rows = [{"text": str(row), "stars": str(star) if as_text else star} for row, star in enumerate(stars)]
    path = write(tmp_path / f"rows{suffix}", rows)
    task = task_of(["bad", "fair", "good"], path, splits={"train": "train[:50%]"})
    for seed in range(3):
        with pytest.raises(UserError) as refusal:
            load_split(task, "train", max_rows=2, seed=seed)
        assert str(refusal.value) == f"task 'reviews', train rows: {COUNTS_FROM_1}"
    named = task_of(["1", "2", "3"], path)
    assert load_split(named, "train")["target"] == [str(star - 1) for star in stars]


def test_a_column_that_holds_0_or_a_name_as_well_does_not_count_from_1(tmp_path: Path) -> None:
    for others in ([0, 1], ["bad", 1]):
        rows = [{"text": "a", "stars": star} for star in [*others, 3]]
        task = task_of(["bad", "fair", "good"], write(tmp_path / "rows.jsonl", rows))
        with pytest.raises(
            UserError, match=r"rows\.jsonl, line 3: column 'stars' holds 3, which is no label; "
        ):
            load_split(task, "train")
        assert len(read_split(task, "train")) == 3


def test_a_training_whose_validation_rows_alone_show_that_they_count_from_1_is_refused(
    tmp_path: Path,
) -> None:
    for split, stars in (("train", [1, 2, 1, 2]), ("validation", [3, 1])):
        write(
            tmp_path / f"{split}.jsonl",
            [{"text": f"{split} {n}", "stars": star} for n, star in enumerate(stars)],
        )
    files = {"train": "train.jsonl", "validation": "validation.jsonl"}
    spec = task_of(["bad", "fair", "good"]).model_dump(mode="json", exclude_none=True)
    file = tmp_path / "reviews.yaml"
    file.write_text(json.dumps({**spec, "files": files, "splits": "as_given"}))
    assert load_split(load_task_file(file), "train")["target"] == [
        "1",
        "2",
        "1",
        "2",
    ]  # which nobody can know
    outcome = hyperadapt("train", write_config(tmp_path, [str(file)]))
    assert_one_line(outcome, f"task 'reviews', validation rows: {COUNTS_FROM_1}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("labels", "values"),
    [
        (["bad", "good"], [0, 1, 1]),
        (["bad", "good"], [0.0, 1.0, 1.0]),
        (["bad", "good"], ["bad", "good", "good"]),
        (["1", "2"], [1, 2, 2]),
        (["1.0", "2.0"], [1, 2, 2]),
        (["1", "2"], [1.0, 2.0, 2.0]),
        (["0.5", "1"], [0.5, 1.0, 1.0]),
        (["False", "True"], [False, True, True]),
        (["false", "true"], [False, True, True]),
    ],
)
def test_labels_of_every_type_are_the_same_in_every_format(
    labels: list[str], values: list[Any], suffix: str, tmp_path: Path
) -> None:
    rows = [{"text": "a", "stars": value} for value in values]
    for writes, targets in (("number", ["0", "1", "1"]), ("name", [labels[0], labels[1], labels[1]])):
        task = task_of(labels, write(tmp_path / f"rows{suffix}", rows), writes=writes)
        assert load_split(task, "train")["target"] == targets


def test_the_labels_of_all_built_in_tasks_are_their_own_names_and_numbers() -> None:
    for task in TASKS.values():
        for number, name in enumerate(task.labels or ()):
            assert task.label_number({task.label: name}) == str(number)
            if task.name != "art":  # its names are themselves numbers
                assert task.label_number({task.label: number}) == str(number)
