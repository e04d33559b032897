"""Tasks as data: the GLUE tasks on the real rows, users' tasks from YAML, and what each mistake is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from hyperadapt.errors import UserError
from hyperadapt.tasks import (
    SPLITS,
    SUITES,
    TASKS,
    Task,
    check_there,
    get_task,
    input_texts,
    load_split,
    load_task_file,
    resolve_tasks,
)
from hyperadapt.tasks.sources import json_rows, read_dataset
from hyperadapt.tasks.suites.builtin import BUILTIN
from hyperadapt.tasks.suites.glue import GLUE

# Rows that the papers' protocol makes of the files in shared/data: train, validation, test.
SPLIT_SIZES = {
    "cola": (8551, 521, 522),
    "sst2": (66349, 1000, 872),
    "stsb": (5749, 750, 750),
    "mrpc": (3668, 204, 204),
    "qqp": (24376, 1000, 7600),
    "mnli": (15891, 9832, 9815),
    "qnli": (3463, 1000, 1000),
    "rte": (2490, 138, 139),
}


def parquet_rows(path: Path) -> list[dict]:
    """Rows of a parquet file, read without the library."""
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


def texts(split) -> list[tuple[str, str]]:
    """Source and target of every row."""
    return list(zip(split["source"], split["target"], strict=True))


@pytest.fixture
def data_dir(shared: Path) -> Path:
    """The real data."""
    return shared / "data"


@pytest.fixture
def reviews(tmp_path: Path) -> Callable[..., Task]:
    """Writes a user's task file, with some fields replaced or (None) left out, and loads it."""

    def load(**replaced) -> Task:
        fields = {
            "name": "reviews",
            "files": {"train": "train.jsonl", "validation": "dev.csv"},
            "fields": ["title", "body"],
            "label": "stars",
            "labels": ["bad", "good"],
            "metrics": ["accuracy", "f1"],
        }
        fields = {name: value for name, value in {**fields, **replaced}.items() if value is not None}
        (tmp_path / "reviews.yaml").write_text(json.dumps(fields), encoding="utf-8")
        return load_task_file(tmp_path / "reviews.yaml")

    (tmp_path / "train.jsonl").write_text(
        '{"title": "Lamp", "body": "Bright.", "stars": 1}\n{"title": "Fän", "body": "Old", "stars": "bad"}\n',
        encoding="utf-8",
    )
    (tmp_path / "dev.csv").write_text(
        'title,body,stars\nKettle,"Leaks, and\nis dear.",0\nPan,Fine.,good\n', encoding="utf-8"
    )
    return load


# --- the GLUE tasks on the real rows


def test_glue_is_the_eight_tasks_of_the_papers_in_order():
    assert SUITES["glue"] == tuple(GLUE) == tuple(SPLIT_SIZES)
    assert {name: task.metrics for name, task in GLUE.items()} == {
        "cola": ("matthews",),
        "sst2": ("accuracy",),
        "stsb": ("pearson", "spearman"),
        "mrpc": ("accuracy", "f1"),
        "qqp": ("accuracy", "f1"),
        "mnli": ("accuracy",),
        "qnli": ("accuracy",),
        "rte": ("accuracy",),
    }


@pytest.mark.parametrize("name", SPLIT_SIZES)
def test_the_protocol_makes_these_splits_of_the_real_rows(name: str, data_dir: Path):
    sizes = tuple(len(load_split(TASKS[name], split, data_dir)) for split in ("train", "validation", "test"))
    assert sizes == SPLIT_SIZES[name]


@pytest.mark.parametrize("name", ["cola", "stsb", "mrpc", "rte"])
def test_validation_and_test_of_a_small_task_are_the_halves_of_its_validation_rows(name: str, data_dir: Path):
    task = TASKS[name]
    rows = [
        (task.source_text(row, prefix=False), task.target_text(row))
        for row in parquet_rows(data_dir / "glue" / name / "validation.parquet")
    ]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(42)).tolist()
    half = len(rows) // 2
    assert texts(load_split(task, "validation", data_dir)) == [rows[index] for index in order[:half]]
    assert texts(load_split(task, "test", data_dir)) == [rows[index] for index in order[half:]]


@pytest.mark.parametrize("name", ["sst2", "qqp", "qnli"])
def test_a_large_task_trains_on_no_validation_row(name: str, data_dir: Path):
    task = TASKS[name]
    rows = [
        (task.source_text(row, prefix=False), task.target_text(row))
        for row in parquet_rows(data_dir / "glue" / name / "train.parquet")
    ]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(42)).tolist()
    validation = texts(load_split(task, "validation", data_dir))
    assert validation == [rows[index] for index in order[:1000]]
    # Equal texts may stand in both (sst2 repeats some), so rows are counted.
    assert Counter(texts(load_split(task, "train", data_dir))) + Counter(validation) == Counter(rows)


def test_mnli_validates_on_the_mismatched_rows_and_tests_on_the_matched(data_dir: Path):
    for split, source in (("validation", "validation_mismatched"), ("test", "validation_matched")):
        rows = parquet_rows(data_dir / "glue" / "mnli" / f"{source}.parquet")
        assert load_split(TASKS["mnli"], split, data_dir)["target"] == [str(row["label"]) for row in rows]


