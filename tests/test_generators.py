"""Conditioning and generators against plain loops over tasks and sites."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyperadapt.conditioning import Condition, TaskEmbedding, TaskLookup, distinct
from hyperadapt.errors import UserError
from hyperadapt.generators import SharedHypernet, SharedTable, TaskTable, learnt_rows
from hyperadapt.sites import Weight
from tiny import given_tasks

WEIGHTS = {"matrix": Weight((3, 2), std=0.5), "scale": Weight((4,), mean=1.0)}  # 10 numbers
LAYERS, POSITIONS, D_TASK = 3, 2, 5


def redrawn(module: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def condition(conditions: int = 4) -> Condition:
    embedding = torch.randn(conditions, D_TASK, generator=torch.Generator().manual_seed(1))
    return Condition(torch.arange(conditions), torch.arange(conditions), embedding)


def two_layers(projector: Any, x: Tensor) -> Tensor:
    hidden = (projector[0].weight @ x + projector[0].bias).clamp_min(0)
    return projector[2].weight @ hidden + projector[2].bias


HYPERNETS: dict[str, dict[str, Any]] = {
    "one head a site": {"head": "site"},
    "one head a stack": {
        "head": "stack",
        "layer_embedding": True,
        "position_embedding": True,
        "projector": (7, 6),
    },
    "one head a stack, unprojected": {
        "head": "stack",
        "layer_embedding": True,
        "position_embedding": True,
    },
    "one head a position": {"head": "position", "layer_embedding": True, "projector": (7, 6)},
}


@pytest.mark.parametrize("kind", HYPERNETS)
def test_a_hypernetwork_generates_each_sites_parameters_as_a_loop_over_sites_does(kind: str) -> None:
    options = HYPERNETS[kind]
    hypernet = redrawn(SharedHypernet(LAYERS, POSITIONS, WEIGHTS, D_TASK, **options))
    given = condition()
    found = hypernet(given)
    assert found.shape == (4, LAYERS * POSITIONS, 10)
    assert given.embedding is not None
    for task, z in enumerate(given.embedding):
        for site in range(LAYERS * POSITIONS):
            layer, position = divmod(site, POSITIONS)
            features = [z]
            if options.get("layer_embedding"):
                features.append(hypernet.layer_embedding[layer])
            if options.get("position_embedding"):
                features.append(hypernet.position_embedding[position])
            embedding = torch.cat(features)
            if options.get("projector"):
                embedding = two_layers(hypernet.projector, embedding)
            if options.get("layer_embedding"):
                centred = embedding - embedding.mean()
                spread = centred / (centred.pow(2).mean() + 1e-6).sqrt()
                embedding = hypernet.norm.weight * spread + hypernet.norm.bias
            head = {"site": site, "position": position, "stack": 0}[options["head"]]
            expected = embedding @ hypernet.head_weight[head] + hypernet.head_bias[head, 0]
            assert (found[task, site] - expected).abs().max() < 1e-5


@pytest.mark.parametrize("kind", HYPERNETS)
def test_a_hypernetwork_starts_near_zero_with_heads_of_its_sharing(kind: str) -> None:
    options = HYPERNETS[kind]
    torch.manual_seed(0)
    hypernet = SharedHypernet(LAYERS, POSITIONS, WEIGHTS, D_TASK, **options)
    n_heads = {"site": LAYERS * POSITIONS, "position": POSITIONS, "stack": 1}[options["head"]]
    assert hypernet.head_weight.shape[0] == hypernet.head_bias.shape[0] == n_heads
    assert hypernet.head_weight.std().item() == pytest.approx(0.01, rel=0.25)
    assert not hypernet.head_bias.any()
    assert hypernet(condition()).abs().max() < 0.2


def test_a_table_of_tasks_looks_up_the_rows_asked_for() -> None:
    table = redrawn(TaskTable(4, 6, WEIGHTS))
    ids = torch.tensor([3, 1])
    found = table(Condition(torch.tensor([0, 1, 1]), ids))
    assert torch.equal(found, torch.stack([table.table[3], table.table[1]]))


def test_a_shared_table_is_the_same_for_every_task() -> None:
    table = redrawn(SharedTable(6, WEIGHTS))
    assert torch.equal(table(condition(4)), table.table)
    assert table.table.shape == (1, 6, 10)


def test_parameters_learnt_in_place_are_drawn_as_each_weight_asks() -> None:
    torch.manual_seed(0)
    rows = learnt_rows(200, 5, WEIGHTS)
    assert rows.shape == (200, 5, 10)
    assert rows[..., :6].std().item() == pytest.approx(0.5, rel=0.05)
    assert abs(rows[..., :6].mean().item()) < 0.03
    assert (rows[..., 6:] == 1).all()
    assert not torch.equal(rows[0, :, :6], rows[1, :, :6])


@pytest.mark.parametrize("start", [None, 7.0])
def test_a_row_added_to_a_table_is_a_copy_or_new_and_the_others_stay(start: float | None) -> None:
    given = None if start is None else torch.full((6, 10), start)
    table = TaskTable(2, 6, WEIGHTS, given)
    if given is not None:
        assert torch.equal(table.table, given.expand(2, -1, -1))
    redrawn(table)
    before = table.table.detach().clone()
    table.add_task((1,))
    table.add_task(())
    assert table.table.shape == (4, 6, 10)
    assert torch.equal(table.table[:2], before)
    assert torch.equal(table.table[2], before[1])
    assert not torch.equal(table.table[3], before[0])
    assert (table.table[3] == 7.0).all() if start else (table.table[3, :, 6:] == 1).all()
    assert list(table.state_dict()) == ["table"]


def test_rows_added_to_a_table_do_not_share_memory_with_where_they_came_from() -> None:
    table = TaskTable(2, 6, WEIGHTS, torch.ones(6, 10))
    table.add_task(())
    with torch.no_grad():
        table.table[0] = 5
    assert (table.table[1:] == 1).all()
    table.add_task(())
    assert (table.table[3] == 1).all()


@pytest.mark.parametrize(
    ("task_ids", "groups"),
    [
        ([0, 2, 1, 1, 0, 2], 6),
        ([1], 1),
        ([2, 2, 2], 1),
        ([3, 0], 2),
        ([2, 2, 0, 0, 2, 2], 3),
        ([1, 1, 1, 1, 0, 0], 3),
        ([], 0),
    ],
)
def test_rows_of_the_distinct_tasks_give_the_batchs_tasks_back(task_ids: list[int], groups: int) -> None:
    given = torch.tensor(task_ids, dtype=torch.long)
    ids, rows = distinct(given, 4)
    assert rows is not None
    assert len(rows) == groups
    assert torch.equal(ids[rows].repeat_interleave(len(given) // max(groups, 1)), given)
    assert ids.tolist() == sorted(set(task_ids))
    # Under compile, and so on an accelerator, the number of tasks that occur is not known.
    torch._dynamo.reset()
    ids, rows = torch.compile(distinct, backend="eager", fullgraph=True)(given, 4)
    torch._dynamo.reset()
    assert torch.equal(ids if rows is None else ids[rows], given)
    assert len(ids) == min(4, len(given))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_rows_of_a_model_of_one_task_are_one_group(device: str) -> None:
    ids, rows = distinct(torch.zeros(3, dtype=torch.long, device=device), 1)
    assert ids.shape == (1,)
    assert rows is None or rows.shape == (1,)


@pytest.mark.parametrize("projector", [None, (7, 5)])
def test_a_task_is_embedded_by_its_z_through_the_projector(projector: tuple[int, int] | None) -> None:
    embedding = redrawn(TaskEmbedding(("a", "b", "c"), 4, projector))
    rows, ids, found = embedding(given_tasks("encoder", [2, 0, 2]))
    assert ids is not None
    assert found is not None
    assert ids.tolist() == [0, 2]
    assert rows.tolist() == [1, 0, 1]
    assert embedding.dim == found.shape[1] == (5 if projector else 4)
    for task, value in zip(ids, found, strict=True):
        z = embedding.z[task]
        expected = two_layers(embedding.projector, z) if projector else z
        assert (value - expected).abs().max() < 1e-6


def test_given_features_are_used_and_not_trained() -> None:
    features = torch.arange(8.0).reshape(2, 4)
    given, learnt = TaskEmbedding(("a", "b"), 4, None, features), TaskEmbedding(("a", "b"), 4)
    assert torch.equal(given(given_tasks("encoder", [1])).embedding, features[1:])
    assert not given.z.requires_grad
    assert learnt.z.requires_grad
    with pytest.raises(UserError, match="task 'c' needs features=4 numbers: this model's z are given"):
        given.add_task("c", (), None)
    given.add_task("c", (1,), None)
    given.add_task("d", (), torch.ones(4))
    assert torch.equal(given.z, torch.cat([features, features[1:], torch.ones(1, 4)]))
    assert not given.z.requires_grad
    assert given.tasks == ("a", "b", "c", "d")


def test_a_lookup_finds_tasks_and_embeds_nothing() -> None:
    rows, ids, embedding = TaskLookup(("a", "b"))(given_tasks("decoder", [1, 1]))
    assert ids is not None
    assert (ids.tolist(), rows.tolist(), embedding) == ([1], [0], None)  # one group of two rows
