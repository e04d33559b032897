"""The papers' tables: as the papers' texts have them, against themselves and against our counts."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from hyperadapt import bundled
from hyperadapt.config.written import RunConfig
from hyperadapt.counting import hyperdecoders_table, hyperformer_table, hypergrid_sizes_table
from hyperadapt.errors import UserError
from hyperadapt.methods import METHODS
from hyperadapt.studies.published import PAPERS, Printed, PublishedTable, published_table, published_tables
from hyperadapt.studies.published_runs import HYPERDECODERS

ROOT = Path(__file__).resolve().parents[1]
# Of each table: rows, columns, and cells that are empty; counted in the papers.
SHAPES = {
    "hyperformer": {
        "1": (12, 14, 0),
        "2": (47, 3, 0),
        "3": (4, 3, 0),
        "4": (6, 1, 0),
        "5": (4, 2, 1),
        "6": (4, 2, 1),
        "7": (6, 12, 0),
    },
    "hyperdecoders": {
        "1": (7, 13, 0),
        "2": (3, 13, 0),
        "3": (4, 13, 0),
        "4": (7, 7, 6),
        "5": (7, 7, 0),
        "6": (4, 3, 0),
        "7": (2, 2, 0),
        "8": (4, 4, 6),
        "9": (3, 1, 0),
        "10": (8, 3, 0),
        "11": (12, 2, 6),
        "12": (6, 3, 0),
        "13": (12, 13, 0),
        "14": (6, 8, 0),
        "15": (6, 8, 0),
        "16": (6, 10, 0),
    },
    "hypergrid": {
        "1": (6, 10, 0),
        "2": (6, 13, 0),
        "3": (15, 6, 9),
        "4": (6, 6, 9),
        "5": (9, 11, 8),
        "6": (6, 13, 0),
    },
}
TABLES = [(paper, number) for paper, tables in SHAPES.items() for number in tables]


@pytest.mark.parametrize("paper", PAPERS)
def test_every_table_of_a_paper_is_there_in_its_shape(paper: str) -> None:
    tables = published_tables(paper)
    shapes = {
        number: (
            len(table.rows),
            len(table.columns),
            sum(cell is None for row in table.rows for cell in row.cells.values()),
        )
        for number, table in tables.items()
    }
    assert shapes == SHAPES[paper]
    for number, table in tables.items():
        assert (table.paper, table.number) == (paper, number)
        assert all(len(row.labels) == len(table.labels) for row in table.rows)
        assert all(list(row.cells) == list(table.columns) for row in table.rows)


# ------------------------------------------------------------------------------------------------- the papers' texts

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def numbers_of(cell: str) -> list[str]:
    """List the numbers of a cell; a cell that does not begin with one is a name."""
    text = html.unescape(re.sub(r"<[^>]+>", "", cell)).replace("−", "-").replace(r"\pm", " ").strip()
    return NUMBER.findall(text) if re.match(r"~?[-+]?\d", text) else []


# A row of HTML, a row of cells between tabs, or a caption, which stands below its table.
PIECE = re.compile(r"(?s)<tr>(.*?)</tr>|(?m:^([^\n]*\t[^\n]*)$|^[ ]*Table (\d+):)")


def tables_of(text: str) -> dict[str, list[list[str]]]:
    """List the rows of numbers above each caption of a paper's text."""
    tables: dict[str, list[list[str]]] = {}
    rows: list[list[str]] = []
    for row, line, caption in PIECE.findall(text):
        if caption:
            tables.setdefault(caption, rows)
            rows = []
            continue
        cells = line.split("\t") if line else re.findall(r"(?s)<td[^>]*>(.*?)</td>", row)
        if numbers := [number for cell in cells for number in numbers_of(cell)]:
            rows.append(numbers)
    return tables


