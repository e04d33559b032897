"""Rows: the same from every format, predicted whatever holds them, and what is odd about them said once."""

from __future__ import annotations

import csv
import json
import re
import resource
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from hyperadapt.errors import UserError
from hyperadapt.runs.run import Run, load_run
from hyperadapt.tasks import Task, load_split, load_task_file
from hyperadapt.tasks.sources import json_line, naming, read_file
from row_files import FORMATS, Rows, write, written_as_csv
from tiny_run import COLOURS, Outcome, assert_one_line, contents, hyperadapt, write_config

# Whatever a reader may stumble over, in cells of text.
NASTY = (
    "x" * 200_000,
    "two\nlines",
    "two\r\nlines",
    'a "quoted" word',
    '"all quoted"',
    "comma, semicolon; tab\t.",
    "a\u2028line\u2029separator\x85\x0b\x0cfor some",
    "\ufeffa mark",
    " padded ",
    "rød 🌹 日本",
    "007",
    "3.0",
    "NA",
    "None",
    "null",
    "'",
    "\\N",
    "#",
    "",
    None,
)
ROWS = [
    {
        "text": text,
        "count": number - 3,
        "ratio": number / 4,
        "flag": number % 3 == 0,
        "lang": ("en", "de", None)[number % 3],
        "part": None if number % 5 == 0 else number % 4,
        "label": ("bad", "good")[number % 2],
    }
    for number, text in enumerate(NASTY)
]


def task_of(path: Path, **changes: Any) -> Task:
    """A user's task whose training rows are in this file."""
    fields = {
        "name": "mine",
        "files": {"train": path},
        "fields": ["text"],
        "labels": ["bad", "good"],
        "metrics": ["accuracy"],
    }
    return Task(**{**fields, **changes})


def texts(task: Task) -> list[tuple[str, str]]:
    """Source and target of every row."""
    split = load_split(task, "train")
    return list(zip(split["source"], split["target"], strict=True))


# --------------------------------------------------------------------------------- D22: the same from every format


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_rows_give_the_same_texts_from_every_format(suffix: str, tmp_path: Path) -> None:
    columns = ("text", "count", "ratio", "flag", "lang", "part")
    expected = [
        (
            " ".join(f"{name}: {'' if row[name] is None else row[name]}" for name in columns),
            str(number % 2),
        )
        for number, row in enumerate(ROWS)
    ]
    assert texts(task_of(write(tmp_path / f"rows{suffix}", ROWS), fields=columns)) == expected


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "where",
    [
        {"lang": "en"},
        {"lang": ""},
        {"count": "2"},
        {"ratio": "2.5"},
        {"flag": "True"},
        {"part": "2", "lang": "en"},
    ],
)
def test_where_chooses_the_same_rows_in_every_format(
    where: dict[str, str], suffix: str, tmp_path: Path
) -> None:
    expected = [
        f"text: {row['text'] or ''}"
        for row in ROWS
        if all(str("" if row[column] is None else row[column]) == value for column, value in where.items())
    ]
    assert 0 < len(expected) < len(ROWS)
    task = task_of(write(tmp_path / f"rows{suffix}", ROWS), where=where)
    assert [source for source, _ in texts(task)] == expected


@pytest.mark.parametrize("suffix", FORMATS)
def test_texts_scores_and_answers_that_are_numbers_are_the_same_in_every_format(
    suffix: str, tmp_path: Path
) -> None:
    rows = [{"text": "when?", "year": 1900 + number, "degree": number / 2} for number in range(6)]
    path = write(tmp_path / f"rows{suffix}", rows)
    text = task_of(path, kind="text", labels=None, label="year", metrics=["exact_match"])
    assert [target for _, target in texts(text)] == [str(row["year"]) for row in rows]
    answers = task_of(
        path,
        kind="question_answering",
        labels=None,
        label="year",
        fields=["text", "degree"],
        metrics=["answer_f1"],
    )
    assert load_split(answers, "train")["references"] == [[str(row["year"])] for row in rows]
    assert load_split(answers, "train")["context"] == [str(row["degree"]) for row in rows]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("nothing", [None, float("nan"), ""])
