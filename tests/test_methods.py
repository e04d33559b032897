"""What each method trains, and what each option changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

import hyperadapt as ha
from hyperadapt.errors import UserError
from hyperadapt.methods import Method, method_from
from tiny import (
    METHODS,
    PLUS_PLUS,
    SMALL,
    TASKS,
    every_method,
    given_tasks,
    gradients,
    of_task,
    redraw,
    relative_error,
    tiny_adapted,
    tiny_batch,
    tiny_t5,
)

BATCH = tiny_batch()
D_MODEL, WIDTH, LAYERS = 32, 4, 2
HYPERNETWORKS = (ha.HyperFormer, ha.HyperFormerPlusPlus)
each_hypernetwork = pytest.mark.parametrize("kind", HYPERNETWORKS, ids=lambda kind: kind.name)


def trained(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def layer_norms(model: Any) -> set[str]:
    own = {name for name, _ in model.named_parameters() if name.startswith("hyperadapt.")}
    return {name for name, _ in model.named_parameters() if name.endswith("layer_norm.weight")} - own


def added(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.hyperadapt.named_parameters()}


@torch.no_grad()
def logits(model: Any, **options: Any) -> torch.Tensor:
    return model(**{**BATCH, **options}).logits


def test_full_fine_tuning_trains_the_whole_base_model_and_adds_nothing() -> None:
    model = ha.adapt(tiny_t5(), ha.FullFineTuning(), TASKS)
    assert trained(model) == {name for name, _ in tiny_t5().named_parameters()}
    assert not added(model)


@pytest.mark.parametrize("train_layer_norms", [True, False])
@pytest.mark.parametrize("kind", [ha.AdaptersDagger, *HYPERNETWORKS], ids=lambda kind: kind.name)
def test_beside_its_own_parameters_a_method_trains_the_layer_norms_or_nothing(
    kind: Any, train_layer_norms: bool
) -> None:
    model = ha.adapt(tiny_t5(), kind(reduction_factor=8, train_layer_norms=train_layer_norms), TASKS)
    own = {f"hyperadapt.{name}" for name in added(model)}
    assert len(layer_norms(model)) == LAYERS * (2 + 3) + 2
    assert trained(model) == own | (layer_norms(model) if train_layer_norms else set())


def test_adapters_train_layer_norms_for_each_task_and_none_of_the_base_models() -> None:
    model = ha.adapt(tiny_t5(), ha.Adapters(reduction_factor=8), TASKS)
    assert trained(model) == {f"hyperadapt.{name}" for name in added(model)}
    adapter = 2 * WIDTH * D_MODEL + WIDTH + D_MODEL + 2 * D_MODEL
    expected = {
        "groups.encoder.0.generators.0.table": (3, 2 * LAYERS, adapter),
        "groups.encoder.1.generators.0.table": (3, 2 * LAYERS + 1, D_MODEL),
        "groups.decoder.0.generators.0.table": (3, 2 * LAYERS, adapter),
        "groups.decoder.1.generators.0.table": (3, 3 * LAYERS + 1, D_MODEL),
    }
    assert added(model) == expected
    bare = ha.adapt(tiny_t5(), ha.Adapters(reduction_factor=8, train_layer_norms=False), TASKS)
    assert added(bare) == {name: shape for name, shape in expected.items() if ".0.generators" in name}


def test_adapters_norms_start_as_the_base_models_and_act_as_those_would() -> None:
    """A model of one task equals one whose base has that task's norms, and whose adapters are the same."""
    model = tiny_adapted(ha.Adapters(reduction_factor=8))
    state = model.hyperadapt.state_dict()
    for task_id in range(3):
        base = tiny_t5()
        for stack in ("encoder", "decoder"):
            group = model.hyperadapt.groups[stack][1]
            for site, scale in zip(group.sites, group.generators[0].table[task_id], strict=True):
                base.get_parameter(f"{site.path}.weight").data = scale.detach().clone()
        alone = ha.adapt(base, ha.Adapters(reduction_factor=8, train_layer_norms=False), TASKS)
        alone.hyperadapt.load_state_dict({name: value for name, value in state.items() if ".0.gen" in name})
        batch = of_task(BATCH, task_id)
        assert (logits(alone, **batch) - logits(model, **batch)).abs().max() < 1e-5
    fresh = ha.adapt(tiny_t5(), ha.Adapters(reduction_factor=8), TASKS)
    start = fresh.hyperadapt.groups["decoder"][1].generators[0].table
    assert torch.equal(start[2, -1], tiny_t5().decoder.final_layer_norm.weight)