@pytest.mark.parametrize("paper", PAPERS)
def test_every_number_is_the_papers_in_its_order(paper: str, shared: Path) -> None:
    file = shared / "papers" / f"{paper}.md"
    if not file.is_file():
        pytest.skip("../shared/papers is not there: the tables cannot be held against the texts")
    printed = tables_of(file.read_text(encoding="utf-8"))
    if paper == "hypergrid":  # the caption of Table 1 is torn in two
        both = [row for row in printed.pop("2") if row != ["1"]]
        printed = {"1": both[:6], "2": both[6:], **printed}
    ours = {
        number: [
            [
                found
                for text in (
                    *(label for label in row.labels if label.isdigit()),
                    *(cell.text for cell in row.cells.values() if cell is not None),
                )
                for found in numbers_of(text)
            ]
            for row in table.rows
        ]
        for number, table in published_tables(paper).items()
    }
    for number, rows in ours.items():
        assert [row for row in rows if row] == printed[number], f"Table {number}"
    assert len(ours) == len(printed)


# ------------------------------------------------------------------------------------------------------------ averages

# Averages that their own row does not give, however its numbers were rounded: what is printed, and the row's mean.
# GLUE's in HyperGrid may be over metrics that are not printed: one number stands for both of MRPC, STS-B and QQP.
OTHER_AVERAGES = {
    ("hyperdecoders", "4", "BERT-base", "Avg"): ("62.6", 75.97),
    ("hypergrid", "1", "T5†", "Avg"): ("83.4", 83.28),
    ("hypergrid", "1", "Ours (L2)", "Avg"): ("85.2", 84.75),
    ("hypergrid", "1", "Ours (LG)", "Avg"): ("85.4", 84.28),
    ("hypergrid", "1", "Ours (L)", "Avg"): ("85.6", 85.48),
    ("hypergrid", "2", "PTFT", "Avg"): ("74.8", 75.92),
    ("hypergrid", "2", "Ours (L)", "Avg"): ("74.5", 75.18),
    ("hypergrid", "3", "base, Baseline (Max)", "AVG"): ("79.40", 79.47),
    ("hypergrid", "5", "BERT", "Avg"): ("80.5", 81.14),
    ("hypergrid", "5", "RoBERTa", "Avg"): ("88.1", 88.87),
    ("hypergrid", "5", "ELECTRA", "Avg"): ("89.4", 90.10),
    ("hypergrid", "5", "T5 (3B)", "Avg"): ("88.5", 88.31),
    ("hypergrid", "5", "T5 (11B)", "Avg"): ("89.7", 89.53),
    ("hypergrid", "5", "Ours (3B)", "Avg"): ("88.2", 88.02),
    ("hypergrid", "5", "Ours (11B)", "Avg"): ("89.4", 89.20),
    ("hypergrid", "6", "Ours (11B)", "Avg"): ("87.7", 87.43),
}


def test_a_printed_average_is_that_of_its_row_but_where_it_is_not() -> None:
    others, compared = {}, 0
    for paper, number in TABLES:
        table = published_table(paper, number)
        for row in table.rows:
            for column in table.averages:
                average = table.average(row, column)
                if average is None:
                    continue
                compared += 1
                mean, rounding = average
                if not row[column].shows(mean, rounding):
                    others[paper, number, row.name, column] = (
                        row[column].text,
                        pytest.approx(mean, abs=0.006),
                    )
    assert compared == 12 + 6 + (7 + 3 + 4 + 6 + 7 + 4 + 12 + 6 + 6 + 3 * 6) + (6 + 6 + 15 + 6 + 7 + 6)
    assert others == OTHER_AVERAGES


def test_the_hyperformer_papers_averages_are_those_of_eleven_numbers_to_the_printed_digit() -> None:
    for number in ("1", "7"):
        table = published_table("hyperformer", number)
        for row in table.rows:
            numbers = [cell.number for cell in list(row.cells.values())[-12:] if cell is not None]
            assert f"{sum(numbers[:11]) / 11:.2f}" == row["Avg"].text


# Gains and changes that do not follow from the numbers beside them.
OTHER_CHANGES = {("hypergrid", "4", "Ours, Base", "SuperGLUE"): ("+2.7", 2.38)}


