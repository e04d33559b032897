"""The generated world of many tasks: what its rows are follows from its skills, and what is held out is new."""

from __future__ import annotations

from collections import Counter

import pytest

from hyperadapt.errors import UserError
from hyperadapt.tasks import SUITES, get_task, load_split, resolve_tasks
from hyperadapt.tasks.suites import many

TRAIN, HELD_OUT = many.names()


def test_there_are_256_tasks_and_more_and_each_skill_of_those_held_out_is_trained() -> None:
    assert len({*TRAIN, *HELD_OUT}) == len(many.LOOK) * len(many.DECIDE) * len(many.ANSWER) >= 256
    assert len(HELD_OUT) == many.UNSEEN
    for place in range(3):
        trained = {id(many.skills_of(name)[place]) for name in SUITES["builtin-many-128"]}  # type: ignore[index]
        assert {id(many.skills_of(name)[place]) for name in HELD_OUT} <= trained  # type: ignore[index]
    assert SUITES["builtin-many"][:128] == SUITES["builtin-many-128"]
    assert len(resolve_tasks(["builtin-many-8"])) == 8


ANIMALS = {"cat", "dog", "horse", "bird"}


def by_hand(name: str, text: str) -> str:
    """The answer to a row, from its words alone."""
    look, decide, answer = name.removeprefix("many-").split("-")
    words = text.split()
    hits = [word in ANIMALS if look == "animal" else word in many.KINDS[look][1].split() for word in words]
    so = {
        "any": hits.count(True) > 0,
        "two": hits.count(True) > 1,
        "single": hits.count(True) == 1,
        "first": hits[0],
        "second": hits[1],
        "last": hits[3],
        "end": hits[0] or hits[3],
        "early": hits[0] or hits[1],
    }[decide]
    said = {"yes": "yes no", "true": "true false", "good": "good bad", "a": "a b", "one": "one two"}
    return said.get(answer, "no yes").split()[0 if so else 1]


@pytest.mark.parametrize("name", [*TRAIN[:12], *HELD_OUT[:12]])
def test_rows_follow_from_the_skills(name: str) -> None:
    rows = many.rows_of(name)
    assert [len(rows[split]) for split in ("train", "validation", "test")] == [512, 40, 40]
    texts = [row["words"] for of_split in rows.values() for row in of_split]
    assert len(set(texts)) == len(texts)
    for of_split in rows.values():
        assert len(set(Counter(row["label"] for row in of_split).values())) == 1
        for row in of_split:
            assert row["label"] == by_hand(name, row["words"])


def test_a_task_has_five_descriptions_and_its_rows_are_loaded_as_any_other() -> None:
    task = get_task(TRAIN[0])
    assert len(set(task.description)) == 5
    texts = load_split(task, "train", None, 32)
    assert len(texts) == 32
    assert {task.label_name(text) for text in texts["target"]} == set(task.labels or ())
    assert many.KIND_OF["bird"] == "animal"
    assert len(many.KIND_OF) == 24
    with pytest.raises(UserError, match="task 'many-animal-any-maybe' is unknown"):
        get_task("many-animal-any-maybe")
