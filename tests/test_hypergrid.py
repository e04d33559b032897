"""HyperGrid: gates on feed-forward matrices, beside a dense computation in float64, and token by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from transformers import EncoderDecoderCache, StaticCache
from transformers.modeling_outputs import BaseModelOutput

import hyperadapt as ha
from hyperadapt.errors import UserError
from hyperadapt.forms import grid
from hyperadapt.forms.grid import by_columns, by_matrix, by_rows, gated_linear
from hyperadapt.sites import split
from tiny import TINY, redraw, tiny_adapted, tiny_batch, tiny_t5

VARIANTS = ("L", "L_rows", "L2", "LG", "GL")
METHODS = {
    **{variant: ha.HyperGrid(variant=variant, fan_in=4, fan_out=8) for variant in VARIANTS},
    "mean": ha.HyperGrid(fan_in=8, fan_out=6, pool="mean"),
    "sum": ha.HyperGrid(fan_in=8, fan_out=6, pool="sum"),
    "mean output": ha.OutputGate(n=8, pool="mean"),
    "pretrained start": ha.HyperGrid(fan_in=4, fan_out=8, pretrained_start=True),
    "output": ha.OutputGate(n=8),
    "full output": ha.OutputGate(),
}
every_gate = pytest.mark.parametrize("kind", METHODS)


def inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name != "task_ids"}


def dense(model: Any, kind: str, batch: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
    """The base model with its feed-forward outputs gated by hand: gate, expand, multiply, row by row.

    With it the gates' parameters in each stack, (layers, numel).
    """
    method, reference, tables = METHODS[kind], tiny_t5().double(), {}
    reference.load_state_dict(
        {name: value for name, value in model.state_dict().items() if not name.startswith("hyperadapt.")}
    )
    for stack in ("encoder", "decoder"):
        table = tables[stack] = table_of(model, stack)[0].detach().clone().requires_grad_()
        for layer, block in enumerate(getattr(reference, stack).block):
            feed_forward = block.layer[-1].DenseReluDense
            feed_forward.register_forward_hook(by_hand(method, stack, table[layer], batch["attention_mask"]))
    return reference, tables


def table_of(model: Any, stack: str) -> Tensor:
    return model.hyperadapt.groups[stack][0].generators[0].table


def by_hand(method: Any, stack: str, flat: Tensor, mask: Tensor) -> Any:
    d_model, d_ff = TINY["d_model"], TINY["d_ff"]
    grid = isinstance(method, ha.HyperGrid)
    variant = method.variant if grid else "none"
    d_r = method.fan_in if grid and variant != "L" else 1
    d_c = (method.fan_out if variant != "L_rows" else 1) if grid else method.n or d_ff

    def hook(module: Any, args: tuple[Tensor], output: Tensor) -> Tensor:
        states = args[0]
        hidden = torch.relu(states @ module.wi.weight.T)
        rows = []
        for row in range(len(states)):
            if method.pool != "first" and stack == "encoder":
                tokens, pool = mask[row].bool(), getattr(torch, method.pool)
                read, inner = pool(states[row][tokens], 0), pool(hidden[row][tokens], 0)
            else:
                read, inner = states[row, 0], hidden[row, 0]
            numbers, right = iter(flat), torch.ones(d_c).double()

            def take(*shape: int, numbers: Any = numbers) -> Tensor:
                return torch.stack([next(numbers) for _ in range(torch.Size(shape).numel())]).view(shape)

            if not grid:  # eq. 7, the ReLU's output gated
                gate = torch.sigmoid(take(d_c, d_model) @ read).repeat_interleave(d_ff // d_c)
                scale = gate + 0.5 if method.pretrained_start else gate
                rows.append((hidden[row] * scale) @ module.wo.weight.T)
                continue
            if variant == "L":  # eq. 2
                left, right = torch.ones(1).double(), take(d_c, d_model) @ read
            else:
                left = take(d_r) if variant == "GL" else take(d_r, d_model) @ read
            if variant == "LG":
                right = take(d_c)
            elif variant in ("L2", "GL"):
                right = take(d_c, d_ff) @ inner
            gate = torch.sigmoid(torch.outer(left, right))
            expanded = gate.repeat_interleave(d_model // d_r, 0).repeat_interleave(d_ff // d_c, 1)
            offset = 0.5 if method.pretrained_start else 1.0
            rows.append(hidden[row] @ ((offset + expanded) * module.wo.weight).T)
        return torch.stack(rows)

    return hook


@every_gate
def test_it_is_the_dense_computation_in_float64_gradients_included(kind: str) -> None:
    model, batch = tiny_adapted(METHODS[kind]).double(), tiny_batch()
    reference, tables = dense(model, kind, batch)
    output, expected = model(**batch), reference(**inputs(batch))
    assert (output.logits - expected.logits).abs().max() < 1e-10
    output.loss.backward()
    expected.loss.backward()
    for name, parameter in reference.named_parameters():
        found = model.get_parameter(name)
        assert found.requires_grad == (name != "shared.weight"), name
        if found.requires_grad:
            assert (found.grad - parameter.grad).abs().max() < 1e-10, name
    for stack, table in tables.items():
        assert table.grad.abs().max() > 1e-6
        assert (table_of(model, stack).grad[0] - table.grad).abs().max() < 1e-10


@every_gate
def test_token_by_token_it_has_the_logits_of_the_whole_target(kind: str) -> None:
    model, batch = tiny_adapted(METHODS[kind]).double(), tiny_batch()
    given = {"attention_mask": batch["attention_mask"]}
    with torch.no_grad():
        whole = model(**batch).logits
        states = model.get_encoder()(input_ids=batch["input_ids"], **given)
        encoder_outputs = BaseModelOutput(last_hidden_state=states.last_hidden_state)
        targets, past, steps = model._shift_right(batch["labels"]), None, []
        for position in range(targets.shape[1]):
            step = model(
                encoder_outputs=encoder_outputs,
                decoder_input_ids=targets[:, position : position + 1],
                past_key_values=past,
                use_cache=True,
                **given,
            )
            past = step.past_key_values
            steps.append(step.logits)
    assert (torch.cat(steps, 1) - whole).abs().max() < 1e-10
    assert (whole[:, 1:] - whole[:, :1]).abs().max() > 1e-2


@every_gate
def test_beams_score_as_the_whole_target_does(kind: str) -> None:
    model, batch = tiny_adapted(METHODS[kind]).double(), tiny_batch()
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    options = {
        "num_beams": 3,
        "max_new_tokens": 5,
        "min_new_tokens": 5,
        "length_penalty": 0.0,
        "do_sample": False,
    }
    found = model.generate(**given, **options, output_scores=True, return_dict_in_generate=True)
    tokens = found.sequences
    with torch.no_grad():
        likelihoods = model(**given, decoder_input_ids=tokens[:, :-1]).logits.log_softmax(-1)
    expected = likelihoods.gather(2, tokens[:, 1:, None]).sum((1, 2))
    assert (found.sequences_scores - expected).abs().max() < 1e-5  # generate's are float32


@every_gate
def test_padding_on_the_left_changes_nothing(kind: str) -> None:
    model, batch = tiny_adapted(METHODS[kind]).double(), tiny_batch()
    whole = {name: value[:1] for name, value in batch.items()}
    expected = model(**whole).logits
    padding = torch.zeros(1, 3, dtype=torch.long)
    whole["input_ids"] = torch.cat([padding, whole["input_ids"]], 1)
    whole["attention_mask"] = torch.cat([padding, whole["attention_mask"]], 1)
    assert (model(**whole).logits - expected).abs().max() < 1e-10


def test_states_of_the_encoder_that_are_moved_at_each_step_keep_their_gates() -> None:
    model, batch = tiny_adapted(METHODS["L2"]), tiny_batch()
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = model.generate(**given, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    forward = model.decoder.forward
    model.decoder.forward = lambda *args, encoder_hidden_states=None, **rest: forward(
        *args, encoder_hidden_states=encoder_hidden_states.clone(), **rest
    )
    found = model.generate(**given, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert torch.equal(found, expected)


# An output gate is a variant of the first.
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["L2", "mean"])
def test_it_is_a_whole_graph_which_lengths_share(kind: str) -> None:
    model, graphs = tiny_adapted(METHODS[kind], num_layers=1), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=graphs, dynamic=True)
    for length, made in ((9, 1), (5, 2), (7, 2)):  # the second is of any length
        batch = {name: value[:, :length] for name, value in inputs(tiny_batch()).items()}
        assert (compiled(**batch).logits - model(**batch).logits).abs().max() < 1e-5
        assert graphs.frame_count == made


def test_going_on_with_a_cache_that_holds_no_gates_is_refused() -> None:
    model, batch = tiny_adapted(METHODS["L2"]), tiny_batch()
    first = model(**batch)
    with pytest.raises(UserError, match="do not hold the gates, which the first token decides"):
        model(
            encoder_outputs=BaseModelOutput(last_hidden_state=first.encoder_last_hidden_state),
            attention_mask=batch["attention_mask"],
            decoder_input_ids=batch["labels"][:, :1].clamp_min(0),
            past_key_values=first.past_key_values,
        )


@pytest.mark.parametrize(
    ("method", "scale"),
    [(ha.HyperGrid(fan_in=4, fan_out=8, variant=variant), 1.5) for variant in VARIANTS]
    + [
        (ha.HyperGrid(fan_in=4, fan_out=8, variant=variant, pretrained_start=True), 1.0)
        for variant in VARIANTS
    ]
    + [(ha.OutputGate(n=4), 0.5), (ha.OutputGate(pretrained_start=True), 1.0)],
)
def test_untrained_gates_scale_the_matrices_by_one_number(method: Any, scale: float) -> None:
    base, batch = tiny_t5(), tiny_batch()
    for name, parameter in base.named_parameters():
        if name.endswith("wo.weight"):
            parameter.data *= scale
    expected = base(**inputs(batch)).logits
    found = ha.adapt(tiny_t5(), method, ["alpha"])(**inputs(batch)).logits
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_factors_learn_from_where_they_start(variant: str) -> None:
    model = ha.adapt(tiny_t5(), ha.HyperGrid(fan_in=4, fan_out=8, variant=variant), ["alpha"])
    optimizer = torch.optim.SGD(model.hyperadapt.parameters(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        model(**inputs(tiny_batch())).loss.backward()
        optimizer.step()
    group = model.hyperadapt.groups["encoder"][0]

    for name, gradient in split(
        group.generators[0].table.grad[0], group.form.weights(group.sites[0])
    ).items():
        assert gradient.abs().max() > 0, name


def test_the_added_parameters_are_the_papers_costs() -> None:
    d_model, d_ff, d_r, d_c = TINY["d_model"], TINY["d_ff"], 4, 8
    costs = {
        "L": d_model * d_c,
        "L_rows": d_model * d_r,
        "LG": d_model * d_r + d_c,
        "GL": d_r + d_ff * d_c,
        "L2": d_model * d_r + d_ff * d_c,
    }
    for variant, cost in costs.items():
        model = ha.adapt(tiny_t5(), METHODS[variant], ["alpha"])
        added = sum(parameter.numel() for parameter in model.hyperadapt.parameters())
        assert added == 4 * cost  # two blocks in each stack
    full = ha.adapt(tiny_t5(), ha.OutputGate(), ["alpha"])
    assert sum(parameter.numel() for parameter in full.hyperadapt.parameters()) == 4 * d_model * d_ff


def test_all_but_the_embeddings_is_trained_or_the_gates_alone() -> None:
    for method in (METHODS["L2"], ha.FullFineTuning(train_embeddings=False)):  # the paper's, and its baseline
        whole = ha.adapt(tiny_t5(), method, ["alpha"])
        assert {name for name, parameter in whole.named_parameters() if not parameter.requires_grad} == {
            "shared.weight"
        }
    gates = ha.adapt(tiny_t5(), ha.HyperGrid(fan_in=4, fan_out=8, frozen=True), ["alpha"])
    trained = {name for name, parameter in gates.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(name.startswith("hyperadapt.") for name in trained)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (ha.HyperGrid(fan_in=5, fan_out=8), "5 blocks do not divide the output of encoder.block.0"),
        (ha.HyperGrid(fan_in=4, fan_out=7), "input of .*, 48 numbers; the nearest number that does is (6|8)"),
        (ha.OutputGate(n=33), "48 numbers; the nearest number that does is 24"),
    ],
)
def test_blocks_that_do_not_divide_a_matrix_are_refused(method: Any, message: str) -> None:
    base = tiny_t5()
    with pytest.raises(UserError, match=message):
        ha.adapt(base, method, ["alpha"])
    assert type(base).__mro__[1].__name__ == "T5PreTrainedModel", "nothing is changed"


def test_a_map_that_is_not_linear_is_refused() -> None:
    base = tiny_t5()

    class Packed(nn.Linear):
        pass

    base.decoder.block[1].layer[2].DenseReluDense.wo = Packed(48, 32, bias=False)
    with pytest.raises(UserError, match=r"decoder\.block\.1\.layer\.2\.DenseReluDense\.wo is a Packed"):
        ha.adapt(base, METHODS["L2"], ["alpha"])


def gradients_agree(found: Tensor, expected: Tensor, of: tuple[Tensor, ...]) -> bool:
    direction = torch.randn_like(expected)
    pairs = zip(*(torch.autograd.grad((y * direction).sum(), of) for y in (found, expected)), strict=True)
    return all((one - other).abs().max() < 1e-11 for one, other in pairs)


SHAPES = [
    (40, 4, 8),
    (1, 1, 48),
    (1, 4, 8),
    (1, 8, 2),
    (3, 8, 2),
    (5, 2, 12),
    (7, 4, 1),
    (2, 1, 8),
    (64, 16, 48),
]


@pytest.mark.parametrize(("seq", "d_r", "d_c"), SHAPES)
def test_each_way_to_multiply_is_the_dense_product(seq: int, d_r: int, d_c: int) -> None:
    torch.manual_seed(0)
    x, weight, gate = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((3, seq, 48), (16, 48), (3, d_r, d_c))
    )
    matrices = weight * gate.repeat_interleave(16 // d_r, 1).repeat_interleave(48 // d_c, 2)
    expected, found = torch.einsum("bsi,boi->bso", x, matrices), gated_linear(x, weight, gate)
    for way in (gated_linear, by_matrix, by_columns, by_rows):
        assert (way(x, weight, gate) - expected).abs().max() < 1e-12, way.__name__
    assert gradients_agree(found, expected, (x, weight, gate))


@pytest.mark.parametrize("rows_at_once", [1, 2, 3])
def test_so_many_rows_at_once_as_are_allowed_give_the_same(
    rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "AT_ONCE", {"cpu": rows_at_once * 16 * 48})
    torch.manual_seed(0)
    x, weight, gate = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((5, 7, 48), (16, 48), (5, 4, 8))
    )
    matrices = weight * gate.repeat_interleave(4, 1).repeat_interleave(6, 2)
    expected, found = torch.einsum("bsi,boi->bso", x, matrices), by_matrix(x, weight, gate)
    assert (found - expected).abs().max() < 1e-12
    assert gradients_agree(found, expected, (x, weight, gate))


@pytest.mark.parametrize(("d_r", "d_c"), [(4, 8), (8, 2), (2, 12), (16, 1)])
@pytest.mark.parametrize("seq", [1, 2, 64])
def test_nothing_larger_than_the_rows_is_kept_for_the_backward(seq: int, d_r: int, d_c: int) -> None:
    x, weight, gate = torch.randn(6, seq, 48), torch.randn(16, 48), torch.rand(6, d_r, d_c)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: kept.append(saved.numel()) or saved, lambda saved: saved
    ):
        gated_linear(x, weight.requires_grad_(), gate.requires_grad_())
    assert max(kept) <= max(x.numel(), weight.numel())


@pytest.mark.parametrize(
    ("seq", "d_r", "d_c", "way"),
    [(64, 4, 8, "matrix"), (1, 2, 12, "rows"), (1, 16, 2, "columns"), (64, 4, 1, "columns")],
)
def test_the_way_with_the_fewest_numbers_in_between_is_taken(
    seq: int, d_r: int, d_c: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    for name in ("by_matrix", "by_rows", "by_columns"):
        compute = getattr(grid, name)
        monkeypatch.setattr(
            grid, name, lambda *args, name=name, compute=compute: taken.append(name) or compute(*args)
        )
    gated_linear(torch.randn(6, seq, 48), torch.randn(16, 48), torch.rand(6, d_r, d_c))
    assert taken == [f"by_{way}"]


@every_gate
def test_a_cache_that_is_reset_forgets_the_gates(kind: str) -> None:
    model, batch = tiny_adapted(METHODS[kind]), inputs(tiny_batch())
    caches = [StaticCache(model.decoder.config, max_cache_len=size) for size in (8, 9)]
    cache, other = EncoderDecoderCache(*caches), {**batch, "input_ids": batch["input_ids"].flip(0, 1)}
    with torch.no_grad():
        model(**batch, past_key_values=cache, use_cache=True)
        cache.reset()
        again = model(**other, past_key_values=cache, use_cache=True).logits
        assert (again - model(**other).logits).abs().max() < 1e-5
        assert (again - model(**batch).logits).abs().max() > 1e-2


def test_a_matrix_that_layers_share_is_refused() -> None:
    base = tiny_t5()
    base.decoder.block[1].layer[2].DenseReluDense.wo = base.decoder.block[0].layer[2].DenseReluDense.wo
    with pytest.raises(UserError, match="layers of the decoder share one"):
        ha.adapt(base, METHODS["L2"], ["alpha"])


def test_a_model_that_is_dispatched_already_is_refused() -> None:
    base = tiny_t5()
    dispatch_model(base, {"": "cpu"}, force_hooks=True)
    with pytest.raises(UserError, match="adapt the model first, and dispatch it after"):
        ha.adapt(base, METHODS["L2"], ["alpha"])


def test_under_autocast_the_product_is_of_the_lower_precision() -> None:
    model, batch = redraw(ha.adapt(tiny_t5(), METHODS["L2"], ["alpha"])), tiny_batch()
    expected = model(**inputs(batch)).logits
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**inputs(batch))
        assert gated_linear(torch.randn(1, 2, 48), torch.randn(32, 48), torch.ones(1, 4, 8)).dtype == (
            torch.bfloat16
        )
    output.loss.backward()
    assert (output.logits.float() - expected).norm() / expected.norm() < 0.05
    assert model.decoder.block[1].layer[2].DenseReluDense.wo.weight.grad.dtype == torch.float32
