"""Sampling rates, and the properties of the stream of multi-task batches."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hyperadapt.errors import UserError
from hyperadapt.training.mixing import MixtureBatchSampler, sampling_rates

SIZES = [40, 400, 4000]


def lengths(sizes: list[int] = SIZES) -> list[list[int]]:
    """Token lengths as real tasks have them: many short rows, few long ones, other ones in each task."""
    random = np.random.default_rng(0)
    return [random.lognormal(2.5 + 0.4 * task, 0.6, size).astype(int) + 3 for task, size in enumerate(sizes)]


def task_of(row: int, sizes: list[int] = SIZES) -> int:
    """The task that a row of the concatenation belongs to."""
    return int(np.searchsorted(np.cumsum(sizes), row, side="right"))


def padded_share(batches: list[list[int]]) -> float:
    """Share of the tokens of padded batches that is padding."""
    row_lengths = np.concatenate(lengths())
    padded = sum(len(batch) * row_lengths[batch].max() for batch in batches)
    return 1 - sum(row_lengths[batch].sum() for batch in batches) / padded


def test_rates_are_the_sizes_to_the_power_of_one_over_the_temperature():
    assert sampling_rates([100, 300], temperature=1) == pytest.approx([0.25, 0.75])
    assert sampling_rates([100, 400], temperature=2) == pytest.approx([1 / 3, 2 / 3])
    assert sampling_rates([1, 1024], temperature=10) == pytest.approx([1 / 3, 2 / 3])
    assert sampling_rates([1, 1024]) == sampling_rates([1, 1024], temperature=10)
    assert sampling_rates([7, 70, 700], temperature=math.inf) == pytest.approx([1 / 3] * 3)
    assert sampling_rates([1, 10**6], temperature=1e-3) == pytest.approx([0, 1])
    assert sampling_rates([50, 100, 900], temperature=1, size_limit=150) == pytest.approx(
        [1 / 6, 1 / 3, 1 / 2]
    )


def test_rates_refuse_what_cannot_be_mixed():
    with pytest.raises(UserError, match=r"^there are no tasks to mix$"):
        sampling_rates([])
    with pytest.raises(UserError, match=r"^every task needs training rows .* sizes are \[5, 0\]$"):
        sampling_rates([5, 0])
    for temperature in (0, -1.0, math.nan):
        with pytest.raises(UserError, match=rf"^temperature must be above 0, not {temperature} "):
            sampling_rates([5], temperature)


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_tasks_come_at_their_rates(mixed: bool, temperature: float):
    sampler = MixtureBatchSampler(lengths(), 16, 2000, temperature=temperature, mixed=mixed)
    draws = [task_of(row) for batch in sampler for row in (batch if mixed else batch[:1])]
    observed = np.bincount(draws, minlength=3)
    expected = np.array(sampling_rates(SIZES, temperature)) * len(draws)
    # Chi-square with 2 degrees of freedom: beyond 13.8 once in a thousand seeds.
    assert ((observed - expected) ** 2 / expected).sum() < 13.8


def test_one_task_per_batch_where_batches_are_not_mixed_and_several_where_they_are():
    apart = list(MixtureBatchSampler(lengths(), 16, 200, mixed=False))
    assert all(len({task_of(row) for row in batch}) == 1 for batch in apart)
    assert len({task_of(batch[0]) for batch in apart}) == 3
    together = list(MixtureBatchSampler(lengths(), 16, 200))
    assert sum(len({task_of(row) for row in batch}) > 1 for batch in together) > 100


@pytest.mark.parametrize("mixed", [True, False])
def test_the_rows_of_all_ranks_make_up_the_batch_of_one(mixed: bool):
    alone = list(MixtureBatchSampler(lengths(), 12, 70, mixed=mixed))
    for world_size in (2, 3):
        shares = [
            list(MixtureBatchSampler(lengths(), 12, 70, mixed=mixed, rank=rank, world_size=world_size))
            for rank in range(world_size)
        ]
        for whole, *parts in zip(alone, *shares, strict=True):
            assert [whole[rank::world_size] for rank in range(world_size)] == parts
            assert {len(part) for part in parts} == {12 // world_size}


def test_the_same_seed_gives_the_same_stream_and_another_seed_another():
    sampler = MixtureBatchSampler(lengths(), 8, 60, seed=1)
    stream = list(sampler)
    assert list(sampler) == stream
    assert list(MixtureBatchSampler(lengths(), 8, 60, seed=1)) == stream
    other = list(MixtureBatchSampler(lengths(), 8, 60, seed=2))
    assert sum(batch == twin for batch, twin in zip(stream, other, strict=True)) < 3


def test_a_longer_stream_begins_with_the_shorter_one():
    short = list(MixtureBatchSampler(lengths(), 8, 33, window=10))
    assert list(MixtureBatchSampler(lengths(), 8, 57, window=10))[:33] == short


@pytest.mark.parametrize("group_by_length", [True, False])
def test_every_pass_over_a_task_visits_each_of_its_rows_once(group_by_length: bool):
    # A window of one batch keeps the passes in order: 5 rows, of which each window takes any part of 7.
    sizes = [5, 3]
    sampler = MixtureBatchSampler(
        lengths(sizes), 7, 60, window=1, group_by_length=group_by_length, temperature=math.inf
    )
    stream = list(sampler)
    for task, first in enumerate((0, 5)):
        visits = np.zeros(sizes[task], int)
        for batch in stream:
            visits += np.bincount(
                [row - first for row in batch if task_of(row, sizes) == task], minlength=sizes[task]
            )
            # Within a pass the rows are apart by one visit at most, and never more.
            assert visits.max() - visits.min() <= 1
        assert visits.min() > 30


def test_passes_come_in_different_orders():
    single = MixtureBatchSampler([[1] * 50], 50, 4, window=1, group_by_length=False)
    passes = list(single)
    assert all(sorted(one) == list(range(50)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4


def test_grouping_by_length_leaves_a_fifth_of_the_padding_and_the_same_rows_in_each_window():
    grouped = list(MixtureBatchSampler(lengths(), 16, 500))
    drawn = list(MixtureBatchSampler(lengths(), 16, 500, group_by_length=False))
    assert padded_share(grouped) < padded_share(drawn) / 5
    for first in range(0, 500, 50):
        window, twin = (np.sort(batches[first : first + 50], axis=None) for batches in (grouped, drawn))
        assert window.tolist() == twin.tolist()


def test_grouping_by_length_leaves_a_third_of_the_padding_of_unmixed_batches():
    grouped = list(MixtureBatchSampler(lengths(), 16, 500, mixed=False))
    drawn = list(MixtureBatchSampler(lengths(), 16, 500, mixed=False, group_by_length=False))
    assert padded_share(grouped) < padded_share(drawn) / 3
    tasks, twins = ([task_of(batch[0]) for batch in batches] for batches in (grouped, drawn))
    assert np.bincount(tasks).tolist() == np.bincount(twins).tolist()


def test_batches_of_a_window_are_not_ordered_by_length():
    row_lengths = np.concatenate(lengths())
    means = [row_lengths[batch].mean() for batch in MixtureBatchSampler(lengths(), 16, 50)]
    assert abs(np.corrcoef(means, np.arange(50))[0, 1]) < 0.3


def test_ties_of_length_are_broken_by_chance():
    # All rows alike: sorting must not bring the tasks back into their order.
    batches = list(MixtureBatchSampler([[9] * 100, [9] * 100], 10, 50))
    assert sum(len({row // 100 for row in batch}) == 2 for batch in batches) == 50


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"window": 0}, "window must be at least 1, not 0"),
        ({"world_size": 0}, "world_size must be at least 1, not 0"),
        ({"world_size": 3}, "batch_size 8 cannot be shared evenly by 3 processes"),
        ({"world_size": 2, "rank": 2}, "rank must be from 0 to 1, not 2"),
        ({"num_batches": 0}, "num_batches must be at least 1, not 0"),
        ({"seed": -1}, "seed must not be negative, but is -1"),
        ({"lengths": []}, "there are no tasks to mix"),
    ],
)
def test_a_stream_that_cannot_be_is_refused(wrong: dict, message: str):
    with pytest.raises(UserError) as refusal:
        MixtureBatchSampler(**{"lengths": lengths(), "batch_size": 8, "num_batches": 10, **wrong})
    assert str(refusal.value) == message
