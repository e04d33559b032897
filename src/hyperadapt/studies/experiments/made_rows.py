"""Made rows of named tasks, where and as local copies of their data sets are, for the smoke scale.

So what is tried out is the code that reads real rows: it finds these below data.data_dir, in the files, columns and
nesting of the hub's data sets, and rewrites and splits them. They are scenes in the words of the built-in tasks, from
which the answer can be learnt. A task is made by its kind:

    class, score        who acts is of another nature with each label: old, big, clever, …
    coreference         the pronoun stands for whom something was done to
    text                the summary is the document's first sentence
    question_answering  one sentence of the context says who did what was asked about

`LABELS` and `COLUMNS` say what else there is to a data set; one that has no more than its task reads needs no entry.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from hyperadapt.errors import UserError
from hyperadapt.files.writing import write_atomically
from hyperadapt.tasks import TASKS, Task
from hyperadapt.tasks.splits import drawn_order
from hyperadapt.tasks.suites.builtin import NATURES, SYNONYMS, Scene, changed, draw_scene

Columns = dict[str, Any]

# Of contexts and documents, in turn: the long ones are cut, and most of their chunks hold no answer.
SENTENCES = (2, 4, 8, 12)
IN_GROUP = 2  # rows of each label, where rows are of groups
SCORES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)

# What label columns hold, where that is not every label's number.
LABELS: dict[str, tuple[Any, ...]] = {
    "nli/art": (1, 2),  # the hypotheses are numbered from 1: no row of the hub's has 0
    "transfer/scitail": ("entails", "neutral"),
}


def write_made_rows(folder: Path, tasks: Sequence[Task], rows: int = 24) -> None:
    """Write made rows of tasks, so that `data.data_dir: folder` runs them.

    All splits of a task have all of its labels. A data set is made whole, for all named tasks that read it, so that
    what it holds does not depend on who asks; a file that holds just that is left as it is.

    Args:
        folder: gets LOCAL/SOURCE.parquet.
        tasks: those that have no data set, as the built-in ones, need none.
        rows: of each source, of each subset of it, beside those that slices count off: train[1000:] takes 1,000 more.

    Raises:
        UserError: the rows are too few, a task has its rows from the hub alone, or the folder cannot be written to.
    """
    for task in tasks:
        if task.hub is not None and task.local is None:
            raise UserError(f"task '{task.name}' has no folder below data_dir, where made rows could lie")
    named = {task.name: task for task in (*TASKS.values(), *tasks)}.values()
    files = {
        folder / local / f"{source}.parquet": made
        for local in dict.fromkeys(task.local for task in tasks if task.local is not None)
        for source, made in made_set(local, [task for task in named if task.local == local], rows).items()
    }
    for file, made in files.items():
        content = as_parquet(made)
        if not file.is_file() or file.read_bytes() != content:
            write_atomically(file, content)


def made_set(local: str, tasks: Iterable[Task], rows: int) -> dict[str, list[Columns]]:
    """Make the rows of a data set, by source.

    Args:
        local: where it lies.
        tasks: all that read it: those with the same `where` the same rows.
        rows: as of `write_made_rows`.
    """
    counts: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[Task, int]] = {}
    for task in tasks:
        check_can_be_made(task, rows)
        for source, counted in task.sources.items():
            part = source, tuple((task.where or {}).items())
            first, most = counts.get(part, (task, 0))
            counts[part] = first, max(most, counted)
    made: dict[str, list[Columns]] = {}
    drawn: set[str] = set()
    for (source, where), (task, counted) in counts.items():
        own = [dict(where) | row for row in draw(task, rows + counted, f"{local} {source} {where}", drawn)]
        whole = [with_columns(local, row, number) for number, row in enumerate(own)]
        # In the file so that slices, which are of rows in an order of their own, find them as they were drawn.
        at = dict(zip(drawn_order(len(whole)), whole, strict=True))
        made.setdefault(source, []).extend(at[place] for place in range(len(whole)))
    return made


def check_can_be_made(task: Task, rows: int) -> None:
    """Check that so many rows hold all that a task's splits are to have, halves of a source too.

    Raises:
        UserError: they do not, or the task has more labels than there are words for.
    """
    if rows < 2 * period(task):
        raise UserError(
            f"{rows} made rows are too few for task '{task.name}': with all that half of them must hold they are at "
            f"least {2 * period(task)}"
        )
    if len(task.labels or ()) > len(NATURES):
        raise UserError(
            f"task '{task.name}' has {len(task.labels or ())} labels; made rows tell {len(NATURES)} apart at most"
        )


def draw(task: Task, count: int, seed: str, drawn: set[str]) -> Iterator[Columns]:
    """Draw rows of a task, each with what is read of it; any `period` of them that follow each other has all labels.

    Args:
        task: of any kind.
        count: how many.
        seed: of the draw.
        drawn: rows that may not come again; gets these.
    """
    for number in range(count):
        random = Random(f"{seed} row {number}")
        while True:
            row = KINDS[task.kind](task, number, random, Random(f"{seed} group {number // period(task)}"))
            if repr(row) not in drawn:
                break
        drawn.add(repr(row))
        yield row


def with_columns(local: str, row: Columns, number: int) -> Columns:
    """Add what else the hub's data set has, and rewrite what it writes otherwise."""
    more = {**COLUMNS.get(local.partition("/")[0], {}), **COLUMNS.get(local, {})}
    return row | {column: make(row, number) for column, make in more.items()}


