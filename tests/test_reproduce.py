"""The papers' experiments: each is configurations, some run to their page, and the formulas are the real counts."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import T5Config

from finished import finish
from hyperadapt.counting import count_without_weights, model_config
from hyperadapt.errors import UserError
from hyperadapt.methods import method_from
from hyperadapt.studies.experiments import ALIASES, EXPERIMENTS, named, overview, plan, reproduce
from hyperadapt.studies.experiments.budget import budgets, check_memory, cost_in_words, steps_in_words
from hyperadapt.studies.experiments.hyperdecoders.glue import UNSAID
from hyperadapt.studies.experiments.hyperformer.costs import (
    adapters_count,
    adapters_dagger_count,
    hyperformer_pp_count,
    real_count,
)
from hyperadapt.studies.experiments.hyperformer.glue import by_method
from hyperadapt.studies.experiments.hyperformer.scales import Target
from hyperadapt.studies.experiments.hyperformer.transfer import by_rows, nearest_tasks
from hyperadapt.studies.experiments.matched import TOLERANCE
from hyperadapt.studies.experiments.scales import HYPER, HYPER_PP
from hyperadapt.studies.published import published_table
from tiny_run import hyperadapt


@pytest.fixture(scope="module")
def smoke_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all experiments, as what two of them need is run once."""
    return tmp_path_factory.mktemp("reproduce")


# A run of each kind: transfers, timed ones, long contexts and unseen tasks, each task's own checkpoint, encoders alone,
# both benchmarks. All others are pages of the same functions (tests/test_beside.py), of runs of the same kinds.
OF_EACH_KIND = [
    "hyperformer/table-2",
    "hyperformer/figure-3",
    "hyperformer/tables-5-6",
    "hyperformer/parameters",
    "hyperdecoders/tables-4-5",
    "hyperdecoders/table-2",
    "hyperdecoders/table-7",
    "hyperdecoders/table-10",
    "hypergrid/figure-3",
]
MINUTES = ("hyperformer/tables-5-6", "hyperdecoders/tables-4-5", "hypergrid/figure-3")
WITHOUT_RUNS = {"hyperformer/parameters", *(f"hyperdecoders/table-{number}" for number in (10, 11, 12))}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in MINUTES else name for name in OF_EACH_KIND],
)
@pytest.mark.usefixtures("in_one_process")
def test_smoke(smoke_folder: Path, name: str) -> None:
    planned = plan(name, "smoke", smoke_folder)
    page = reproduce(planned)
    assert all(cell.finished for cell in planned.cells())
    text = page.read_text()
    assert text.startswith(f"# {EXPERIMENTS[name].source}: ")
    assert all((page.parent / picture).is_file() for picture in re.findall(r"\((.+\.svg)\)", text))
    assert "nan" not in text


