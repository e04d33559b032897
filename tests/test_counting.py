"""Counts against formulas written out by hand, and against what the paper prints."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import pytest
import torch
from transformers import T5Config

import hyperadapt as ha
from hyperadapt.counting import (
    ParameterCount,
    count_without_weights,
    hyperdecoders_table,
    hyperformer_table,
    hypergrid_table,
    model_config,
    section_4_1_table,
)
from hyperadapt.errors import UserError
from hyperadapt.methods import Method
from hyperadapt.methods.lora import LowRankMethod
from tiny import METHODS, SMALL, TASKS, TINY, every_method, tiny_adapted, tiny_t5

SIZES = {"t5-small": (60_506_624, 512, 6), "t5-base": (222_903_552, 768, 12)}


def test_given_features_are_counted_by_their_length(tmp_path: Path) -> None:
    (tmp_path / "z.json").write_text('{"task0": [1, 2, 3], "task1": [4, 5, 6]}')
    config = T5Config(**TINY)
    given = ha.HyperFormer(reduction_factor=4, task_features=str(tmp_path / "z.json"))
    learnt = ha.HyperFormer(reduction_factor=4, task_feature_dim=3)
    counts = [count_without_weights(config, method, 2) for method in (given, learnt)]
    assert counts[0].total == counts[1].total
    assert counts[0].trained == counts[1].trained - 2 * 3


def formula(method: Method, d: int, layers: int, tasks: int, base: int) -> int:
    """What a method trains, written out: L blocks a stack, two adapters a block, b = d // r."""
    norms = (
        2 * layers + 1 + 3 * layers + 1
    ) * d  # the base model's own, two a block, three with cross-attention
    if isinstance(method, ha.FullFineTuning):
        return base
    if isinstance(method, ha.Hyperdecoder):
        return sum(parallel_adapters(method, stack, d, layers, tasks) for stack in ("encoder", "decoder"))
    if isinstance(
        method, ha.Polytropon
    ):  # eight maps a layer pair in the decoder, four in the encoder, all d x d here
        return 12 * layers * (method.n_skills * 2 * method.r * d + tasks * method.n_skills)
    if isinstance(method, ha.OutputGate | ha.HyperGrid):
        n, d_ff = TINY["vocab_size"], TINY["d_ff"]
        if isinstance(method, ha.OutputGate):
            gates = method.n * d
        else:
            gates = method.fan_in * d + {"L2": d_ff * method.fan_out, "LG": method.fan_out}[method.variant]
        return 2 * layers * gates + (0 if method.frozen else base - n * d)
    if isinstance(method, LowRankMethod):  # queries and values, two maps a block, four with cross-attention
        one = 6 * layers * 2 * method.r * d
        if not isinstance(method, ha.HyperLoRA):
            return one if isinstance(method, ha.SharedLoRA) else tasks * one
        z, e, t = method.task_feature_dim, method.projector_hidden_dim, method.task_embedding_dim
        projectors = 2 * (3 * z * e + e + e * t + t + 2 * t) + (2 * layers + 2 + 4) * z
        return tasks * z + projectors + one + 2 * t * 2 * method.r * d
    assert isinstance(method, ha.Adapters | ha.AdaptersDagger | ha.HyperFormer)
    b = d // method.reduction_factor
    block, norm, sites = 2 * d * b + d + b, 2 * d, 4 * layers
    if isinstance(method, ha.Adapters):
        return tasks * (sites * (block + norm) + norms)
    if isinstance(method, ha.AdaptersDagger):
        return sites * (tasks * block + norm) + norms
    z, e, t = method.task_feature_dim, method.projector_hidden_dim, method.task_embedding_dim
    head = (t + 1) * (block + norm)
    if not isinstance(method, ha.HyperFormerPlusPlus):
        return tasks * z + (z * e + e + e * t + t) + sites * head + norms
    projector = 3 * z * e + e + e * t + t
    return tasks * z + 2 * (layers * z + 2 * z + projector + 2 * t + head) + norms


