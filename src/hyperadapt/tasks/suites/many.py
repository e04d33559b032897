"""A world of many small tasks: every task is a combination of three skills, look x decide x answer, 6 x 8 x 6 = 288.

A row lists three things, an animal, a tool and a plant in any order, each of a size and a colour:

    "huge red fox tiny blue cup big orange oak"

    look      which of them: the first, the second or the last; the animal, the tool or the plant
    decide    what about it: its size, its colour, where it is found, or two of these together
    answer    how it is said: yes or no, true or false, good or bad, a or b, one or two, or the opposite of yes and no

What the eight tasks of `builtin` cannot show can be seen here: how a score grows with the number of tasks, and with the
rows of each; and what a task is worth that was never trained, as a new combination of known skills. 48 of the
combinations are held out; each skill is in others. Every task has five descriptions that say the same in other words.
Half of a task's rows have each answer. Rows are short, so that many runs are cheap.

suite                  tasks
builtin-many           240, all that are for training
builtin-many-N         the first N of them, for N of 8, 16, 32, 64, 128
builtin-many-unseen    the 48 combinations that are held out
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from random import Random
from typing import Any, NamedTuple

from hyperadapt.tasks.task import Task

PREFIX = "many-"
TRAIN_ROWS, EVALUATION_ROWS = 512, 40
UNSEEN = 48
SIZES = (8, 16, 32, 64, 128)

SIZE_WORDS = ("tiny", "small", "big", "huge")
COLOURS = ("red", "orange", "blue", "green")
# Kind of thing -> those that are found in the house, and those outside.
THINGS = {
    "animal": (("cat", "dog"), ("fox", "wolf")),
    "tool": (("cup", "spoon"), ("rake", "axe")),
    "plant": (("fern", "cactus"), ("oak", "pine")),
}


class Thing(NamedTuple):
    """One of the things of a row."""

    size: str
    colour: str
    kind: str
    noun: str

    @property
    def is_large(self) -> bool:
        """Whether it is big or huge."""
        return self.size in SIZE_WORDS[2:]

    @property
    def is_warm(self) -> bool:
        """Whether its colour is warm."""
        return self.colour in COLOURS[:2]

    @property
    def is_outside(self) -> bool:
        """Whether it is found outside."""
        return self.noun in THINGS[self.kind][1]


class Skill(NamedTuple):
    """One part of a task: what it does, and how it may be described, five times."""

    does: Any
    words: tuple[str, ...]


def _at(place: int) -> Callable[[list[Thing]], Thing]:
    return lambda things: things[place]


def _of(kind: str) -> Callable[[list[Thing]], Thing]:
    return lambda things: next(thing for thing in things if thing.kind == kind)


def _kind_in_words(kind: str) -> tuple[str, ...]:
    return tuple(
        f"{words} {kind}" for words in ("look at the", "take the", "find the", "only the", "it is about the")
    )


LOOK = {
    "first": Skill(
        _at(0),
        (
            "look at the first thing",
            "take what comes first",
            "find the thing at the beginning",
            "only the first of them",
            "it is about the first",
        ),
    ),
    "second": Skill(
        _at(1),
        (
            "look at the second thing",
            "take what comes second",
            "find the thing in the middle",
            "only the second of them",
            "it is about the second",
        ),
    ),
    "last": Skill(
        _at(2),
        (
            "look at the last thing",
            "take what comes last",
            "find the thing at the end",
            "only the last of them",
            "it is about the last",
        ),
    ),
    **{kind: Skill(_of(kind), _kind_in_words(kind)) for kind in THINGS},
}
DECIDE: dict[str, Skill] = {
    "large": Skill(
        lambda thing: thing.is_large,
        (
            "is it large",
            "is it big or huge",
            "is its size great",
            "decide if it is large",
            "judge whether it is big",
        ),
    ),
    "extreme": Skill(
        lambda thing: thing.size in ("tiny", "huge"),
        (
            "is its size extreme",
            "is it tiny or huge",
            "is it far from the middle size",
            "decide if it is tiny or huge",
            "judge whether its size is extreme",
        ),
    ),
    "warm": Skill(
        lambda thing: thing.is_warm,
        (
            "is its colour warm",
            "is it red or orange",
            "has it the colour of fire",
            "decide if the colour is warm",
            "judge whether it is red or orange",
        ),
    ),
    "primary": Skill(
        lambda thing: thing.colour in ("red", "blue"),
        (
            "is its colour primary",
            "is it red or blue",
            "has it a colour that is not mixed",
            "decide if the colour is primary",
            "judge whether it is red or blue",
        ),
    ),
    "outside": Skill(
        lambda thing: thing.is_outside,
        (
            "is it found outside",
            "does it belong out of the house",
            "is its place in the open",
            "decide if it is found outside",
            "judge whether it belongs outside",
        ),
    ),
    "large-warm": Skill(
        lambda thing: thing.is_large and thing.is_warm,
        (
            "is it large and its colour warm",
            "is it both big and red or orange",
            "has it great size and a warm colour",
            "decide if it is large and warm too",
            "judge whether it is big and also warm",
        ),
    ),
    "large-or-warm": Skill(
        lambda thing: thing.is_large or thing.is_warm,
        (
            "is it large or its colour warm",
            "is it either big or red or orange",
            "has it great size or else a warm colour",
            "decide if it is at least large or warm",
            "judge whether one of big and warm is true",
        ),
    ),
    "outside-warm": Skill(
        lambda thing: thing.is_outside and thing.is_warm,
        (
            "is it found outside and its colour warm",
            "does it belong out of the house and is red or orange",
            "is its place in the open and its colour warm",
            "decide if it is outside and warm too",
            "judge whether it belongs outside and is also warm",
        ),
    ),
}
# What is said where it is not so, and where it is.
ANSWER = {
    "yes": Skill(
        ("no", "yes"),
        (
            "say yes or no",
            "answer yes or no",
            "reply with yes or no",
            "write yes if so , else no",
            "tell it by yes or no",
        ),
    ),
    "true": Skill(
        ("false", "true"),
        (
            "say true or false",
            "answer true or false",
            "reply with true or false",
            "write true if so , else false",
            "tell it by true or false",
        ),
    ),
    "good": Skill(
        ("bad", "good"),
        (
            "say good or bad",
            "answer good or bad",
            "reply with good or bad",
            "write good if so , else bad",
            "tell it by good or bad",
        ),
    ),
    "a": Skill(
        ("b", "a"),
        (
            "say a or b",
            "answer a or b",
            "reply with a or b",
            "write a if so , else b",
            "tell it by the letter a or b",
        ),
    ),
    "one": Skill(
        ("two", "one"),
        (
            "say one or two",
            "answer one or two",
            "reply with one or two",
            "write one if so , else two",
            "tell it by the number one or two",
        ),
    ),
    "opposite": Skill(
        ("yes", "no"),
        (
            "say the opposite , no for yes",
            "answer no if so , else yes",
            "reply with the opposite of yes and no",
            "write no if it is true , else yes",
            "tell it the wrong way round , yes for no",
        ),
    ),
}


@cache
def names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the tasks for training and of those held out, each in an order drawn once."""
    drawn = [f"{PREFIX}{look}-{decide}-{answer}" for look, decide, answer in product(LOOK, DECIDE, ANSWER)]
    Random(PREFIX).shuffle(drawn)
    return tuple(drawn[:-UNSEEN]), tuple(drawn[-UNSEEN:])