def test_mrpc_leaves_glues_own_test_rows_alone(data_dir: Path):
    glue_test = {row["sentence1"] for row in parquet_rows(data_dir / "glue" / "mrpc" / "test.parquet")}
    validation = {row["sentence1"] for row in parquet_rows(data_dir / "glue" / "mrpc" / "validation.parquet")}
    ours = {
        text.split(": ", 1)[1].split(" sentence2: ")[0]
        for text in load_split(TASKS["mrpc"], "test", data_dir)["source"]
    }
    assert ours <= validation
    assert not ours <= glue_test


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("cola", "sentence: {sentence}", "{label}"),
        ("sst2", "sentence: {sentence}", "{label}"),
        ("stsb", "sentence1: {sentence1} sentence2: {sentence2}", "5.0"),
        ("mrpc", "sentence1: {sentence1} sentence2: {sentence2}", "{label}"),
        ("mnli", "premise: {premise} hypothesis: {hypothesis}", "{label}"),
        ("rte", "sentence1: {sentence1} sentence2: {sentence2}", "{label}"),
    ],
)
def test_the_texts_of_a_real_row_carry_the_field_names(name: str, source: str, target: str, data_dir: Path):
    split = "test" if name == "sst2" else "train"
    file = TASKS[name].splits[split]
    first = parquet_rows(data_dir / "glue" / name / f"{file}.parquet")[0]
    plain, prefixed = (load_split(TASKS[name], split, data_dir, prefix=prefix)[0] for prefix in (False, True))
    assert (plain["source"], TASKS[name].written(plain["target"])) == (
        source.format(**first),
        target.format(**first),
    )
    assert (prefixed["source"], prefixed["target"]) == (f"{name} {plain['source']}", plain["target"])
    for row in (plain, prefixed):
        marked = [row["source"][begin:end] for begin, end in row.get("places", [])]
        assert marked in ([], [first[column] for column in TASKS[name].fields])


def test_two_field_questions_are_named_as_their_columns():
    assert TASKS["qqp"].source_text({"question1": "Why?", "question2": "How?"}, prefix=True) == (
        "qqp question1: Why? question2: How?"
    )
    assert TASKS["qnli"].source_text({"question": "Why?", "sentence": "So."}, prefix=False) == (
        "question: Why? sentence: So."
    )


def test_real_targets_are_the_texts_that_a_model_may_answer(data_dir: Path):
    for name, task in GLUE.items():
        targets = {task.written(target) for target in load_split(task, "test", data_dir)["target"]}
        if name == "stsb":
            assert targets == {f"{fifth // 5}.{fifth % 5 * 2}" for fifth in range(26)}
        else:
            assert targets == {str(number) for number in range(len(task.labels))}
        assert all(task.is_valid(target) for target in targets)


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (3.8, "3.8"),
        (0, "0.0"),
        (5.0, "5.0"),
        (2.75, "2.8"),
        (0.067, "0.0"),
        (4.333, "4.4"),
        ("3.25", "3.2"),
        (-0.01, "0.0"),
    ],
)
def test_scores_are_rounded_to_the_nearest_fifth(score: float | str, text: str):
    stsb = TASKS["stsb"]
    assert stsb.written(stsb.target_text({"label": score})) == text


def test_what_is_no_number_is_no_score():
    for value in (True, "high", [3.8]):
        with pytest.raises(UserError, match=r"^column 'label' holds .+, which is no score$"):
            TASKS["stsb"].target_text({"label": value})


def test_a_score_of_single_precision_gives_the_text_of_its_decimal():
    for tenths in range(51):
        single = torch.tensor(tenths / 10).item()
        assert TASKS["stsb"].target_text({"label": single}) == TASKS["stsb"].target_text(
            {"label": str(tenths / 10)}
        )


def test_an_answer_is_read_back_as_a_label_or_as_none():
    cola, stsb = TASKS["cola"], TASKS["stsb"]
    assert [cola.label_name(text) for text in ("0", " 1\n", "2", "01", "acceptable", "")] == [
        "unacceptable",
        "acceptable",
        None,
        None,
        None,
        None,
    ]
    assert [stsb.label_name(text) for text in (" 3.8 ", "4", "nan", "banana")] == ["3.8", "4", None, None]
    assert (cola.is_valid("1"), cola.is_valid("banana")) == (True, False)


# --- subsampling


def test_fewer_rows_are_the_first_of_more_and_depend_on_the_seed_alone(data_dir: Path):
    few, more, other = (
        texts(load_split(TASKS["cola"], "train", data_dir, max_rows=rows, seed=seed))
        for rows, seed in ((100, 1), (4000, 1), (4000, 2))
    )
    assert few == more[:100]
    assert len(more) == len(other) == 4000
    assert few == texts(load_split(TASKS["cola"], "train", data_dir, max_rows=100, seed=1))
    assert few != other[:100]
    whole = Counter(texts(load_split(TASKS["cola"], "train", data_dir)))
    assert not Counter(more) - whole