def test_adapters_dagger_share_the_norms_of_their_adapters() -> None:
    model = ha.adapt(tiny_t5(), ha.AdaptersDagger(reduction_factor=8), TASKS)
    block = 2 * WIDTH * D_MODEL + WIDTH + D_MODEL
    assert added(model) == {
        f"groups.{stack}.0.generators.{number}.table": shape
        for stack in ("encoder", "decoder")
        for number, shape in ((0, (3, 2 * LAYERS, block)), (1, (1, 2 * LAYERS, 2 * D_MODEL)))
    }
    for group in (model.hyperadapt.groups[stack][0] for stack in ("encoder", "decoder")):
        own, shared = group.generators
        assert list(own.weights) == ["down", "down_bias", "up", "up_bias"]
        assert list(shared.weights) == ["norm_weight", "norm_bias"]
        assert (shared.table[..., :D_MODEL] == 1).all()
        assert not shared.table[..., D_MODEL:].any()
        assert own.table[..., : WIDTH * D_MODEL].std().item() == pytest.approx(0.01, rel=0.1)


def test_at_the_start_hyperformers_adapters_are_near_the_identity() -> None:
    torch.manual_seed(0)
    model = ha.adapt(tiny_t5(), ha.HyperFormer(reduction_factor=8), TASKS)
    base = logits_of_base()
    assert 0 < relative_error(logits(model), base) < 0.05
    assert relative_error(logits(redraw(model)), base) > 0.5


def test_at_the_start_all_that_hyperformer_plus_plus_generates_is_small() -> None:
    """Its generators see an embedding of norm sqrt(t) through weights of N(0, 0.01)."""
    torch.manual_seed(0)
    model = ha.adapt(tiny_t5(), ha.HyperFormerPlusPlus(reduction_factor=8), TASKS)
    for stack in ("encoder", "decoder"):
        condition = model.hyperadapt.conditioning(given_tasks(stack, [0, 1, 2]))
        for group in model.hyperadapt.site_groups(stack):
            [generator] = group.generators
            for of_site in generator(condition).unbind(1):
                assert of_site.std().item() == pytest.approx(0.01 * 64**0.5, rel=0.1)
    assert (
        relative_error(logits(model), logits_of_base())
        < 0.5
        < relative_error(logits(redraw(model)), logits_of_base())
    )


@torch.no_grad()
def logits_of_base() -> torch.Tensor:
    return tiny_t5()(**{name: value for name, value in BATCH.items() if name != "task_ids"}).logits


def generators(model: Any) -> list[Any]:
    return [generator for group in model.hyperadapt.site_groups() for generator in group.generators]


@each_hypernetwork
def test_without_conditional_layer_norm_the_adapters_norms_are_learnt_one_a_site(kind: Any) -> None:
    with_it, without = (
        ha.adapt(tiny_t5(), kind(reduction_factor=8, **SMALL, conditional_layer_norm=on), TASKS)
        for on in (True, False)
    )
    assert all("norm_weight" in generator.weights for generator in generators(with_it))
    assert len(generators(with_it)) == 2
    hypernets, tables = generators(without)[::2], generators(without)[1::2]
    for hypernet, table in zip(hypernets, tables, strict=True):
        assert list(hypernet.weights) == ["down", "down_bias", "up", "up_bias"]
        assert list(table.weights) == ["norm_weight", "norm_bias"]
        assert table.table.shape == (1, 2 * LAYERS, 2 * D_MODEL)
        assert torch.equal(table.table[0, 0], torch.cat([torch.ones(D_MODEL), torch.zeros(D_MODEL)]))
    # Learnt, they are the same for all tasks: doubling one site's shift moves every task there.
    model = redraw(without)
    before = logits(model)
    with torch.no_grad():
        tables[1].table[0, -1, D_MODEL:] += 1
    assert ((logits(model) - before).abs().amax((1, 2)) > 1e-3).all()


@each_hypernetwork
def test_without_adapter_block_the_generated_layer_norm_stands_alone(kind: Any) -> None:
    model = tiny_adapted(kind(reduction_factor=8, **SMALL, adapter_block=False))
    for generator in generators(model):
        assert list(generator.weights) == ["norm_weight", "norm_bias"]
    # y + LN(y): the site's own output shows it.
    seen: list[Any] = []
    module = model.encoder.block[0].layer[-1].DenseReluDense
    module.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    logits(model, **of_task(BATCH, 1))
    given, output = seen[0]
    y = module.wo(module.act(module.wi(given)))
    prepared = model.hyperadapt(given_tasks("encoder", [1]), torch.float32)
    embedded = model.hyperadapt.by_site(prepared).by_layer[0]["feed_forward"]
    scale, shift = embedded["norm_weight"][0], embedded["norm_bias"][0]
    centred = y - y.mean(-1, keepdim=True)
    normed = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    assert (output - (y + scale * normed + shift)).abs().max() < 1e-5