def suites() -> dict[str, tuple[str, ...]]:
    """Return the suites of these tasks, by name."""
    train, unseen = names()
    parts = {f"builtin-many-{size}": train[:size] for size in SIZES}
    return {"builtin-many": train, **parts, "builtin-many-unseen": unseen}


def skills_of(name: str) -> tuple[Skill, Skill, Skill] | None:
    """Return a task's skills by its name, None of one that is none of these."""
    if not name.startswith(PREFIX):
        return None
    for look, decide, answer in product(LOOK, DECIDE, ANSWER):
        if name == f"{PREFIX}{look}-{decide}-{answer}":
            return LOOK[look], DECIDE[decide], ANSWER[answer]
    return None


@cache
def task(name: str) -> Task | None:
    """Return the task of a name, None where there is none."""
    skills = skills_of(name)
    if skills is None:
        return None
    random = Random(f"{name} in words")
    orders = [random.sample(skill.words, len(skill.words)) for skill in skills]
    return Task(
        name=name,
        generated=True,
        fields={"": "things"},
        labels=skills[2].does,
        writes="name",
        metrics=("accuracy",),
        description=tuple(" , ".join(parts) for parts in zip(*orders, strict=True)),
    )


def draw_things(random: Random) -> list[Thing]:
    """Draw three things, one of each kind, in any order."""
    things = [
        Thing(random.choice(SIZE_WORDS), random.choice(COLOURS), kind, random.choice(random.choice(nouns)))
        for kind, nouns in THINGS.items()
    ]
    random.shuffle(things)
    return things


@cache
def rows_of(name: str) -> dict[str, list[dict[str, Any]]]:
    """Generate a task's rows, split -> rows, half of each with each answer; they follow from its name alone."""
    skills = skills_of(name)
    assert skills is not None, name
    look, decide, answer = skills
    random, found = Random(name), {True: dict[str, None](), False: dict[str, None]()}
    wanted = (TRAIN_ROWS + 2 * EVALUATION_ROWS) // 2
    while min(map(len, found.values())) < wanted:
        things = draw_things(random)
        of_answer = found[decide.does(look.does(things))]
        if len(of_answer) < wanted:
            of_answer[" ".join(f"{thing.size} {thing.colour} {thing.noun}" for thing in things)] = None
    rows = [
        {"things": text, "label": answer.does[int(is_so)]}
        for pair in zip(found[False], found[True], strict=True)
        for is_so, text in enumerate(pair)
    ]
    ends = (EVALUATION_ROWS, 2 * EVALUATION_ROWS)
    return {"validation": rows[: ends[0]], "test": rows[ends[0] : ends[1]], "train": rows[ends[1] :]}
