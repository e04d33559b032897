"""The experiments of the three papers, and one beyond them, each one command, at three scales.

OUTPUT/SCALE/PAPER/
    NAME.md, NAME-*.svg            an experiment's numbers, beside the printed ones, and its pictures
    GROUP/VARIANT/seed-S[.*]       the runs, as in a comparison: what is finished is not run again, and what two
                                   experiments need is run once
"""

from __future__ import annotations

from typing import Any

from hyperadapt.studies.experiments import hyperdecoders, hyperformer, hypergrid, matched
from hyperadapt.studies.experiments.plan import Experiment, Plan, named, overview, plan, reproduce

EXPERIMENTS: dict[str, Experiment[Any]] = {
    experiment.name: experiment
    for experiment in (
        *hyperformer.EXPERIMENTS,
        *hyperdecoders.EXPERIMENTS,
        *hypergrid.EXPERIMENTS,
        *matched.EXPERIMENTS,
    )
}
# Other names: those that experiments had while there was one paper, and of tables that have a page together.
ALIASES = {
    **{experiment.short: experiment.name for experiment in hyperformer.EXPERIMENTS},
    "hyperformer/table-5": "hyperformer/tables-5-6",
    "hyperformer/table-6": "hyperformer/tables-5-6",
    **{f"hyperdecoders/table-{number}": "hyperdecoders/tables-4-5" for number in (4, 5)},
    **{f"hyperdecoders/table-{number}": "hyperdecoders/tables-6-16" for number in (6, 16)},
    **{f"hyperdecoders/table-{number}": "hyperdecoders/tables-14-15" for number in (14, 15)},
    **{f"hypergrid/table-{number}": "hypergrid/tables-1-2" for number in (1, 2)},
    **{f"hypergrid/table-{number}": "hypergrid/tables-5-6" for number in (5, 6)},
}

__all__ = ["ALIASES", "EXPERIMENTS", "Experiment", "Plan", "named", "overview", "plan", "reproduce"]