def as_parquet(rows: Sequence[Columns]) -> bytes:
    """Write rows as a parquet file, scores in single precision, as the hub has them."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(rows)
    single = [
        field.with_type(pyarrow.float32()) if field.type == pyarrow.float64() else field
        for field in table.schema
    ]
    file = io.BytesIO()
    pyarrow.parquet.write_table(table.cast(pyarrow.schema(single)), file)
    return file.getvalue()


# --- rows by kind


def label_values(task: Task) -> Sequence[Any]:
    """Return what a task's label column holds."""
    if task.labels is None:
        return SCORES if task.kind_of_task.closed else ()
    return LABELS.get(task.local or "", range(len(task.labels)))


def period(task: Task) -> int:
    """Return in how many rows all labels, or all lengths, come; where rows are of groups, that is a group."""
    labels = label_values(task)
    return len(labels) * (IN_GROUP if task.group else 1) if labels else len(SENTENCES)


def sentence(scene: Scene) -> str:
    """Tell a scene in one form, so that it can be found again: who acts stands first."""
    return f"{who(scene)} {scene.verb} the {scene.patient_nature} {scene.patient} {scene.place}."


def who(scene: Scene) -> str:
    """Tell who acts, as at the beginning of a sentence."""
    return f"The {scene.agent_nature} {scene.agent}"


def story(number: int, random: Random) -> list[Scene]:
    """Draw as many scenes as it is the turn of: of each deed one, so that the question who did it has one answer."""
    scenes: dict[tuple[str, str], Scene] = {}
    while len(scenes) < SENTENCES[number % len(SENTENCES)]:
        scene = draw_scene(random)
        scenes.setdefault((scene.verb, scene.patient), scene)
    return list(scenes.values())


def labelled(task: Task, number: int, random: Random, of_group: Random) -> Columns:
    """Make a row with a label: in each of its texts but those of its group someone of the label's nature acts."""
    values = label_values(task)
    nature = list(NATURES)[number % len(values)]
    texts = {
        column: sentence(
            draw_scene(of_group) if column in task.group else changed(draw_scene(random), agent_nature=nature)
        )
        for column in task.fields.values()
    }
    return texts | {task.label: values[number % len(values)]}


def pronoun(task: Task, number: int, random: Random, of_group: Random) -> Columns:
    """Make a row of a pronoun, which stands for whom something was done to, and of who else it might stand for."""
    scene, right = draw_scene(random), number % 2
    patient = f"the {scene.patient_nature} {scene.patient}"
    text = f"{who(scene)} {scene.verb} {patient} because it was {scene.place}."
    words = text.split()
    return {
        "text": text,
        "span1_index": words.index("the") if right else 0,
        "span1_text": patient if right else who(scene),
        "span2_index": words.index("it"),
        "span2_text": "it",
        task.label: right,
    }


def summarised(task: Task, number: int, random: Random, of_group: Random) -> Columns:
    """Make a document, and its first sentence as the summary."""
    sentences = [sentence(scene) for scene in story(number, random)]
    return dict.fromkeys(task.fields.values(), " ".join(sentences)) | {task.label: sentences[0]}


def questioned(task: Task, number: int, random: Random, of_group: Random) -> Columns:
    """Make a context, the question who did one of its deeds, and the answer as SQuAD has it."""
    scenes = story(number, random)
    scene, text = random.choice(scenes), " ".join(map(sentence, scenes))
    *asked, context = task.fields.values()
    answers = {"text": [who(scene)], "answer_start": [text.index(sentence(scene))]}
    question = f"Who {scene.verb} the {scene.patient}?"
    return {**dict.fromkeys(asked, question), context: text, task.label: answers}


KINDS: dict[str, Callable[[Task, int, Random, Random], Columns]] = {
    "class": labelled,
    "score": labelled,
    "coreference": pronoun,
    "text": summarised,
    "question_answering": questioned,
}


# --- what else there is to a data set


def tokens(text: str) -> Columns:
    """Return words and marks, and where they begin."""
    found = list(re.finditer(r"\w+|[^\w\s]", text))
    return {"tokens": [match[0] for match in found], "offsets": [match.start() for match in found]}