@pytest.mark.parametrize("scale", ["paper", "small", "smoke"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_run_of_every_scale_is_a_configuration(name: str, scale: str) -> None:
    cells = plan(name, scale).cells()
    names = [cell.directory for cell in cells]
    assert len(set(names)) == len(names)
    assert (not names) == (name in WITHOUT_RUNS or (name == "hypergrid/tables-5-6" and scale != "paper"))
    for cell in cells:
        cell.config.build_method()
        assert cell.config.training.max_steps <= {"paper": 2**18, "small": 600, "smoke": 2}[scale]


def test_every_table_and_figure_of_the_papers_is_a_command() -> None:
    tables = {"hyperformer": range(1, 8), "hyperdecoders": range(1, 17), "hypergrid": range(1, 7)}
    figures = {"hyperformer": (2, 3), "hyperdecoders": (2, 3, 4), "hypergrid": range(3, 10)}
    for kind, numbers in (("table", tables), ("figure", figures)):
        for paper, of in numbers.items():
            for number in of:
                name = f"{paper}/{kind}-{number}"
                assert plan(name, "smoke").experiment.paper == paper
    # As they were called while there was one paper.
    for old in (
        "table-1",
        "table-2",
        "table-3",
        "table-4",
        "tables-5-6",
        "figure-2",
        "figure-3",
        "leave-one-out",
    ):
        assert plan(old, "smoke").experiment.name == f"hyperformer/{old}"
    assert set(ALIASES.values()) <= set(EXPERIMENTS)
    assert named("hypergrid") == [name for name in EXPERIMENTS if name.startswith("hypergrid/")]


@pytest.mark.parametrize(("scale", "model"), [("small", "tiny-t5"), ("paper", "t5-base")])
def test_matched_methods_train_as_many_parameters(scale: str, model: str) -> None:
    methods = EXPERIMENTS["beyond/matched"].scales[scale].methods
    trained = {
        name: count_without_weights(model_config(model), method_from({"name": name, **options}), 8).trained
        for name, options in methods.items()
    }
    first = next(iter(trained.values()))
    assert len(trained) == 8
    for name, count in trained.items():
        assert abs(count / first - 1) <= TOLERANCE, name


def test_the_sizes_that_are_not_said_come_near_the_printed_shares() -> None:
    for name, run in UNSAID.items():
        count = count_without_weights(
            model_config("t5-large-lm-adapt"), method_from({"name": run.method, **run.options}), 8
        )
        printed = published_table("hyperdecoders", 1).row(name)["trained (%)"].number
        assert 100 * count.trained / count.base == pytest.approx(printed, abs=0.3)


def test_seeds_are_as_many_as_the_papers_have() -> None:
    def seeds(name: str) -> dict[str, int]:
        return Counter(cell.variant for cell in plan(name, "paper").cells())

    assert {name: of for name, of in seeds("hyperdecoders/table-1").items() if of > 1} == {
        "hyperdecoder,64,64,128": 25,
        "single_adapter,230,230": 25,
    }
    plain = [c for c in plan("hypergrid/table-3", "paper").cells() if c.variant == "full_fine_tuning"]
    assert [c.seed for c in plain] == [1, 2, 3, 4, 1]  # base models', and the large one's


# What the runs of a table are, field by field, beside the sections that say so.
PROTOCOLS = {
    # HyperFormer, section 3 and appendix A.
    "hyperformer/table-3": {
        "data.temperature": {10.0},
        "data.mixed_batches": {False},
        "training.learning_rate": {3e-4},
        "training.lr_scheduler_type": {"constant"},
        "training.max_steps": {2**18},
        "training.batch_size": {32, 64},
        "training.eval_steps": {1000},
        "training.keep": {"best"},
    },
    # Section 3.2, from models that are trained on GLUE.
    "hyperformer/table-2": {
        "model.name": {"google-t5/t5-base"},
        "training.learning_rate": {3e-4},
        "training.max_steps": {2**18, 5000},
        "data.max_train_rows": {None, 4, 16, 32, 100, 250, 500, 1000, 2000},
    },
    "hyperformer/table-4": {"model.name": {"google-t5/t5-small"}, "training.batch_size": {64}},
    # Section 3.3: 15,000 steps.
    "hyperformer/figure-2": {
        "training.max_steps": {15_000},
        "data.max_train_rows": {100, 500, 1000, 2000, 4000},
    },
    # Hyperdecoders, sections 3.1 and 3.2.
    "hyperdecoders/table-1": {
        "model.name": {"google/t5-large-lm-adapt"},
        "data.temperature": {1.0},
        "training.learning_rate": {3e-4},
        "training.lr_scheduler_type": {"linear"},
        "training.warmup_steps": {500},
        "training.max_steps": {65_536},
        "training.batch_size": {128},
        "training.eval_steps": {1000},
        "training.keep": {"best"},
    },
    "hyperdecoders/table-2": {"training.keep": {"best_per_task"}, "data.tasks": {("glue:dev",)}},
    # Its first rows are the HyperFormer paper's.
    "hyperdecoders/table-3": {
        "model.name": {"google-t5/t5-base"},
        "training.max_steps": {65_536, 2**18},
        "training.batch_size": {128, 32},
        "training.warmup_steps": {500, 0},
        "data.temperature": {1.0, 10.0},
    },
    # Section 3.1.2.
    "hyperdecoders/tables-4-5": {
        "model.name": {"google/t5-base-lm-adapt"},
        "data.max_source_length": {512},
        "data.chunk_overlap": {128},
        "training.epochs": {4.0},
        "training.keep": {"last"},
    },
    # Section 5.2: the setup of the other runs on GLUE.
    "hyperdecoders/table-13": {
        "model.name": {"google/t5-large-lm-adapt"},
        "training.max_steps": {65_536},
        "training.batch_size": {128},
        "training.learning_rate": {3e-4},
    },
    "hyperdecoders/tables-6-16": {
        "training.learning_rate": {3e-4},
        "training.max_steps": {100_000},
        "training.batch_size": {64},
        "training.eval_steps": {5000},
    },
    # HyperGrid, section 7.2.
    "hypergrid/tables-1-2": {
        "model.name": {"google-t5/t5-base"},
        "training.max_steps": {100_000},
        "training.batch_size": {128},
        "training.learning_rate": {1e-3},
        "training.lr_scheduler_type": {"constant"},
        "training.t5_adafactor": {True},
        "training.keep": {"last"},
    },
    # Section 4.2.2: base and large; section 4.2.4: grids of the base model.
    "hypergrid/table-3": {
        "model.name": {"google-t5/t5-base", "google-t5/t5-large"},
        "training.max_steps": {100_000, 200_000},
        "data.tasks": {("en_mix",)},
        "data.temperature": {1.0},
    },
    "hypergrid/figure-9": {"model.name": {"google-t5/t5-base"}, "training.max_steps": {100_000}},
    "hypergrid/tables-5-6": {
        "model.name": {"google-t5/t5-3b", "google-t5/t5-11b"},
        "training.max_steps": {200_000},
        "training.keep": {"best"},
        "training.best_by": {("glue",)},
    },
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_runs_are_trained_as_the_papers_say(name: str) -> None:
    runs = [cell.config for cell in plan(name, "paper").cells()]
    for field, values in PROTOCOLS[name].items():
        section, option = field.split(".")
        assert {getattr(getattr(run, section), option) for run in runs} == values, field


VARIANTS = ["Local (L)", "Local-Local (L2)", "Global-Local (GL)", "Local-Global (LG)"]
GATES = ["OutGate (Full)", "OutGate (16)", "OutGate (32)", "OutGate (64)"]
# What is compared on a page: every row that is printed and planned, with the one of the paper's own method.
TABLE_1 = [
    *(
        f"Hyperdecoder (ours) − {other}"
        for other in (
            *("Full Finetuning", "Hyperformer", "Hyperformer++", "Task Hypernet", "Modular Hypernet"),
            "Adapter",
        )
    ),
    *(
        f"Hyperdecoder − Adapter, {column}"
        for column in (
            *("CoLA", "SST-2", "STS-B Pearson", "STS-B Spearman", "MRPC accuracy", "MRPC F1"),
            *("QQP accuracy", "QQP F1", "MNLI", "QNLI", "RTE"),
        )
    ),
]
TABLES_1_2 = [f"MTL − {other}" for other in ("PTFT", "Ours (L2)", "Ours (LG)", "Ours (L)")] * 2
PAIRS = {
    **{("hyperdecoders/table-1", scale): TABLE_1 for scale in ("paper", "small")},
    **{("hypergrid/tables-1-2", scale): TABLES_1_2 for scale in ("paper", "small")},
    ("hypergrid/table-3", "paper"): [
        f"{size}, Baseline − {size}, {other}, {column}"
        for size, others in (("base", [*VARIANTS, *GATES]), ("large", VARIANTS))
        for column in ("AVG", "GLUE", "SuperGLUE")
        for other in others
    ],
    ("hypergrid/table-3", "small"): [
        f"base, Baseline − base, {other}, {column}"
        for column in ("AVG", "GLUE", "SuperGLUE")
        for other in (*VARIANTS, GATES[0])
    ],
    ("hyperformer/table-7", "paper"): [
        f"HyperFormer++, {size}, 8 − HyperFormer++, {size}, {r}"
        for size in ("small", "base")
        for r in (16, 32)
    ],
    ("hyperformer/table-7", "small"): ["HyperFormer++, small, 8 − HyperFormer++, small, 16"],
}


@pytest.mark.parametrize("scale", ["paper", "small"])
@pytest.mark.parametrize(
    "name", ["hyperdecoders/table-1", "hypergrid/tables-1-2", "hypergrid/table-3", "hyperformer/table-7"]
)
def test_every_pair_of_rows_that_are_printed_and_planned_is_compared(
    name: str, scale: str, tmp_path: Path
) -> None:
    planned = plan(name, scale, tmp_path)
    if "many_seeds" in type(planned.scale).__dataclass_fields__:
        planned = replace(planned, scale=replace(planned.scale, many_seeds=(1, 2, 3)))
    finish(planned.cells(), rows=4)
    planned.folder.mkdir(exist_ok=True)
    text = planned.experiment.page(planned)
    compared = re.findall(r"^\| ([^|]*− [^|]*) \| [-+0-9.]+ \| [-+]", text, re.M)
    assert compared == PAIRS[name, scale]
    assert "no order to tell" not in text


def test_what_is_too_large_for_this_machine_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    planned = plan("hypergrid/tables-5-6", "paper", tmp_path)
    runs = [cell.config for cell in planned.cells()]
    assert [run.model.name for run in runs] == ["google-t5/t5-3b", "google-t5/t5-11b"]
    # 11.3 billion parameters in float32, and as many gradients; Adafactor's state is small.
    with pytest.raises(
        UserError, match=r"a run of google-t5/t5-11b with method hypergrid takes at least \d{3,} GiB"
    ):
        reproduce(planned)
    assert list(tmp_path.iterdir()) == []
    check_memory(runs[:0])
    check_memory([cell.config for cell in plan("hyperformer/table-4", "smoke").cells()], jobs=2)
    # In smaller batches less is kept of one.
    parts = [
        run.model_copy(
            update={"training": run.training.model_copy(update={"gradient_accumulation_steps": 128})}
        )
        for run in runs
    ]
    assert all(a.memory < b.memory for a, b in zip(budgets(parts), budgets(runs), strict=True))


def test_the_cost_is_said_before() -> None:
    runs = [cell.config for cell in plan("hyperformer/table-4", "paper").cells()]
    said = cost_in_words(runs)
    # T5-small: 6 runs of 2**18 steps of 64 rows of 128 tokens.
    assert said.startswith("6 runs, 1,572,864 steps: about ")
    assert "hours of one A100" in said
    assert cost_in_words([]) == "nothing to train"
    # MRQA: four epochs of the 516,819 rows that Table 11 prints, in batches of 128; its chunks are more.
    by_epochs = [cell.config for cell in plan("hyperdecoders/tables-14-15", "paper").cells()]
    assert cost_in_words(by_epochs).startswith(
        f"6 runs, at least {6 * round(4 * 516_819 / 128):,} steps: about "
    )
    made_up = plan("hyperdecoders/table-9", "smoke", overrides=["training.epochs=2"]).cells()
    assert steps_in_words([cell.config for cell in made_up]).startswith("at least ")
    # A run of Hyperdecoders on GLUE takes 18 hours of an A100, on summaries and inference 22.5 (appendix B).
    for name, hours in (("hyperdecoders/table-2", 18), ("hyperdecoders/tables-6-16", 22.5)):
        one = [
            cell.config for cell in plan(name, "paper").cells() if cell.variant.startswith("hyperdecoder,")
        ][:1]
        said_hours = float(re.search(r"([\d,.]+) hours of one A100", cost_in_words(one))[1])
        assert said_hours == pytest.approx(hours, rel=0.25)


@pytest.mark.parametrize(
    ("layers", "h", "r", "t", "tasks"), [(2, 32, 8, 8, 3), (3, 48, 4, 16, 1), (1, 64, 2, 64, 20)]
)
def test_the_formulas_are_the_real_counts(layers: int, h: int, r: int, t: int, tasks: int) -> None:
    config = T5Config(
        d_model=h, num_layers=layers, num_heads=4, d_kv=8, d_ff=2 * h, vocab_size=64, decoder_start_token_id=0
    )
    d = h // r
    for method, count in (("adapters", adapters_count), ("adapters_dagger", adapters_dagger_count)):
        assert count(layers, h, d, tasks) == real_count(method, config, tasks, reduction_factor=r)
    options = {"reduction_factor": r, "task_embedding_dim": t}
    assert hyperformer_pp_count(layers, h, d, t, tasks) == real_count(HYPER_PP, config, tasks, **options)


def test_a_transfer_goes_on_from_a_run_of_table_1_and_the_task_most_like_its_own() -> None:
    trained = {str(cell.directory.resolve()): cell.config for cell in plan("table-1", "small").cells()}
    starting = [cell.config for cell in plan("table-2", "small").cells() if cell.config.start is not None]
    assert len(starting) == 7 * 2 * 4 * 3  # tasks, sizes, variants, seeds
    init_from = {}
    for run in starting:
        assert run.start is not None
        assert run.method["name"] == trained[run.start.run].method["name"]
        assert run.data.subsample_seed is None
        assert init_from.setdefault(run.data.tasks[0], run.start.init_from) == run.start.init_from
    assert init_from == {
        **dict.fromkeys(("scitail-halved", "transfer-cb", "trec"), ("mnli",)),
        **dict.fromkeys(("imdb", "yelp_polarity"), ("sst2",)),
        "transfer-boolq": ("qnli",),
        "paws-halved": ("qqp",),
    }


def test_a_task_embedding_that_is_trained_alone_can_move_as_far_as_tasks_are_apart() -> None:
    """Adam moves a number by its learning rate a step at most; those of two tasks are about 1 apart."""
    alone = [
        cell.config
        for name in ("table-2", "leave-one-out")
        for cell in plan(name, "small").cells()
        if cell.config.method.get("train_task_embeddings_only")
    ]
    assert len(alone) == 7 * 2 * 3 + 3
    assert min(run.training.learning_rate * run.training.max_steps / 2 for run in alone) > 1


def test_experiments_with_runs_in_common_ask_for_the_same_ones() -> None:
    for scale in ("paper", "small", "smoke"):
        runs: dict[Path, object] = {}
        shared = 0
        for name in EXPERIMENTS:
            for cell in plan(name, scale).cells():
                shared += cell.directory in runs
                assert runs.setdefault(cell.directory, cell.config) == cell.config
        assert shared > 0


def test_an_override_is_of_all_runs() -> None:
    for cell in plan("table-2", "small", data_dir="copy", overrides=["training.warmup_steps=7"]).cells():
        assert cell.config.training.warmup_steps == 7
        assert cell.config.data.data_dir == str(Path("copy").resolve())


def test_runs_with_overrides_have_a_folder_of_their_own() -> None:
    plain = {cell.directory for cell in plan("table-3", "smoke").cells()}
    other = plan("table-3", "smoke", overrides=["training.batch_size=2", "data.tasks=[cola, rte]"])
    assert not plain & {cell.directory for cell in other.cells()}
    assert other.folder.parent.name == "smoke-data.tasks=_cola_rte_-training.batch_size=2"
    assert plain == {
        cell.directory for cell in plan("table-3", "smoke", overrides=["training.threads=1"]).cells()
    }


def test_balanced_draws_are_of_the_runs_on_few_rows_and_kept_apart_from_others() -> None:
    plain = {cell.directory for cell in plan("table-2", "small").cells()}
    for cell in plan("table-2", "small", overrides=["data.balanced=true"]).cells():
        few = cell.config.start is not None
        assert cell.config.data.balanced == few
        assert (cell.directory not in plain) == few


def test_the_protocol_of_the_paper() -> None:
    steps = {
        name: {cell.config.training.max_steps for cell in plan(name, "paper").cells()} for name in EXPERIMENTS
    }
    whole = 2**18
    assert {name: of for name, of in steps.items() if name.startswith("hyperformer/")} == {
        **{f"hyperformer/table-{number}": {whole} for number in (1, 3, 4, 7)},
        **{f"hyperformer/{name}": {whole, 5000} for name in ("table-2", "figure-3", "leave-one-out")},
        "hyperformer/figure-2": {15_000},
        "hyperformer/tables-5-6": {1000},
        "hyperformer/parameters": set(),
    }
    for name, of in steps.items():
        if name.startswith("hypergrid/"):  # 100,000 for base models, 200,000 for larger ones (section 7.2)
            assert of <= {100_000, 200_000}
    assert steps["hyperdecoders/table-1"] == {65_536}
    assert steps["hyperdecoders/tables-6-16"] == {100_000}
    methods = {
        name: {cell.config.method["name"] for cell in plan(name, "paper").cells()}
        for name in ("table-3", "table-4", "figure-2")
    }
    assert methods == {
        "table-3": {"adapters_dagger", "hyperformer"},
        "table-4": {"hyperformer"},
        "figure-2": {"full_fine_tuning", "adapters_dagger", "hyperformer++"},
    }


def test_a_task_of_few_rows_is_asked_for_no_more() -> None:
    assert Target("CB", "mnli", rows=250).sizes((4, 100, 500, 2000)) == (4, 100, 250)
    assert Target("SciTail", "mnli").sizes((4, 500)) == (4, 500)


def test_the_nearest_task_is_that_towards_which_a_new_one_has_moved() -> None:
    trained = torch.tensor([[9.0, 1.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    mean = trained.mean(0)
    towards_the_third = mean + 0.1 * (trained[2] - mean)
    table = nearest_tasks(list("abcn"), torch.cat([trained, towards_the_third[None]]), 3, {"n": "a"})
    assert table[3]["nearest trained tasks, cosine"].startswith("c 1.00, ")
    assert table[3]["from their mean"] == f"{0.1 * (trained[2] - mean).norm().item():.2f}"
    assert table[3]["from where it began"] == f"{(towards_the_third - trained[0]).norm().item():.2f} (a)"
    assert table[0]["from where it began"] == ""
    assert not any(f"{row['task']} " in row["nearest trained tasks, cosine"] for row in table)


def test_timed_runs_are_set_beside_full_fine_tuning_of_their_own_round(tmp_path: Path) -> None:
    planned = plan("tables-5-6", "smoke", tmp_path)
    planned = replace(planned, scale=replace(planned.scale, few_seeds=(1, 2)))
    cells = planned.cells()
    assert [cell.seed for cell in cells] == [1] * 4 + [2] * 4
    assert cells[0].variant != cells[4].variant  # each round begins with another
    for cell in cells:
        of_t5 = cell.variant == "full_fine_tuning"
        seconds = cell.seed * (1.0 if of_t5 else 0.5)
        memory = {"loaded_memory_mb": 100, "peak_memory_mb": 500 if of_t5 else 200}
        results = {"step_seconds": seconds, **memory, "train_seconds": 1.0}
        cell.directory.mkdir(parents=True)
        (cell.directory / "results.json").write_text(json.dumps(results))
    text = EXPERIMENTS["hyperformer/tables-5-6"].page(planned)
    # Memory in GB; 1,000 steps in minutes, the mean of 8.3 and 16.7.
    assert "| Adapters† | 2 | 0.20 ± 0.0 (5.95) | -60.0 ± 0.0 (-23.32) |" in text
    assert "| Adapters† | 2 | 12.5 ± 5.9 (10.19) | -50.0 ± 0.0 (84.93) |" in text
    assert "| Adapters† − T5 | +4.7 | -12.5 |" in text
    assert "| adapters_dagger | 100.0 ± 0.0 |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table-9"], "experiment 'table-9' is unknown: give its paper, as hyperdecoders/table-9"),
        (
            ["hyperdecoders/tabel-9"],
            "is unknown; did you mean 'hyperdecoders/table-9'? (choices: ",
        ),
        (["hypergrid/table-7"], "experiment 'hypergrid/table-7' is unknown; did you mean 'hypergrid/table-"),
        (["tabel-1", "--list"], "experiment 'tabel-1' is unknown; did you mean 'table-1'?"),
        (["table-1", "--scale", "smal"], "--scale 'smal' is unknown; did you mean 'small'?"),
        ([], "name an experiment; choices: hyperformer/table-1"),
        (["hypergrid/tables-5-6", "--scale", "paper"], "GiB for weights, gradients, optimizer and a batch"),
        (["table-2", "--data-dir", "nowhere"], "there is no folder"),
        (["table-2", "--data-dir", "."], "holds no 'glue'"),
        (
            ["table-2", "--data-dir", "."],
            "config cola; 14 more tasks lack their rows: sst2, stsb, mrpc, qqp, ",
        ),
        (["table-3", "data.balancd=true"], "field 'data.balancd' is unknown; did you mean 'balanced'?"),
        (
            ["table-3", "data.balanced=true"],
            "data.balanced is of runs on few rows; those of hyperformer/table-3 have all",
        ),
        (
            ["table-2", "data.max_train_rows=8"],
            "hyperformer/table-2 sets data.max_train_rows itself, for each of its runs",
        ),
        (["table-1", "training.learning_rate=1e-5"], "table-1 sets training.learning_rate itself, for each"),
        (["table-1", "seed=9"], "seed cannot be overridden: the seeds are the experiment's"),
        (["table-1", "output_dir=x"], "output_dir cannot be overridden: --output-dir decides it"),
        (["table-1", "model.name=tiny-t5"], "model.name cannot be overridden: --base decides it"),
        (["hypergrid"], "'hypergrid' is a paper; `hyperadapt reproduce hypergrid --list`"),
        (
            ["beyond/matched", "--base", "tiny-t5"],
            "beyond/matched has widths that match on tiny-t5; leave --base out",
        ),
        (["table-3", "--scale", "smoke", "--ray", "127.0.0.1:1"], "--ray 127.0.0.1:1: nothing answers there"),
        (["tables-5-6", "--jobs", "2"], "the runs of hyperformer/tables-5-6 are timed"),
        (
            ["table-3", "--scale", "smoke", "--processes", "3"],
            "training.batch_size 4 does not divide by 3 processes times 1 accumulated batches",
        ),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    outcome = hyperadapt("reproduce", *arguments, "--output-dir", tmp_path / "out")
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "out").exists()


def test_the_list_says_what_is_done(tmp_path: Path) -> None:
    first = plan("table-3", "smoke", tmp_path).cells()[0].directory
    first.mkdir(parents=True)
    (first / "results.json").write_text(json.dumps({"train_seconds": 1800.0}))
    done = {of["name"]: (of["runs"], of["finished"]) for of in overview("smoke", tmp_path, None, EXPERIMENTS)}
    assert set(done) == set(EXPERIMENTS)
    assert (done["hyperformer/table-3"], done["hyperformer/table-4"]) == ((2, 1), (6, 0))
    [row] = overview("smoke", tmp_path, None, ["table-3"])
    assert row["hours so far"] == "0.5"
    outcome = hyperadapt("reproduce", "--list", "--scale", "smoke", "--output-dir", tmp_path)
    assert outcome.code == 0
    assert all(name in outcome.out for name in EXPERIMENTS)


def test_the_mean_over_tasks_is_of_those_that_have_every_size(tmp_path: Path) -> None:
    planned = plan("table-2", "smoke", tmp_path)
    runs = {}
    for task, sizes in (("long", (4, 8)), ("short", (4, 6)), ("other", (4, 8))):
        for size in sizes:
            cells = planned.runs(f"{task}-{size}", by_method(planned, HYPER_PP), (1,))
            score = {"average": 10.0 * size + len(task), "tasks": {task: {"score": 1.0}}}
            cells[0].directory.mkdir(parents=True)
            facts = {
                "parameters": {"trained_per_task_percent": 1.0},
                "step_seconds": 1.0,
                "peak_memory_mb": 1,
            }
            results = {"test": score, "validation": score, "majority": {"test": score, "validation": score}}
            (cells[0].directory / "results.json").write_text(
                json.dumps(facts | results | {"train_seconds": 1.0})
            )
            runs[task, size] = cells
    text = by_rows(planned, runs)
    assert "The mean, of each seed's own, is over long, other." in text
    assert "| short | 6 | 65.0 | 65.0 |" in text


@pytest.mark.usefixtures("in_one_process")
def test_a_run_that_failed_leaves_a_page_of_the_others(tmp_path: Path) -> None:
    planned = plan("table-3", "smoke", tmp_path)
    diverging = replace(planned.scale, learning_rates={HYPER: 1e30})
    with pytest.raises(UserError, match=r"1 of 2 runs failed; hyperformer,r=8, seed 1 .*the loss is nan"):
        reproduce(replace(planned, scale=diverging))
    text = (planned.folder / "table-3.md").read_text()
    assert "1 of 2 runs are not finished" in text
    assert re.search(r"\| Adapters† \| base \| 1 \| \d", text)
    assert re.search(r"\| HyperFormer \| base \|  \| - \(", text)


def test_sizes_are_as_printed_and_of_the_base_that_is_given() -> None:
    """Table 4 is of T5-small, whose batch has 64 rows (appendix A); Tables 1, 3 and 7 are of both sizes."""
    small, base = ("google-t5/t5-small", 64), ("google-t5/t5-base", 32)
    for name, given, expected in (
        ("table-4", None, {small}),
        ("table-1", None, {small, base}),
        ("table-7", None, {small, base}),
        ("table-2", None, {base}),
        ("table-4", "mine", {("mine", 32)}),
        ("table-1", "mine", {("mine", 32)}),
    ):
        cells = [cell for cell in plan(name, "paper", base=given).cells() if cell.config.start is None]
        assert {(cell.config.model.name, cell.config.training.batch_size) for cell in cells} == expected
    # At other scales Table 4's are runs of Table 1, trained once for both.
    ours = {cell.directory for cell in plan("table-4", "small").cells()}
    assert ours & {cell.directory for cell in plan("table-1", "small").cells()}
