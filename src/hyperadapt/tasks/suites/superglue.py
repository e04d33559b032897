"""The eight tasks of SuperGLUE (Wang et al., 2019) in the text form of T5 (Raffel et al., 2020, appendix D).

Inputs name their columns in T5's order and targets are words, as "entailment" or "True". WSC's target is what the
pronoun stands for: only rows whose candidate is right are trained on, and predictions are counted as T5 counts them.
Of ReCoRD every answer is a training row, and a passage that is too long is cut into chunks, where T5 cuts it off. WiC
begins "wic pos:", as in the paper's example. Columns are those of the hub's super_glue, for RTE of its glue, whose rows
are the same; the test labels are not public, so that the validation rows are halved, MultiRC's by whole questions. The
pronouns that T5 adds to WSC's, of another data set, are not here.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from hyperadapt.errors import UserError
from hyperadapt.tasks.preprocessors import preprocessor
from hyperadapt.tasks.sources import Row, text_of
from hyperadapt.tasks.splits import HALVE_VALIDATION
from hyperadapt.tasks.task import Task

MULTIRC = ("question", "answer", "paragraph")


@preprocessor("multirc", dict.fromkeys(MULTIRC, "text"))
def multirc(row: Row) -> dict[str, str]:
    """Take the markup out of the texts."""
    plain = {name: re.sub("</?b>", "", text_of(row, name).replace("<br>", " ")) for name in MULTIRC}
    return {name: " ".join(text.split()) for name, text in plain.items()}


@preprocessor(
    "record",
    {
        **dict.fromkeys(("passage", "query"), "text"),
        **dict.fromkeys(("entities", "answers"), "list of texts"),
    },
    answers=("answers",),
)
def record(row: Row) -> dict[str, Any]:
    """Write the entities as a list in words, and a passage's highlights as its last sentences."""
    *parts, last = [part.strip() for part in text_of(row, "passage").split("@highlight") if part.strip()] or [
        ""
    ]
    ended = [part if part.endswith((".", "?", "!", '"', "'")) else f"{part}." for part in parts]
    lists = {"entities": ", ".join(texts(row, "entities"))}
    return {
        **lists,
        "passage": " ".join([*ended, last]),
        **({"answers": texts(row, "answers")} if "answers" in row else {}),
    }


@preprocessor(
    "wsc",
    {
        **dict.fromkeys(("text", "span1_text", "span2_text"), "text"),
        "span2_index": "the number of a word, from 0",
    },
    new=("marked",),
    answers=("span1_text",),
)
def wsc(row: Row) -> dict[str, str]:
    """Put stars around the pronoun: of its occurrences the one nearest to the word that is said to be it."""
    words, pronoun = text_of(row, "text").split(), text_of(row, "span2_text")
    whole = re.compile(rf"{re.escape(pronoun)}(?!\w)")
    places = [place for place in range(len(words)) if whole.match(" ".join(words[place:]))]
    if not places:
        raise UserError(f"column 'span2_text' holds '{pronoun}', which is not in the text")
    index = text_of(row, "span2_index")
    if not index.isdecimal():
        raise UserError(f"column 'span2_index' holds '{index}', which is no number of a word")
    place = min(places, key=lambda place: abs(place - int(index)))
    rest = " ".join(words[place:]).removeprefix(pronoun)
    return {"marked": " ".join([*words[:place], f"*{pronoun}*{rest}"])}


def texts(row: Row, column: str) -> list[str]:
    """Read a column of lists of texts, which a local copy may hold as Python writes them."""
    value = row.get(column)
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            value = None
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UserError(f"column '{column}' holds no list of texts")
    return value


# RTE's rows are those of GLUE.
RTE = {"hub": "nyu-mll/glue", "hub_config": "rte", "local": "glue/rte"}


def _super_glue(name: str, fields: tuple[str, ...] | dict[str, str], **rest: Any) -> Task:
    place = {"hub": "aps/super_glue", "hub_config": name, "local": f"super_glue/{name}"}
    return Task(name=name, fields=fields, splits=HALVE_VALIDATION, **{**place, **rest})


def _classes(
    name: str, fields: tuple[str, ...] | dict[str, str], labels: tuple[str, ...], **rest: Any
) -> Task:
    return _super_glue(name, fields, labels=labels, writes="name", **{"metrics": ("accuracy",), **rest})


_TASKS = (
    _classes("boolq", ("passage", "question"), ("False", "True")),
    _classes(
        "cb",
        ("hypothesis", "premise"),
        ("entailment", "contradiction", "neutral"),
        metrics=("accuracy", "macro_f1"),
    ),
    _classes("copa", ("choice1", "choice2", "premise", "question"), ("choice1", "choice2")),
    _classes(
        "multirc",
        MULTIRC,
        ("False", "True"),
        metrics=("f1", "group_exact_match"),
        group=("paragraph", "question"),
        preprocess="multirc",
    ),
    _super_glue(
        "record",
        ("query", "entities", "passage"),
        kind="question_answering",
        label="answers",
        metrics=("answer_f1", "answer_exact_match"),
        every_answer=True,
        preprocess="record",
    ),
    _classes(
        "super-glue-rte",
        {"hypothesis": "sentence2", "premise": "sentence1"},
        ("entailment", "not_entailment"),
        prefix="rte",
        **RTE,
    ),
    _classes("wic", ("sentence1", "sentence2", "word"), ("False", "True"), prefix="wic pos:"),
    _super_glue(
        "wsc",
        {"": "marked"},
        kind="coreference",
        labels=("False", "True"),
        candidate="span1_text",
        metrics=("coreference_accuracy",),
        prefix="wsc:",
        preprocess="wsc",
        hub_config="wsc.fixed",
    ),
)
SUPER_GLUE: dict[str, Task] = {task.name: task for task in _TASKS}
