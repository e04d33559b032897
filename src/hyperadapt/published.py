"""What the papers print, from one data file with the numbers of their tables."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict

from hyperadapt.yaml_and_json import parse_yaml

NOT_PRINTED = "The printed scores and measurements are not here: no text that holds them could be had."


class PublishedRow(BaseModel):
    """A row of Table 1 or 3 of the HyperFormer paper, as printed.

    Attributes:
        model, method, options: what was trained.
        tasks_in_one_model: 8, or 1 where each task has a model of its own.
        total: parameters of all eight tasks together, as a multiple of the base model's.
        trained_percent: trained for a task, in percent of the base model's.
        scores: by task and metric, in percent; empty where they are not known here.
        average: of the scores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    method: str
    options: dict[str, Any] = {}
    tasks_in_one_model: int = 8
    total: str
    trained_percent: float
    scores: dict[str, float] = {}
    average: float | None = None


@cache
def published_rows(table: int) -> tuple[PublishedRow, ...]:
    """Read the rows of a table."""
    text = (files("hyperadapt") / "assets/published.yaml").read_text(encoding="utf-8")
    values = parse_yaml(text, "published.yaml")[f"table_{table}"]
    metrics = values.get("metrics", [])
    return tuple(
        PublishedRow(**{**row, "scores": dict(zip(metrics, row.get("scores", []), strict="scores" in row))})
        for row in values["rows"]
    )
