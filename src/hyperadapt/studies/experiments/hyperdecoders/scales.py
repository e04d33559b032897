"""How large the runs of the Hyperdecoders paper's experiments are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from hyperadapt.config.reading import merged
from hyperadapt.studies.experiments.beside import Columns
from hyperadapt.studies.experiments.scales import (
    ADAPTER,
    FULL,
    HYPERDECODER,
    MODULAR,
    SMALL,
    SMOKE,
    TASK_HYPERNET,
    Fields,
    Scale,
    as_configured,
)
from hyperadapt.studies.published_runs import PublishedRun

MRQA_METRICS: Columns = {
    "SQuAD": "mrqa-squad.answer_f1",
    "HotpotQA": "mrqa-hotpotqa.answer_f1",
    "TriviaQA": "mrqa-triviaqa.answer_f1",
    "NewsQA": "mrqa-newsqa.answer_f1",
    "SearchQA": "mrqa-searchqa.answer_f1",
    "Natural Qs": "mrqa-nq.answer_f1",
}
OUT_OF_DOMAIN_METRICS: Columns = {
    "BioASQ": "mrqa-bioasq.answer_f1",
    "DROP": "mrqa-drop.answer_f1",
    "DuoRC": "mrqa-duorc.answer_f1",
    "RACE": "mrqa-race.answer_f1",
    "Relation Ext.": "mrqa-relations.answer_f1",
    "TextbookQA": "mrqa-textbookqa.answer_f1",
}
SUMMARIES: Columns = {
    "XSUM R2": "xsum.rouge2",
    "CNN/Daily Mail R2": "cnn_dailymail.rouge2",
    "Wiki Lingua R2": "wiki_lingua.rouge2",
}
INFERENCE: Columns = {"MNLI": "mnli.accuracy", "Ab. NLI": "art.accuracy", "Ad. NLI": "anli.accuracy"}


def as_published(run: PublishedRun) -> Fields:
    """Return a method as the paper has it."""
    return {"name": run.method, **run.options}


def divided(by: int) -> Callable[[PublishedRun], Fields]:
    """Return what makes every width of a method so many times smaller, and no smaller than 1."""

    def smaller(run: PublishedRun) -> Fields:
        widths = {
            name: max(1, value // by)
            for name, value in run.options.items()
            if type(value) is int and name != "n_skills"
        }
        return {"name": run.method, **run.options, **widths}

    return smaller


def of_tiny_t5(run: PublishedRun) -> Fields:
    """Return a method with widths that give each stack of tiny-t5 1.27 million parameters, wherever they stand."""
    if run.method == MODULAR:
        return {"name": run.method, **run.options}
    if run.method in ("hyperformer", "hyperformer++"):
        return {"name": run.method, "reduction_factor": 4}
    if run.method == FULL:
        return {"name": FULL}
    kinds = {
        "encoder": run.options.get("encoder", "task" if run.method == TASK_HYPERNET else "manual"),
        "decoder": run.options.get(
            "decoder", {HYPERDECODER: "generated", TASK_HYPERNET: "task"}.get(run.method)
        ),
    }
    widths = {
        f"{stack}_bottleneck_dim": 64 if kind in ("task", "generated") else 827
        for stack, kind in kinds.items()
    }
    # The MLP of e has as many parameters as 49 numbers of the encoder's width.
    if run.method == HYPERDECODER and kinds["decoder"] == "generated" and run.options.get("mlp", True):
        widths["encoder_bottleneck_dim"] -= 49 * (kinds["encoder"] == "manual")
    hidden = {} if run.method == ADAPTER else {"hypernetwork_bottleneck": 50}
    return {"name": run.method, **run.options, **widths, **hidden}


@dataclass(frozen=True)
class HyperdecodersScale(Scale):
    """How large the runs are.

    Attributes:
        run: fields of the runs on GLUE.
        vanilla: in which the runs from T5 as it was pretrained first (Table 3) differ.
        as_hyperformer: in which those rows of Table 3 differ that are the HyperFormer paper's.
        best_per_task: in which the run whose tasks have each their own checkpoint (Table 2) differs.
        question_answering: fields of the runs on MRQA (Tables 4, 5, 14 and 15).
        summarisation_inference: fields of the runs on summaries and inference (Tables 6 and 16).
        many_seeds: of the methods that Table 1 has 25 runs of.
        sized: how a row's method is written on GLUE, and `others_sized` elsewhere.
        suites: of summaries and inference, the tasks of each, to be trained alone too.
        question_metrics: what stands for the columns of Tables 4 and 14, and `summaries` for those of Tables 6 and 16.
        encoder_only: in which what is trained on a frozen encoder (Table 7) differs from appendix C.
        mapped: the task of Figure 4.
        rows_in_maps: of each task, at most.
        unseen: the suite of Tables 5 and 15, none where there is no such data.
    """

    vanilla: Fields = field(default_factory=dict)
    as_hyperformer: Fields = field(default_factory=dict)
    best_per_task: Fields = field(default_factory=dict)
    question_answering: Fields = field(default_factory=dict)
    summarisation_inference: Fields = field(default_factory=dict)
    many_seeds: tuple[int, ...] = tuple(range(1, 26))
    sized: Callable[[PublishedRun], Fields] = as_published
    others_sized: Callable[[PublishedRun], Fields] = as_published
    suites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    question_metrics: Columns = field(default_factory=lambda: MRQA_METRICS)
    summaries: Columns = field(default_factory=lambda: SUMMARIES)
    encoder_only: dict[str, Any] = field(default_factory=dict)
    mapped: tuple[str, ...] = ("mrqa-newsqa",)
    rows_in_maps: int | None = None
    unseen: str | None = "mrqa_out_of_domain"

    def on(self, base: str) -> Self:
        """Return the scale with another base model, in place of all."""
        model: Any = {"model": {"name": base}}
        return replace(
            super().on(base),
            vanilla={},
            as_hyperformer={**self.as_hyperformer, **model} if self.as_hyperformer else {},
            question_answering={**self.question_answering, **model},
            summarisation_inference={**self.summarisation_inference, **model},
        )


SUITES = {"summaries": ("xsum", "cnn_dailymail", "wiki_lingua"), "inference": ("mnli", "art", "anli")}
# On whole development sets: of half of MRPC's 408 rows no 91.4 % can be right.
BEST_PER_TASK: Fields = {"data": {"tasks": ["glue:dev"]}, "training": {"keep": "best_per_task"}}
# By the configuration compare/hyperdecoders-search; the task hypernet's second best, as with the best one seed of three
# does not learn.
SMALL_RATES = {FULL: 1e-3, ADAPTER: 1e-3, HYPERDECODER: 1e-3, MODULAR: 1e-3}
SCALES = {
    "paper": HyperdecodersScale(
        run=as_configured("hyperdecoders/glue"),
        vanilla={"model": {"name": "google-t5/t5-base"}},
        as_hyperformer=merged(
            as_configured("glue"),
            {"training": {"gradient_accumulation_steps": 1, "warmup_steps": 0, "label_smoothing": 0.0}},
        ),
        best_per_task=BEST_PER_TASK,
        question_answering=as_configured("hyperdecoders/mrqa"),
        summarisation_inference=as_configured("hyperdecoders/summarisation-nli"),
        suites=SUITES,
    ),
    "small": HyperdecodersScale(
        run=merged(SMALL, {"data": {"temperature": 1.0}}),
        seeds=(1, 2, 3),
        many_seeds=(1, 2, 3),
        learning_rates=SMALL_RATES,
        best_per_task=BEST_PER_TASK,
        sized=of_tiny_t5,
        encoder_only={"learning_rate": 1e-3, "warmup_steps": 100, "max_rows": 4000},
        others_sized=divided(4),
        question_answering=merged(
            SMALL,
            {
                "data": {
                    "tasks": ["squad", "quoref", "mlqa"],
                    "temperature": 1.0,
                    "chunk_overlap": 32,
                    "max_eval_rows": 8,
                    "max_test_rows": 150,
                },
                "training": {"max_steps": 300, "eval_steps": 300, "keep": "last", "warmup_steps": 50},
            },
        ),
        # The sets that the local copy has stand for MRQA's six, and XSum and MNLI for the three of each kind.
        question_metrics={
            "SQuAD": "squad.answer_f1",
            "Avg": ["squad.answer_f1", "quoref.answer_f1", "mlqa.answer_f1"],
        },
        unseen=None,
        mapped=("quoref",),
        summarisation_inference=merged(
            SMALL,
            {
                "data": {
                    "tasks": ["xsum-halved", "mnli"],
                    "temperature": 1.0,
                    "max_eval_rows": 50,
                    "max_test_rows": 500,
                },
                "training": {"max_steps": 300, "eval_steps": 150, "warmup_steps": 50},
            },
        ),
        suites={"summaries": ("xsum-halved",), "inference": ("mnli",)},
        summaries={"XSUM R2": "xsum-halved.rouge2"},
    ),
    "smoke": HyperdecodersScale(
        run=SMOKE,
        seeds=(1,),
        many_seeds=(1,),
        best_per_task=BEST_PER_TASK,
        sized=divided(32),
        encoder_only={"warmup_steps": 2},
        others_sized=divided(64),
        question_answering=merged(SMOKE, {"data": {"tasks": ["mrqa"], "max_source_length": 128}}),
        summarisation_inference=merged(
            SMOKE, {"data": {"tasks": [name for suite in SUITES.values() for name in suite]}}
        ),
        suites=SUITES,
    ),
}