def test_without_task_projector_z_feeds_the_generators() -> None:
    options = {"reduction_factor": 8, **SMALL}
    site = 2 * WIDTH * D_MODEL + WIDTH + 3 * D_MODEL
    plain = added(ha.adapt(tiny_t5(), ha.HyperFormer(**options, task_projector=False), TASKS))
    assert plain["groups.encoder.0.generators.0.head_weight"] == (2 * LAYERS, 12, site)
    assert not any("projector" in name for name in plain)
    projected = added(ha.adapt(tiny_t5(), ha.HyperFormer(**options), TASKS))
    assert projected["groups.encoder.0.generators.0.head_weight"] == (2 * LAYERS, 8, site)
    assert {name: shape for name, shape in projected.items() if "projector" in name} == {
        "conditioning.projector.0.weight": (16, 12),
        "conditioning.projector.0.bias": (16,),
        "conditioning.projector.2.weight": (8, 16),
        "conditioning.projector.2.bias": (8,),
    }
    plus_plus = added(ha.adapt(tiny_t5(), ha.HyperFormerPlusPlus(**options, task_projector=False), TASKS))
    assert plus_plus["groups.decoder.0.generators.0.head_weight"] == (1, 3 * 12, site)
    assert not any("projector" in name for name in plus_plus)


def test_without_position_embedding_each_position_has_a_head_of_its_own() -> None:
    with_it, without = (
        ha.adapt(tiny_t5(), ha.HyperFormerPlusPlus(reduction_factor=8, **SMALL, position_embedding=on), TASKS)
        for on in (True, False)
    )
    prefix = "groups.encoder.0.generators.0."
    assert added(with_it)[f"{prefix}position_embedding"] == (2, 12)
    assert added(with_it)[f"{prefix}projector.0.weight"] == (16, 36)
    assert added(with_it)[f"{prefix}head_bias"][0] == 1
    assert f"{prefix}position_embedding" not in added(without)
    assert added(without)[f"{prefix}projector.0.weight"] == (16, 24)
    assert added(without)[f"{prefix}head_bias"][0] == 2


@pytest.mark.parametrize("position", ["self_attention", "feed_forward"])
@pytest.mark.parametrize("kind", [ha.Adapters, ha.AdaptersDagger, *HYPERNETWORKS], ids=lambda kind: kind.name)
def test_adapters_stand_at_the_chosen_positions_alone(kind: Any, position: str) -> None:
    method = kind(reduction_factor=8, positions=(position,), train_layer_norms=False)
    model = redraw(ha.adapt(tiny_t5(), method, TASKS))
    sites = [site for group in model.hyperadapt.site_groups() for site in group.sites]
    assert [(site.stack, site.layer, site.position) for site in sites] == [
        (stack, layer, position) for stack in ("encoder", "decoder") for layer in range(LAYERS)
    ]
    base, outputs = tiny_t5(), {}
    for which, of in (("adapted", model), ("base", base)):
        for name, module in of.named_modules():
            if name.endswith(("SelfAttention", "DenseReluDense")):
                module.register_forward_hook(
                    lambda module, args, output, key=(which, name): outputs.setdefault(key, output)
                )
    logits(model)
    with torch.no_grad():
        base(**{name: value for name, value in BATCH.items() if name != "task_ids"})
    # In the first block, what lies before the first adapter is the base model's.
    first = {"self_attention": "layer.0.SelfAttention", "feed_forward": "layer.1.DenseReluDense"}
    for where, path in first.items():
        ours, theirs = (outputs[which, f"encoder.block.0.{path}"] for which in ("adapted", "base"))
        ours, theirs = (x[0] if isinstance(x, tuple) else x for x in (ours, theirs))
        reached = where == position or position == "self_attention"
        assert torch.equal(ours, theirs) != reached, where


