"""The HyperFormer paper's experiments, each one command, at three scales.

OUTPUT/SCALE/
    NAME.md, NAME-*.svg            an experiment's numbers, with the printed ones where they are known, and its pictures
    GROUP/VARIANT/seed-S[.*]       the runs, as in a comparison: what is finished is not run again, and what two
                                   experiments need is run once
"""

from __future__ import annotations

from hyperadapt.experiments.costs import PARAMETERS, TABLES_5_6
from hyperadapt.experiments.glue import FIGURE_2, TABLE_1, TABLE_3, TABLE_4
from hyperadapt.experiments.plan import Experiment, Plan, overview, plan, reproduce
from hyperadapt.experiments.scales import SCALES
from hyperadapt.experiments.transfer import FIGURE_3, LEAVE_ONE_OUT, TABLE_2

EXPERIMENTS: dict[str, Experiment] = {
    of.name: of
    for of in (
        TABLE_1,
        TABLE_2,
        TABLE_3,
        TABLE_4,
        TABLES_5_6,
        FIGURE_2,
        FIGURE_3,
        LEAVE_ONE_OUT,
        PARAMETERS,
    )
}

__all__ = ["EXPERIMENTS", "SCALES", "Experiment", "Plan", "overview", "plan", "reproduce"]