def test_nothing_is_no_label_and_no_score_in_any_format(nothing: Any, suffix: str, tmp_path: Path) -> None:
    # CSV holds nothing as an empty cell, and a NaN that a program wrote as the text "nan", which may be a label's name.
    empty = "" if suffix in (".csv", ".tsv") else nothing
    rows = [{"text": "a", "label": value} for value in ("some", "None", "nan", empty)]
    if not isinstance(empty, str | None):
        rows = [{"text": "a", "label": value} for value in (0.0, 1.0, 1.0, empty)]
    path = write(tmp_path / f"rows{suffix}", rows)
    for changes in (
        {"labels": ["some", "None", "nan"]},
        {
            "kind": "coreference",
            "labels": ["None", "nan"],
            "candidate": "text",
            "metrics": ["coreference_accuracy"],
        },
        {"kind": "score", "labels": None, "metrics": ["pearson"]},
    ):
        task = task_of(path, **changes)
        (place, row) = list(read_file(path))[-1]
        with (
            naming(place),
            pytest.raises(UserError, match=r"^column 'label' holds .+, which is no (label|score)"),
        ):
            task.label_number(row) if task.labels else task.target_text(row)
    with pytest.raises(UserError, match=r"(line|row) [45]: column 'label' holds .+, which is no label"):
        load_split(task_of(path, labels=["some", "None", "nan"]), "train")


def test_nothing_in_a_label_column_is_no_name_when_its_numbering_is_checked() -> None:
    task = task_of(Path("rows.jsonl"), labels=["None", "some"])
    with pytest.raises(UserError, match="holds 2 and never 0"):
        task.check_numbering([{"label": 1}, {"label": 2}, {"label": None}])


def test_numbers_of_single_precision_are_the_decimals_that_they_were_written_as(tmp_path: Path) -> None:
    values = [2.7, 0.1, 3.0, 1e-7, None]
    table = pyarrow.table({"ratio": pyarrow.array(values, pyarrow.float32()), "label": [0] * len(values)})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    found = [source for source, _ in texts(task_of(tmp_path / "rows.parquet", fields=["ratio"]))]
    assert found == ["ratio: 2.7", "ratio: 0.1", "ratio: 3.0", "ratio: 1e-07", "ratio: "]


