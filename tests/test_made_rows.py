"""Made rows: in the columns of the hub's data sets, read as real rows are, with answers that are right."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from transformers import ByT5Tokenizer

import hyperadapt as ha
from hyperadapt.errors import UserError
from hyperadapt.studies.experiments.made_rows import write_made_rows
from hyperadapt.tasks import TASKS, Task, load_split, read_split, resolve_tasks
from hyperadapt.tasks.chunks import answer_within, chunked
from hyperadapt.tasks.suites.hyperdecoders import MRQA_IN_DOMAIN, MRQA_OUT_OF_DOMAIN
from tiny_run import contents, hyperadapt, write_config

NAMED = {name: task for name, task in TASKS.items() if not task.generated}
QUESTIONS = [name for name, task in NAMED.items() if task.kind == "question_answering"]
LABELLED = [name for name, task in NAMED.items() if task.kind in ("class", "score")]

# The hub's columns, of sets of which no real rows lie beside the checkout, or not all columns.
TOKENS = "struct<tokens: list<string>, offsets: list<int>>"
SPANS = "list<struct<start: list<int>, end: list<int>>>"
SQUADS = {
    **dict.fromkeys(("id", "question", "context"), "string"),
    "answers": "struct<text: list<string>, answer_start: list<int>>",
}
HUB: dict[str, dict[str, str]] = {
    "glue/qnli": {"question": "string", "sentence": "string", "label": "int", "idx": "int"},
    "super_glue/record": {
        **dict.fromkeys(("passage", "query"), "string"),
        **dict.fromkeys(("entities", "answers"), "list<string>"),
        "entity_spans": "struct<text: list<string>, start: list<int>, end: list<int>>",
        "idx": "struct<passage: int, query: int>",
    },
    "super_glue/wic": {
        **dict.fromkeys(("word", "sentence1", "sentence2"), "string"),
        **dict.fromkeys(("start1", "start2", "end1", "end2", "idx", "label"), "int"),
    },
    "qa/mlqa": SQUADS,
    "qa/quoref": {**SQUADS, "title": "string", "url": "string"},
    "qa/mrqa": {
        **dict.fromkeys(("subset", "qid", "question", "context"), "string"),
        **dict.fromkeys(("question_tokens", "context_tokens"), TOKENS),
        "detected_answers": f"struct<text: list<string>, char_spans: {SPANS}, token_spans: {SPANS}>",
        "answers": "list<string>",
    },
    "summarization/cnn_dailymail": dict.fromkeys(("article", "highlights", "id"), "string"),
    "summarization/wiki_lingua": {
        **dict.fromkeys(("gem_id", "gem_parent_id", "source_language", "target_language"), "string"),
        **dict.fromkeys(("source", "target"), "string"),
        "references": "list<string>",
    },
    "nli/anli": {**dict.fromkeys(("uid", "premise", "hypothesis", "reason"), "string"), "label": "int"},
    "nli/art": {
        **{f"{what}_{number}": "string" for what in ("observation", "hypothesis") for number in (1, 2)},
        "label": "int",
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made rows of all named tasks, for reading only."""
    folder = tmp_path_factory.mktemp("made")
    write_made_rows(folder, list(TASKS.values()))
    return folder


def raw_rows(made: Path, local: str, source: str) -> list[dict[str, Any]]:
    """The rows of a file, read without the library."""
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(made / local / f"{source}.parquet").to_pylist()
    return rows


def columns_of(file: Path) -> dict[str, str]:
    """A file's columns and types, without the width of whole numbers and the names of lists' items."""
    schema = pyarrow.parquet.read_schema(file)
    return {of.name: re.sub(r"(element|item): |(?<=int)\d+", "", str(of.type)) for of in schema}


@pytest.mark.parametrize("local", sorted({str(task.local) for task in NAMED.values()}))
def test_the_columns_are_those_of_the_data_set(
    made: Path, local: str, request: pytest.FixtureRequest
) -> None:
    if (expected := HUB.get(local)) is None:
        expected = columns_of(request.getfixturevalue("shared") / "data" / local / "train.parquet")
    files = sorted((made / local).glob("*.parquet"))
    assert {file.stem for file in files} == {
        source for task in NAMED.values() if task.local == local for source in task.sources
    }
    for file in files:
        assert columns_of(file) == expected
    for task in (task for task in NAMED.values() if task.local == local):
        assert set(task.columns) <= set(expected), "what is said of columns where the rows are missing"