def test_the_order_of_the_positions_numbers_their_embeddings() -> None:
    turned = ha.HyperFormerPlusPlus(reduction_factor=8, **SMALL, positions=("self_attention", "feed_forward"))
    usual, other = tiny_adapted(PLUS_PLUS), tiny_adapted(turned)
    assert relative_error(logits(other), logits(usual)) > 0.01
    with torch.no_grad():
        for generator in generators(other):
            generator.position_embedding.copy_(generator.position_embedding.flip(0))
    assert relative_error(logits(other), logits(usual)) < 1e-5


@each_hypernetwork
def test_only_the_task_embeddings_are_trained_where_that_is_asked(kind: Any) -> None:
    model = tiny_adapted(kind(reduction_factor=8, **SMALL, train_task_embeddings_only=True))
    assert trained(model) == {"hyperadapt.conditioning.z"}
    model(**BATCH).loss.backward()
    assert model.hyperadapt.conditioning.z.grad.abs().sum(1).gt(0).all()
    same = tiny_adapted(kind(reduction_factor=8, **SMALL))
    assert torch.equal(logits(model), logits(same))
    model.add_task("delta")
    assert trained(model) == {"hyperadapt.conditioning.z"}


@pytest.fixture
def features(tmp_path: Path) -> Path:
    file = tmp_path / "features.json"
    vectors = {"gamma": [0.5, -1, 2], "unused": [9, 9, 9], "alpha": [1, 2, 3], "beta": [0, -1.5, 0]}
    file.write_text(json.dumps(vectors))
    return file


@each_hypernetwork
def test_given_features_are_read_in_the_order_of_the_tasks_and_not_trained(kind: Any, features: Path) -> None:
    model = ha.adapt(tiny_t5(), kind(reduction_factor=8, task_features=str(features)), TASKS)
    assert model.hyperadapt.conditioning.z.tolist() == [[1, 2, 3], [0, -1.5, 0], [0.5, -1, 2]]
    assert "hyperadapt.conditioning.z" not in trained(model)
    assert len(trained(model)) == len(added(model)) - 1 + len(layer_norms(model))
    redraw(model)
    assert (logits(model) - logits(model, task_ids=BATCH["task_ids"].flip(0))).abs().max() > 0.1


BAD_FEATURES = {
    "a task is missing": (
        '{"alpha": [1], "beta": [1]}',
        "has no vector for task 'gamma'; it has alpha, beta",
    ),
    "not JSON": ("alpha: 1", "no readable JSON"),
    "a list": ("[1, 2]", "is not a JSON object of task -> list of numbers"),
    "words": ('{"alpha": ["x"], "beta": ["x"], "gamma": ["x"]}', "is not a JSON object of task"),
    "numbers": (
        '{"alpha": 1, "beta": 2, "gamma": 3}',
        r"must hold vectors of one length, not of shapes \[\(\)\]",
    ),
    "empty": ('{"alpha": [], "beta": [], "gamma": []}', r"must hold vectors of one length"),
    "of several lengths": (
        '{"alpha": [1, 2], "beta": [1], "gamma": [1]}',
        r"must hold vectors of one length, not of shapes \[\(1,\), \(2,\)\]",
    ),
    "not finite": ('{"alpha": [1], "beta": [NaN], "gamma": [1]}', "holds NaN or infinity for task 'beta'"),
}


@pytest.mark.parametrize("fault", BAD_FEATURES)
def test_a_file_of_features_that_cannot_be_used_is_refused(fault: str, features: Path) -> None:
    content, message = BAD_FEATURES[fault]
    features.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        ha.adapt(tiny_t5(), ha.HyperFormer(reduction_factor=8, task_features=str(features)), TASKS)
    assert str(features) in str(error.value)
    assert "\n" not in str(error.value)


def test_given_features_leave_nothing_to_train_alone(features: Path) -> None:
    with pytest.raises(UserError, match="leaves nothing to train where task_features give z"):
        ha.HyperFormer(reduction_factor=8, task_features=str(features), train_task_embeddings_only=True)


@pytest.mark.parametrize(("factor", "width"), [(1, 32), (2, 16), (5, 6), (32, 1)])
def test_the_reduction_factor_divides_the_models_width(factor: int, width: int) -> None:
    model = ha.adapt(tiny_t5(), ha.AdaptersDagger(reduction_factor=factor), TASKS)
    assert {generators(model)[0].weights[name].shape for name in ("down", "up")} == {(width, 32), (32, width)}


def test_the_activation_is_the_bottlenecks() -> None:
    outputs = {
        activation: logits(tiny_adapted(ha.AdaptersDagger(reduction_factor=8, activation=activation)))
        for activation in ("gelu_new", "gelu", "relu")
    }
    assert 0 < relative_error(outputs["gelu"], outputs["gelu_new"]) < 0.01
    assert relative_error(outputs["relu"], outputs["gelu_new"]) > 0.01


