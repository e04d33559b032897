"""Every method on every family: it starts where it says, rows are their own, and what is saved is what was trained.

The families without an encoder are in test_decoder_only.py, T5 is all over the other tests.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, GPTNeoXConfig, GPTNeoXForCausalLM

import hyperadapt as ha
import hyperadapt.forms
import hyperadapt.model.heads
import hyperadapt.sites
from families import ENCODER, ENCODER_DECODER, ENCODER_ONLY, FAMILIES, tiny_base
from hyperadapt import backbones
from hyperadapt.backbones.base import Backbone, NormKind, Stack, around
from hyperadapt.errors import UserError
from hyperadapt.methods import Method
from tiny import (
    FURTHER,
    METHODS,
    NARROW,
    TASKS,
    assert_checkpointing_changes_no_gradient,
    name_of,
    redraw,
    relative_error,
    tiny_batch,
)
from tiny import row as row_of

LABELS = {"alpha": 2, "beta": 1, "gamma": 3}
WITHOUT_DECODER = tuple(
    method for method in METHODS if method.name != "hyperdecoder" and not getattr(method, "frozen", False)
)
NEW = 4


def cases(families: dict[str, Any], methods: tuple[Method, ...]) -> Any:
    found = [
        pytest.param(
            family,
            method,
            id=f"{family}-{name_of(method)}",
            marks=[pytest.mark.slow] if method.name in FURTHER else [],
        )
        for family in families
        for method in methods
    ]
    return pytest.mark.parametrize(("family", "method"), found)


def adapted(family: str, method: Method, redrawn: bool = True) -> Any:
    labels = {"num_labels": LABELS} if family in ENCODER_ONLY else {}
    model = ha.adapt(tiny_base(family), method, TASKS, **labels)
    return redraw(model, std=0.1) if redrawn else model


def batch_of(family: str, method: Method) -> dict[str, Tensor]:
    batch = tiny_batch(4)
    if family in ENCODER_ONLY:
        return {**batch, "task_ids": torch.tensor([0, 2, 1, 2]), "labels": torch.tensor([1.0, 2.0, 3.5, 0.0])}
    return (
        batch if method.task_conditioned else {name: of for name, of in batch.items() if name != "task_ids"}
    )


def alone(batch: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """A row of a batch, without its padding."""
    one = row_of(batch, index)
    size = int(one["attention_mask"].sum())
    return {**one, **{name: one[name][:, :size] for name in ("input_ids", "attention_mask")}}


@cases(ENCODER_DECODER, METHODS)
@torch.no_grad()
def test_an_encoder_decoders_rows_of_mixed_tasks_equal_themselves_alone(family: str, method: Method) -> None:
    model, batch = adapted(family, method), batch_of(family, method)
    del batch["labels"]
    target = torch.randint(3, 96, (4, NEW), generator=torch.Generator().manual_seed(3))
    options: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    logits = model(**batch, decoder_input_ids=target).logits
    found = model.generate(**batch, **options, return_dict_in_generate=True, output_logits=True)
    beams = model.generate(**batch, **options, num_beams=2, num_return_sequences=2)
    for index in range(4):
        one = alone(batch, index)
        assert (
            model(**one, decoder_input_ids=target[index : index + 1]).logits - logits[index]
        ).abs().max() < 1e-4
        assert torch.equal(model.generate(**one, **options)[0], found.sequences[index])
        of_row = model.generate(**one, **options, num_beams=2, num_return_sequences=2)
        assert torch.equal(of_row, beams[2 * index : 2 * index + 2])
    forced = model(**batch, decoder_input_ids=found.sequences[:, :-1]).logits
    assert (forced - torch.stack(found.logits, 1)).abs().max() < 1e-4


@cases(ENCODER_ONLY, WITHOUT_DECODER)
@torch.no_grad()
def test_an_encoders_rows_of_mixed_tasks_equal_themselves_alone_and_their_losses(
    family: str, method: Method
) -> None:
    model, batch = adapted(family, method), batch_of(family, method)
    outputs = model(**batch)
    assert outputs.logits.shape == (4, 3)
    losses = []
    for index, (task, label) in enumerate(zip([0, 2, 1, 2], [1, 2, 3.5, 0], strict=True)):
        row, number = model(**alone(batch, index)).logits[0], LABELS[TASKS[task]]
        assert (row - outputs.logits[index])[:number].abs().max() < 1e-5
        assert (outputs.logits[index, number:] == torch.finfo(torch.float32).min).all()
        score = (row[0] - label).square()
        losses.append(score if number == 1 else -row[:number].log_softmax(0)[int(label)])
    assert abs(outputs.loss - torch.stack(losses).mean()) < 1e-5


@cases({**ENCODER_DECODER, **ENCODER_ONLY}, WITHOUT_DECODER)
def test_gradients_are_the_same_with_checkpointing_and_models_are_saved_and_loaded(
    family: str, method: Method, tmp_path: Path
) -> None:
    model, batch = adapted(family, method), batch_of(family, method)
    assert_checkpointing_changes_no_gradient(model, batch)
    with torch.no_grad():
        expected = model.eval()(**batch).logits
        model.save_pretrained(tmp_path)
        assert torch.equal(ha.load(tmp_path, base_model=tiny_base(family))(**batch).logits, expected)


IDENTITIES = (
    METHODS[0],
    METHODS[8],
    *METHODS[11:14],
    ha.HyperGrid(fan_in=4, fan_out=8, pretrained_start=True),
)
NEARLY = (ha.SingleAdapter(**NARROW),)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_methods_that_say_so_start_as_the_base_model(family: str) -> None:
    base, batch = tiny_base(family), batch_of(family, METHODS[4])
    del batch["labels"]
    inputs = {name: of for name, of in batch.items() if name != "task_ids"}
    if family in ENCODER_DECODER:
        inputs["decoder_input_ids"] = batch["decoder_input_ids"] = batch["input_ids"][:, :4]
    expected = base(**inputs)[0]
    for methods, bound in ((IDENTITIES, 1e-5), (NEARLY, 1e-3)):
        for method in methods:
            model = adapted(family, method, redrawn=False)
            if family in ENCODER_ONLY:
                # The heads read the same states: so their logits are those of the base model's.
                state = ha.model.heads.mean_state(expected, batch["attention_mask"])
                heads = model.hyperadapt.heads
                logits = torch.einsum("btd,bd->bt", heads.weight[batch["task_ids"]], state)
                found, there = model(**batch).logits, heads.is_there[batch["task_ids"]]
                assert ((found - logits)[there]).abs().max() < bound, method
                continue
            given = batch if method.task_conditioned else inputs
            assert (model(**given)[0] - expected).abs().max() < bound, method


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_bfloat16_and_threads_give_the_same(family: str) -> None:
    model, batch = adapted(family, METHODS[4]), batch_of(family, METHODS[4])
    del batch["labels"]
    if family in ENCODER_DECODER:
        batch["decoder_input_ids"] = batch["input_ids"][:, :4]
    expected = model(**batch).logits
    with ThreadPoolExecutor(2) as pool:
        others = [{**batch, "task_ids": batch["task_ids"].flip(0)}, batch] * 3
        found = list(pool.map(torch.no_grad()(lambda given: model(**given).logits), others))
    assert all(torch.equal(of, expected) for of in found[1::2])
    assert not torch.equal(found[0], expected)
    there = expected > torch.finfo(torch.float32).min
    narrow = model.to(torch.bfloat16)(**batch).logits.float()
    assert relative_error(narrow[there], expected[there]) < 0.1


@cases(FAMILIES, (METHODS[2], METHODS[7], METHODS[9]))
@torch.no_grad()
def test_bfloat16_is_near_float32_with_tables_hypernetworks_and_gates(family: str, method: Method) -> None:
    model, batch = adapted(family, method), batch_of(family, method)
    del batch["labels"]
    if family in ENCODER_DECODER:
        batch["decoder_input_ids"] = batch["input_ids"][:, :4]
    expected = model(**batch).logits
    found = model.to(torch.bfloat16)(**batch).logits
    there = expected > torch.finfo(torch.float32).min
    assert relative_error(found.float()[there], expected[there]) < 0.06


# One of each architecture, and those whose code is further from these: others are shaped alike.
COMPILED = ("llama", "bert")


@pytest.mark.parametrize(
    "family",
    [name if name in COMPILED else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
@torch.no_grad()
def test_a_compiled_forward_is_one_graph_and_gives_the_same(family: str) -> None:
    model, batch = adapted(family, METHODS[4]), batch_of(family, METHODS[4])
    del batch["labels"]
    if family in ENCODER_DECODER:
        batch["decoder_input_ids"] = batch["input_ids"][:, :4]
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)(**batch).logits
    assert (compiled - model(**batch).logits).abs().max() < 1e-4


def test_what_is_wrong_with_heads_is_one_line() -> None:
    method = METHODS[4]
    for given, message in (
        (None, "num_labels: that of task 'alpha' is missing"),
        ({"alpha": 2, "gamma": 3}, "num_labels: that of task 'beta' is missing"),
        ({"alpha": 2, "gamma": 3, "bets": 2}, "'beta' is missing; .* did you mean it by 'bets'"),
        ({**LABELS, "delta": 2}, "num_labels: there is no task 'delta'; did you mean 'beta'"),
        ({**LABELS, "beta": 0}, "num_labels: task 'beta' must have at least 1 label, not 0"),
        (3, "num_labels must name every task"),
    ):
        with pytest.raises(UserError, match=message):
            ha.adapt(tiny_base("bert"), method, TASKS, num_labels=given)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="num_labels are for models that are an encoder alone; BART writes"):
        ha.adapt(tiny_base("bart"), method, TASKS, num_labels=LABELS)
    with pytest.raises(UserError, match="a BertForMaskedLM has no encoder; load the model with AutoModel"):
        ha.adapt(BertForMaskedLM(BertConfig(**ENCODER)), method, TASKS, num_labels=LABELS)
    with pytest.raises(UserError, match="pooling 'max' is unknown"):
        ha.adapt(tiny_base("bert"), method, TASKS, num_labels=LABELS, pooling="max")  # type: ignore[arg-type]
    model, batch = adapted("bert", method), batch_of("bert", method)
    with pytest.raises(
        UserError,
        match="labels out of range: 2 of row 0 for task 'alpha', whose head has 2 labels, whole numbers",
    ):
        model(**{**batch, "labels": torch.tensor([2.0, 2.0, 3.5, 0.0])})
    with pytest.raises(UserError, match="task_ids are missing"):
        model(input_ids=batch["input_ids"])
    with pytest.raises(
        UserError, match="hyperdecoder: decoder: BERT has no decoder whose adapters could be generated"
    ):
        ha.adapt(tiny_base("bert"), ha.Hyperdecoder(**NARROW), TASKS, num_labels=LABELS)


@torch.no_grad()
def test_labels_are_whole_numbers_a_row_each_or_none() -> None:
    model, batch = adapted("bert", METHODS[4]), batch_of("bert", METHODS[4])
    labels = batch.pop("labels")
    losses = [
        model(
            **{name: value[row : row + 1] for name, value in batch.items()}, labels=labels[row : row + 1]
        ).loss
        for row in range(len(labels))
    ]
    some = labels.clone()
    some[1] = -100
    rest = torch.stack([loss for row, loss in enumerate(losses) if row != 1]).mean()
    assert (model(**batch, labels=some).loss - rest).abs() < 1e-5
    with pytest.raises(UserError, match=r"labels must have shape \(\d+,\), one number a row, not \(\d+, 1\)"):
        model(**batch, labels=labels.unsqueeze(1))
    with pytest.raises(UserError, match=r"labels must have shape"):
        model(**batch, labels=labels[:1])
    is_class = batch["task_ids"] == 0
    with pytest.raises(UserError, match=r"labels out of range: 0\.5 of row \d for task 'alpha'"):
        model(**batch, labels=torch.where(is_class, 0.5, labels.float()))
    with pytest.raises(UserError, match="an encoder alone writes no texts"):
        model.generate(**batch)


def test_a_model_of_one_task_needs_no_ids() -> None:
    for family in ("bert", "llama", "bart"):
        labels = {"only": 2} if family == "bert" else None
        model = redraw(ha.adapt(tiny_base(family), METHODS[4], ["only"], num_labels=labels))
        ids = torch.arange(3, 15).view(2, 6)
        inputs = {"input_ids": ids, **({"decoder_input_ids": ids[:, :3]} if family == "bart" else {})}
        with torch.no_grad():
            told = model(**inputs, task_ids=torch.zeros(2, dtype=torch.long)).logits
            assert torch.equal(model(**inputs).logits, told)
            if family != "bert":
                assert torch.equal(
                    model.generate(ids), model.generate(ids, task_ids=torch.zeros(2, dtype=torch.long))
                )


def test_a_task_that_is_added_has_a_head_and_those_that_are_kept_keep_theirs(tmp_path: Path) -> None:
    method = METHODS[4]
    model, batch = adapted("bert", method), batch_of("bert", method)
    before = model(**batch).logits
    with pytest.raises(UserError, match="num_labels: that of task 'delta' is missing"):
        model.add_task("delta")
    model.add_task("delta", init_from="alpha", num_labels=2)
    model.add_task("wide", num_labels=5)
    assert torch.equal(model(**batch).logits[:, :3], before)
    assert torch.equal(
        model(**{**batch, "task_ids": torch.full((4,), 3), "labels": None}).logits[0, :2], before[0, :2]
    )
    model.keep_tasks(["wide", "gamma"])
    kept = model(**{**batch, "task_ids": torch.ones(4, dtype=torch.long), "labels": None}).logits
    assert (kept[1, :3] - before[1]).abs().max() < 1e-6
    model.save_pretrained(tmp_path)
    loaded = ha.load(tmp_path, base_model=tiny_base("bert"))
    assert torch.equal(
        loaded(**{**batch, "task_ids": torch.ones(4, dtype=torch.long), "labels": None}).logits, kept
    )


def test_heads_have_a_learning_rate_of_their_own() -> None:
    model = ha.adapt(tiny_base("bert"), METHODS[4], TASKS, num_labels=LABELS, head_learning_rate=0.5)
    heads = model.hyperadapt.heads
    assert model.hyperadapt.learning_rates() == [(heads.weight, 0.5), (heads.bias, 0.5)]


def test_a_model_that_could_not_be_adapted_has_its_pooler_still(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("bert")

    def fail(*_: Any) -> None:
        raise UserError("at the last step")

    monkeypatch.setattr("hyperadapt.model.adapt.insert", fail)
    with pytest.raises(UserError, match="at the last step"):
        ha.adapt(base, METHODS[4], TASKS, num_labels=LABELS)
    assert isinstance(base.pooler, torch.nn.Module)
    assert type(base) is type(tiny_base("bert"))


NEOX = Backbone(
    name="GPT-NeoX",
    architecture="decoder_only",
    model_types=("gpt_neox",),
    stacks={
        "decoder": Stack(
            path="gpt_neox",
            blocks="layers",
            places={
                "feed_forward": "mlp",
                "self_attention": "attention",
                "feed_forward.output": "mlp.dense_4h_to_h",
                "self_attention.qkv": "attention.query_key_value",
                "self_attention.o": "attention.dense",
            },
            taps=around("post_attention_layernorm"),
            norms={"self_attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"},
            outer_norms={"final_norm": "final_layer_norm"},
        )
    },
    norm=NormKind.LAYER,
    norm_eps="layer_norm_eps",
)


@torch.no_grad()
def test_a_family_is_added_by_a_table_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it takes is above: methods run on it then, and generate, each row as it does alone."""
    fields = {**ENCODER, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1}
    with pytest.raises(
        UserError, match=r"no backbone for model type 'gpt_neox'; .* a new one is a table of names"
    ):
        ha.adapt(GPTNeoXForCausalLM(GPTNeoXConfig(**fields)), METHODS[4], TASKS)
    monkeypatch.setattr(backbones, "BACKBONES", (*backbones.BACKBONES, NEOX))
    batch = tiny_batch(4)
    del batch["labels"]
    batch = {name: of.flip(1) if of.dim() == 2 else of for name, of in batch.items()}  # padding on the left
    for method in (*METHODS[:5], *METHODS[6:11]):
        model = redraw(ha.adapt(GPTNeoXForCausalLM(GPTNeoXConfig(**fields)).eval(), method, TASKS))
        given = (
            batch
            if method.task_conditioned
            else {name: of for name, of in batch.items() if name != "task_ids"}
        )
        found = model.generate(**given, max_new_tokens=3, min_new_tokens=3, do_sample=False)
        for row in range(len(found)):
            one = {name: value[row : row + 1] for name, value in given.items()}
            assert torch.equal(
                model.generate(**one, max_new_tokens=3, min_new_tokens=3, do_sample=False)[0], found[row]
            )