PLAIN = [{"text": "red rose", "label": "good"}, {"text": "blue; or, say, azure", "label": "bad"}]
CSV, JSON = written_as_csv(PLAIN), "".join(json.dumps(row) + "\n" for row in PLAIN).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("blank.csv", CSV + b"\n  \n\r\n"),
        ("mark.csv", b"\xef\xbb\xbf" + CSV),
        ("dos.csv", written_as_csv(PLAIN, end="\r\n") + b"\r\n"),
        ("unended.csv", CSV.removesuffix(b"\n")),
        ("wide.csv", b"\n".join(line + b"," + b"x" * 200_000 for line in CSV.splitlines())),
        ("semicolons.csv", written_as_csv(PLAIN, ";")),
        ("semicolons.csv", b"\xef\xbb\xbf" + written_as_csv(PLAIN, ";", "\r\n") + b"\r\n"),
        ("tabs.csv", written_as_csv(PLAIN, "\t")),
        ("UPPER.CSV", CSV),
        ("blank.tsv", written_as_csv(PLAIN, "\t") + b"\n\n"),
        ("blank.jsonl", JSON + b"\n \n\r\n"),
        ("mark.jsonl", b"\xef\xbb\xbf" + JSON),
        ("dos.jsonl", JSON.replace(b"\n", b"\r\n")),
        ("unended.jsonl", JSON.removesuffix(b"\n")),
        ("lines.json", b"\xef\xbb\xbf" + JSON + b"\n"),
        ("mark.json", b"\xef\xbb\xbf\n" + json.dumps(PLAIN).encode() + b"\n\n"),
    ],
)
def test_what_begins_ends_or_parts_a_file_changes_no_row(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    expected = [("text: red rose", "1"), ("text: blue; or, say, azure", "0")]
    assert texts(task_of(tmp_path / name)) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "gap.csv",
            CSV.replace(b"\nblue", b"\n\nblue").replace(b'\n"blue', b'\n\n"blue'),
            "line 3: the line is blank",
        ),
        ("gap.jsonl", JSON.replace(b"\n", b"\n\n"), "line 2: the line is blank"),
        (
            "gaps.jsonl",
            b"\n" + JSON.replace(b"\n", b"\n\n \n"),
            "line 1: the line is blank, and so are 2 more between rows",
        ),
        (
            "twice.jsonl",
            b'{"text": "a", "label": 0, "text": "b"}',
            "line 1: 'text' stands twice; keep one of them",
        ),
        (
            "deep.jsonl",
            b'{"text": ' + b"[" * 100_000,
            "line 1: no readable JSON: its values are nested too deeply",
        ),
        (
            "list.json",
            b'[{"text": "a", "label": 0}, 3]',
            "row 2: expected a JSON object of columns and values, got int",
        ),
        ("cut.json", b'[{"text": "a", "label": 0}, ', "no readable JSON: Expecting value: line 1 column 29"),
        ("latin.json", '[{"text": "é"}]'.encode("latin-1"), "no readable JSON: 'utf-8' codec can't decode"),
        (
            "half.jsonl",
            b'{"text": "\\ud800", "label": 0}',
            r"line 1: column 'text' holds '\ud800', which has half a",
        ),
        ("bars.csv", b"text|label\na|0\n", "line 2: there is no column 'text'; did you mean 'text|label'?"),
        ("open.csv", b'text,label\na,0\nb,0\n"c,0\nd,0\n', "line 4: no readable CSV: unexpected end of data"),
        (
            "old.csv",
            b"text,label\ra,0\r",
            "line 1: no readable CSV: a carriage return in a cell without quotes",
        ),
        (
            "return.csv",
            b"text,label\na\rb,0\n",
            "line 2: no readable CSV: a carriage return in a cell without quotes",
        ),
        ("long.csv", b"text,label\na,0\nb,0,1\n", "line 3: 3 columns, but the header has 2"),
        ("where.csv", b"text,label\na,0\n", "line 2: there is no column 'lang'"),
        ("where.jsonl", b'{"text": "a"}\n', "line 1: there is no column 'lang'"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    where = {"where": {"lang": "en"}} if name.startswith("where") else {}
    with pytest.raises(UserError) as refusal:
        load_split(task_of(tmp_path / name, **where), "train")
    assert message in str(refusal.value)
    assert str(refusal.value).startswith(str(tmp_path / name))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_that_cannot_be_read_are_told_together_and_the_first_of_the_file_is_named(
    suffix: str, tmp_path: Path
) -> None:
    labels = ["0", "1"] * 20
    for place, wrong in ((7, "mid"), (9, ""), (30, "mid"), (31, "mid"), (33, "other")):
        labels[place] = wrong
    rows = [{"text": f"t{place}", "label": label} for place, label in enumerate(labels)]
    path = write(tmp_path / f"rows{suffix}", rows)
    first = (
        f"{path}, {'line 9' if suffix in ('.csv', '.tsv') else 'line 8' if suffix == '.jsonl' else 'row 8'}"
    )
    told = "hold what is no label: 'mid' (3), '' (1), 'other' (1)"
    for changes, number in (({}, "5 of 40"), ({"splits": {"train": "train[:100%]"}}, "5 of 40")):
        for balanced in (False, True):  # the draw has another order than the file, and reads labels itself
            with pytest.raises(UserError) as refusal:
                load_split(task_of(path, **changes), "train", max_rows=40, balanced=balanced)
            message = str(refusal.value)
            assert message.startswith(f"{first}: column 'label' holds 'mid', which is no label; choices: ")
            assert message.endswith(f"; {number} rows {told}")
    path = write(tmp_path / f"all{suffix}", [{**row, "label": "poor"} for row in rows])
    with pytest.raises(UserError) as refusal:
        load_split(task_of(path), "train")
    assert str(refusal.value).endswith("; if these are the labels, write labels: ['poor'] in the task file")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_column_that_no_row_has_is_missing_from_the_file_and_one_that_some_have_from_the_first_without(
    suffix: str, tmp_path: Path
) -> None:
    rows = [{"text": f"t{place}", "lable": place % 2} for place in range(20)]
    path = write(tmp_path / f"rows{suffix}", rows)
    message = (
        f"{path}: there is no column 'label'; did you mean 'lable'? (choices: text, lable); in the task file"
    )
    with pytest.raises(UserError) as refusal:
        load_split(task_of(path, splits={"train": "train[:50%]"}), "train")
    assert str(refusal.value).startswith(message)
    with pytest.raises(UserError) as refusal:
        load_split(task_of(path, label="lable", where={"lang": "en"}), "train")
    assert str(refusal.value).startswith(f"{path}: there is no column 'lang'; choices: text, lable")
    if suffix != ".jsonl":  # where each row has columns of its own
        return
    path = write(tmp_path / f"some{suffix}", [*rows[:3], {"text": "a", "label": 0}, *rows[3:]])
    with pytest.raises(UserError) as refusal:
        load_split(task_of(path), "train")
    assert str(refusal.value).startswith(f"{path}, line 1: there is no column 'label'; did you mean 'lable'?")
    assert str(refusal.value).endswith("; 20 of 21 rows lack it")
    right = [{"text": row["text"], "label": 1} for row in rows]
    path = write(tmp_path / f"one{suffix}", [*right[:3], {"text": "a"}, *right[3:]])
    with pytest.raises(UserError) as refusal:
        load_split(task_of(path), "train")
    assert str(refusal.value).startswith(f"{path}, line 4: this row has no column 'label'; choices: text")
    assert str(refusal.value).endswith("; the other 20 have it")


def test_what_is_no_text_in_a_table_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    day = "datetime.date(2024, 1, 2)"
    for values, held, all_held in (
        ([["a"], ["b"]], "['a']", "['a'] (1), ['b'] (1)"),
        ([date(2024, 1, 2)] * 2, day, f"{day} (2)"),
    ):
        pyarrow.parquet.write_table(pyarrow.table({"text": values, "label": [0, 1]}), path)
        with pytest.raises(UserError) as refusal:
            load_split(task_of(path), "train")
        assert str(refusal.value) == (
            f"{path}, row 1: column 'text' holds {held}, which is no text; 2 of 2 rows hold what is no text: {all_held}"
        )
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(
        UserError, match=r"rows\.parquet is no readable parquet file: Multiple matches for .+$"
    ):
        load_split(task_of(path), "train")


# ------------------------------------------------------------------------------------------------- D23: predictions


@pytest.fixture(scope="module")
def loaded(trained: Path) -> Run:
    """The trained run, loaded once."""
    return load_run(trained)


@pytest.fixture(scope="module")
def expected(loaded: Run) -> list[Any]:
    """What is predicted for the colours, given as plain rows."""
    return loaded.predict("colour", [{"text": text} for text in COLOURS])


def test_a_prediction_is_a_text_and_the_label_that_it_names(loaded: Run, expected: list[Any]) -> None:
    assert len(expected) == len(COLOURS)
    for prediction in expected:
        assert prediction.label == {"0": "warm", "1": "cold"}.get(prediction.text)
    assert {prediction.label for prediction in expected} & {"warm", "cold"}


def test_rows_are_predicted_whatever_holds_them_and_whatever_else_they_hold(
    loaded: Run, expected: list[Any]
) -> None:
    import pandas
    from datasets import Dataset

    odd = [
        {
            "when": date(2024, 1, 2),
            "price": Decimal("1.50"),
            "number": np.float32(0.5),
            "vector": np.arange(3),
            "states": torch.ones(2, 2),
            "object": object(),
            3: "no text is its name",
        }
        for _ in COLOURS
    ]
    rows: list[dict[Any, Any]] = [{**more, "text": text} for more, text in zip(odd, COLOURS, strict=True)]
    plain = [{"text": text, "n": number} for number, text in enumerate(COLOURS)]
    for given in (
        rows,
        (row for row in rows),
        Dataset.from_list(plain),
        Dataset.from_list(plain).with_format("torch"),
        pandas.DataFrame(plain),
        pandas.DataFrame(rows),
        [json.dumps(row) for row in plain],
    ):
        assert loaded.predict("colour", given) == expected
    assert loaded.predict("colour", [{"text": np.str_(text)} for text in COLOURS], batch_size=1) == expected
    assert loaded.predict("colour", []) == []


def test_missing_numbers_and_texts_of_a_table_are_the_empty_text(
    loaded: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    import pandas

    plain = loaded.predict("colour", [{"text": ""}, {"text": "3"}, {"text": "2.5"}])
    assert loaded.predict("colour", [{"text": None}, {"text": 3}, {"text": Decimal("2.5")}]) == plain
    assert loaded.predict("colour", [{"text": float("nan")}, {"text": np.int64(3)}, {"text": 2.5}]) == plain
    frame = pandas.DataFrame({"text": pandas.Series([None, 3], dtype="Int64")})
    capsys.readouterr()
    assert loaded.predict("colour", frame) == plain[:2]
    assert "note: task 'colour': of 2 rows, 'text' is empty in 1\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            {"text": "red"},
            'expected rows, each {"text": "…"}, but got dict; a single row is given as [row]',
        ),
        ("red", 'expected rows, each {"text": "…"}, but got str; a single row is given as [row]'),
        (3, 'expected rows, each {"text": "…"}, but got int; a single row is given as [row]'),
        (
            ["red rose", "blue"],
            'row 1: no readable JSON: Expecting value: line 1 column 1 (char 0); a row is written as {"text": "…"}',
        ),
        (
            ["3"],
            'row 1: expected a JSON object of columns and values, got int; a row is written as {"text": "…"}',
        ),
        ([{"text": "red"}, ["red"]], "row 2: expected a JSON object of columns and values, got list"),
        ([{"text": "red"}, {"txt": "red"}], "row 2: this row has no column 'text'; did you mean 'txt'?"),
        (
            [{"text": date(2024, 1, 2)}],
            "row 1: column 'text' holds datetime.date(2024, 1, 2), which is no text",
        ),
        ([{"text": "\ud800"}], r"row 1: column 'text' holds '\ud800', which has half a character"),
    ],
)
def test_what_are_no_rows_is_said_in_one_line(rows: Any, message: str, loaded: Run) -> None:
    with pytest.raises(UserError) as refusal:
        loaded.predict("colour", rows)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


