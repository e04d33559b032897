"""The rows of Table 2's tasks in a local copy, and what a constant answer scores: scripts/transfer_rows.py DATA_DIR

Training rows are those to draw from; scored are the test rows that the `small` scale takes.
"""

from __future__ import annotations

import sys
from collections import Counter

from hyperadapt.studies.comparison import markdown
from hyperadapt.studies.experiments.hyperformer.scales import SCALES
from hyperadapt.tasks import get_task, read_split
from hyperadapt.tasks.loading import load_split


def facts(name: str, data_dir: str, most: int) -> dict[str, str]:
    """Return a task's row of the table."""
    task = get_task(name)
    scored = load_split(task, "test", data_dir, most)["target"]
    [(_, count)] = Counter(scored).most_common(1)
    return {
        "task": name,
        "training rows": str(len(read_split(task, "train", data_dir))),
        "scored": str(len(scored)),
        "best constant answer": f"{100 * count / len(scored):.1f}",
    }


if __name__ == "__main__":
    small = SCALES["small"]
    print(
        markdown(
            [facts(name, sys.argv[1], small.transfer["data"]["max_test_rows"]) for name in small.targets]
        )
    )