def test_the_seed_of_a_run_does_not_move_the_splits(data_dir: Path):
    for split in ("train", "validation", "test"):
        assert texts(load_split(TASKS["qnli"], split, data_dir, seed=1)) == texts(
            load_split(TASKS["qnli"], split, data_dir, seed=2)
        )


def test_asking_for_more_rows_than_there_are_gives_them_all(data_dir: Path):
    whole = texts(load_split(TASKS["rte"], "train", data_dir))
    asked = texts(load_split(TASKS["rte"], "train", data_dir, max_rows=4000))
    assert Counter(asked) == Counter(whole)


# --- names


def test_names_and_suites_resolve_in_the_order_given():
    assert [task.name for task in resolve_tasks(["rte", "cola"])] == ["rte", "cola"]
    assert resolve_tasks(["glue"]) == tuple(GLUE.values())
    assert [task.name for task in resolve_tasks(["glue", "builtin"])] == [*GLUE, *BUILTIN]
    assert get_task("mnli") is TASKS["mnli"]


def test_a_name_can_be_the_path_of_a_task_file(reviews: Callable[..., Task], tmp_path: Path):
    task = reviews()
    assert resolve_tasks(["cola", str(tmp_path / "reviews.yaml")]) == (TASKS["cola"], task)


def test_unknown_and_repeated_names_are_refused():
    with pytest.raises(
        UserError, match=r"^task 'colla' is unknown and no \.yaml file; did you mean 'cola'\?"
    ):
        resolve_tasks(["rte", "colla"])
    with pytest.raises(
        UserError,
        match=r"^my/rows\.csv is a file of rows, and a task is a YAML file .* `hyperadapt init DIR`",
    ):
        resolve_tasks(["my/rows.csv"])
    with pytest.raises(UserError, match=r"^task 'gleu' .* did you mean 'glue'\?"):
        resolve_tasks(["gleu"])
    with pytest.raises(UserError, match=r"^task 'cola' comes twice in: glue, cola$"):
        resolve_tasks(["glue", "cola"])
    with pytest.raises(UserError, match=r"^no task is named; choices: cola, sst2, "):
        resolve_tasks([])


def test_the_registry_is_imported_without_torch():
    code = "import sys, hyperadapt.tasks; print({'torch', 'datasets', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# --- a user's task


def test_a_users_task_needs_a_yaml_file_only(reviews: Callable[..., Task]):
    task = reviews()
    assert texts(load_split(task, "train")) == [
        ("title: Lamp body: Bright.", "1"),
        ("title: Fän body: Old", "0"),
    ]
    assert texts(load_split(task, "validation", prefix=True)) == [
        ("reviews title: Kettle body: Leaks, and\nis dear.", "0"),
        ("reviews title: Pan body: Fine.", "1"),
    ]
    assert (task.kind, task.max_target_length) == ("class", 5)


def test_a_users_parquet_file_is_read_too(reviews: Callable[..., Task], data_dir: Path):
    path = data_dir / "transfer" / "scitail" / "validation.parquet"
    task = reviews(
        files={"validation": str(path)}, fields=["premise"], label="label", labels=["entails", "neutral"]
    )
    rows = load_split(task, "validation")
    assert rows["target"] == [{"entails": "0", "neutral": "1"}[row["label"]] for row in parquet_rows(path)]


def test_fields_may_be_named_otherwise_than_their_columns(reviews: Callable[..., Task]):
    task = reviews(fields={"review": "body", "of": "title"})
    assert load_split(task, "train")["source"][0] == "review: Bright. of: Lamp"