def parallel_adapters(method: ha.Hyperdecoder, stack: str, d: int, layers: int, tasks: int) -> int:
    """What a stack's adapters in parallel to the feed-forward blocks add."""
    kind, b = getattr(method, stack), getattr(method, f"{stack}_bottleneck_dim")
    site, hidden = 2 * d * b + d + b, method.hypernetwork_bottleneck
    hypernetwork = 10 * layers + (d + 10 + 1) * hidden + (hidden + 1) * site
    draft = layers * site if stack == "encoder" else 0
    return {
        "none": 0,
        "manual": layers * site,
        "manual_specific": tasks * layers * site,
        "task": tasks * d + hypernetwork,
        "generated": 2 * (d * d + d) + hypernetwork + draft,
    }[kind]


@every_method
@pytest.mark.parametrize("tasks", [1, 3])
def test_a_tiny_models_count_is_the_formulas(method: Method, tasks: int) -> None:
    model = tiny_adapted(method, TASKS[:tasks])
    counted = ha.count_parameters(model)
    base = sum(parameter.numel() for parameter in tiny_t5().parameters())
    assert counted.base == base
    assert counted.tasks == tasks
    assert counted.trained == formula(method, 32, 2, tasks, base)
    assert counted.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert counted.total == base + sum(p.numel() for p in model.hyperadapt.parameters())
    assert count_without_weights(T5Config(**TINY), method, tasks) == counted


def test_ratios_are_multiples_of_the_base_model() -> None:
    counted = ParameterCount(base=200, total=250, trained=80, tasks=4)
    assert counted.trained_per_task == 20
    assert counted.total_ratio == 1.25
    assert counted.trained_per_task_percent == 10
    assert counted.as_dict() == {
        "base": 200,
        "total": 250,
        "trained": 80,
        "tasks": 4,
        "trained_per_task": 20,
        "total_ratio": 1.25,
        "trained_per_task_percent": 10,
    }


# Tables 1 and 3 of the paper: trained parameters per task in percent of the base model, 8 tasks, reduction factor 32
# but where named.
PRINTED: list[tuple[Method, int, float, float]] = [
    (ha.FullFineTuning(), 1, 100.0, 100.0),
    (ha.FullFineTuning(), 8, 12.5, 12.5),
    (ha.Adapters(), 1, 0.74, 0.87),
    (ha.AdaptersDagger(), 8, 0.68, 0.82),
    (ha.HyperFormer(), 8, 5.80, 6.86),
    (ha.HyperFormerPlusPlus(), 8, 0.50, 0.29),
    (ha.AdaptersDagger(reduction_factor=2), 8, 10.44, 12.73),
]


@pytest.mark.parametrize(
    ("method", "tasks", "small", "base"),
    PRINTED,
    ids=[f"{line[0].name}-{line[1]}-{line[2]}" for line in PRINTED],
)
def test_trained_parameters_per_task_are_the_papers_to_the_printed_digit(
    method: Method, tasks: int, small: float, base: float
) -> None:
    for name, printed in (("t5-small", small), ("t5-base", base)):
        counted = count_without_weights(model_config(f"google-t5/{name}"), method, tasks)
        total, d, layers = SIZES[name]
        assert counted.base == total
        assert counted.trained == formula(method, d, layers, tasks, total)
        assert round(counted.trained_per_task_percent, 2) == printed


def test_a_model_for_each_task_holds_the_frozen_base_once() -> None:
    rows = hyperformer_table()
    single = {(row["method"], row["tasks a model"]): row for row in rows if row["model"] == "t5-base"}
    assert single["full_fine_tuning", 1]["#total (x), ours"] == "8.0000"
    assert single["full_fine_tuning", 8]["#total (x), ours"] == "1.0000"
    added = (
        4 * 12 * (2 * 768 * 24 + 3 * 768 + 24) + (5 * 12 + 2) * 768
    )  # adapters with their norms, and T5's norms
    assert (
        single["adapters", 1]["#total (x), ours"] == f"{1 + 8 * added / 222_903_552:.4f}"
    )  # printed as 1+8x0.01


