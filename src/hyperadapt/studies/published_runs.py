"""What the rows of the Hyperdecoders paper's tables train: our method of each, and its sizes."""

from __future__ import annotations

from typing import Any, NamedTuple

from hyperadapt.studies.published import published_table


def widths(
    encoder_width: int, decoder_width: int, hidden: int | None = None, **options: Any
) -> dict[str, Any]:
    """Name the widths of the adapters, and of the hidden layer of what generates them."""
    options |= {"encoder_bottleneck_dim": encoder_width, "decoder_bottleneck_dim": decoder_width}
    return options if hidden is None else {**options, "hypernetwork_bottleneck": hidden}


class PublishedRun(NamedTuple):
    """What a row of the Hyperdecoders paper's tables trains."""

    method: str
    options: dict[str, Any]


FULL = PublishedRun("full_fine_tuning", {})
# The sizes are those of the text (appendices A, G and H), else of the authors' own configurations; where these name an
# adapter_dim, which their code does not read, its default, 64. Table 16's adapter has 370 there, 410 in appendix A.1.
HYPERDECODER = PublishedRun("hyperdecoder", widths(64, 64, 128))
ENCODER_HEAVY = PublishedRun("hyperdecoder", widths(512, 36, 72))
ADAPTER = PublishedRun("single_adapter", widths(370, 370))
ADAPTER_ENCODER_HEAVY = PublishedRun("single_adapter", widths(512, 225))
LARGE_ADAPTER = PublishedRun("single_adapter", widths(230, 230))
TASK_HYPERNET = PublishedRun("task_hypernet", widths(50, 50, 100))


def placed(encoder: str, decoder: str, *sizes: int) -> PublishedRun:
    """Name a cell of the grid of Table 8."""
    return PublishedRun("hyperdecoder", widths(*sizes, encoder=encoder, decoder=decoder))


MRQA: dict[str, PublishedRun | None] = {
    "Hyperdecoder (ours), 64, 64, 128": HYPERDECODER,
    "Hyperdecoder (ours), 512, 36, 72": ENCODER_HEAVY,
    "Hyperdecoder (ours), 800, 2, 16": PublishedRun("hyperdecoder", widths(800, 2, 16)),
    "Adapter, 370, 370": ADAPTER,
    "Adapter, 512, 225": ADAPTER_ENCODER_HEAVY,
    "Adapter, 800, 2": PublishedRun("single_adapter", widths(800, 2)),
}
# By table: base model, number of tasks, and the rows; None where nobody says which sizes a row has.
HYPERDECODERS: dict[str, tuple[str, int, dict[str, PublishedRun | None]]] = {
    "1": (
        "t5-large-lm-adapt",
        8,
        {
            "Full Finetuning": FULL,
            "Hyperformer": None,
            "Hyperformer++": None,
            "Task Hypernet": TASK_HYPERNET,
            "Modular Hypernet": PublishedRun("polytropon", {"n_skills": 4}),
            "Adapter": LARGE_ADAPTER,
            "Hyperdecoder (ours)": HYPERDECODER,
        },
    ),
    "2": (
        "t5-large-lm-adapt",
        8,
        {"Hyperformer": None, "HyperPrompt": None, "Hyperdecoder (ours)": ENCODER_HEAVY},
    ),
    "3": (
        "t5-base",
        8,
        {
            "Full Finetuning": FULL,
            "Hyperformer": PublishedRun("hyperformer", {}),
            "Hyperformer++": PublishedRun("hyperformer++", {}),
            "Hyperdecoder (ours)": HYPERDECODER,
        },
    ),
    "13": (
        "t5-large-lm-adapt",
        8,
        {
            "Full Finetuning": FULL,
            "Manual-Manual": LARGE_ADAPTER,
            "Manual-Task": placed("manual", "task", 50, 50, 100),
            "Manual-Generated": HYPERDECODER,
            "Task-Manual": placed("task", "manual", 50, 50, 100),
            "Task-Generated": placed("task", "generated", 50, 50, 100),
            "Task-Task": TASK_HYPERNET,
            "Generated-Manual": placed("generated", "manual", 64, 64, 128),
            "Generated-Task": placed("generated", "task", 50, 50, 100),
            "Generated-Generated": placed("generated", "generated", 64, 64, 100),
            "Manual-Generated, no MLP": PublishedRun("hyperdecoder", widths(64, 64, 128, mlp=False)),
            "Manual-Generated, post-layernorm adapter input": PublishedRun(
                "hyperdecoder", widths(64, 64, 128, after_layer_norm=True)
            ),
        },
    ),
    "14": ("t5-base-lm-adapt", 6, MRQA),
    "15": ("t5-base-lm-adapt", 6, MRQA),
    "16": (
        "t5-base-lm-adapt",
        6,
        {
            "Full-finetuning": FULL,
            "Adapter": ADAPTER,
            "Adapter (enc-heavy)": ADAPTER_ENCODER_HEAVY,
            "Hyperdecoder (ours)": HYPERDECODER,
            "Hyperdecoder (ours) (enc-heavy)": ENCODER_HEAVY,
            "Task Hypernet": PublishedRun("task_hypernet", widths(64, 64, 128)),
        },
    ),
}

# Of Tables 10 to 12, which print how many rows a data set has: our name of each.
ROWS_OF: dict[str, dict[str, str]] = {
    "10": {
        "CoLA": "cola",
        "SST-2": "sst2",
        "STS-B": "stsb",
        "MRPC": "mrpc",
        "QQP": "qqp",
        "MNLI": "mnli",
        "QNLI": "qnli",
        "RTE": "rte",
    },
    "11": {
        "SQuAD": "mrqa-squad",
        "HotpotQA": "mrqa-hotpotqa",
        "TriviaQA": "mrqa-triviaqa",
        "NewsQA": "mrqa-newsqa",
        "SearchQA": "mrqa-searchqa",
        "Natural Qs": "mrqa-nq",
        "BioASQ": "mrqa-bioasq",
        "DROP": "mrqa-drop",
        "DuoRC": "mrqa-duorc",
        "RACE": "mrqa-race",
        "Relation Ext.": "mrqa-relations",
        "TextbookQA": "mrqa-textbookqa",
    },
    "12": {
        "XSum": "xsum",
        "CNN/Daily Mail": "cnn_dailymail",
        "Wiki Lingua": "wiki_lingua",
        "MNLI": "mnli",
        "Abductive NLI": "art",
        "Adversarial NLI": "anli",
    },
}


def published_training_rows() -> dict[str, int]:
    """Return the printed numbers of training rows, by the names of our tasks."""
    return {
        task: int(cell.number)
        for table, tasks in ROWS_OF.items()
        for printed, task in tasks.items()
        if (cell := published_table("hyperdecoders", table).row(printed).cells["train"]) is not None
    }