def detected(row: Columns) -> Columns:
    """Return where an answer stands, each time, by its first and last characters and tokens, as MRQA marks it."""
    [text], context = row["answers"]["text"], row["context"]
    starts = [match.start() for match in re.finditer(re.escape(text), context)]
    offsets = tokens(context)["offsets"]
    first = [offsets.index(start) for start in starts]
    return {
        "text": [text],
        "char_spans": [{"start": starts, "end": [start + len(text) - 1 for start in starts]}],
        "token_spans": [{"start": first, "end": [number + len(text.split()) - 1 for number in first]}],
    }


def mrqa_answers(row: Columns, number: int) -> list[str]:
    """Return an answer in small letters, now and then behind another that the context does not have."""
    [text] = row["answers"]["text"]
    words = text.lower().split()
    other = " ".join(SYNONYMS.get(word, word) for word in words)
    return [other, " ".join(words)] if number % 3 == 0 else [" ".join(words)]


def highlighted(row: Columns) -> str:
    """Return a passage whose last sentence is a highlight, as ReCoRD has it."""
    text, _, last = row["passage"].rpartition(". ")
    return f"{text}.\n@highlight\n{last}"


def record_answers(row: Columns, number: int) -> list[str]:
    """Return an answer, now and then with another name of it, as each is a training row."""
    [text] = row["answers"]["text"]
    return [text, text.removeprefix("The ")] if number % 3 == 0 else [text]


def entities(row: Columns, number: int) -> list[str]:
    """Return who acts in a passage, once each, and all names of the answer."""
    return list(dict.fromkeys([*re.findall(r"The \w+ \w+", row["passage"]), *record_answers(row, number)]))


def entity_spans(row: Columns) -> Columns:
    """Return where those who act stand in a passage."""
    found = list(re.finditer(r"The \w+ \w+", highlighted(row)))
    return {
        "text": [match[0] for match in found],
        "start": [match.start() for match in found],
        "end": [match.end() for match in found],
    }


def shared_word(row: Columns) -> str:
    """Return a word that both sentences of WiC have at one place: the nature of who acts."""
    return str(row["sentence1"].split()[1])


def _number(row: Columns, number: int) -> int:
    return number


def _name(row: Columns, number: int) -> str:
    return f"made-{number}"


def _always(value: Any) -> Callable[[Columns, int], Any]:
    return lambda row, number: value


# A folder, or a data set -> column -> what it holds, made of the row that was drawn and its number.
COLUMNS: Mapping[str, Mapping[str, Callable[[Columns, int], Any]]] = {
    "glue": {"idx": _number},
    "super_glue": {"idx": _number},
    "super_glue/copa": {"question": lambda row, number: ("cause", "effect")[number // 2 % 2]},
    "super_glue/multirc": {
        "paragraph": lambda row, number: f"<b>Sent 1: </b>{row['paragraph']}<br>",
        "idx": lambda row, number: {
            **dict.fromkeys(("paragraph", "question"), number // (2 * IN_GROUP)),
            "answer": number,
        },
    },
    "super_glue/record": {
        "query": lambda row, number: row["query"].replace("Who", "@placeholder").replace("?", "."),
        "passage": lambda row, number: highlighted(row),
        "entities": entities,
        "entity_spans": lambda row, number: entity_spans(row),
        "answers": record_answers,
        "idx": lambda row, number: {"passage": number, "query": number},
    },
    "super_glue/wic": {
        "word": lambda row, number: shared_word(row),
        **dict.fromkeys(("start1", "start2"), _always(len("The "))),
        **dict.fromkeys(("end1", "end2"), lambda row, number: len("The ") + len(shared_word(row))),
    },
    "transfer/paws": {"id": _number},
    "transfer/sick": {"id": _name, "relatedness_score": _always(1.0)},
    "transfer/trec": {"fine_label": lambda row, number: row["coarse_label"]},
    "qa/squad": {"id": _name, "title": _always("Made")},
    "qa/quoref": {"id": _name, "title": _always("Made"), "url": _always("")},
    "qa/mlqa": {"id": _name},
    "qa/mrqa": {
        "qid": lambda row, number: f"{row['subset']}-{number}",
        "context_tokens": lambda row, number: tokens(row["context"]),
        "question_tokens": lambda row, number: tokens(row["question"]),
        "detected_answers": lambda row, number: detected(row),
        "answers": mrqa_answers,
    },
    "summarization/xsum": {"id": _name},
    "summarization/cnn_dailymail": {"id": _name},
    "summarization/wiki_lingua": {
        "gem_id": _name,
        "gem_parent_id": _name,
        "source_language": _always("en"),
        "target_language": _always("en"),
        "references": lambda row, number: [row["target"]],
    },
    "nli/anli": {"uid": _name, "reason": _always("")},
}
