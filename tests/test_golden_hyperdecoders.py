"""Agreement with the Hyperdecoders reference's numbers, and with its facts computed row by row in plain loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from hyperadapt import interop
from hyperadapt.errors import UserError
from hyperadapt.interop import hyperdecoders
from test_golden import (
    TOLERANCE,
    Golden,
    check_gradients,
    inputs,
    map_linear,
    random_state,
    read,
    shapes,
    two_layers,
)
from tiny import relative_error

NUMBERS = ("hyperdecoder", "task_hypernet")
SHAPES_ONLY = (
    "single_adapter",
    "manual_task",
    "generated_generated",
    "hyperdecoder_no_mlp",
    "hyperdecoder_post_layernorm",
)


@pytest.fixture(scope="module", params=NUMBERS)
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    return read(shared / "golden", request.param, "hyperdecoders")


@torch.no_grad()
def test_logits_losses_and_encoder_states_are_the_references(golden: Golden) -> None:
    for task, expected in golden.tasks.items():
        output = golden.model(**inputs(golden, task))
        for name in ("logits", "loss", "encoder_last_hidden_state"):
            # Relative: the numbers are themselves 3e-5 from their float64, as e is a long way from the logits.
            assert relative_error(output[name], expected[name]) < TOLERANCE, (task, name)


def test_gradients_are_the_references(golden: Golden) -> None:
    check_gradients(golden, hyperdecoders)


def test_nothing_of_the_base_model_is_trained(golden: Golden) -> None:
    trained = {name for name, value in golden.model.named_parameters() if value.requires_grad}
    assert trained == {f"hyperadapt.{name}" for name, _ in golden.model.hyperadapt.named_parameters()}


Adapter = Callable[[Tensor], Tensor]


def by_hand(
    state: Mapping[str, Tensor], meta: Mapping[str, Any], stack: str, kind: str, e: Any
) -> list[Adapter]:
    """One row's adapters of a stack, from golden/README.md and nothing of ours; e is its embedding or its task."""
    d_model, b = meta["t5"]["d_model"], meta["adapter"][f"{stack}_adapter_dim"]
    adapters = []
    for layer in range(meta["t5"]["num_layers"]):
        place = f"{stack}.block.{layer}.layer.{1 if stack == 'encoder' else 2}.adapter_layer.adapter"
        if kind == "manual":
            down, up = state[f"{place}_down_manual.weight"].T, state[f"{place}_up_manual.weight"].T
            down_bias, up_bias = state[f"{place}_down_manual.bias"], state[f"{place}_up_manual.bias"]
        elif kind == "manual_specific":
            down, up = state[f"{place}_down_manual_weight"][e], state[f"{place}_up_manual_weight"][e]
            down_bias, up_bias = (
                state[f"{place}_down_manual_bias"][e, 0],
                state[f"{place}_up_manual_bias"][e, 0],
            )
        else:
            network = f"{stack}.param_gen."
            condition = torch.cat([e, state[f"{network}layer_embed.weight"][layer]])
            hidden = map_linear(state, f"{network}decoder.linear1", condition).clamp_min(0)
            down = map_linear(state, f"{network}decoder.weight_down", hidden).reshape(d_model, b)
            up = map_linear(state, f"{network}decoder.weight_up", hidden).reshape(b, d_model)
            down_bias = map_linear(state, f"{network}decoder.bias_down", hidden)
            up_bias = map_linear(state, f"{network}decoder.bias_up", hidden)

        def adapter(
            x: Tensor, down: Any = down, up: Any = up, first: Any = down_bias, last: Any = up_bias
        ) -> Tensor:
            return (x @ down + first).clamp_min(0) @ up + last

        adapters.append(adapter)
    return adapters