class Shift(Method):
    """Add to every sub-layer's output a vector that is generated from an embedding of the task."""

    name = "shift"

    def build(self, host: Any) -> Any:
        from hyperadapt.adaptation import Adaptation, SiteGroup
        from hyperadapt.conditioning import TaskEmbedding
        from hyperadapt.generators import SharedHypernet

        backbone, model, tasks, _ = host
        conditioning, form, groups = TaskEmbedding(tasks, 8), AddVector(), {}
        for stack in backbone.stacks:
            sites = backbone.sites(model, stack, ("feed_forward", "self_attention"))
            options: dict[str, Any] = {"n_layers": len(sites) // 2, "n_positions": 2, "head": "site"}
            hypernet = SharedHypernet(weights=form.weights(sites[0]), d_task=8, **options)
            groups[stack] = [SiteGroup(sites, form, [hypernet])]
        return Adaptation(conditioning, groups)


class AddVector(ha.forms.Form):
    """y + v, v (d_out,)."""

    def weights(self, site: Any) -> Any:
        return {"vector": ha.sites.Weight((site.d_out,), std=0.01)}

    def apply(self, call: Any, weights: dict[str, Tensor]) -> Tensor:
        vector = weights["vector"].unsqueeze(1)
        y = call.taps[ha.sites.Tap.OUTPUT]
        return (y.view(len(vector), -1, y.shape[-1]) + vector).view_as(y)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_method_is_added_by_a_class_and_a_form(family: str) -> None:
    """All that it takes is above: it runs on every family then, in mixed batches."""
    model, batch = adapted(family, Shift()), batch_of(family, Shift())
    del batch["labels"]
    if family in ENCODER_DECODER:
        batch["decoder_input_ids"] = batch["input_ids"][:, :4]
    logits = model(**batch).logits
    other = model(**{**batch, "task_ids": torch.tensor([0, 0, 1, 2])}).logits
    assert torch.allclose(other[0], logits[0], atol=1e-5)
    assert not torch.allclose(other[1], logits[1], atol=1e-3)