GIVEN = [{"id": number, "text": text, "label": "?"} for number, text in enumerate(COLOURS)]


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_of_every_format_are_predicted_and_their_rows_echoed(
    suffix: str, trained: Path, tmp_path: Path, expected: list[Any]
) -> None:
    outcome = hyperadapt(
        "predict",
        trained,
        "--task",
        "colour",
        "--input",
        write(tmp_path / f"rows{suffix}", GIVEN),
        "--batch-size",
        2,
    )
    assert outcome.code == 0, outcome.err
    number = str if suffix in (".csv", ".tsv") else int  # CSV knows no other type than text
    assert [json.loads(line) for line in outcome.out.splitlines()] == [
        {
            "id": number(row["id"]),
            "text": row["text"],
            "label": "?",
            "prediction": prediction.label,
            "written": prediction.text,
        }
        for row, prediction in zip(GIVEN, expected, strict=True)
    ]


def test_predictions_are_written_to_a_file_in_the_format_of_its_suffix(
    trained: Path, tmp_path: Path, expected: list[Any]
) -> None:
    rows = [{**row, "note": 'a "b",\n;\r', "more": [1, {"a": "é"}]} for row in GIVEN]
    source = write(tmp_path / "rows.jsonl", rows)
    arguments = ("predict", trained, "--task", "colour", "--input", source)
    on_screen = hyperadapt(*arguments).out
    (tmp_path / "new").mkdir()
    for suffix in (".jsonl", ".csv", ".tsv"):
        output = tmp_path / "new" / f"out{suffix}"
        outcome = hyperadapt(*arguments, "--output", output)
        assert outcome.code == 0, outcome.err
        if suffix == ".jsonl":
            assert output.read_text(encoding="utf-8") == on_screen
            continue
        with output.open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ","))
        assert found == [
            {
                "id": str(row["id"]),
                "text": row["text"],
                "label": "?",
                "note": row["note"],
                "more": '[1, {"a": "é"}]',
                "prediction": prediction.label or "",
                "written": prediction.text,
            }
            for row, prediction in zip(rows, expected, strict=True)
        ]
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"out.jsonl", "out.csv", "out.tsv"}