def test_the_files_of_a_task_are_found_from_any_folder(
    reviews: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    reviews()
    monkeypatch.chdir(tmp_path)
    task = load_task_file("reviews.yaml")
    monkeypatch.chdir("/")
    assert len(load_split(task, "train")) == 2


def test_a_task_survives_being_saved_as_json(reviews: Callable[..., Task]):
    for task in (reviews(), *TASKS.values()):
        assert Task(**json.loads(json.dumps(task.model_dump(mode="json")))) == task


def test_a_task_has_the_splits_that_have_files_and_no_others(reviews: Callable[..., Task]):
    for task in (reviews(), reviews(splits="as_given")):
        assert list(task.splits) == ["train", "validation"]
        with pytest.raises(
            UserError, match=r"^task 'reviews' has no split 'test'; name a file for it, or part"
        ):
            load_split(task, "test")


def test_what_a_missing_split_is_said_to_need_makes_one(reviews: Callable[..., Task], tmp_path: Path):
    rows = [{"title": "t", "body": str(number), "stars": 0} for number in range(20)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    one_file = {"files": {"train": "train.jsonl"}}
    for missing, sizes in (("validation", [16, 4]), ("test", [16, 2, 2])):
        with pytest.raises(UserError, match=f"has no split '{missing}'; name a file for it") as told:
            load_split(reviews(**one_file), missing)
        task = reviews(**one_file, **yaml.safe_load(str(told.value).partition(" as ")[2]))
        parts = [set(load_split(task, split)["source"]) for split in task.splits]
        assert [len(part) for part in parts] == sizes
        assert len(set().union(*parts)) == 20


@pytest.mark.parametrize("number", range(1, 8))
def test_the_splits_that_are_proposed_are_all_there_and_leave_other_files_alone(
    number: int, reviews: Callable[..., Task], tmp_path: Path
):
    names = [name for place, name in enumerate(SPLITS) if number >> place & 1]
    for name in names:
        rows = [{"title": name, "body": str(row), "stars": 0} for row in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"files": {name: f"{name}.jsonl" for name in names}}
    for missing in set(SPLITS) - set(names):
        with pytest.raises(UserError, match=f"has no split '{missing}'; name a file for it") as told:
            load_split(reviews(**fields), missing)
        proposed = yaml.safe_load(str(told.value).partition(" as ")[2])
        task = reviews(**fields, **proposed)
        assert set(task.splits) == {"train", "validation", missing, *names}
        parts = {split: set(load_split(task, split)["source"]) for split in task.splits}
        assert sum(map(len, parts.values())) == len(set().union(*parts.values())), "a row stands in two"
        parted = "train" if "train" in names else names[0]
        for name in set(names) - {"train", parted}:
            assert task.splits[name] == name


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": 0.8, "validation": 0.2},
        {"train": "80%", "validation": "20%", "test": "test"},
        {"train": "all[:-20%]", "validation": "all[-20%:]"},
        {"train": ["all", 80], "validation": None, "test": True},
        "80/20",
        {},
        {"train": "train", "validation": "train[:20%]"},
        "halve_validation",
    ],
)
def test_splits_that_are_written_wrongly_are_answered_with_such_that_work(
    wrong: object, reviews: Callable[..., Task], tmp_path: Path
):
    for name in ("all", "test"):
        rows = [{"title": name, "body": str(row), "stars": 0} for row in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"files": {"all": "all.jsonl", "test": "test.jsonl"}}
    with pytest.raises(UserError) as told:
        reviews(**files, splits=wrong)
    task = reviews(**files, **yaml.safe_load("splits: " + str(told.value).rpartition("write splits: ")[2]))
    assert len(load_split(task, "train")) == 16
    assert 2 <= len(load_split(task, "validation")) <= 4
    assert task.splits.get("test") in (None, "test")


def test_a_task_file_that_names_no_column_of_the_answer_is_told_how(reviews: Callable[..., Task]):
    for changed in ({}, {"kind": "text", "labels": None, "metrics": ["rougeL"]}):
        with pytest.raises(UserError, match=r"there is no column 'label'; choices: .*, label: names the col"):
            load_split(reviews(label=None, **changed), "train")


def test_where_names_what_no_row_holds(reviews: Callable[..., Task]):
    with pytest.raises(UserError, match=r"is empty: 'train' has 0 rows with 'x' in column 'title'$"):
        load_split(reviews(where={"title": "x"}), "train")


def test_labels_that_are_numbers_need_no_quotes(reviews: Callable[..., Task]):
    task = reviews(labels=[1, 2, 4.5], metrics=["accuracy"])
    assert task == reviews(labels=["1", "2", "4.5"], metrics=["accuracy"])
    assert Task(**task.model_dump(mode="json", exclude_none=True)) == task
    assert [task.label_number({"stars": held}) for held in (4.5, "1.0", 2)] == ["2", "0", "1"]