def test_printed_gains_and_changes_are_those_of_the_printed_numbers_but_where_they_are_not() -> None:
    compared, others = 0, {}
    beside = {
        ("hyperformer", "5", "memory (GB)", "change (%)"): lambda row: ("T5",),
        ("hyperformer", "6", "time (min)", "change (%)"): lambda row: ("T5",),
        **{
            ("hypergrid", "3", of, f"{of} gain (%)"): lambda row: (
                ("base", "Baseline (Max)") if row.labels[0] == "base" else ("large", "Baseline")
            )
            for of in ("GLUE", "SuperGLUE", "AVG")
        },
        **{
            ("hypergrid", "4", of, f"{of} gain (%)"): lambda row: ("T5", row.labels[1])
            for of in ("GLUE", "SuperGLUE", "AVG")
        },
    }
    for (paper, number, column, change), labels in beside.items():
        table = published_table(paper, number)
        for row in table.rows:
            if (printed := row.cells[change]) is None:
                continue
            compared += 1
            new, old = row[column], table.row(*labels(row))[column]
            rounding = 100 * (new.step + old.step) / old.number
            percent = 100 * (new.number / old.number - 1)
            if not printed.shows(percent, rounding):
                others[paper, number, row.name, column] = (printed.text, pytest.approx(percent, abs=0.006))
    assert compared == 3 + 3 + 3 * 12 + 3 * 3
    assert others == OTHER_CHANGES


# ------------------------------------------------------------------------------------------- tables that repeat others


def test_numbers_that_a_paper_prints_twice_are_the_same_but_one() -> None:
    def same(paper: str, *places: tuple[str, tuple[str, ...], str]) -> None:
        texts = {
            published_table(paper, number).row(*labels)[column].text for number, labels, column in places
        }
        assert len(texts) == 1, (places, texts)

    for model, size in (("HyperFormer", "small"), ("HyperFormer", "base")):
        for first, third in (("Avg", "GLUE"), ("total (x)",) * 2, ("trained per task (%)",) * 2):
            same("hyperformer", ("1", ("multi-task", model, size), first), ("3", (model, size), third))
    same("hyperformer", ("3", ("HyperFormer", "small"), "GLUE"), ("4", ("HyperFormer",), "GLUE"))

    # One cell of Table 8 holds what Table 13 has for RTE alone, 51.5, where the average is 57.7.
    wrong = ("Task", "Manual")
    grid, whole = published_table("hyperdecoders", 8), published_table("hyperdecoders", 13).row("Task-Manual")
    assert (
        grid.row("Task-Conditioned Adapters")["Adapters"].text
        == whole["RTE"].text
        != whole["Avg"].text
        == "57.7"
    )
    kinds = {
        "Manual": "Adapters",
        "Task": "Task-Conditioned Adapters",
        "Generated": "Encoder-Conditioned Adapters",
    }
    for encoder, row in kinds.items():
        for decoder, column in kinds.items():
            if (encoder, decoder) != wrong:
                same("hyperdecoders", ("13", (f"{encoder}-{decoder}",), "Avg"), ("8", (row,), column))
    for model, full in (
        ("Hyperdecoder", "Manual-Generated"),
        ("- MLP", "Manual-Generated, no MLP"),
        ("+ post-layernorm input", "Manual-Generated, post-layernorm adapter input"),
    ):
        same("hyperdecoders", ("9", (model,), "GLUE Avg"), ("13", (full,), "Avg"))
    for short, long in (("4", "14"), ("5", "15")):
        adapter = "Adapter" if short == "4" else "Single Adapter"
        for model, labels in (
            ("Hyperdecoder (ours)", ("Hyperdecoder (ours)", "512", "36", "72")),
            (adapter, ("Adapter", "512", "225", "-")),
        ):
            for column in published_table("hyperdecoders", short).columns:
                same("hyperdecoders", (short, (model,), column), (long, labels, column))
    for model, full in (
        ("Full-finetuning", "Full-finetuning"),
        ("Adapter", "Adapter (enc-heavy)"),
        ("Task Hypernet", "Task Hypernet"),
        ("Hyperdecoder (ours)", "Hyperdecoder (ours) (enc-heavy)"),
    ):
        for column in ("Sum. Avg.", "NLI Avg.", "Overall Avg."):
            same("hyperdecoders", ("6", (model,), column), ("16", (full,), column))

    for column in ("GLUE", "SuperGLUE", "AVG"):
        same("hypergrid", ("3", ("base", "Local-Local (L2)"), column), ("4", ("Ours", "Base"), column))
        same("hypergrid", ("3", ("large", "Local-Global (LG)"), column), ("4", ("Ours", "Large"), column))
        same("hypergrid", ("3", ("large", "Baseline"), column), ("4", ("T5", "Large"), column))