def row_by_hand(
    state: Mapping[str, Tensor], meta: Mapping[str, Any], row: dict[str, Tensor], task: int
) -> Any:
    """Run one row, without padding, through a T5 whose adapters are hooked in one by one."""
    model = (
        T5ForConditionalGeneration(T5Config(**{**meta["t5"], "decoder_start_token_id": 0})).eval().double()
    )
    model.lm_head = torch.nn.Linear(*state["lm_head.weight"].T.shape, bias=False, dtype=torch.float64)
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    after_norm = meta["adapter"]["adapter_norm_input"]

    def run_with(stack: str, kind: str, e: Any) -> None:
        for block, adapter in zip(
            getattr(model, stack).block, by_hand(state, meta, stack, kind, e), strict=True
        ):
            layer = block.layer[-1]
            layer._forward_hooks.clear()
            layer.register_forward_hook(
                lambda module, args, output, adapter=adapter: (
                    output + adapter(module.layer_norm(args[0]) if after_norm else args[0])
                )
            )

    def embedded(stack: str, kind: str, states: Tensor | None) -> Any:
        if kind == "task":
            return state[f"{stack}.adapter_task_embedding.weight"][task]
        if kind != "generated":
            return task
        assert states is not None
        mean = states[0].mean(0)
        return two_layers(state, f"{stack}.mlp", mean) if meta["adapter"]["process_encoder_output"] else mean

    kinds = {stack: meta["adapter"][f"{stack}_adapter"] for stack in ("encoder", "decoder")}
    first = "manual" if kinds["encoder"] == "generated" else kinds["encoder"]
    run_with("encoder", first, embedded("encoder", first, None))
    states = model.encoder(row["input_ids"]).last_hidden_state
    if kinds["encoder"] == "generated":
        run_with("encoder", "generated", embedded("encoder", "generated", states))
        states = model.encoder(row["input_ids"]).last_hidden_state
    run_with("decoder", kinds["decoder"], embedded("decoder", kinds["decoder"], states))
    return model(**row)


@pytest.mark.parametrize("case", [*NUMBERS, *SHAPES_ONLY, "manual_specific"])
def test_a_mixed_padded_batch_equals_its_rows_with_adapters_made_by_hand_gradients_included(
    shared: Path, case: str
) -> None:
    sizes, meta = shapes(shared, "single_adapter" if case == "manual_specific" else case)
    sizes, meta = dict(sizes), dict(meta)
    if case == "manual_specific":  # no case of the golden files, but a kind of the paper's
        meta["adapter"] = {**meta["adapter"], "encoder_adapter": case, "decoder_adapter": case}
        for name in [name for name in sizes if "_manual." in name]:
            size = tuple(sizes.pop(name))
            own = size[::-1] if len(size) == 2 else (1, *size)
            sizes[name.replace("_manual.", "_manual_")] = (len(meta["tasks"]), *own)
    state = {name: value.double() for name, value in random_state(sizes, tied=False).items()}
    model = interop.from_reference(state, meta).double()
    added = {
        name: value for name, value in state.items() if any(part in name for part in hyperdecoders.ADDED)
    }
    for value in added.values():
        value.requires_grad_()
    generator = torch.Generator().manual_seed(1)
    lengths = [7, 3, 5, 7, 1, 6]
    ids = torch.randint(3, 96, (6, 7), generator=generator)
    mask = torch.tensor([[position < length for position in range(7)] for length in lengths]).long()
    labels = torch.randint(3, 96, (6, 4), generator=generator)
    task_ids = torch.tensor([2, 0, 1, 1, 0, 2])
    mixed = model(input_ids=ids * mask, attention_mask=mask, labels=labels, task_ids=task_ids)
    mixed.loss.backward()
    for index, length in enumerate(lengths):
        row = {"input_ids": ids[index : index + 1, :length], "labels": labels[index : index + 1]}
        expected = row_by_hand(state, meta, row, int(task_ids[index]))
        assert relative_error(mixed.logits[index : index + 1], expected.logits) < TOLERANCE, index
        (expected.loss / len(lengths)).backward()
    gradients = {
        name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in added.items()
    }
    for name, gradient in hyperdecoders.imported(model, gradients).items():
        assert gradient.any(), name
        assert relative_error(model.hyperadapt.get_parameter(name).grad, gradient) < TOLERANCE, name


def test_what_meta_has_no_place_for_is_named(shared: Path) -> None:
    sizes, meta = shapes(shared, "single_adapter")
    state = {**random_state(sizes, tied=False), "decoder.param_gen.layer_embed.weight": torch.zeros(2, 10)}
    with pytest.raises(UserError, match=r"the state holds 'decoder\.param_gen\.layer_embed\.weight'"):
        interop.from_reference(state, meta)
