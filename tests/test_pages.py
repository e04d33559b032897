"""What a run's page shows of its predictions, and the pictures on it, read back out of the page and the SVG."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from hyperadapt.errors import CheckpointError, printable
from hyperadapt.runs import results_file
from hyperadapt.runs.predictions import PredictedRow, confusion, is_target, read_predictions, samples
from hyperadapt.runs.run import load_tasks
from hyperadapt.studies.figures import curves, embedding_map, point_map, scores_by_size, scores_by_variant
from hyperadapt.tasks import get_task
from hyperadapt.tasks.kinds import KINDS
from tiny_run import SPLITS, as_of_an_earlier_version, assert_one_line, contents, hyperadapt

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
FIRST_COLOUR = "#0072b2"


# --------------------------------------------------------------------------------------------------------- pictures


def matrix(element: ElementTree.Element) -> np.ndarray:
    """An element's transform, (3, 3)."""
    result = np.eye(3)
    for name, text in re.findall(r"(\w+)\(([^)]*)\)", element.get("transform", "")):
        values = [float(number) for number in text.replace(",", " ").split()]
        step = np.eye(3)
        if name == "translate":
            step[:2, 2] = values
        elif name == "scale":
            step[0, 0], step[1, 1] = values[0], values[-1]
        else:
            assert name == "rotate"
            turned = np.radians(values[0])
            step[:2, :2] = [[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]]
        result = result @ step
    return result


def corners(
    element: ElementTree.Element, glyphs: dict[str, ElementTree.Element], place: np.ndarray
) -> np.ndarray:
    """The points of all that is drawn below an element, (points, 2): a curve lies within its points."""
    place = place @ matrix(element)
    found = [np.zeros((0, 2))]
    if element.tag == f"{SVG}path":
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", element.get("d", ""))]
        points = np.array(numbers).reshape(-1, 2)
        found.append((np.c_[points, np.ones(len(points))] @ place.T)[:, :2])
    if element.tag == f"{SVG}use":
        shift = np.eye(3)
        shift[:2, 2] = float(element.get("x", 0)), float(element.get("y", 0))
        found.append(corners(glyphs[element.get(LINK, "").removeprefix("#")], glyphs, place @ shift))
    found += [corners(child, glyphs, place) for child in element if child.tag != f"{SVG}defs"]
    return np.concatenate(found)


def boxes(svg: str) -> tuple[dict[str, tuple[float, ...]], list[tuple[float, ...]]]:
    """Where the names and the points of a map are: left, top, right, bottom."""
    tree = ElementTree.fromstring(
        svg, ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    )
    glyphs = {element.get("id", ""): element for element in tree.iter(f"{SVG}path")}
    names, points = {}, []
    for group in tree.iter(f"{SVG}g"):
        if group.get("id", "").startswith(("text_", "PathCollection_")):
            drawn = corners(group, glyphs, np.eye(3))
            box = (*drawn.min(0), *drawn.max(0))
            if group.get("id", "").startswith("text_"):
                said = "".join(str(child.text).strip() for child in group if child.tag is ElementTree.Comment)
                names[said] = box
            else:
                points.append(box)
    return names, points