def test_a_users_split_protocol_can_be_any_slices(reviews: Callable[..., Task], tmp_path: Path):
    rows = [{"title": "t", "body": str(number), "stars": 0} for number in range(11)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = reviews(
        files={"train": "train.jsonl"},
        splits={"train": "train[50%:]", "validation": "train[:2]", "test": "train[2:50%]"},
    )
    order = torch.randperm(11, generator=torch.Generator().manual_seed(42)).tolist()
    for split, expected in (("validation", order[:2]), ("test", order[2:5]), ("train", order[5:])):
        assert load_split(task, split)["source"] == [f"title: t body: {number}" for number in expected]
    halved = reviews(files={"train": "train.jsonl", "validation": "train.jsonl"}, splits="halve_validation")
    assert [len(load_split(halved, split)) for split in ("train", "validation", "test")] == [11, 5, 6]


def test_labels_that_are_numbers_are_names(reviews: Callable[..., Task]):
    task = reviews(labels=["1", "2", "3"], metrics=["accuracy"])
    assert [task.target_text({"stars": value}) for value in (1, "2", 3)] == ["0", "1", "2"]
    assert task.label_name("0") == "1"
    with pytest.raises(UserError, match=r"^column 'stars' holds 0, which is no label; choices: 1, 2, 3$"):
        task.target_text({"stars": 0})


def test_free_text_is_its_own_target_and_always_an_answer(reviews: Callable[..., Task]):
    task = reviews(kind="text", label="body", labels=None, metrics=["exact_match"], fields=["title"])
    assert texts(load_split(task, "train"))[0] == ("title: Lamp", "Bright.")
    assert (task.label_name(" Bright. "), task.is_valid("")) == ("Bright.", True)
    assert task.target_text({"body": 5}) == "5"
    with pytest.raises(UserError, match=r"^column 'body' holds \['a'\], which is no text$"):
        task.target_text({"body": ["a"]})
    assert task.max_target_length == 128
    assert task.max_generated_length == 128
    assert reviews(max_generated_length=7).max_generated_length == 7
    assert reviews(kind="score", labels=None, metrics=["pearson"]).max_target_length == 8


def test_a_data_set_is_read_row_by_row_with_its_places(
    reviews: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # A folder of data files is loaded as a dataset of the hub is.
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.csv").write_text("title,body,stars\nLamp,Bright.,1\nFan,,0\n", encoding="utf-8")
    columns = ["title", "body", "stars"]
    rows = list(read_dataset(str(folder), None, "train", columns, None))
    assert [place.rpartition("/")[2] for place, _ in rows] == ["set train, row 1", "set train, row 2"]
    assert [row for _, row in rows] == [
        {"title": "Lamp", "body": "Bright.", "stars": 1},
        {"title": "Fan", "body": None, "stars": 0},
    ]
    with pytest.raises(UserError, match=r"set test cannot be had from the hub: Unknown split \"test\""):
        list(read_dataset(str(folder), None, "test", columns, None))
    with pytest.raises(UserError, match="is no name on the hub, as OWNER/NAME"):
        reviews(files=None, hub=str(folder))


def test_a_dataset_that_the_hub_does_not_give_is_named(
    reviews: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    task = reviews(files=None, hub="hyperadapt/no-such-set", hub_config="tiny")
    with pytest.raises(UserError) as refusal:
        load_split(task, "train")
    said, _, rest = str(refusal.value).partition("; ")
    assert said.startswith("task 'reviews': hyperadapt/no-such-set tiny train cannot be had from the hub: ")
    assert rest == (
        "rows of your own (.jsonl, .json, .csv, .tsv, .parquet) go by `files` in place of hub, with the columns title "
        "(text), body (text), stars (0 bad, 1 good: the number or the name); its name on the hub is "
        "hyperadapt/no-such-set, config tiny"
    )


# --- mistakes in a task file


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (
            {"metrcs": ["f1"], "metrics": None},
            "field 'metrcs' is unknown; did you mean 'metrics'? (choices: name, ",
        ),
        (
            {"metrics": None},
            "field 'metrics' is missing; of kind 'class' write one or more of accuracy, f1, macro_f1, matthews, ",
        ),
        (
            {"metrics": None, "kind": "text", "labels": None},
            "field 'metrics' is missing; of kind 'text' write one or more of exact_match, rouge2, rougeL, as metri",
        ),
        (
            {"metrics": ["token_f1"], "kind": "question_answering", "labels": None},
            "metric 'token_f1' is unknown; choices: answer_f1, answer_exact_match",
        ),
        ({"fields": None}, "field 'fields' is missing; write fields: [title, body], say"),
        (
            {"metrics": ["acuracy"]},
            "metric 'acuracy' is unknown; did you mean 'accuracy'? (choices: accuracy, ",
        ),
        (
            {"metrics": ["pearson"]},
            "metric 'pearson' is not for kind 'class'; choices: accuracy, f1, macro_f1, m",
        ),
        ({"labels": ["a", "b", "c"]}, "metric 'f1' is for two labels; did you mean 'macro_f1'?"),
        ({"metrics": 3}, "field 'metrics' is 3: it must be a list; write [3]"),
        ({"metrics": []}, "field 'metrics' is empty: it needs at least 1 entry"),
        ({"labels": None}, "kind 'class' needs labels, the names of the answers, as labels: [bad, good]; "),
        ({"labels": ["a"]}, "labels: there must be at least two, all that the column holds, as [bad, good]"),
        ({"labels": ["a", "a"]}, "labels: 'a' stands there twice; keep one of them"),
        ({"labels": [1, "1.0"]}, "labels: '1' and '1.0' would be the same label; keep one of them"),
        (
            {"labels": [True, False]},
            'labels: a label must be a text; write ["false", "true"], with the quotes',
        ),
        ({"labels": [True, "no"]}, 'labels: a label must be a text; write ["true", "no"], with the quotes'),
        ({"labels": [None, "a"]}, 'labels: a label must be a text; write "null", with the quotes, or ""'),
        (
            {"kind": "score"},
            "labels are for kind 'class', but kind is 'score'; leave them out, or write kind: c",
        ),
        ({"kind": "clas"}, "field 'kind' is 'clas': did you mean 'class'? (choices: class, score, text, "),
        (
            {"name": "my reviews"},
            "name: 'my reviews' must be of letters, digits, - and _ alone; write my_reviews",
        ),
        ({"fields": []}, "field 'fields' is empty: it needs at least 1 entry"),
        ({"fields": ["a", 1]}, 'fields: a column\'s name must be a text, not 1; write "1", with the quotes'),
        ({"fields": ["a", None]}, "fields: a column's name must be a text, not empty; write [title, body]"),
        (
            {"min_generated_length": 9, "max_generated_length": 8},
            "min_generated_length 9 is more than max_generated_length 8",
        ),
        (
            {"max_target_length": 0},
            "field 'max_target_length' is 0: it must be at least 1",
        ),
        (
            {"files": None},
            "say where the rows come from: either files, as files: {train: rows.csv}, or hub and/o",
        ),
        (
            {"hub": "a/b"},
            "say where the rows come from: either files, as files: {train: rows.csv}, or hub and/or",
        ),
        (
            {"files": {"train": "a.jsonlines"}},
            "files: 'a.jsonlines' is of no known format; did you mean '.jsonl'? (choices: ",
        ),
        (
            {"files": {"trian": "a.csv"}},
            "files: 'trian' is no split; did you mean 'train'?",
        ),
        (
            {"files": {"train": "a.csv", "dev": "b.csv"}},  # which would be left out without a word
            "files: 'dev' is no split; choices: train, validation, test",
        ),
        ({"files": ["a b.csv", "c.csv"]}, 'files: write {train: "a b.csv", validation: c.csv}'),
        (
            {"files": {}},
            "say where the rows come from: either files, as files: {train: rows.csv}, or hub and",
        ),
        (
            {"splits": {}},
            "splits: there are none; write splits: {train: train, validation: validation}",
        ),
        (
            {"splits": "halve"},
            "splits: 'halve' is no split protocol; choices: as_given, halve_validation, hold_out_train",
        ),
        (
            {"splits": {"tset": "train"}},
            "splits: 'tset' is no split; did you mean 'test'? (choices: train, validation, test)",
        ),
        (
            {"splits": {"test": "train[x:]"}},
            "splits: 'train[x:]' for test is neither SOURCE nor SOURCE[from:to]",
        ),
        (
            {"splits": {"test": "vaildation"}},
            "splits: test takes its rows from 'vaildation', which has no file; did you mean 'validation'?",
        ),
    ],
)
def test_a_mistake_in_a_task_file_is_named_on_one_line(
    replaced: dict, message: str, reviews: Callable[..., Task], tmp_path: Path
):
    with pytest.raises(UserError) as refusal:
        reviews(**replaced)
    assert str(refusal.value).startswith(f"{tmp_path / 'reviews.yaml'}: {message}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [a", "is not valid YAML: line 1: while parsing a flow sequence expected"),
        (b"name: \xff", r"is not valid YAML: it is not UTF-8 text \(invalid start byte at byte 6\)"),
        (b"- name", r": expected fields and their values \(name: …\), got list"),
        (b"", r": expected fields and their values \(name: …\), got NoneType"),
    ],
)
def test_a_file_that_holds_no_task_is_named(content: bytes, message: str, tmp_path: Path):
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(UserError, match=rf"bad\.yaml ?{message}"):
        get_task(str(tmp_path / "bad.yaml"))