def test_hyperdecoders_numbers_of_hyperformer_are_that_papers_with_qqps_metrics_the_other_way_round() -> None:
    table, source = published_table("hyperdecoders", 3), published_table("hyperformer", 1)
    for copied, model in (
        ("Full Finetuning", "T5"),
        ("Hyperformer", "HyperFormer"),
        ("Hyperformer++", "HyperFormer++"),
    ):
        turned = {"QQP accuracy": "QQP F1", "QQP F1": "QQP accuracy"} if model != "T5" else {}
        for column in source.columns[2:-1]:
            original = source.row("multi-task", model, "base")[column]
            assert table.row(copied)[turned.get(column, column)].shows(original.number), (copied, column)


def test_hypergrids_ablation_has_the_averages_of_its_first_tables() -> None:
    for number, column in ((1, "GLUE"), (2, "SuperGLUE")):
        table, ablation = published_table("hypergrid", number), published_table("hypergrid", 3)
        for variant, name in (("L2", "Local-Local (L2)"), ("LG", "Local-Global (LG)"), ("L", "Local (L)")):
            assert table.row(f"Ours ({variant})")["Avg"].shows(ablation.row("base", name)[column].number)
        assert table.row("MTL")["Avg"].shows(published_table("hypergrid", 4).row("T5", "Base")[column].number)


# --------------------------------------------------------------------------------------------------- parameters counted


def that_differ(
    rows: list[dict[str, Any]], column: str, *keys: str
) -> dict[tuple[str, ...], tuple[str, str]]:
    """List the rows whose printed count ours would not be rounded to."""
    differing = {}
    for row in rows:
        paper, ours = row[f"{column}, paper"], row[f"{column}, ours"]
        printed = Printed.parse(paper)
        assert printed is not None
        if ours and not printed.shows(float(ours)):
            differing[tuple(str(row[key]) for key in keys)] = (paper, ours)
    return differing


def test_the_hyperformer_papers_parameters_are_ours_but_for_hyperformers_totals() -> None:
    rows = hyperformer_table()
    assert len(rows) == 12 + 4
    assert that_differ(rows, "#trained per task (%)", "table", "model", "method") == {}
    assert that_differ(rows, "#total (x)", "table", "model", "method") == {
        ("1", "t5-small", "hyperformer"): ("1.45", "1.4637"),
        ("1", "t5-base", "hyperformer"): ("1.54", "1.5489"),
        ("3", "t5-small", "hyperformer"): ("1.45", "1.4637"),
        ("3", "t5-base", "hyperformer"): ("1.54", "1.5489"),
    }


def test_hyperdecoders_parameters_are_ours_but_where_they_are_not() -> None:
    rows = hyperdecoders_table()
    assert len(rows) == 7 + 3 + 4 + 12 + 6 + 6 + 6
    assert {(row["table"], row["row"]) for row in rows if not row["% trained, ours"]} == {
        ("1", "Hyperformer"),
        ("1", "Hyperformer++"),
        ("2", "Hyperformer"),
        ("2", "HyperPrompt"),
    }
    assert that_differ(rows, "% trained", "table", "row") == {
        ("3", "Hyperformer"): ("54", "54.91"),
        ("3", "Hyperdecoder (ours)"): ("7.4", "6.85"),
        ("14", "Hyperdecoder (ours), 512, 36, 72"): ("5.9", "5.97"),
        ("14", "Hyperdecoder (ours), 800, 2, 16"): ("6.2", "6.47"),
        ("15", "Hyperdecoder (ours), 512, 36, 72"): ("5.9", "5.97"),
        ("15", "Hyperdecoder (ours), 800, 2, 16"): ("6.2", "6.47"),
        ("16", "Hyperdecoder (ours) (enc-heavy)"): ("5.9", "5.97"),
    }