# --- the configurations ----------------------------------------------------------------------------------------------


def test_every_method_has_its_name_and_the_papers_defaults() -> None:
    presets = METHODS[: len(ha.METHODS)]
    assert {name: type(method) for name, method in zip(ha.METHODS, presets, strict=True)} == ha.METHODS
    assert [method.name for method in presets] == list(ha.METHODS)
    hyperformer, plus_plus = ha.HyperFormer(), ha.HyperFormerPlusPlus()
    assert (hyperformer.task_feature_dim, plus_plus.task_feature_dim) == (512, 64)
    for method in (hyperformer, plus_plus):
        assert (method.projector_hidden_dim, method.task_embedding_dim) == (128, 64)
        assert (method.reduction_factor, method.activation) == (32, "gelu_new")
        assert method.positions == ("feed_forward", "self_attention")


@every_method
def test_a_method_comes_back_from_its_name_and_options(method: Method) -> None:
    written = json.loads(json.dumps({"name": method.name, **method.model_dump(mode="json")}))
    assert method_from(written) == method
    assert written["name"] == method.name, "what was given is not changed"


@every_method
def test_a_method_is_frozen_and_equal_to_its_like(method: Method) -> None:
    for field in type(method).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(method, field, getattr(method, field))
    assert method == method.model_copy()
    assert hash(method) == hash(method.model_copy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"reduction_factor": 8},
            "method: the field 'name' is missing; choices: full_fine_tuning, adapters,",
        ),
        ({"name": "hyperformer+"}, r"method 'hyperformer\+' is unknown; did you mean 'hyperformer"),
        ({"name": "lorra"}, r"method 'lorra' is unknown; did you mean 'lora'\? \(choices: full_fine_tuning"),
        ({"name": 3}, "method '3' is unknown"),
        (
            {"name": "adapters", "reduction_facter": 8},
            "method adapters: .*'reduction_facter' is unknown; did you mean 'reduction_factor'",
        ),
        ({"name": "adapters", "task_feature_dim": 8}, "method adapters: .*'task_feature_dim' is unknown"),
        (
            {"name": "full_fine_tuning", "reduction_factor": 8},
            "method full_fine_tuning: .*'reduction_factor'",
        ),
        ({"name": "adapters", "reduction_factor": "many"}, "method adapters: .*reduction_factor.*many"),
        ({"name": "adapters", "reduction_factor": 0}, "method adapters: .*reduction_factor"),
        ({"name": "hyperformer", "task_feature_dim": -1}, "method hyperformer: .*task_feature_dim"),
        ({"name": "adapters", "positions": []}, "method adapters: .*positions"),
        (
            {"name": "adapters", "positions": ["cross_attention"]},
            "method adapters: .*positions.*cross_attention",
        ),
        (
            {"name": "adapters", "positions": ["feed_forward", "feed_forward"]},
            "method adapters: .*positions.* a position is repeated: feed_forward, feed_forward",
        ),
        (
            {"name": "adapters", "train_layer_norms": "perhaps"},
            "method adapters: .*train_layer_norms.*perhaps",
        ),
    ],
)
def test_an_option_that_is_not_one_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        method_from(options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [ha.HyperFormer, ha.HyperFormerPlusPlus])
def test_the_fast_start_is_the_base_models_and_everything_learns_within_two_steps(
    kind: type[ha.HyperFormer],
) -> None:
    torch.manual_seed(0)
    model = ha.adapt(tiny_t5(), kind(reduction_factor=8, start="fast", **SMALL), TASKS).train()
    batch = tiny_batch()
    with torch.no_grad():
        expected = tiny_t5()(**{name: of for name, of in batch.items() if name != "task_ids"}).logits
        assert (model(**batch).logits - expected).abs().max() < 1e-5
    optimizer = torch.optim.AdamW(model.hyperadapt.parameters(), lr=1e-3)
    for step in range(3):
        model(**batch).loss.backward()
        reached = {name for name, of in gradients(model).items() if of.any()}
        if step == 0:  # the scale of the generated norm, which is zero, and what makes it
            assert any(name.endswith("head_weight") for name in reached)
        optimizer.step()
        optimizer.zero_grad()
    assert reached == set(dict(model.named_parameters())) & {
        name for name, parameter in model.named_parameters() if parameter.requires_grad
    }
