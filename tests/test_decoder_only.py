"""Models without an encoder: every method that has its sites there, conditioned on the task or on the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForSequenceClassification, LlamaModel, Trainer, TrainingArguments

import hyperadapt as ha
from families import DECODER_ONLY as FAMILIES
from families import SHAPE, tiny_base
from hyperadapt.errors import UserError
from hyperadapt.methods import Method
from tiny import METHODS as TINY_METHODS
from tiny import NARROW, SMALL, TASKS, assert_checkpointing_changes_no_gradient, name_of, redraw

METHODS: tuple[Method, ...] = (
    *TINY_METHODS[:5],  # HyperFormer's
    ha.Hyperdecoder(**NARROW),
    ha.Hyperdecoder(encoder="none", **NARROW),
    ha.Hyperdecoder(encoder="task", after_layer_norm=True, **NARROW),
    ha.SingleAdapter(**NARROW),
    ha.TaskHypernet(**NARROW),
    ha.Polytropon(n_skills=4, rank=2, allocation="softmax"),
    ha.HyperGrid(fan_in=4, fan_out=8),
    ha.OutputGate(n=8),
    ha.HyperLoRA(r=4, generated="both", **SMALL),
)
GATES = ("hypergrid", "output_gate")
CASES = [
    pytest.param(family, method, id=f"{family}-{name_of(method)}")
    for family in FAMILIES
    for method in METHODS
]
every_case = pytest.mark.parametrize(("family", "method"), CASES)
PROMPTED = [method for method in METHODS if method.name in (*GATES, "hyperdecoder")]
NEW = 5


def tiny_adapted(family: str, method: Method) -> Any:
    return redraw(ha.adapt(tiny_base(family), method, TASKS))


def batch_of(method: Method) -> dict[str, Tensor]:
    """Prompts of 9, 6, 8 and 9 tokens, padded on the left, of mixed tasks."""
    ids = torch.randint(3, 96, (4, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, :3] = mask[2, :1] = 0
    ids = ids * mask
    tasks = {"task_ids": torch.tensor([0, 2, 1, 2])} if method.task_conditioned else {}
    return {"input_ids": ids, "attention_mask": mask, **tasks}


def row(batch: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """One row, without its padding."""
    begin = int((batch["attention_mask"][index] == 0).sum())
    return {
        name: value[index : index + 1, begin:] if value.dim() == 2 else value[index : index + 1]
        for name, value in batch.items()
    }


def placed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """With positions that do not count the padding, as `generate` makes them."""
    return {**batch, "position_ids": (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)}


def with_targets(batch: dict[str, Tensor], sequences: Tensor) -> dict[str, Tensor]:
    """Prompts and what follows them, with labels on that alone."""
    width = batch["input_ids"].shape[1]
    labels = sequences.clone()
    labels[:, :width] = -100
    mask = torch.cat([batch["attention_mask"], torch.ones_like(sequences[:, width:])], 1)
    return placed({**batch, "input_ids": sequences, "attention_mask": mask, "labels": labels})


def generated(model: Any, batch: dict[str, Tensor], **options: Any) -> Tensor:
    return model.generate(**batch, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, **options)


@every_case
@torch.no_grad()
def test_rows_of_mixed_tasks_equal_themselves_alone_in_a_forward_and_in_generation(
    family: str, method: Method
) -> None:
    model, batch = tiny_adapted(family, method), batch_of(method)
    logits, sequences = model(**placed(batch)).logits, generated(model, batch)
    two: dict[str, Any] = {"num_beams": 2, "num_return_sequences": 2, "return_dict_in_generate": True}
    beams: Any = generated(model, batch, output_scores=True, **two)
    for index in range(4):
        alone = row(batch, index)
        assert (model(**placed(alone)).logits[0, -1] - logits[index, -1]).abs().max() < 1e-5
        assert torch.equal(generated(model, alone)[0, -NEW:], sequences[index, -NEW:])
        found: Any = generated(model, alone, output_scores=True, **two)
        assert torch.equal(found.sequences[0, -NEW:], beams.sequences[2 * index, -NEW:])
        # The second is compared by its score: two may be as likely as each other.
        scores = beams.sequences_scores[2 * index : 2 * index + 2]
        assert (found.sequences_scores - scores).abs().max() < 1e-5


@every_case
@torch.no_grad()
def test_teacher_forced_logits_are_those_of_step_by_step_generation(family: str, method: Method) -> None:
    model, batch = tiny_adapted(family, method), batch_of(method)
    found = model.generate(
        **batch, max_new_tokens=NEW, min_new_tokens=NEW, return_dict_in_generate=True, output_logits=True
    )
    step_by_step = torch.stack(found.logits, 1)
    forced = model(**with_targets(batch, found.sequences)).logits[:, -NEW - 1 : -1]
    assert (forced - step_by_step).abs().max() < 1e-5
    static = generated(model, batch, cache_implementation="static")
    assert torch.equal(static, found.sequences)


@every_case
def test_gradients_reach_all_that_is_trained_and_are_the_same_with_checkpointing(
    family: str, method: Method
) -> None:
    model, batch = tiny_adapted(family, method), batch_of(method)
    targets = with_targets(batch, generated(model, batch))
    assert_checkpointing_changes_no_gradient(model, {**targets, "use_cache": False})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [METHODS[1], METHODS[2], METHODS[4], METHODS[5]], ids=name_of)
def test_a_model_is_saved_and_loaded(family: str, method: Method, tmp_path: Path) -> None:
    model, batch = tiny_adapted(family, method), batch_of(method)
    with torch.no_grad():
        expected = model(**batch).logits
        model.save_pretrained(tmp_path)
        assert torch.equal(ha.load(tmp_path, base_model=tiny_base(family))(**batch).logits, expected)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_tasks_own_norms_begin_as_the_base_models(family: str) -> None:
    """Whatever the formula, with a scale that is added to one, or with a shift. Adapters that give nothing aside."""
    method = ha.Adapters(reduction_factor=8)
    batch = batch_of(method)
    plain = {name: value for name, value in batch.items() if name != "task_ids"}
    expected = tiny_base(family)(**plain).logits
    model = ha.adapt(tiny_base(family), method, TASKS)
    form, norms = (group.generators[0] for group in model.hyperadapt.site_groups("decoder"))
    form.table.zero_()
    assert (model(**batch).logits - expected).abs().max() < 1e-5
    norms.table.mul_(1.5)
    assert (model(**batch).logits - expected).abs().max() > 1e-2


@pytest.mark.parametrize("method", PROMPTED, ids=name_of)
@torch.no_grad()
def test_what_is_conditioned_on_the_prompt_does_not_see_the_target(method: Method) -> None:
    model, batch = tiny_adapted("llama", method), batch_of(method)
    one, other = (torch.cat([batch["input_ids"], torch.full((4, NEW), token)], 1) for token in (5, 17))
    first, second = (model(**with_targets(batch, sequences)).logits[:, :9] for sequences in (one, other))
    assert torch.equal(first, second)
    given = {name: value for name, value in with_targets(batch, one).items() if name != "labels"}
    prompt = (with_targets(batch, one)["labels"] == -100).long()
    assert torch.equal(model(**given, prompt_mask=prompt).logits[:, :9], first)
    # And it does see the prompt: all of it is one where nothing says otherwise.
    assert (model(**given).logits[:, :9] - first).abs().max() > 1e-6


@pytest.mark.parametrize("method", PROMPTED, ids=name_of)
@torch.no_grad()
def test_a_cache_that_does_not_hold_what_the_prompt_decided_is_refused(method: Method) -> None:
    model, batch = tiny_adapted("llama", method), batch_of(method)
    cache = model(**batch).past_key_values
    del cache.site_weights
    step = {**batch, "input_ids": batch["input_ids"][:, -1:], "past_key_values": cache}
    step["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones(4, 1, dtype=torch.long)], 1)
    with pytest.raises(UserError, match="do not hold what the prompt decides"):
        model(**step)


@pytest.mark.parametrize("method", PROMPTED, ids=name_of)
def test_the_prompt_is_what_stands_before_the_first_label(method: Method) -> None:
    """Not what labels ignore further on, as a later turn of a chat; and without one nothing is made up."""
    model, batch = tiny_adapted("llama", method), batch_of(method)
    ids = batch["input_ids"]
    labels = torch.full_like(ids, -100)
    labels[:, 5:7] = ids[:, 5:7]  # and -100 again behind
    prompt = torch.zeros_like(ids)
    prompt[:, :5] = 1
    with torch.no_grad():
        told = model(**batch, prompt_mask=prompt).logits
        assert torch.equal(model(**batch, labels=labels).logits, told)
        with pytest.raises(UserError, match="row 0 has no token before its first label"):
            model(**batch, labels=ids)
        with pytest.raises(
            UserError, match=r"labels have shape \(4, 2\) and the input \(4, 9\).* pass prompt_mask"
        ):
            model(**batch, labels=labels[:, -2:], logits_to_keep=2)


def test_a_generation_goes_on_with_equal_ids_in_a_new_tensor() -> None:
    model, batch = tiny_adapted("llama", METHODS[7]), batch_of(METHODS[7])
    with torch.no_grad():
        first = model(**batch, use_cache=True)
        step = {"input_ids": torch.full((4, 1), 5), "past_key_values": first.past_key_values}
        mask = torch.cat([batch["attention_mask"], torch.ones(4, 1, dtype=torch.long)], 1)
        model(**step, attention_mask=mask, task_ids=batch["task_ids"].clone())
        first = model(**batch, use_cache=True)
        with pytest.raises(UserError, match="do not hold what the prompt decides"):
            model(
                input_ids=step["input_ids"],
                past_key_values=first.past_key_values,
                attention_mask=mask,
                task_ids=batch["task_ids"].flip(0),
            )


def test_the_loss_of_accumulated_batches_is_that_of_all_their_tokens_in_a_plain_trainer(
    tmp_path: Path,
) -> None:
    """As of the base model: Trainer hands the number of a step's tokens on to the loss."""
    ids = torch.arange(3, 33).view(2, 15)
    labels = torch.full_like(ids, -100)
    labels[0, 3:], labels[1, 12:] = ids[0, 3:], ids[1, 12:]
    rows = [{"input_ids": ids[row], "labels": labels[row]} for row in range(2)]
    norms = []
    for base in (tiny_base("llama"), ha.adapt(tiny_base("llama"), ha.FullFineTuning(), TASKS)):
        args = TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=2,
            max_steps=1,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            seed=0,
        )
        trainer = Trainer(base, args, train_dataset=rows)  # type: ignore[arg-type]
        trainer.train()
        norms.append([entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_what_has_no_sense_without_an_encoder_is_one_line() -> None:
    for method, message in (
        (
            ha.Hyperdecoder(encoder="generated"),
            "reads the prompt once before, with adapters that are none, manual",
        ),
        (ha.Hyperdecoder(encoder="none", fine_tune_encoder=True), "fine_tune_encoder: Llama has no encoder"),
    ):
        with pytest.raises(UserError, match=message):
            ha.adapt(tiny_base("llama"), method, TASKS)
    with pytest.raises(
        UserError, match="a LlamaModel has no decoder; load the model with AutoModelForCausalLM"
    ):
        ha.adapt(LlamaModel(LlamaConfig(**SHAPE)), METHODS[4], TASKS)
    with pytest.raises(UserError, match="a LlamaForSequenceClassification has no output layer"):
        ha.adapt(LlamaForSequenceClassification(LlamaConfig(**SHAPE)), METHODS[4], TASKS)
    with pytest.raises(UserError, match="task_ids are missing"):
        tiny_adapted("llama", METHODS[4])(input_ids=torch.ones(1, 3, dtype=torch.long))