def test_hypergrids_parameters_are_ours_but_for_sixteen_models_at_once() -> None:
    rows = hypergrid_sizes_table()
    assert len(rows) == 6 + 6 + 4 + 4
    differing = {("5", "T5 (3B)"): ("48", "45.63"), ("5", "T5 (11B)"): ("176", "180.92")}
    differing |= {("6", row): counts for (_, row), counts in differing.items()}
    for table in ("1", "2"):
        differing |= {(table, "T5†"): ("3.2", "3.57"), (table, "PTFT"): ("3.2", "3.57")}
    assert that_differ(rows, "parameters (B)", "table", "row") == differing


# ------------------------------------------------------------------------------------------------------------ citations

# What else the papers number: the last figure and equation, and the sections; tables are those that are published here.
LAST = {"hyperformer": (3, 8), "hyperdecoders": (4, 9), "hypergrid": (9, 7)}
SECTIONS = {
    "hyperformer": "1 2 2.1 2.2 2.3 2.4 3 3.1 3.2 3.3 4 4.1 4.2 4.3 4.4 5 6 A",
    "hyperdecoders": "1 2 2.1 2.2 2.3 2.4 3 3.1 3.1.1 3.1.2 3.1.3 3.2 3.3 4 4.1 4.2 4.3 5 5.1 5.2 6 6.1 6.2 6.3 7 "
    "A A.1 A.2 A.3 B C D D.1 D.2 D.3 E F G H",
    "hypergrid": "1 2 3 3.1 3.1.1 3.2 4 4.1 4.2 4.2.1 4.2.2 4.2.3 4.2.4 4.2.5 5 6 7 7.1 7.1.1 7.1.2 7.2 7.3",
}
# "Hyperdecoders, Tables 1 to 3 and 13", "HyperFormer's section 3.2", "eq. 7"; a list ends after "and" or "to".
_NUMBER = r"(?:\d+(?:\.\d+)*|[A-H]\b(?:\.\d+)*)"
CITATION = re.compile(
    r"(?:(HyperFormer|Hyperdecoders|HyperGrid)(?:\+\+)?(?: paper)?(?:'s?)?,? )?"
    r"\b(Table|Figure|[Ee]q|[Ss]ection|[Aa]ppendi)(?:s|\.|uations?|x|ces)? "
    rf"({_NUMBER}(?:(?:, {_NUMBER})*(?: (?:and|to) {_NUMBER})+)?)"
)


def is_in(paper: str, kind: str, number: str) -> bool:
    """Tell whether a paper has what is cited of it."""
    if kind in ("section", "appendi"):
        return number in SECTIONS[paper].split()
    last = {
        "table": len(published_tables(paper)),
        "figure": LAST[paper][0],
        "eq": LAST[paper][1],
    }[kind]
    return number.isdecimal() and 1 <= int(number) <= last


def citations(file: Path) -> list[tuple[str, str, str]]:
    """List what a file cites of the papers, as ("hypergrid", "eq", "7").

    Of which paper is said before it, as "HyperGrid, eq. 7", or by the file's path; what neither says is left out.
    """
    text = re.sub(r"\s*\n[ #>]*", " ", file.read_text(encoding="utf-8"))
    of_file = next((paper for paper in PAPERS if paper in file.relative_to(ROOT).as_posix()), "")
    return [
        (named.lower() or of_file, kind.lower(), number)
        for named, kind, numbers in CITATION.findall(text)
        for number in re.findall(_NUMBER, numbers)
        if named or of_file
    ]


