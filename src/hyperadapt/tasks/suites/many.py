"""A world of many small tasks: every task is a combination of three skills, look x decide x answer, 6 x 8 x 6 = 288.

A row is four words, of animals, colours, foods, tools, places and the weather:

    "rope cat river dog"

    look      which kind of words counts: the animals, say
    decide    what of them: is there one, two or more, exactly one; is the first word one, the second, the last, one of
              both ends, one of the first two
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

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from random import Random
from typing import Any, NamedTuple

from hyperadapt.tasks.task import Task

PREFIX = "many-"
TRAIN_ROWS, EVALUATION_ROWS = 512, 40
WORDS_IN_A_ROW = 4
UNSEEN = 48
SIZES = (8, 16, 32, 64, 128)

# Kind of words -> how it is called, and the words.
KINDS = {
    "animal": ("an animal", "cat dog horse bird"),
    "colour": ("a colour", "red blue green white"),
    "food": ("a food", "bread cheese apple soup"),
    "tool": ("a tool", "hammer knife spoon rope"),
    "place": ("a place", "river garden house market"),
    "weather": ("a kind of weather", "rain snow wind sun"),
}
KIND_OF = {word: kind for kind, (_, words) in KINDS.items() for word in words.split()}


class Skill(NamedTuple):
    """One part of a task: what it does, and how it may be described, five times."""

    does: Any
    words: tuple[str, ...]


def _at(place: int) -> Callable[[Sequence[bool]], bool]:
    return lambda hits: hits[place]


# Which words of a row count.
LOOK = {
    kind: Skill(
        kind,
        (
            f"look for {called}",
            f"what counts is {called}",
            f"find the words that are {called}",
            f"it is about {called}",
            f"mind only {called} , as {' or '.join(words.split()[:2])}",
        ),
    )
    for kind, (called, words) in KINDS.items()
}
# Whether each word of a row counts -> whether it is so.
DECIDE: dict[str, Skill] = {
    "any": Skill(
        any,
        (
            "is there one",
            "is there at least one",
            "does any word fit",
            "decide if one is there",
            "judge whether such a word is found",
        ),
    ),
    "two": Skill(
        lambda hits: sum(hits) >= 2,
        (
            "are there two or more",
            "is there more than one",
            "do several words fit",
            "decide if two are there",
            "judge whether at least two are found",
        ),
    ),
    "single": Skill(
        lambda hits: sum(hits) == 1,
        (
            "is there exactly one",
            "is there one and no more",
            "does a single word fit",
            "decide if only one is there",
            "judge whether just one is found",
        ),
    ),
    "first": Skill(
        _at(0),
        (
            "is the first word one",
            "does the row begin with it",
            "does the word at the beginning fit",
            "decide if it comes first",
            "judge whether it stands at the start",
        ),
    ),
    "second": Skill(
        _at(1),
        (
            "is the second word one",
            "does the row have it in second place",
            "does the word after the first fit",
            "decide if it comes second",
            "judge whether it stands next to the first",
        ),
    ),
    "last": Skill(
        _at(-1),
        (
            "is the last word one",
            "does the row end with it",
            "does the word at the end fit",
            "decide if it comes last",
            "judge whether it stands at the end",
        ),
    ),
    "end": Skill(
        lambda hits: hits[0] or hits[-1],
        (
            "is the first or the last word one",
            "does the row begin or end with it",
            "does a word at either end fit",
            "decide if it comes first or last",
            "judge whether it stands at an end",
        ),
    ),
    "early": Skill(
        lambda hits: hits[0] or hits[1],
        (
            "is one of the first two words one",
            "does the row have it early",
            "does a word of the first half fit",
            "decide if it comes first or second",
            "judge whether it stands in the first half",
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
        fields={"": "words"},
        labels=skills[2].does,
        writes="name",
        metrics=("accuracy",),
        description=tuple(" , ".join(parts) for parts in zip(*orders, strict=True)),
    )


def draw_words(random: Random, kind: str, other_kinds: Sequence[str]) -> list[str]:
    """Draw a row's words, each of one kind with the odds of two in five, so that none and several both come often."""
    kinds = [kind if random.random() < 0.4 else random.choice(other_kinds) for _ in range(WORDS_IN_A_ROW)]
    return [random.choice(KINDS[of][1].split()) for of in kinds]


@cache
def rows_of(name: str) -> dict[str, list[dict[str, Any]]]:
    """Generate a task's rows, split -> rows, half of each with each answer; they follow from its name alone."""
    skills = skills_of(name)
    assert skills is not None, name
    look, decide, answer = skills
    others = [kind for kind in KINDS if kind != look.does]
    random, found = Random(name), {True: dict[str, None](), False: dict[str, None]()}
    wanted = (TRAIN_ROWS + 2 * EVALUATION_ROWS) // 2
    while min(map(len, found.values())) < wanted:
        words = draw_words(random, look.does, others)
        of_answer = found[bool(decide.does([KIND_OF[word] == look.does for word in words]))]
        if len(of_answer) < wanted:
            of_answer[" ".join(words)] = None
    rows = [
        {"words": text, "label": answer.does[int(is_so)]}
        for pair in zip(found[False], found[True], strict=True)
        for is_so, text in enumerate(pair)
    ]
    ends = (EVALUATION_ROWS, 2 * EVALUATION_ROWS)
    return {"validation": rows[: ends[0]], "test": rows[ends[0] : ends[1]], "train": rows[ends[1] :]}