def cover(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@pytest.mark.parametrize("spread", ["along a line", "in a heap", "on one point", "apart"])
def test_the_names_on_the_map_cover_neither_each_other_nor_a_point(spread: str) -> None:
    number = 24
    random = np.random.default_rng(0)
    points = {
        "along a line": np.c_[np.linspace(0, 1, number), np.zeros(number)],
        "in a heap": random.normal(size=(number, 2)) ** 3,
        "on one point": np.zeros((number, 2)),
        "apart": random.uniform(size=(number, 2)),
    }[spread]
    wanted = [f"task-number-{place}" for place in range(number)]
    names, drawn = boxes(embedding_map(wanted, points, (0.6, 0.2)))
    assert set(wanted) <= set(names)
    assert len(drawn) == number
    for one, other in combinations(names, 2):
        assert not cover(names[one], names[other]), (one, other)
    for name in wanted:
        assert not any(cover(names[name], point) for point in drawn), name


def test_a_long_name_on_the_map_is_whole_and_within_the_picture() -> None:
    long = "a-name-that-nobody-would-give-a-task-but-that-is-allowed-all-the-same"
    svg = embedding_map([long, "short", "other"], [(0, 0), (1, 0), (2, 1)], (0.6, 0.2))
    names, _ = boxes(svg)
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    assert long in names
    assert all(0 <= box[0] < box[2] <= width for box in names.values())


def markers(svg: str, colour: str) -> int:
    return len(re.findall(rf'<use [^>]*style="fill: {colour}', svg))


def test_a_single_evaluation_is_a_point_and_several_are_a_line() -> None:
    single = curves({"first": ([40], [50.0]), "average": ([40], [55.0])}, "score")
    assert markers(single, FIRST_COLOUR) == 2  # in the picture, and in its legend
    assert markers(single, "#222222") == 2
    several = curves({"first": ([20, 40], [50.0, 60.0]), "average": ([20, 40], [55.0, 66.0])}, "score")
    assert markers(several, FIRST_COLOUR) == 0
    assert re.search(rf'<path d="M [^"]+L [^"]+"[^>]*stroke: {FIRST_COLOUR}', several)


def test_every_line_is_named_and_told_apart() -> None:
    names = ["_hidden", *(f"task{number}" for number in range(19))]
    svg = curves({name: ([1, 2], [float(place), 0.0]) for place, name in enumerate(names)}, "score")
    assert all(f"<!-- {name} -->" in svg for name in names)
    drawn = re.findall(r'<path d="M [^"]+"[^>]*style="(fill: none; [^"]+stroke-width: 1\.1[^"]*)"', svg)
    assert Counter(Counter(drawn).values()) == {2: 20}  # each style once in the picture, once in the legend


def test_a_name_is_written_as_it_is_whatever_it_is() -> None:
    names = ["lr$_$", "$x$", "_hid", r"a\$b", "plain"]
    places = [(number, number % 2) for number in range(len(names))]
    svgs = [
        scores_by_variant([{"variant": name, "average": (50.0, 1.0)} for name in names]),
        curves({name: ([1, 2], [0.0, 1.0]) for name in names}, "score"),
        scores_by_size(
            {name: [(10, 1.0, 0.5), (100, 2.0, None)] for name in names}, "rows", "score", log_y=True
        ),
        point_map(places, names, ["first", "second"]),
        embedding_map(names, places, (0.6, 0.2)),
    ]
    for svg in svgs:
        assert all(f"<!-- {name} -->" in svg for name in names)
        assert "mathdefault" not in svg  # a number on an axis


# ------------------------------------------------------------------------------------------------------ predictions


def kept(run: Path, split: str = "test") -> list[dict[str, str]]:
    with gzip.open(run / f"predictions-{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def keep(run: Path, rows: Sequence[Mapping[str, object]], split: str = "test") -> None:
    with gzip.open(run / f"predictions-{split}.jsonl.gz", "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def page_of(run: Path) -> str:
    outcome = hyperadapt("report", run)
    assert outcome.code == 0, outcome.err
    return (run / "report.html").read_text(encoding="utf-8")


def cells(page: str) -> list[list[str]]:
    """The texts of the sample predictions' cells."""
    table = page.partition('<table class="samples">')[2].partition("</table>")[0]
    rows = [re.split(r"<td[^>]*>", line)[1:] for line in table.split("<tr>")]
    return [[html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in row] for row in rows if row]


def test_a_run_keeps_every_rows_prediction_and_they_give_its_scores(trained: Path) -> None:
    results = json.loads((trained / "results.json").read_text())
    for split in ("validation", "test"):
        rows = kept(trained, split)
        assert Counter(row["task"] for row in rows) == {"colour": SPLITS[split], "warmth": SPLITS[split]}
        colours = [row for row in rows if row["task"] == "colour"]
        given = [json.loads(line) for line in (trained.parent / f"tasks/colour-{split}.jsonl").open()]
        assert [row["input"] for row in colours] == [f"text: {row['text']}" for row in given]
        assert [row["target"] for row in colours] == [str(row["label"]) for row in given]
        right = sum(row["target"] == row["written"] for row in colours)
        metrics = results[split]["tasks"]["colour"]["metrics"]
        assert 100 * right / len(colours) == pytest.approx(metrics["accuracy"])


def test_evaluating_again_keeps_the_same_file(run: Path) -> None:
    before = (run / "predictions-test.jsonl.gz").read_bytes()
    (run / "predictions-test.jsonl.gz").unlink()
    assert hyperadapt("evaluate", run).code == 0
    assert (run / "predictions-test.jsonl.gz").read_bytes() == before


def test_the_page_shows_twenty_of_the_rows_that_were_predicted(run: Path) -> None:
    shown = cells(page_of(run))
    assert Counter(row[0] for row in shown) == {"colour": 10, "warmth": 10}
    labels = {"0": "0 (warm)", "1": "1 (cold)"}
    rows = [
        [
            row["task"],
            row["input"],
            *(labels.get(row[name], printable(row[name])) for name in ("target", "written")),
        ]
        for row in kept(run)
        if row["task"] == "colour"
    ] + [[printable(text) for text in row.values()] for row in kept(run) if row["task"] == "warmth"]
    for row in shown:
        assert row[:4] in rows
        if row[0] == "colour" and row[3] in labels.values():
            assert row[4] == ("right" if row[2] == row[3] else "wrong")


def test_samples_are_shared_out_fairly_and_are_the_same_every_time() -> None:
    sizes = {"small": 3, "large": 500, "larger": 1000}
    parted = {
        task: [PredictedRow(task, str(row), "", "") for row in range(size)] for task, size in sizes.items()
    }
    drawn = samples(parted, 20)
    assert Counter(row.task for row in drawn) == {"small": 3, "large": 9, "larger": 8}
    assert len({(row.task, row.input) for row in drawn}) == 20
    assert drawn == samples(parted, 20)
    many = {str(task): [PredictedRow(str(task), "", "", "")] * 9 for task in range(50)}
    assert len({row.task for row in samples(many, 20)}) == 20
    assert len(samples({"small": parted["small"]}, 20)) == 3


def test_the_confusion_matrix_counts_all_rows_and_has_a_column_for_invalid_answers(run: Path) -> None:
    task = get_task("mnli")
    texts = ["0", "1", "2", "2", " 1 ", "7", "", "entailment"]
    rows = [PredictedRow("mnli", "", str(place % 3), text) for place, text in enumerate(texts * 40)]
    counts = np.zeros((3, 4), dtype=int)
    for row in rows:
        answer = row.written.strip()
        counts[int(row.target), int(answer) if answer in ("0", "1", "2") else 3] += 1
    assert confusion(task, rows) == counts.tolist()
    colours = kept(run)
    keep(
        run,
        [{**row, "written": "neither"} if place % 3 == 0 else row for place, row in enumerate(colours)],
    )
    page = page_of(run).partition("colour, test rows</caption>")[2].partition("</table>")[0]
    shown = [[int(cell) for cell in re.findall(r">(\d+)(?=<|\s)", line)] for line in page.split("<tr>")[3:]]
    wanted = np.zeros((2, 3), dtype=int)
    for place, row in enumerate(colours):
        if row["task"] == "colour":
            invalid = place % 3 == 0 or row["written"] not in ("0", "1")
            wanted[int(row["target"]), 2 if invalid else int(row["written"])] += 1
    assert shown == wanted.tolist()
    assert sum(map(sum, shown)) == SPLITS["test"]


def test_a_task_without_test_rows_is_shown_by_its_validation_rows(run: Path) -> None:
    keep(run, [row for row in kept(run) if row["task"] == "warmth"])
    page = page_of(run)
    assert "colour, validation rows</caption>" in page
    assert {row[0] for row in cells(page)} == {"colour", "warmth"}


def test_strange_texts_are_shown_and_not_obeyed(run: Path) -> None:
    strange = "<script>alert(1)</script> \x1b[2J \u202e \ud800"
    keep(run, [{**row, "input": strange, "written": strange} for row in kept(run)])
    page = page_of(run)
    assert "<script" not in page
    assert not re.search("[\x1b\u202e]", page)
    assert cells(page)[0][1] == r"<script>alert(1)</script> \x1b[2J \u202e \ud800"


def test_the_page_and_the_run_name_the_versions_it_was_made_with(run: Path) -> None:
    versions = json.loads((run / "results.json").read_text())["versions"]
    assert versions["torch"] == version("torch")
    assert versions["transformers"] == version("transformers")
    results = json.loads((run / "results.json").read_text())
    results["versions"]["torch"] = "1.2.3"
    results_file.write(run, results)
    page = page_of(run)
    assert "torch 1.2.3" in page  # trained with
    assert f"torch {version('torch')}" in page  # written with


def test_the_page_of_a_run_of_before_says_what_it_lacks(run: Path) -> None:
    for split in ("validation", "test"):
        (run / f"predictions-{split}.jsonl.gz").unlink()
    results = json.loads((run / "results.json").read_text())
    del results["versions"]
    results_file.write(run, results)
    page = page_of(run)
    assert "predictions were not kept" in page
    assert "does not say with which versions" in page
    assert hyperadapt("evaluate", run).code == 0
    assert len(cells(page_of(run))) == 20


def test_damaged_predictions_are_one_line_and_nothing_is_written(run: Path) -> None:
    file = run / "predictions-test.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-20])
    before = contents(run)
    assert_one_line(hyperadapt("report", run), "predictions-test.jsonl.gz is damaged")
    assert contents(run) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "colours"}, "the run has no task 'colours'; did you mean 'colour'?"),
        ({"task": ["colour"]}, 'task must be a text, not ["colour"]'),
        ({"input": None}, "input must be a text, not empty"),
        ({"written": 1}, "written must be a text, not 1"),
        ({"target": None}, "empty is no target of a task of kind 'class'"),
        ({"target": []}, "[] is no target of a task of kind 'class'"),
        ({"target": ["0", 1]}, '["0", 1] is no target of a task of kind'),
        ({"task": "warmth", "target": "x"}, "'x' is no target of a task of kind 'score'"),
        ({"task": "warmth", "target": ["1"]}, "[\"1\"] is no target of a task of kind 'score'"),
        ({"more": 1}, "it must have task, input, target, written, and nothing else"),
    ],
)
def test_a_line_that_is_no_prediction_is_named(
    trained: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    first, second = kept(trained)[:2]
    keep(tmp_path, [first, {**second, **changes}])
    with pytest.raises(CheckpointError) as error:
        read_predictions(tmp_path, "test", load_tasks(trained / "tasks.yaml"))
    assert f"predictions-test.jsonl.gz is damaged (line 2: {message}" in str(error.value)


def test_what_was_written_is_called_so_wherever_it_is_kept_and_read_by_its_earlier_name_too(
    trained: Path, tmp_path: Path
) -> None:
    rows, tasks = kept(trained), load_tasks(trained / "tasks.yaml")
    texts = "".join(json.dumps({"text": row["input"].removeprefix("text: ")}) + "\n" for row in rows[:4])
    echoed = hyperadapt("predict", trained, "--task", rows[0]["task"], stdin=texts).out.splitlines()
    assert [json.loads(line)["written"] for line in echoed] == [row["written"] for row in rows[:4]]
    earlier = [
        {"prediction" if name == "written" else name: value for name, value in row.items()} for row in rows
    ]
    keep(tmp_path, earlier)
    assert read_predictions(tmp_path, "test", tasks) == read_predictions(trained, "test", tasks)


def test_a_strangers_predictions_are_one_line_of_the_report(run: Path) -> None:
    rows = kept(run)
    keep(run, [*rows, {**rows[0], "task": "nothing"}])
    before = contents(run)
    assert_one_line(hyperadapt("report", run), "the run has no task 'nothing'")
    file = run / "predictions-test.jsonl.gz"
    file.write_bytes(gzip.compress(b"[" * 10**5))
    assert_one_line(hyperadapt("report", run), "(line 1: no readable JSON: its values are nested too deeply)")
    packed = gzip.compress(json.dumps(rows).encode())
    file.write_bytes(packed[:10] + b"\xff" * 8 + packed[18:])
    assert_one_line(hyperadapt("report", run), "predictions-test.jsonl.gz is damaged (")
    file.unlink()
    assert contents(run).items() <= before.items()


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("text", ["a"], [["a"], 1]),
        ("class", ["0", ["0", "group"]], [["0"], ["0", "1", "2"], {}]),
        ("score", ["0.4"], ["nan", ""]),
        ("coreference", [["him", "1"]], ["him", ["him"], ["a", "b", "c"]]),
        ("question_answering", [["a"], ["a", "b"], [""]], ["a", []]),
    ],
)
def test_each_kind_of_task_has_targets_of_its_own(
    kind: str, right: list[object], wrong: list[object]
) -> None:
    assert all(is_target(value, KINDS[kind]) for value in right)
    assert not any(is_target(value, KINDS[kind]) for value in wrong)


def test_what_is_only_shown_need_not_be_text(run: Path) -> None:
    (run / "embeddings").mkdir()
    (run / "embeddings/pca-task.svg").write_bytes(b"<svg>\xff</svg>")
    images = re.findall(r"base64,([^\"]+)", page_of(run))
    assert "<svg>\ufffd</svg>" in [base64.b64decode(image).decode() for image in images]


def test_a_damaged_configuration_is_one_line_of_the_report(run: Path) -> None:
    with (run / "config.yaml").open("ab") as file:
        file.write(b"# \xff\n")
    assert_one_line(hyperadapt("report", run), "config.yaml is truncated or corrupted")
    as_of_an_earlier_version(run)
    assert_one_line(hyperadapt("report", run), "config.yaml is not valid YAML: it is not UTF-8 text")