@pytest.mark.parametrize("paper", PAPERS)
def test_nothing_is_cited_that_a_paper_does_not_have(paper: str) -> None:
    files = [file for folder in ("src", "docs") for file in (ROOT / folder).rglob("*.*")]
    cited = {
        file.relative_to(ROOT).as_posix(): [of for of in citations(file) if of[0] == paper]
        for file in [*files, ROOT / "README.md", ROOT / "CHANGELOG.md"]
        if file.suffix in (".py", ".yaml", ".md")
    }
    kinds = {kind for of in cited.values() for _, kind, _ in of}
    assert kinds >= {"table", "figure", "eq", "section"}, "citations are not found any more"
    wrong = {name: [of for of in found if not is_in(*of)] for name, found in cited.items()}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_a_citation_is_of_the_paper_that_is_named_or_else_of_the_files() -> None:
    found = citations(ROOT / "src/hyperadapt/methods/hyperformer.py")
    assert {
        ("hyperformer", "eq", "8"),
        ("hyperformer", "table", "4"),
        ("hyperformer", "appendi", "A"),
    } <= set(found)
    text = "of the HyperFormer paper's Table 1, and Tables 1 to 3 and 13, 8 tasks (eq. 6 and 7)"
    assert CITATION.findall(text) == [
        ("HyperFormer", "Table", "1"),
        ("", "Table", "1 to 3 and 13"),
        ("", "eq", "6 and 7"),
    ]
    assert not is_in("hyperformer", "eq", "9")
    assert not is_in("hypergrid", "table", "7")
    assert not is_in("hyperdecoders", "section", "3.4")


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("text", "number", "step", "deviation"),
    [
        ("90.00", 90.0, 0.01, None),
        ("100", 100.0, 1.0, None),
        ("~4", 4.0, 1.0, None),
        ("-0.7", -0.7, 0.1, None),
        ("+0.27", 0.27, 0.01, None),
        ("60.74±16.66", 60.74, 0.01, 16.66),
        ("95.9±0.4*", 95.9, 0.1, 0.4),
        ("51.4†", 51.4, 0.1, None),
        ("1+8x0.01", 1.08, 0.08, None),
    ],
)
def test_a_cell_is_read_as_it_is_printed(
    text: str, number: float, step: float, deviation: float | None
) -> None:
    cell = Printed.parse(text)
    assert cell is not None
    assert (cell.text, cell.deviation) == (text, deviation)
    assert (cell.number, cell.step) == pytest.approx((number, step))


def test_a_cell_shows_what_is_rounded_to_it() -> None:
    cell = Printed.parse("5.9")
    assert cell is not None
    assert [value for value in (5.84, 5.85, 5.9, 5.949, 5.97) if cell.shows(value)] == [5.85, 5.9, 5.949]
    assert cell.shows(5.97, 0.03)
    assert Printed.parse("-") is None


def test_a_table_is_read_by_names() -> None:
    table = published_table("hyperformer", 2)
    assert table.row("CB", "16")["HyperFormer++"] == Printed("76.29±4.45", 76.29, 0.01, 4.45)
    assert table.printed()[8] == {
        "dataset": "CB",
        "samples": "16",
        "T5": "77.04±7.2",
        "Adapters": "74.81±5.4",
        "HyperFormer++": "76.29±4.45",
    }
    assert published_table("hyperdecoders", 11).printed()[6] == {
        "dataset": "BioASQ",
        "train": "",
        "validation": "1504",
    }