def test_a_task_file_that_is_not_there_is_named_with_the_nearest(
    reviews: Callable[..., Task], tmp_path: Path
):
    reviews()
    with pytest.raises(UserError) as refusal:
        get_task(str(tmp_path / "review.yaml"))
    assert str(refusal.value) == (
        f"task file: {tmp_path / 'review.yaml'} does not exist: {tmp_path} holds no 'review.yaml'; "
        "did you mean 'reviews.yaml'? (choices: dev.csv, reviews.yaml, train.jsonl)"
    )


# --- mistakes in the rows


def test_missing_rows_are_named_with_what_is_there_instead(tmp_path: Path, reviews: Callable[..., Task]):
    (tmp_path / "glue" / "colla").mkdir(parents=True)
    with pytest.raises(UserError) as refusal:
        load_split(TASKS["cola"], "train", tmp_path)
    assert str(refusal.value) == (
        f"task 'cola', train rows: {tmp_path / 'glue' / 'cola' / 'train.parquet'} does not exist: "
        f"{tmp_path / 'glue'} holds no 'cola'; did you mean 'colla'? (choices: colla); data_dir is to hold glue/cola/ "
        "with train.parquet and validation.parquet, whose columns are sentence (text), label (0 unacceptable, 1 "
        "acceptable: the number or the name); other formats (.jsonl, .json, .csv, .tsv) are read as `files` of a task "
        "file; its name on the hub is nyu-mll/glue, config cola"
    )
    with pytest.raises(UserError, match=r"holds no 'nowhere'; choices: .*train\.jsonl"):
        load_split(TASKS["cola"], "train", tmp_path / "nowhere")
    with pytest.raises(
        UserError, match=r"^task 'reviews', train file: .*trian\.jsonl does not exist: .* did you "
    ):
        load_split(reviews(files={"train": "trian.jsonl"}), "train")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(
        UserError, match=r"^task 'reviews', train file: .*folder\.csv is a folder, expected a fi"
    ):
        load_split(reviews(files={"train": "folder.csv"}), "train")


