"""Fields that people write, of configurations, tasks and methods: none is unknown, and a number is written as one."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidatorFunctionWrapHandler, WrapValidator, field_validator
from pydantic_core import PydanticKnownError


def read_as_written(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """Read a value with pydantic, which takes true for 1 and "3" for 3 where a number is wanted: refuse these.

    A whole number may still be written as 1e3.

    Raises:
        ValueError: if a truth value or a text, or one in a list, was taken for a number.
    """
    result = read(value)
    for item, taken in zip(_items(value), _items(result), strict=False):
        if isinstance(item, bool | str) and isinstance(taken, int | float) and not isinstance(taken, bool):
            raise PydanticKnownError("int_type" if isinstance(taken, int) else "float_type")
    return result


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


AS_WRITTEN = WrapValidator(read_as_written)


class Fields(BaseModel):
    """What is made of fields that people write; it does not change afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _as_written(cls, value: Any, read: ValidatorFunctionWrapHandler) -> Any:
        return read_as_written(value, read)


def one_or_more(names: Any) -> Any:
    """Take one name for a list of it."""
    return (names,) if isinstance(names, str) else names