def test_what_is_not_there_is_one_line_with_the_nearest() -> None:
    for ask, message in [
        (
            lambda: published_table("hyperfrmer", 1),
            "paper 'hyperfrmer' is unknown; did you mean 'hyperformer'?",
        ),
        (lambda: published_table("hypergrid", "7"), "hypergrid has no Table '7'; choices: 1, 2, 3, 4, 5, 6"),
        (
            lambda: published_table("hypergrid", 1).row("Our (LG)"),
            "Table 1 of hypergrid has no row 'Our (LG)'; did you mean 'Ours (LG)'?",
        ),
        (
            lambda: published_table("hypergrid", 1).rows[0]["Average"],
            "column 'Average' is unknown; did you mean 'Avg'?",
        ),
        (
            lambda: published_table("hypergrid", 5).row("BERT")["parameters (B)"],
            "column 'parameters (B)' is empty in row 'BERT'",
        ),
    ]:
        with pytest.raises(UserError) as error:
            ask()
        assert message in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": "a | 1 | 2\n"}, "row 'a | 1 | 2' has 2 numbers, and there are 3 columns"),
        ({"rows": "a | 1 | 2 | 3 | 4\n"}, "row 'a | 1 | 2 | 3 | 4' has 4 numbers, and there are 3 columns"),
        ({"rows": "a | 1 | 2 | three\n"}, "'three' is no number"),
        ({"rows": "a | 1 | 2 | \n"}, "'' is no number"),
        ({"rows": "a | 1 | 2 | 3\na | 1 | 2 | 3\n"}, "stands twice"),
        ({"averages": {"mean": ["x", "z"]}}, "averages: column 'z' is unknown"),
        ({"averages": {"men": ["x", "y"]}}, "averages: column 'men' is unknown; did you mean 'mean'?"),
        ({"captoin": "it"}, "captoin"),
    ],
)
def test_a_table_that_is_no_table_is_refused(changed: dict[str, Any], message: str) -> None:
    entry = {
        "paper": "hypergrid",
        "number": "1",
        "caption": "two and their mean",
        "section": "1",
        "unit": "percent",
        "labels": ["model"],
        "columns": ["x", "y", "mean"],
        "averages": {"mean": ["x", "y"]},
        "rows": "a | 1 | 2 | 1.5\n",
    }
    assert PublishedTable(**entry).rows[0]["mean"].number == 1.5
    with pytest.raises(ValueError, match=re.escape(message)):
        PublishedTable(**{**entry, **changed})
    del entry["rows"]
    with pytest.raises(ValueError, match=r"rows\n  Field required"):
        PublishedTable(**entry)


# A configuration -> a row of a table that it is the run of.
HYPERDECODERS_RUNS = {
    "glue": ("1", "Hyperdecoder (ours)"),
    "glue-adapter": ("1", "Adapter"),
    "glue-encoder-heavy": ("2", "Hyperdecoder (ours)"),
    "glue-modular": ("1", "Modular Hypernet"),
    "glue-task-hypernet": ("1", "Task Hypernet"),
    "mrqa": ("14", "Hyperdecoder (ours), 512, 36, 72"),
    "mrqa-adapter": ("14", "Adapter, 512, 225"),
    "mrqa-encoder-heaviest": ("14", "Hyperdecoder (ours), 800, 2, 16"),
    "mrqa-even": ("14", "Hyperdecoder (ours), 64, 64, 128"),
    "summarisation-nli": ("16", "Hyperdecoder (ours)"),
    "summarisation-nli-adapter": ("16", "Adapter"),
    "summarisation-nli-encoder-heavy": ("16", "Hyperdecoder (ours) (enc-heavy)"),
    "summarisation-nli-task-hypernet": ("16", "Task Hypernet"),
}


def test_the_hyperdecoders_configurations_are_the_runs_that_are_reported() -> None:
    folder = Path(bundled.file_of("hyperdecoders/glue")).parent
    assert {file.stem for file in folder.glob("*.yaml")} == set(HYPERDECODERS_RUNS)
    for name, (table, row) in HYPERDECODERS_RUNS.items():
        config = RunConfig.load(f"hyperdecoders/{name}")
        model, _, runs = HYPERDECODERS[table]
        run = runs[row]
        assert run is not None
        assert config.build_method() == METHODS[run.method](**run.options), name
        assert config.model.name == f"google/{model}"
        of_mrqa = name.startswith("mrqa")
        keep = "last" if of_mrqa else "best_per_task" if table == "2" else "best"
        assert (config.training.epochs, config.training.keep) == (4 if of_mrqa else None, keep)