def test_hypergrids_costs_are_the_papers() -> None:
    rows = hypergrid_table()
    assert len(rows) == 14
    for row in rows:
        assert row["per layer, paper"].endswith(f" = {row['per layer, ours']:,.0f}")
    assert rows[2]["per layer, ours"] == 768 * 32 + 3072 * 128


def test_the_runs_of_the_hyperdecoders_paper_are_counted_as_by_hand() -> None:
    rows = {(row["table"], row["row"]): row for row in hyperdecoders_table()}

    def adapter(d_model: int, width: int) -> int:
        return 2 * d_model * width + width + d_model

    def hypernet(d_model: int, layers: int, width: int, hidden: int) -> int:
        return (d_model + 10) * hidden + hidden + (hidden + 1) * adapter(d_model, width) + 10 * layers

    def tasks(d_model: int, layers: int, width: int, hidden: int, number: int) -> int:
        return 2 * (hypernet(d_model, layers, width, hidden) + number * d_model)

    def mlp(d_model: int) -> int:
        return 2 * (d_model * d_model + d_model)

    def low_rank(d_model: int, heads: int, maps: int, rank: int, skills: int, number: int) -> int:
        return maps * (skills * rank * (d_model + heads) + number * skills)

    large, base = (1024, 24), (768, 12)  # d_model and layers of a stack of T5 v1.1
    sizes = {"t5-large-lm-adapt": 783_150_080, "t5-base-lm-adapt": 247_577_856, "t5-base": 222_903_552}
    hyperdecoder = 12 * adapter(768, 64) + hypernet(*base, 64, 128) + mlp(768)
    heavy = 12 * adapter(768, 512) + hypernet(*base, 36, 72) + mlp(768)
    for (table, name), expected in {
        ("1", "Full Finetuning"): 783_150_080,
        ("1", "Task Hypernet"): tasks(*large, 50, 100, 8),
        # Four maps an attention block; the encoder's layers have one, the decoder's two. 16 heads of 64 are as wide.
        ("1", "Modular Hypernet"): low_rank(1024, 1024, 4 * 24 * 3, 16, 4, 8),
        ("1", "Adapter"): 2 * 24 * adapter(1024, 230),
        ("1", "Hyperdecoder (ours)"): 24 * adapter(1024, 64) + hypernet(*large, 64, 128) + mlp(1024),
        ("2", "Hyperdecoder (ours)"): 24 * adapter(1024, 512) + hypernet(*large, 36, 72) + mlp(1024),
        ("3", "Hyperdecoder (ours)"): hyperdecoder,
        ("13", "Manual-Task"): 24 * adapter(1024, 50) + tasks(*large, 50, 100, 8) // 2,
        ("13", "Task-Generated"): tasks(*large, 50, 100, 8) // 2 + hypernet(*large, 50, 100) + mlp(1024),
        # A generated encoder runs first with learnt adapters.
        ("13", "Generated-Generated"): 24 * adapter(1024, 64) + 2 * (hypernet(*large, 64, 100) + mlp(1024)),
        ("13", "Manual-Generated, no MLP"): 24 * adapter(1024, 64) + hypernet(*large, 64, 128),
        ("14", "Hyperdecoder (ours), 64, 64, 128"): hyperdecoder,
        ("14", "Hyperdecoder (ours), 512, 36, 72"): heavy,
        ("14", "Hyperdecoder (ours), 800, 2, 16"): 12 * adapter(768, 800) + hypernet(*base, 2, 16) + mlp(768),
        ("14", "Adapter, 370, 370"): 2 * 12 * adapter(768, 370),
        ("14", "Adapter, 512, 225"): 12 * (adapter(768, 512) + adapter(768, 225)),
        ("14", "Adapter, 800, 2"): 12 * (adapter(768, 800) + adapter(768, 2)),
        ("16", "Hyperdecoder (ours) (enc-heavy)"): heavy,
        ("16", "Task Hypernet"): tasks(*base, 64, 128, 6),
    }.items():
        row = rows[table, name]
        assert row["trained, ours"] == expected, (table, name)
        assert row["% trained, ours"] == f"{100 * expected / sizes[row['model']]:.2f}"


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda method: method.name)
def test_counting_takes_no_memory_for_weights(method: Method) -> None:
    before = torch.get_rng_state()
    counted = count_without_weights(model_config("t5-11b"), method, 2)
    assert counted.base > 11_000_000_000
    assert torch.equal(torch.get_rng_state(), before)


