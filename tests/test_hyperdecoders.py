"""Hyperdecoders: the placement grid, what a row's adapters depend on, and how often they are generated."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import pytest
import torch

import hyperadapt as ha
from hyperadapt.conditioning import EncodedInput, Inputs, mean_state
from hyperadapt.errors import UserError
from hyperadapt.generators import BottleneckHypernet, SkillTable
from hyperadapt.methods.hyperdecoders import Kind
from hyperadapt.sites import Weight
from tiny import NARROW, TASKS, given_tasks, gradients, redraw, row, tiny_adapted, tiny_batch, tiny_t5

KINDS = get_args(Kind)
BATCH = tiny_batch()
WITHOUT_TASKS = {name: value for name, value in BATCH.items() if name != "task_ids"}
INPUTS = {name: BATCH[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize(("encoder", "decoder"), itertools.product(KINDS, KINDS))
def test_every_cell_of_the_grid_trains_all_that_it_adds(encoder: str, decoder: str) -> None:
    options: Any = {"encoder": encoder, "decoder": decoder, **NARROW}
    if encoder == decoder == "none":
        with pytest.raises(UserError, match="nothing is trained"):
            ha.Hyperdecoder(**options)
        return
    method = ha.Hyperdecoder(**options)
    model = tiny_adapted(method)
    conditioned = bool({encoder, decoder} & {"manual_specific", "task"})
    assert method.task_conditioned == conditioned
    model(**(BATCH if conditioned else WITHOUT_TASKS)).loss.backward()
    for name, gradient in gradients(model).items():
        assert gradient.any(), name
    if not conditioned:
        assert torch.equal(model(**BATCH).logits, model(**WITHOUT_TASKS).logits), (
            "task_ids are accepted, not needed"
        )
    else:
        with pytest.raises(UserError, match="task_ids are missing"):
            model(**WITHOUT_TASKS)


def test_the_presets_are_the_papers() -> None:
    kinds = {
        method.name: (method.encoder, method.decoder) for method in (ha.Hyperdecoder(), ha.SingleAdapter())
    }
    assert kinds == {"hyperdecoder": ("manual", "generated"), "single_adapter": ("manual", "manual")}
    assert (ha.TaskHypernet().encoder, ha.TaskHypernet().decoder) == ("task", "task")
    method = ha.Hyperdecoder()
    sizes = method.encoder_bottleneck_dim, method.decoder_bottleneck_dim, method.hypernetwork_bottleneck
    assert sizes == (64, 64, 128)
    assert (method.layer_embedding_dim, method.mlp, method.after_layer_norm) == (10, True, False)


def test_the_encoder_may_be_fine_tuned_instead() -> None:
    with pytest.raises(
        UserError, match="fine_tune_encoder leaves no adapters in it; set encoder to none, not manual"
    ):
        ha.Hyperdecoder(fine_tune_encoder=True)
    model = tiny_adapted(ha.Hyperdecoder(encoder="none", fine_tune_encoder=True, **NARROW))
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    own = {f"hyperadapt.{name}" for name, _ in model.hyperadapt.named_parameters()}
    encoder = {name for name, _ in tiny_t5().named_parameters() if name.startswith(("encoder.", "shared."))}
    assert trained == own | encoder


def test_the_decoder_may_be_fine_tuned_instead_and_both_are_full_fine_tuning() -> None:
    with pytest.raises(UserError, match="set decoder to none, not generated"):
        ha.Hyperdecoder(fine_tune_decoder=True)
    names = {name for name, _ in tiny_t5(tie_word_embeddings=False).named_parameters()}
    expected = {
        (False, True): {name for name in names if not name.startswith("encoder.")},
        (True, True): names,
    }
    for (encoder, decoder), trained in expected.items():
        method = ha.Hyperdecoder(
            encoder="none", decoder="none", fine_tune_encoder=encoder, fine_tune_decoder=decoder
        )
        model = ha.adapt(tiny_t5(tie_word_embeddings=False), method, TASKS)
        assert {name for name, value in model.named_parameters() if value.requires_grad} == trained


def test_a_rows_adapters_follow_its_input_and_no_other_row() -> None:
    model = tiny_adapted(ha.Hyperdecoder(**NARROW))
    alone = torch.cat([model(**row(WITHOUT_TASKS, index)).logits for index in range(6)])
    assert (model(**WITHOUT_TASKS).logits - alone).abs().max() < 2e-5
    changed = WITHOUT_TASKS["input_ids"].clone()
    changed[0, 0] += 1
    difference = (model(**{**WITHOUT_TASKS, "input_ids": changed}).logits - alone).abs().amax((1, 2))
    assert difference[0] > 1e-3
    assert difference[1:].max() < 2e-5


@pytest.mark.parametrize("num_beams", [1, 3])
def test_in_a_generation_every_row_is_generated_once_whatever_its_beams(num_beams: int) -> None:
    model = tiny_adapted(ha.Hyperdecoder(**NARROW))
    generated: list[int] = []
    hypernet = next(module for module in model.modules() if isinstance(module, BottleneckHypernet))
    hook = hypernet.register_forward_hook(lambda module, args, output: generated.append(output.shape[0]))
    together = model.generate(**INPUTS, num_beams=num_beams, max_new_tokens=5, num_return_sequences=num_beams)
    hook.remove()
    assert generated == [6]
    alone = [
        model.generate(
            **row(INPUTS, index), num_beams=num_beams, max_new_tokens=5, num_return_sequences=num_beams
        )
        for index in range(6)
    ]
    for index, expected in enumerate(alone):
        found = together[index * num_beams : (index + 1) * num_beams, : expected.shape[1]]
        assert torch.equal(found, expected)


def test_the_mean_is_over_the_tokens_and_over_none_it_is_zero() -> None:
    states = torch.randn(3, 4, 5)
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    mean = mean_state(states, mask)
    assert torch.allclose(mean[0], states[0, :2].mean(0))
    assert not mean[1].any()
    assert torch.allclose(mean_state(states, None), states.mean(1))
    assert torch.allclose(mean[2], states[2].mean(0))
    assert mean_state(states.bfloat16(), mask).dtype == torch.float32
    assert not mean_state(states[:, :0], None).any()
    assert not mean_state(states[:, :0], mask[:, :0]).any()


def test_an_empty_input_is_no_nan() -> None:
    model = tiny_adapted(ha.Hyperdecoder(encoder="generated", **NARROW))
    nothing = BATCH["attention_mask"].clone()
    nothing[1] = 0
    loss = model(**{**WITHOUT_TASKS, "attention_mask": nothing}).loss
    loss.backward()
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


def test_where_no_gradient_is_wanted_rows_that_repeat_are_embedded_once() -> None:
    conditioning = EncodedInput(8, mlp=True)
    states = torch.randn(2, 3, 8).repeat_interleave(3, dim=0)
    inputs = Inputs("decoder", torch.zeros(6, 1), encoded=states)
    with torch.no_grad():
        in_groups = conditioning(inputs)
        uneven = conditioning(inputs._replace(encoded=states[1:]))
        assert conditioning(inputs._replace(encoded=states[::3])).rows is None, "none repeats"
    assert in_groups.rows is None, "groups of three rows"
    assert uneven.rows.tolist() == [0, 0, 1, 1, 1]
    every_row = conditioning(inputs)
    assert every_row.rows is None, "every row has its own"
    assert torch.allclose(in_groups.embedding, every_row.embedding[::3])
    assert torch.allclose(uneven.embedding[uneven.rows], every_row.embedding[1:])


def test_heads_start_after_hyperfan_in_and_learnt_adapters_after_xavier_both_far_smaller() -> None:
    torch.manual_seed(0)
    weights = {
        "down": Weight((6, 40)),
        "down_bias": Weight((6,)),
        "up": Weight((40, 6)),
        "up_bias": Weight((40,)),
    }
    hypernet = BottleneckHypernet(3, weights, d_condition=40, d_layer=10, d_hidden=50)
    parts = hypernet.head.weight.split([240, 6, 240, 40])
    for part, fan_in in zip(parts, (40, 1, 6, 1), strict=True):
        bound = 1e-3 * (3 / (50 * fan_in)) ** 0.5
        assert 0.95 * bound < part.abs().max() <= bound
    assert not hypernet.head.bias.any()
    model = ha.adapt(tiny_t5(), ha.SingleAdapter(encoder_bottleneck_dim=6), TASKS)
    table = model.hyperadapt.groups["encoder"][0].generators[0].table
    down, down_bias, up, up_bias = table.split([6 * 32, 6, 32 * 6, 32], dim=-1)
    bound = 1e-4 * (6 / (6 + 32)) ** 0.5
    for part in (down, up):
        assert 0.95 * bound < part.abs().max() <= bound
    assert not down_bias.any()
    assert not up_bias.any()


def test_training_starts_at_the_frozen_model() -> None:
    torch.manual_seed(0)
    for method in (ha.Hyperdecoder(), ha.SingleAdapter(), ha.TaskHypernet(), ha.Polytropon()):
        model = ha.adapt(tiny_t5(), method, TASKS)
        assert (model(**BATCH).logits - tiny_t5()(**WITHOUT_TASKS).logits).abs().max() < 1e-2


def test_skills_are_mixed_by_each_sites_row_of_the_matrix() -> None:
    weights = {"down": Weight((2, 3), std=1.0)}
    for allocation in ("softmax", "bernoulli"):
        table = SkillTable(4, 5, weights, n_skills=3, allocation=allocation, learning_rate=1e-2).eval()
        with torch.no_grad():
            table.logits.normal_()
        condition = ha.adapt(
            tiny_t5(), ha.Polytropon(n_skills=2), ("a", "b", "c", "d")
        ).hyperadapt.conditioning(given_tasks("encoder", [3, 1, 3]))
        found = table(condition)
        for number, task in enumerate(condition.ids.tolist()):
            for site in range(5):
                logits = table.logits[task, site]
                share = (
                    logits.softmax(0)
                    if allocation == "softmax"
                    else logits.sigmoid() / logits.sigmoid().sum()
                )
                expected = sum(share[skill] * table.table[skill, site] for skill in range(3))
                assert torch.allclose(found[number, site], expected, atol=1e-6)


def test_skills_that_are_all_switched_off_are_no_nan() -> None:
    table = SkillTable(1, 1, {"down": Weight((2, 3))}, n_skills=3, allocation="bernoulli", learning_rate=1e-2)
    for mode in (table.train(), table.eval()):
        assert mode.mixture(torch.full((1, 1, 3), -200.0)).isfinite().all()


def test_in_training_skills_are_switched_at_random_and_their_gradients_reach_the_matrix() -> None:
    torch.manual_seed(0)
    model = redraw(ha.adapt(tiny_t5(), ha.Polytropon(n_skills=3, rank=4), TASKS)).train()
    first, second = model(**BATCH).logits, model(**BATCH).logits
    assert not torch.equal(first, second)
    model(**BATCH).loss.backward()
    logits = [name for name in gradients(model) if name.endswith("logits")]
    assert len(logits) == 2
    assert all(gradients(model)[name].any() for name in logits)
    model.eval()
    assert torch.equal(model(**BATCH).logits, model(**BATCH).logits)


def test_a_task_added_from_several_starts_at_the_mean_of_their_embeddings() -> None:
    model = tiny_adapted(ha.TaskHypernet(**NARROW))
    model.add_task("new", init_from=["alpha", "gamma"])
    for stack in ("encoder", "decoder"):
        z = model.hyperadapt.conditioning.of[stack].z
        torch.testing.assert_close(z[3], (z[0] + z[2]) / 2)