@pytest.mark.parametrize("name", NAMED)
def test_every_split_has_its_rows_and_every_label(made: Path, name: str) -> None:
    task = NAMED[name]
    for split, part in task.splits.items():
        rows = [row for _, row in read_split(task, split, made)]
        of_sources = 24 * (1 + part.count("+"))
        assert len(rows) == (1000 if part == "train[:1000]" else of_sources // (2 if "%" in part else 1))
        texts = load_split(task, split, made, prefix=True)
        assert all(map(task.is_valid, texts["target"]))
        if task.kind in ("class", "score", "coreference"):
            counts = Counter(str(row[task.label]) for row in rows)
            assert max(counts.values()) - min(counts.values()) <= 1, "halves too have as many of each"
            # As on the hub, where the two hypotheses of the abductive task are numbered from 1.
            labels = 6 if task.kind == "score" else 2 if name == "art" else len(task.labels or ())
            assert len(counts) == labels


@pytest.mark.parametrize("name", LABELLED)
def test_a_label_follows_from_a_word(made: Path, name: str) -> None:
    task = NAMED[name]
    for column in (column for column in task.fields.values() if column not in task.group):
        pairs = {
            (row[column].split()[1], row[task.label])
            for split in task.splits
            for _, row in read_split(task, split, made)
            if row[column].startswith("The ")
        }
        assert len(pairs) == len({word for word, _ in pairs}) == len({label for _, label in pairs})


def test_no_row_stands_in_two_files(made: Path) -> None:
    for task in NAMED.values():
        inputs = Counter(
            repr(task.inputs(task.preprocessed(row), prefix=False))
            for source in task.sources
            for row in raw_rows(made, str(task.local), source)
            if all(row[column] == text for column, text in (task.where or {}).items())
        )
        assert max(inputs.values()) == 1 or task.name == "wsc", (
            task.name
        )  # of whose texts two candidates are asked


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_one_who_did_it_is_the_answer_and_stands_where_the_row_says(made: Path, name: str) -> None:
    task = NAMED[name]
    for split in task.splits:
        for row in load_split(task, split, made):
            [(verb, patient)] = re.findall(r"(?:Who|@placeholder) (\w+) the (\w+)[?.]", row["source"])
            [who] = re.findall(rf"(The \w+ \w+) {verb} the \w+ {patient} ", row["context"])
            assert who.casefold().endswith(row["references"][-1].casefold())
            assert row["spans"]
            for start, end, number in row["spans"]:
                assert row["context"][start:end].casefold() == row["references"][number].casefold()


@pytest.mark.parametrize("name", QUESTIONS)
def test_long_contexts_are_cut_and_some_chunks_hold_no_answer(made: Path, name: str) -> None:
    rows = load_split(NAMED[name], "test", made)
    for tokenizer, longest in ((ByT5Tokenizer(), 320), (ha.load_tiny_t5()[1], 128)):
        chunks = chunked(rows["source"], rows["context"], tokenizer, longest, longest // 4, (), (1,))
        assert min(map(len, chunks)) == 1 < max(map(len, chunks))
        answers = [
            {answer_within(row["references"], row["spans"], chunk) for chunk in of}
            for row, of in zip(rows, chunks, strict=True)
        ]
        assert all(found != {""} for found in answers)
        assert any("" in found for found in answers)


def test_what_rewrites_rows_finds_what_it_looks_for(made: Path) -> None:
    rows = {
        name: [row for _, row in read_split(TASKS[name], "test", made)]
        for name in ("multirc", "record", "wsc")
    }
    groups = Counter(TASKS["multirc"].group_of(row) for row in rows["multirc"])
    assert set(groups.values()) == {4}
    assert all("<" not in row["paragraph"] for row in rows["multirc"])
    for row in rows["record"]:
        assert set(row["answers"]) <= set(row["entities"].split(", "))
        assert "@highlight" not in row["passage"]
    assert len(load_split(TASKS["record"], "train", made)) > 24, "a row for every answer"
    assert all(row["marked"].replace("*it*", "it") == row["text"] != row["marked"] for row in rows["wsc"])


@pytest.mark.parametrize("name", NAMED)
def test_a_row_to_predict_needs_what_it_is_said_to_need_and_no_more(made: Path, name: str) -> None:
    task = NAMED[name]
    needed = set(json.loads(task.row_in_words))
    whole, *_ = raw_rows(made, str(task.local), next(iter(task.sources)))
    asked = {column: whole[column] for column in needed}
    given = task.inputs(task.preprocessed(whole), prefix=True)
    assert task.inputs(task.preprocessed(asked), prefix=True) == given
    for column in needed:
        with pytest.raises(UserError, match=f"'{column}'"):
            task.inputs(task.preprocessed({other: asked[other] for other in needed - {column}}), prefix=True)


def test_what_no_task_reads_is_right_too(made: Path) -> None:
    for row in raw_rows(made, "super_glue/wsc", "train"):
        assert row["label"] == (f"{row['span1_text']} because" in row["text"])
        assert " ".join(row["text"].split()[row["span1_index"] :]).startswith(row["span1_text"])
        assert row["text"].split()[row["span2_index"]] == row["span2_text"]
    for row in raw_rows(made, "super_glue/wic", "train"):
        for of in (1, 2):
            assert row[f"sentence{of}"][row[f"start{of}"] : row[f"end{of}"]] == row["word"]
    for row in raw_rows(made, "super_glue/record", "train"):
        for text, start, end in zip(*row["entity_spans"].values(), strict=True):
            assert row["passage"][start:end] == text
            assert text in row["entities"]
    paragraphs = {
        (row["idx"]["paragraph"], row["paragraph"]) for row in raw_rows(made, "super_glue/multirc", "train")
    }
    assert len(paragraphs) == len(dict(paragraphs)) == 6


def test_characters_and_tokens_of_mrqa_tell_of_the_same_places(made: Path) -> None:
    rows = raw_rows(made, "qa/mrqa", "validation")
    assert {row["subset"] for row in rows} == set(MRQA_IN_DOMAIN.values())
    several = 0
    for row in rows:
        marked, (words, offsets) = row["detected_answers"], row["context_tokens"].values()
        [text], [characters], [tokens] = marked["text"], marked["char_spans"], marked["token_spans"]
        assert text.casefold() in map(str.casefold, row["answers"])
        several += len(characters["start"]) > 1
        for first, last, token, last_token in zip(*characters.values(), *tokens.values(), strict=True):
            assert row["context"][first : last + 1] == text == " ".join(words[token : last_token + 1])
            assert offsets[token] == first
            assert offsets[last_token] + len(words[last_token]) == last + 1
    assert several, "an answer that stands there twice is marked twice"


def test_a_summary_is_the_first_sentence(made: Path) -> None:
    for task in (task for task in NAMED.values() if task.kind == "text"):
        rows = load_split(task, "train", made)
        assert all(row["source"].startswith(f"{row['target']} ") for row in rows)


def test_whoever_asks_gets_the_same_bytes_and_what_is_there_is_left_alone(made: Path, tmp_path: Path) -> None:
    some = resolve_tasks(["mrqa-nq", "scitail-halved", "super-glue-rte", "anli"])
    write_made_rows(tmp_path, some)
    first = contents(tmp_path)
    assert {str(Path(file).parent) for file in first} == {str(task.local) for task in some}
    assert first.items() <= contents(made).items()
    before = {file: (tmp_path / file).stat() for file in first}
    cut = sorted(first)[0]
    (tmp_path / cut).write_bytes(first[cut][:100])
    write_made_rows(tmp_path, [*some, *resolve_tasks(["mrqa_out_of_domain", "builtin"])])
    assert contents(tmp_path) == first, "written anew where it is not whole"
    for file in first.keys() - {cut}:
        now = (tmp_path / file).stat()
        assert (now.st_mtime_ns, now.st_ino) == (before[file].st_mtime_ns, before[file].st_ino)


def own(**fields: object) -> Task:
    """A task of a user's own, of a data set that has no entry."""
    rest = {"name": "own", "local": "my/set", "fields": ["first", "second"], "metrics": ["accuracy"]}
    return Task(**{**rest, "labels": ["no", "yes"], **fields})


def test_a_data_set_without_an_entry_is_made_of_what_its_tasks_say(tmp_path: Path) -> None:
    tasks = [
        own(where={"part": "a"}, splits={"train": "all[100:]", "validation": "all[:100]"}),
        own(name="other", labels=["x", "y", "z"], where={"part": "b"}, splits={"train": "all"}),
    ]
    write_made_rows(tmp_path, tasks, rows=12)
    sizes = [len(load_split(task, split, tmp_path)) for task in tasks for split in task.splits]
    assert sizes == [12, 100, 12]


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        (TASKS["trec"], 11, "11 made rows are too few for task 'trec': .* at least 12"),
        (TASKS["multirc"], 7, "7 made rows are too few for task 'multirc': .* at least 8"),
        (TASKS["xsum"], 7, "7 made rows are too few for task 'xsum': .* at least 8"),
        (own(local=None, hub="a/b"), 24, "task 'own' has no folder below data_dir"),
        (own(labels=list("abcdefg")), 24, "task 'own' has 7 labels; made rows tell 6 apart at most"),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_is_written(
    tmp_path: Path, task: Task, rows: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        write_made_rows(tmp_path, [TASKS["rte"], task], rows)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tasks", [["mrqa"], ["xsum", "cnn_dailymail", "wiki_lingua", "anli", "art", "mnli"]])
def test_a_run_of_them_trains_and_is_scored(made: Path, tmp_path: Path, tasks: list[str]) -> None:
    few = dict.fromkeys(("max_train_rows", "max_eval_rows", "max_test_rows"), 2)
    config = write_config(
        tmp_path,
        tasks,
        data={"tasks": tasks, "data_dir": str(made), "max_source_length": 192, **few},
        training={"max_steps": 2, "batch_size": 4, "eval_steps": 2},
        evaluation={"answers": "generate", "batch_size": 64},
    )
    outcome = hyperadapt("train", config)
    assert outcome.code == 0, outcome.err
    assert "training inputs stand there with different labels" not in outcome.err
    assert "stand among its training rows" not in outcome.err
    if tasks == ["mrqa"]:
        outcome = hyperadapt("evaluate", tmp_path / "run", "--unseen", "mrqa_out_of_domain")
        assert outcome.code == 0, outcome.err
        assert all(name in outcome.out for name in MRQA_OUT_OF_DOMAIN)