def test_a_task_added_is_counted() -> None:
    model = tiny_adapted(ha.HyperFormerPlusPlus(reduction_factor=8, **SMALL))
    before = ha.count_parameters(model)
    model.add_task("delta")
    after = ha.count_parameters(model)
    assert (after.tasks, after.trained) == (4, before.trained + 12)
    assert after.base == before.base


def test_what_is_counted_adds_up_by_shape() -> None:
    model = tiny_adapted()
    shapes = [tuple(parameter.shape) for parameter in model.hyperadapt.parameters()]
    assert (
        sum(prod(shape) for shape in shapes)
        == ha.count_parameters(model).total - ha.count_parameters(model).base
    )


def test_a_local_directory_is_itself_and_not_the_published_model_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_t5().save_pretrained(tmp_path / "t5-base")
    monkeypatch.chdir(tmp_path)
    assert model_config("t5-base").d_model == 32
    assert model_config("google-t5/t5-base").d_model == 768
    assert model_config("tiny-t5").d_model == 192


def test_another_owners_model_is_not_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="model 'someone/t5-base' is not a published model known here"):
        model_config("someone/t5-base")


def test_an_unknown_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match="model 'no-such-folder/t6' is not a published model known here"
    ) as error:
        model_config("no-such-folder/t6")
    assert "\n" not in str(error.value)


def test_section_4_1s_formulas_are_the_exact_counts_but_for_what_is_said() -> None:
    sizes = {"t5-small": (512, 16, 6), "t5-base": (768, 24, 12)}
    rows = section_4_1_table()
    assert len(rows) == 12
    for row in rows:
        h, d, L = sizes[row["model"]]  # noqa: N806 - as the paper has it
        T, t, e = 8, 64, 128  # noqa: N806
        named = {"h": h, "d": d, "L": L, "T": T, "t": t, "e": e}

        def value(text: str, named: dict[str, int] = named) -> int:
            """A formula's value: 4TL(2hd + 2h)."""
            spread = re.sub(r"(?<=[0-9A-Za-z)])(?=[A-Za-z(])", "*", text)
            return eval(spread, {}, named)

        printed, why = row["section 4.1"], row["why"].rpartition(": ")[2]
        assert row["value"] == (value(printed) if printed else 0), row
        assert row["ours"] == row["value"] + (value(why) if why else 0), row


def test_text_to_loras_heads_have_the_sizes_that_are_printed_and_ours_those_that_are_built() -> None:
    from hyperadapt.studies import text_to_lora

    config = model_config(text_to_lora.MODEL)
    shapes, layers = [(4096, 4096), (4096, 1024)], config.num_hidden_layers
    for head, millions in text_to_lora.PRINTED.items():
        counted = text_to_lora.text_to_lora(head, shapes, layers, 8).parameters  # type: ignore[arg-type]
        assert round(counted / 1e6) == millions
    for generated in ("B", "both"):
        method = ha.HyperLoRA(generated=generated)
        built = count_without_weights(config, method, text_to_lora.TASKS).trained
        assert text_to_lora.hyperlora(shapes, layers, 8, generated, described=False).parameters == built