def test_no_column_of_a_row_is_lost_to_another_of_its_name(trained: Path) -> None:
    row = {"prediction": 1, "text": "red", "given_prediction": 2, "written": 3}
    outcome = hyperadapt("predict", trained, "--task", "colour", stdin=json.dumps(row))
    answer = json.loads(outcome.out)
    assert [answer.pop("prediction"), answer.pop("written")] != [1, 3]
    assert answer == {"given_prediction": 1, "text": "red", "given_given_prediction": 2, "given_written": 3}


def test_an_echoed_row_stays_on_its_line_and_commands_no_terminal(trained: Path) -> None:
    row = {"text": "red", "odd": "a\u2028b\x85c\x9b31m\u202ed\ud800"}
    outcome = hyperadapt("predict", trained, "--task", "colour", stdin=json.dumps(row))
    assert len(outcome.out.splitlines()) == 1
    assert re.fullmatch(r"[ -~]+\n", outcome.out)
    assert json.loads(outcome.out)["odd"] == row["odd"]


def test_numbers_that_are_not_finite_are_null_and_empty_cells(trained: Path, tmp_path: Path) -> None:
    odd = [float("nan"), float("inf"), -float("inf"), None]
    rows = [{"text": "red", "price": price, "more": [price, 1.5]} for price in odd]
    source = write(tmp_path / "rows.parquet", rows)
    arguments = ("predict", trained, "--task", "colour", "--input", source)

    def no_json(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    answers = [json.loads(line, parse_constant=no_json) for line in hyperadapt(*arguments).out.splitlines()]
    assert [(answer["price"], answer["more"]) for answer in answers] == [(None, [None, 1.5])] * len(odd)
    assert hyperadapt(*arguments, "--output", tmp_path / "out.csv").code == 0
    found = list(read_file(tmp_path / "out.csv"))
    assert [(row["price"], row["more"]) for _, row in found] == [("", "[null, 1.5]")] * len(odd)
    values = {"n": np.float32("nan"), "d": Decimal("Infinity"), "big": 10**400, "whole": Decimal("1e999")}
    assert json.loads(json_line(values)) == {"n": None, "d": None, "big": 10**400, "whole": "1E+999"}


def test_a_cell_of_a_file_keeps_what_a_terminal_obeys(trained: Path, tmp_path: Path) -> None:
    odd = "\x1b[31m red \x9b1m \u202e"
    source = write(tmp_path / "rows.jsonl", [{"text": "red", "odd": odd}])
    for suffix in (".csv", ".tsv", ".jsonl"):
        output = tmp_path / f"out{suffix}"
        arguments = ("--task", "colour", "--input", source, "--output", output)
        assert hyperadapt("predict", trained, *arguments).code == 0
        ((_, row),) = read_file(output)
        assert row["odd"] == odd
        assert ("\x1b" in output.read_text(encoding="utf-8")) == (suffix != ".jsonl")


def test_a_column_that_a_table_has_twice_is_refused(loaded: Run) -> None:
    import pandas

    frame = pandas.DataFrame([["red", 1, 2]], columns=["text", "a", "a"])
    with pytest.raises(UserError, match=r"^the column 'a' stands twice; keep one of them$"):
        loaded.predict("colour", frame)


def test_what_cannot_be_written_is_said_before_any_work(trained: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.csv", GIVEN)
    (tmp_path / "folder.csv").mkdir()
    before = contents(tmp_path)
    nowhere = tmp_path / "no run"  # which would be the error if any work were done
    for output, message in (
        (source, f"--output: there is a file {source} already"),
        (tmp_path / "folder.csv", f"--output: there is a file {tmp_path / 'folder.csv'} already"),
        (source / "out.csv", f"--output: cannot write {source / 'out.csv'}: Not a directory"),
        (tmp_path / "out.xlsx", "is of no known format; choices: .jsonl, .csv, .tsv"),
        (tmp_path / "out", "is of no known format; choices: .jsonl, .csv, .tsv"),
    ):
        outcome = hyperadapt("predict", nowhere, "--task", "colour", "--input", source, "--output", output)
        assert_one_line(outcome, message)
    source.rename(tmp_path / "rows.txt")
    unknown = hyperadapt("predict", trained, "--task", "colour", "--input", tmp_path / "rows.txt")
    assert_one_line(
        unknown, "rows.txt' is of no known format; did you mean '.tsv'? (choices: .jsonl, .json, .csv"
    )
    (tmp_path / "rows.txt").rename(source)
    assert contents(tmp_path) == before


def test_predictions_that_cannot_be_written_after_all_are_printed(trained: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", GIVEN)
    arguments = ("predict", trained, "--task", "colour", "--input", source)
    on_screen = hyperadapt(*arguments).out
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (10, limits[1])
    )  # bytes a file may have, as on a disk that is full
    try:
        outcome = hyperadapt(*arguments, "--output", tmp_path / "out.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (outcome.code, outcome.out) == (2, on_screen)
    assert f"error: cannot write {tmp_path / 'out.jsonl'}: File too large" in outcome.err
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


# ------------------------------------------------------------------------------------------- D24: what is odd is said


def trained_on(directory: Path, sources: Mapping[str, Rows], **changes: Any) -> Outcome:
    """Train a few steps on these rows of a class task `mine`."""
    for source, rows in sources.items():
        write(directory / f"{source}.jsonl", rows)
    spec = {
        "name": "mine",
        "files": {source: f"{source}.jsonl" for source in sources},
        "fields": ["title", "body"],
        "labels": ["warm", "cold", "mild"],
        "metrics": ["accuracy"],
        **changes,
    }
    (directory / "mine.yaml").write_text(json.dumps(spec))
    config = write_config(directory, [str(directory / "mine.yaml")])
    return hyperadapt("train", config, "training.max_steps=2", "training.eval_steps=2")


def notes(outcome: Outcome) -> list[str]:
    """The notices of a command."""
    assert outcome.code == 0, outcome.err
    return [line for line in re.split(r"[\r\n]+", outcome.err) if line.startswith("note: ")]


def test_what_is_odd_about_the_rows_is_said_once_with_counts(tmp_path: Path) -> None:
    def row(body: object, label: int | str, title: str | None = "t") -> dict[str, Any]:
        return {"title": title, "body": body, "label": label}

    train = [row(number, number % 2) for number in range(8)]
    train += [row(0, 1), row(1, 0), row(2, "warm"), row(" ", 0), row("b", 1, None), row("c", 1, "")]
    validation = [row(5, 0), row(6, 0), row(50, 1), row(51, 1)]  # the first two are trained on
    assert notes(
        trained_on(tmp_path, {"train": train, "validation": validation, "test": validation[2:]})
    ) == [
        "note: task 'mine', train: of 14 rows, 'title' is empty in 2, 'body' is empty in 1",
        "note: task 'mine': 2 of 11 training inputs stand there with different labels",
        "note: task 'mine': no training row has the label 'mild'",
        "note: task 'mine': 2 of 4 validation rows stand among its training rows",
    ]


def test_a_validation_file_that_is_the_training_file_is_said_and_a_slice_of_it_is_not(tmp_path: Path) -> None:
    rows = [{"title": "t", "body": number, "label": number % 3} for number in range(12)]
    for name, changes, said in (
        ("same", {"files": {"train": "train.jsonl", "validation": "train.jsonl"}}, True),
        ("part", {"splits": {"train": "train[4:]", "validation": "train[:4]"}}, False),
    ):
        (tmp_path / name).mkdir()
        whole = "note: task 'mine': 12 of 12 validation rows stand among its training rows"
        assert notes(trained_on(tmp_path / name, {"train": rows}, **changes)) == [whole] * said


def test_a_question_is_another_row_where_its_context_is(tmp_path: Path) -> None:
    rows = [{"title": "who?", "body": f"Ann met {number} dogs.", "label": "Ann"} for number in range(6)]
    changes = {"kind": "question_answering", "labels": None, "metrics": ["answer_f1"]}
    changes["splits"] = {"train": "train[2:]", "validation": "train[:2]"}
    assert notes(trained_on(tmp_path, {"train": rows}, **changes)) == []


def test_empty_targets_of_texts_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "train.jsonl", [{"text": "a", "label": "b"}, {"text": "a", "label": None}])
    spec = {
        "name": "mine",
        "files": {"train": path.name},
        "fields": ["text"],
        "kind": "text",
        "metrics": ["rougeL"],
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(spec))
    assert load_split(load_task_file(tmp_path / "mine.yaml"), "train")["target"] == ["b", ""]
    assert capsys.readouterr().err == "note: task 'mine', train: of 2 rows, 'label' is empty in 1\n"