def test_a_task_of_local_rows_asks_for_data_dir(reviews: Callable[..., Task]):
    with pytest.raises(
        UserError,
        match=r"^task 'reviews' has its rows in the folder my/set: data_dir must say where; data_dir is to hold "
        r"my/set/ with train\.parquet, validation\.parquet and test\.parquet, .*; the hub has no such data set$",
    ):
        load_split(reviews(files=None, local="my/set"), "train")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("stsb", "sentence1 (text), sentence2 (text), label (number);"),
        ("art", "label (0, 1, 2); "),
        ("xsum", "document (text), summary (text); "),
        ("squad", "answers (list of texts, or {text: [...], answer_start: [...]}); "),
        ("record", "entities (list of texts), passage (text), answers (list of texts); "),
        (
            "mrqa-nq",
            'subset ("NaturalQuestionsShort" in rows of this task), detected_answers ({text: [...], char_spans: '
            "[{start: [...], end: [...]}]}, an end is the last character); ",
        ),
        (
            "wsc",
            "columns are span1_text (text), label (0 False, 1 True: the number or the name), text (text), ",
        ),
        ("anli", "nli/anli/ with train_r1.parquet, train_r2.parquet, train_r3.parquet, dev_r1.parquet, "),
        ("scitail", "; its name on the hub is allenai/scitail, config tsv_format"),
        ("sick", "; the hub has no such data set"),
    ],
)
def test_what_rows_must_hold_is_said_where_there_are_none(tmp_path: Path, name: str, words: str):
    with pytest.raises(UserError) as refusal:
        check_there([TASKS[name]], tmp_path)
    assert words in str(refusal.value)


def test_all_tasks_without_rows_are_said_together(tmp_path: Path):
    tasks = resolve_tasks(["glue", "transfer", "sentiment"])
    for source in ("train", "validation"):
        (tmp_path / "glue/sst2").mkdir(parents=True, exist_ok=True)
        (tmp_path / "glue/sst2" / f"{source}.parquet").write_bytes(b"")
    with pytest.raises(UserError) as refusal:
        check_there(tasks, tmp_path)
    assert str(refusal.value).startswith("task 'cola', train rows: ")
    assert str(refusal.value).endswith(
        "; 13 more tasks lack their rows: stsb, mrpc, qqp, mnli, qnli, rte, scitail, transfer-cb, transfer-boolq, "
        "imdb, yelp_polarity, paws, …"
    )
    with pytest.raises(UserError, match=r"; 1 more task lacks its rows: mnli$"):
        check_there(resolve_tasks(["rte", "sst2", "mnli", "sentiment"]), tmp_path)
    check_there(resolve_tasks(["sst2", "sentiment"]), tmp_path)
    (tmp_path / "glue/mnli").mkdir()
    (tmp_path / "glue/mnli/validation_matched.parquet").write_bytes(b"")
    check_there([TASKS["mnli"]], tmp_path, ["test"])


def test_what_only_a_silent_hub_has_is_said_together_unless_it_was_loaded_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "prepared")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "downloaded"))
    tasks = resolve_tasks(["imdb", "squad", "mlqa", "trec"])
    with pytest.raises(UserError) as refusal:
        check_there(tasks, None)
    assert str(refusal.value).startswith(
        "task 'imdb': stanfordnlp/imdb cannot be had from the hub: HF_HUB_OFFLINE is set; data_dir is to hold "
        "transfer/imdb/ with train.parquet and test.parquet, whose columns are text (text), label (0 negative, "
    )
    assert str(refusal.value).endswith("; 3 more tasks lack their rows: squad, mlqa, trec")
    (tmp_path / "prepared/stanfordnlp___imdb").mkdir(parents=True)
    (tmp_path / "downloaded/datasets--rajpurkar--squad").mkdir(parents=True)
    check_there(resolve_tasks(["imdb", "squad"]), None)


