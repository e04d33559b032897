"""Scores as texts: what a row holds, and what the model is to write for it, the nearest multiple of a step."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal

MOST_VALUES = 1000  # that a chosen step has between the lowest score and the highest
ENOUGH_APART = 100  # different texts, with which a chosen step is fine enough however the scores are spread

_FINER = {
    1: Decimal(2),
    2: Decimal(2),
    5: Decimal("2.5"),
}  # from 1, 2 or 5 times a power of ten to the next below


def number_text(number: float) -> str:
    """Write a number in its fewest digits; a float32 column holds 1.7 as 1.70000005, and means 1.7."""
    import numpy as np

    if number.is_integer():
        return str(int(number))
    single = np.float32(number)
    return str(single) if float(single) == number else repr(number)


def to_step(text: str, step: float) -> str:
    """Write the multiple of a step that is nearest to a number's text, with the step's decimals."""
    unit = Decimal(repr(step)).normalize()
    nearest = (Decimal(text) / unit).to_integral_value() * unit
    return f"{nearest + 0:.{_decimals(unit)}f}"  # + 0, as there is no score of -0


def chosen_step(texts: Collection[str]) -> float:
    """Choose the step in which scores are written.

    That is the last decimal that any of them has, unless more than MOST_VALUES texts lay between the lowest and the
    highest then: in that case it is 1, 2 or 5 times a power of ten. Where few scores are far from all others, it is
    as much finer as it takes to tell half of the scores, or ENOUGH_APART, from each other.
    """
    numbers = sorted({Decimal(text) for text in texts})
    last_decimal = Decimal(1).scaleb(-max(map(_decimals, numbers)))
    spread = numbers[-1] - numbers[0] or abs(numbers[0])
    step = _round_number(spread / MOST_VALUES) if spread else last_decimal
    enough = min((len(numbers) + 1) // 2, ENOUGH_APART)
    while step > last_decimal and len({(number / step).to_integral_value() for number in numbers}) < enough:
        step /= _FINER[step.normalize().as_tuple().digits[0]]
    return float(max(step, last_decimal))


def _decimals(number: Decimal) -> int:
    return max(-int(number.as_tuple().exponent), 0)


def _round_number(least: Decimal) -> Decimal:
    """Find the smallest of 1, 2 and 5 times a power of ten that is not below a number."""
    power = Decimal(1).scaleb(least.adjusted())
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
