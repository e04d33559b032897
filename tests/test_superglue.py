"""SuperGLUE in T5's text form, and the metrics that only its tasks need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from hyperadapt.errors import UserError
from hyperadapt.metrics import score_task
from hyperadapt.runs.run import load_run
from hyperadapt.tasks import SUITES, TASKS, Task, get_task, load_split, resolve_tasks, suites_among
from hyperadapt.tasks.kinds import METRICS
from hyperadapt.tasks.suites.superglue import SUPER_GLUE
from hyperadapt.training.trainer import MixtureTrainer
from tiny_run import hyperadapt, write_config

# Rows as the hub has them, and T5's text of them: input, target.
ROWS: dict[str, tuple[dict[str, Any], str, str]] = {
    "boolq": (
        {"question": "is it red", "passage": "Red -- It is.", "idx": 0, "label": 1},
        "boolq passage: Red -- It is. question: is it red",
        "True",
    ),
    "cb": (
        {"premise": "It may rain.", "hypothesis": "It rains.", "idx": 0, "label": 2},
        "cb hypothesis: It rains. premise: It may rain.",
        "neutral",
    ),
    "copa": (
        {
            "premise": "It fell.",
            "choice1": "It broke.",
            "choice2": "It rose.",
            "question": "effect",
            "label": 0,
        },
        "copa choice1: It broke. choice2: It rose. premise: It fell. question: effect",
        "choice1",
    ),
    "multirc": (
        {
            "paragraph": "<b>Sent 1: </b>Ann ate.<br><b>Sent 2: </b>Bob slept.<br>",
            "question": "Who ate?",
            "answer": "Bob",
            "idx": {"paragraph": 0, "question": 0, "answer": 0},
            "label": 0,
        },
        "multirc question: Who ate? answer: Bob paragraph: Sent 1: Ann ate. Sent 2: Bob slept.",
        "False",
    ),
    "record": (
        {
            "passage": "Ann met Bob in Rome.\n@highlight\nThey ate\n@highlight\nIt rained.",
            "query": "Then @placeholder left.",
            "entities": ["Ann", "Bob", "Rome"],
            "answers": ["Bob", "Ann"],
            "idx": {"passage": 0, "query": 0},
        },
        "record query: Then @placeholder left. entities: Ann, Bob, Rome passage: "
        "Ann met Bob in Rome. They ate. It rained.",
        "Bob",
    ),
    "super-glue-rte": (
        {"sentence1": "It may rain.", "sentence2": "It rains.", "idx": 0, "label": 1},
        "rte hypothesis: It rains. premise: It may rain.",
        "not_entailment",
    ),
    "wic": (
        {"word": "call", "sentence1": "A call came.", "sentence2": "They call.", "start1": 2, "label": 0},
        "wic pos: sentence1: A call came. sentence2: They call. word: call",
        "False",
    ),
    "wsc": (
        {
            "text": "Mark told Pete lies, but he did not believe him.",
            "span1_index": 2,
            "span1_text": "Pete",
            "span2_index": 5,
            "span2_text": "he",
            "label": 1,
        },
        "wsc: Mark told Pete lies, but *he* did not believe him.",
        "Pete",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_written_as_t5_writes_it(name: str) -> None:
    task, (raw, text, target) = SUPER_GLUE[name], ROWS[name]
    row = task.preprocessed(raw)
    inputs = task.inputs(row, prefix=True)
    assert inputs["source"] + inputs.get("context", "") == text
    assert task.target_text(row) == target
    assert task.is_valid(target)


def test_the_suites_are_superglue_and_both_benchmarks_in_one() -> None:
    assert SUITES["super_glue"] == tuple(SUPER_GLUE)
    assert list(SUPER_GLUE) == [*["boolq", "cb", "copa", "multirc", "record", "super-glue-rte", "wic", "wsc"]]
    both = [task.name for task in resolve_tasks(["en_mix"])]
    assert both == [*SUITES["glue"], *SUITES["super_glue"]]
    assert len(both) == 16  # RTE twice
    assert list(suites_among(both)) == ["glue", "super_glue"]
    assert suites_among(SUITES["glue"]) == {}  # its average is that of all


def test_the_mixture_of_both_is_scored_on_whole_development_sets() -> None:
    for task in resolve_tasks(["en_mix"]):
        reported = "validation_matched" if task.name == "mnli" else "validation"
        assert task.splits == {"train": "train", "validation": reported, "test": reported}
    assert resolve_tasks(["glue:dev", "copa"])[0] == resolve_tasks(["en_mix"])[0]
    assert get_task("cola").splits["test"] == "validation[50%:]"  # by its own name it is halved
    with pytest.raises(
        UserError, match=r"'anli' is not tested on development rows, but on 'test_r1\+.*leave ':dev'"
    ):
        get_task("anli:dev")


def test_lists_that_a_local_copy_holds_as_text_are_read() -> None:
    raw = {**ROWS["record"][0], "entities": "['Ann', 'Bob', 'Rome']", "answers": '["Bob", "Ann"]'}
    task = SUPER_GLUE["record"]
    assert task.preprocessed(raw) == {**task.preprocessed(ROWS["record"][0])}
    assert task.references(task.preprocessed(raw)) == ("Bob", "Ann")
    with pytest.raises(UserError, match="column 'entities' holds no list of texts"):
        task.preprocessed({**raw, "entities": "Ann, Bob"})


@pytest.mark.parametrize(
    ("index", "text", "marked"),
    [
        (5, "He said that he thinks he is.", "He said that he thinks *he* is."),
        (
            4,
            "He said that he thinks he is.",
            "He said that *he* thinks he is.",
        ),  # the first of the two nearest
        (2, "Ann saw her, he said.", "Ann saw her, *he* said."),
    ],
)
def test_the_pronoun_is_the_occurrence_nearest_to_its_place(index: int, text: str, marked: str) -> None:
    row = {"text": text, "span1_text": "Ann", "span2_text": "he", "span2_index": str(index)}
    assert SUPER_GLUE["wsc"].preprocessed(row)["marked"] == marked
    with pytest.raises(UserError, match="holds 'zebra', which is not in the text"):
        SUPER_GLUE["wsc"].preprocessed({**row, "span2_text": "zebra"})


def test_a_question_counts_once_all_its_answers_are_right() -> None:
    targets = [("True", "a"), ("False", "a"), ("True", "b"), ("False", "b"), ("True", "c")]
    scored = score_task(SUPER_GLUE["multirc"], ["True", "False", "True", "True", "perhaps"], targets)
    assert scored.metrics["group_exact_match"] == pytest.approx(100 / 3)
    # Of three true answers two are found, and one is said to be true that is not.
    assert scored.metrics["f1"] == pytest.approx(100 * 2 / 3)
    assert scored.invalid == 1


@pytest.mark.parametrize(
    ("prediction", "candidate", "label", "right"),
    [
        ("Pete", "Pete", "1", True),
        ("pete.", "Pete", "1", False),
        ("Pete", "Pete", "0", False),
        ("Mark", "Pete", "0", True),
        ("Mark", "Pete", "1", False),
        ("the city councilmen", "The city", "1", True),
        ("city", "The city councilmen", "1", True),
        ("the city of Rome", "city councilmen", "1", False),
        ("her father", "his father", "1", True),
        ("hat", "Bob's hat", "1", False),
        ("Bob's hat", "Bob 's hat", "0", True),
        ("", "Pete", "1", False),
        ("", "Pete", "0", False),
        ("their", "their dog", "0", False),
    ],
)
def test_candidates_are_judged_as_t5_judges_them(
    prediction: str, candidate: str, label: str, right: bool
) -> None:
    assert METRICS["coreference_accuracy"]([prediction], [(candidate, label)]) == 100 * right


def test_class_names_are_scored_as_their_numbers_are() -> None:
    names, numbers = SUPER_GLUE["cb"], SUPER_GLUE["cb"].model_copy(update={"writes": "number"})
    said, meant = (
        ["neutral", "entailment", "neutral", "what"],
        ["neutral", "entailment", "contradiction", "neutral"],
    )
    place = {name: str(number) for number, name in enumerate(names.labels or ())}
    by_name = score_task(names, said, meant)
    by_number = score_task(numbers, [place.get(text, text) for text in said], [place[text] for text in meant])
    assert by_name == by_number
    assert by_name.metrics["accuracy"] == 50


def test_a_number_is_no_answer_where_names_are_asked_for() -> None:
    scored = score_task(SUPER_GLUE["boolq"], ["1", "0", "True"], ["True", "False", "True"])
    assert scored.metrics["accuracy"] == pytest.approx(100 / 3)
    assert scored.invalid == 2
    assert SUPER_GLUE["boolq"].label_name("1") is None


def write_task(folder: Path, fields: dict[str, Any], rows: dict[str, list[dict[str, Any]]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, of_split in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in of_split)
        (folder / f"{fields['name']}-{split}.jsonl").write_text(lines)
    files = {split: f"{fields['name']}-{split}.jsonl" for split in rows}
    (folder / f"{fields['name']}.yaml").write_text(
        yaml.safe_dump({**fields, "files": files}, sort_keys=False)
    )
    return folder / f"{fields['name']}.yaml"


PRONOUN = {
    "name": "pronoun",
    "kind": "coreference",
    "fields": {"": "marked"},
    "candidate": "span1_text",
    "labels": ["False", "True"],
    "metrics": ["coreference_accuracy"],
    "preprocess": "wsc",
}
GROUPED = {
    "name": "grouped",
    "fields": ["question", "answer"],
    "labels": ["False", "True"],
    "writes": "name",
    "metrics": ["f1", "group_exact_match"],
    "group": ["question"],
}


def pronouns(count: int) -> list[dict[str, Any]]:
    return [
        {**ROWS["wsc"][0], "span1_text": "Pete" if row % 2 else "Mark", "label": row % 2}
        for row in range(count)
    ]


def answers(count: int) -> list[dict[str, Any]]:
    return [{"question": f"q{row // 3}", "answer": str(row), "label": row % 2} for row in range(count)]


def test_such_tasks_train_and_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samplers, load = [], MixtureTrainer.get_train_dataloader

    def watched(trainer: MixtureTrainer) -> Any:
        loader = load(trainer)
        samplers.append(loader.batch_sampler)
        return loader

    monkeypatch.setattr(MixtureTrainer, "get_train_dataloader", watched)
    folder = tmp_path / "tasks"
    tasks = [
        write_task(folder, PRONOUN, {"train": pronouns(12), "validation": pronouns(4), "test": pronouns(6)}),
        write_task(folder, GROUPED, {"train": answers(12), "validation": answers(6), "test": answers(9)}),
    ]
    method = {"name": "hypergrid", "fan_in": 4, "fan_out": 8}
    steps = ["training.max_steps=2", "training.eval_steps=2", "data.size_limit=9", "data.temperature=1"]
    outcome = hyperadapt("train", write_config(tmp_path, list(map(str, tasks)), method=method), *steps)
    assert outcome.code == 0, outcome.err
    assert samplers[0].sizes == [6, 12]  # of the pronouns half have a right candidate
    assert list(samplers[0].rates) == pytest.approx([6 / 15, 9 / 15])
    results = json.loads((tmp_path / "run/results.json").read_text())["test"]["tasks"]
    assert results["pronoun"]["rows"] == 6
    assert set(results["grouped"]["metrics"]) == {"f1", "group_exact_match"}
    run = load_run(tmp_path / "run")
    assert run.evaluate("test").as_dict()["tasks"] == results
    [row] = pronouns(1)
    assert run.predict("pronoun", [{name: row[name] for name in row if name != "label"}])
    assert hyperadapt("embed", tmp_path / "run", "--probe").code == 0
    outcome = hyperadapt("encoder-only", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    scores = json.loads((tmp_path / "run/results.json").read_text())["encoder_only"]["tasks"]
    assert {task: set(of["metrics"]) for task, of in scores.items()} == {
        "grouped": {"f1", "group_exact_match"}
    }


def test_only_candidates_that_are_right_are_trained_on(tmp_path: Path) -> None:
    path = write_task(tmp_path, PRONOUN, {"train": pronouns(7), "validation": pronouns(7)})
    [task] = resolve_tasks([str(path)])
    assert load_split(task, "train")["target"] == ["Pete"] * 3
    assert [references[1] for references in load_split(task, "validation")["references"]] == list("0101010")


def test_training_rows_with_no_right_candidate_are_refused(tmp_path: Path) -> None:
    path = write_task(tmp_path, PRONOUN, {"train": pronouns(1)})
    with pytest.raises(UserError, match="task 'pronoun': none of the 1 training rows has a right candidate"):
        load_split(resolve_tasks([str(path)])[0], "train")


def test_of_record_every_answer_is_a_training_row(tmp_path: Path) -> None:
    rows = [ROWS["record"][0], {**ROWS["record"][0], "answers": ["Rome"]}]
    names = ("name", "fields", "label", "kind", "metrics", "prefix", "preprocess", "every_answer")
    fields = {
        name: value for name, value in SUPER_GLUE["record"].model_dump(mode="json").items() if name in names
    }
    [task] = resolve_tasks([str(write_task(tmp_path, fields, {"train": rows, "test": rows}))])
    train, test = load_split(task, "train"), load_split(task, "test")
    assert train["target"] == ["Bob", "Ann", "Rome"]
    assert train["references"] == [["Bob"], ["Ann"], ["Rome"]]
    for row in train:
        assert [row["context"][start:end] for start, end, _ in row["spans"]] == row["references"]
    assert test["references"] == [["Bob", "Ann"], ["Rome"]]


def test_parquet_files_give_what_json_lines_give(tmp_path: Path) -> None:
    pronoun = {**PRONOUN, "fields": {"": "marked", "hint": "hint"}}
    grouped = {**GROUPED, "fields": {"answer": "answer", "hint": "hint"}}  # the group's column is no field
    for fields, raw in ((pronoun, pronouns(6)), (grouped, answers(6))):
        # A column beside those that rewriting needs, and one that nothing needs.
        rows = [{**row, "hint": "a hint", "idx": number} for number, row in enumerate(raw)]
        [lines] = resolve_tasks([str(write_task(tmp_path, fields, {"train": rows}))])
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
        table = Task(**{**fields, "files": {"train": tmp_path / "rows.parquet"}})
        assert load_split(table, "train").to_dict() == load_split(lines, "train").to_dict()


@pytest.mark.parametrize("bound", ["50%", "10", "11", "12"])
def test_no_slice_parts_a_group_and_all_together_are_every_row(tmp_path: Path, bound: str) -> None:
    fields = {**GROUPED, "splits": {"train": f"all[:{bound}]", "test": f"all[{bound}:]"}}
    [task] = resolve_tasks([str(write_task(tmp_path, fields, {"all": answers(30)}))])
    parts = [load_split(task, split) for split in ("train", "test")]
    groups = [{group for _, group in part["references"]} for part in parts]
    assert not groups[0] & groups[1]
    assert sorted(text for part in parts for text in part["source"]) == sorted(
        f"question: q{row // 3} answer: {row}" for row in range(30)
    )
    assert abs(len(parts[0]) - (15 if bound == "50%" else int(bound))) < 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {**PRONOUN, "candidate": None},
            "kind 'coreference', and no other, needs the column of the candidate",
        ),
        ({**GROUPED, "candidate": "answer"}, "kind 'coreference', and no other"),
        ({**PRONOUN, "labels": ["one"]}, "two labels: for wrong candidates, and for right ones"),
        ({**PRONOUN, "preprocess": "wcs"}, "preprocess: 'wcs' is unknown; did you mean 'wsc'?"),
        ({**GROUPED, "group": []}, "metric 'group_exact_match' needs the columns of a group"),
        ({**PRONOUN, "writes": "name"}, "writes and group are for kind 'class'"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Task(
            **{name: value for name, value in fields.items() if value is not None},
            files={"train": "rows.jsonl"},
        )


@pytest.mark.parametrize("name", SUPER_GLUE)
def test_the_local_copy_is_read_whole(shared: Path, name: str) -> None:
    task = TASKS[name]
    for split in ("train", "validation", "test"):
        rows = load_split(task, split, shared / "data", prefix=True)
        assert all(task.is_valid(target) for target in rows["target"])
        assert all(source.startswith(task.name.removeprefix("super-glue-")) for source in rows["source"])