GOOD = b'{"title": "Lamp", "body": "Bright.", "stars": 1}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"title": "Lamp", ', "no readable JSON: Expecting property name enclosed in double quotes: .*"),
        (b'{"title": "\xff"}', "no readable JSON: 'utf-8' codec can't decode byte 0xff in position 11: .*"),
        (
            b'{"title": "\\ud800", "body": "a"}',
            "column 'title' holds '\\\\ud800', which has half a character .*",
        ),
        (b"", "the line is blank"),
        (b"[1, 2]", "expected a JSON object of columns and values, got list"),
        (
            b'{"titel": "Lamp", "body": "Bright.", "stars": 1}',
            r"this row has no column 'title'; did you mean 'titel'\? \(choices: .*\); the other 2 have it",
        ),
        (
            b'{"title": "Lamp", "body": "a", "stars": 1, "body": "b"}',
            "'body' stands twice; keep one of them",
        ),
        (b'{"title": "Lamp", "body": ["a"], "stars": 1}', r"column 'body' holds \['a'\], which is no text"),
        (
            b'{"title": "Lamp", "body": "Bright."}',
            "this row has no column 'stars'; choices: title, body; the other 2 have it",
        ),
        (
            b'{"title": "Lamp", "body": "Bright.", "stars": 3}',
            "column 'stars' holds 3, which is no label; choices: bad, good, 0, 1",
        ),
        (
            b'{"title": "Lamp", "body": "Bright.", "stars": "godo"}',
            r"column 'stars' holds 'godo', which is no label; did you mean 'good'\? \(choices: bad, .*",
        ),
        (
            b'{"title": "Lamp", "body": "Bright.", "stars": null}',
            "column 'stars' holds None, which is no label; choices: bad, good, 0, 1",
        ),
    ],
)
def test_an_unreadable_line_is_named(line: bytes, message: str, reviews: Callable[..., Task], tmp_path: Path):
    (tmp_path / "train.jsonl").write_bytes(GOOD + line + b"\n" + GOOD)
    with pytest.raises(UserError, match=rf"^\S+train\.jsonl, line 2: {message}$"):
        load_split(reviews(), "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"line 1: expected a header of different column names, got \[\]"),
        (b"title,title,stars\na,b,1\n", "line 1: expected a header of different column names, got .*"),
        (b"title,body,stars\na,b,1\na,b\n", "line 3: 2 columns, but the header has 3"),
        (b'title,body,stars\na,"b\nc",1\na,b,c,1\n', "line 4: 4 columns, but the header has 3"),
        (b'title,body,stars\na,b,1\na,"b,1\na,b,1\n', "line 3: no readable CSV: unexpected end of data"),
        (b"title,body,stars\na,b,1\n\xff,b,1\n", "line 3: no readable CSV: 'utf-8' codec can't decode .*"),
        (b"title,body,stars\na,b,1\na,b,5\n", "line 3: column 'stars' holds '5', which is no label; .*"),
        (b'title,body,stars\na,"b\nc",5\n', "line 2: column 'stars' holds '5', which is no label; .*"),
    ],
)
def test_an_unreadable_line_of_csv_is_named(
    content: bytes, message: str, reviews: Callable[..., Task], tmp_path: Path
):
    (tmp_path / "dev.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"^\S+dev\.csv, {message}$"):
        load_split(reviews(), "validation")


def test_a_byte_order_mark_is_no_part_of_the_first_column(reviews: Callable[..., Task], tmp_path: Path):
    for name in ("dev.csv", "train.jsonl"):
        path = tmp_path / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [len(load_split(reviews(), split)) for split in ("train", "validation")] == [2, 2]


def test_a_damaged_parquet_file_is_named(tmp_path: Path):
    path = tmp_path / "glue" / "cola" / "train.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match=r"train\.parquet is no readable parquet file: ") as refusal:
        load_split(TASKS["cola"], "train", tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_wrong_row_of_a_parquet_file_is_named(tmp_path: Path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "glue" / "stsb" / "train.parquet"
    path.parent.mkdir(parents=True)
    for label, message in (
        (float("nan"), "holds nan, which is no score"),
        (None, "holds None, which is no score"),
    ):
        rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0.4, label]}
        pyarrow.parquet.write_table(pyarrow.table(rows), path)
        with pytest.raises(UserError, match=rf"train\.parquet, row 2: column 'label' {message}$"):
            load_split(TASKS["stsb"], "train", tmp_path)


def test_an_empty_split_is_refused(reviews: Callable[..., Task], tmp_path: Path):
    with pytest.raises(
        UserError, match=r"^task 'reviews': split 'train' \(train\[1000:\]\) is empty: 'train' has 2 rows$"
    ):
        load_split(reviews(splits="hold_out_train"), "train")
    (tmp_path / "train.jsonl").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"^task 'reviews': split 'train' \(train\) is empty: 'train' has 0 rows$"
    ):
        load_split(reviews(), "train")


def test_an_unknown_split_is_refused():
    with pytest.raises(
        UserError, match=r"^task 'cola' has no split 'dev'; choices: train, validation, test$"
    ):
        load_split(TASKS["cola"], "dev")


# --- rows for prediction


def test_rows_for_prediction_need_no_label():
    rows = [("row 1", {"sentence": "They went."}), ("row 2", {"sentence": "Went they.", "label": "?"})]
    assert input_texts(TASKS["cola"], rows, prefix=False) == {
        "source": ["sentence: They went.", "sentence: Went they."]
    }
    assert input_texts(TASKS["cola"], rows[:1], prefix=True) == {"source": ["cola sentence: They went."]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("They went.", "no readable JSON: Expecting value: .*"),
        ("\n", "the line is blank"),
        ('"They went."', "expected a JSON object of columns and values, got str"),
        ('{"sentense": "They went."}', r"this row has no column 'sentence'; did you mean 'sentense'\? .*"),
        ('{"sentence": [5]}', r"column 'sentence' holds \[5\], which is no text"),
    ],
)
def test_an_unreadable_row_for_prediction_is_named(line: str, message: str):
    def read(lines: list[str]) -> None:
        input_texts(TASKS["cola"], list(json_rows(lines, "standard input")), prefix=False)

    with pytest.raises(UserError, match=rf"^standard input, line 2: {message}$"):
        read(['{"sentence": "a"}', line, '{"sentence": "b"}'])
