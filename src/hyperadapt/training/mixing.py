"""Multi-task batches: sampling rates, and a seeded stream of batches that ranks share and a resume continues.

Task i with n_i training rows is drawn with probability p_i = n_i^(1/T) / sum_j n_j^(1/T): T = 1 is
proportional to size, T = infinity draws all tasks alike (Raffel et al., 2020, section 3.5.2). HyperFormer has T = 10
(section 3), Hyperdecoders (section 3.1) and HyperGrid (section 7.2) T = 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from hyperadapt.errors import UserError

# First words of the seeds, so that no window's draws repeat the random numbers of a task's permutation.
_WINDOW, _PASS = 0, 1


def sampling_rates(
    sizes: Sequence[int], temperature: float = 10.0, size_limit: int | None = None
) -> list[float]:
    """The probability of drawing each task, p_i = n_i^(1/T) / sum_j n_j^(1/T).

    Args:
        sizes: training rows of each task.
        temperature: T; 1 is proportional to size, infinity gives equal rates.
        size_limit: K; a task counts as at most so many rows, n_i = min(size, K) (Raffel et al., 2020, section 3.5.2).

    Raises:
        UserError: no tasks, a task without rows, or a temperature that is not above 0.
    """
    if not sizes:
        raise UserError("there are no tasks to mix")
    if min(sizes) < 1:
        raise UserError(f"every task needs training rows to be mixed, but the sizes are {list(sizes)}")
    if not temperature > 0:
        raise UserError(f"temperature must be above 0, not {temperature} (1: proportional, inf: all alike)")
    if size_limit is not None:
        sizes = [min(size, size_limit) for size in sizes]
    # Relative to the largest size: the powers of a low temperature would overflow otherwise.
    largest = max(sizes)
    weights = [(size / largest) ** (1 / temperature) for size in sizes]
    total = sum(weights)
    return [weight / total for weight in weights]


class MixtureBatchSampler(Sampler[list[int]]):
    """Batches of row numbers in the concatenation of the tasks' training rows, mixed at the `sampling_rates`.

    The stream is cut into windows of `window` batches. A window draws a task for each of its rows (or for
    each of its batches), takes the next rows of each task, sorts them all by length, cuts them into batches,
    and shuffles the batches. So the rows of a batch are of like length while the window keeps the proportions
    it drew. A task's rows come without replacement, in a new order at each pass.

    The global batches depend on what is given here but not on rank, world_size or num_batches: rank r yields
    rows r, r + world_size, … of each. A resume, in Trainer, draws the batches before it anew and skips them,
    without loading their rows.

    Args:
        lengths: of each task in order, the token length of every training row.
        batch_size: rows of a GLOBAL batch, over all ranks.
        num_batches: batches in the whole stream.
        temperature: T of `sampling_rates`.
        mixed: rows of several tasks in one batch; False: one task per batch, as in HyperFormer's code.
        seed: of the tasks drawn, the orders of rows and of batches.
        rank: which of the world_size shares of each batch to yield.
        world_size: number of ranks; divides batch_size.
        group_by_length: sort each window by length; with one task per batch, each task's rows by themselves.
        window: batches per window.
        size_limit: K of `sampling_rates`.

    Raises:
        UserError: a size, rank, or seed out of range, a batch that the ranks cannot share evenly, or as
            `sampling_rates`.
    """

    def __init__(
        self,
        lengths: Sequence[Sequence[int]],
        batch_size: int,
        num_batches: int,
        temperature: float = 10.0,
        mixed: bool = True,
        seed: int = 42,
        rank: int = 0,
        world_size: int = 1,
        group_by_length: bool = True,
        window: int = 50,
        size_limit: int | None = None,
    ) -> None:
        counts = {
            "batch_size": batch_size,
            "num_batches": num_batches,
            "world_size": world_size,
            "window": window,
        }
        for name, value in counts.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        if batch_size % world_size:
            raise UserError(f"batch_size {batch_size} cannot be shared evenly by {world_size} processes")
        if not 0 <= rank < world_size:
            raise UserError(f"rank must be from 0 to {world_size - 1}, not {rank}")
        if seed < 0:
            raise UserError(f"seed must not be negative, but is {seed}")
        self.sizes = [len(task) for task in lengths]
        self.rates = sampling_rates(self.sizes, temperature, size_limit)
        self.lengths = np.concatenate([np.asarray(task) for task in lengths])
        self.batch_size, self.num_batches, self.window = batch_size, num_batches, window
        self.mixed, self.group_by_length = mixed, group_by_length
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.orders: dict[int, tuple[int, np.ndarray]] = {}

    def __len__(self) -> int:
        """Number of batches that an iteration yields."""
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        """This rank's rows of each global batch."""
        drawn = np.zeros(len(self.sizes), dtype=np.int64)
        for first in range(0, self.num_batches, self.window):
            random = np.random.default_rng([self.seed, _WINDOW, first // self.window])
            tasks = self._draw_tasks(random)
            for batch in self._batches(tasks, drawn, random)[: self.num_batches - first]:
                yield batch[self.rank :: self.world_size].tolist()
            drawn += np.bincount(tasks, minlength=len(self.sizes))

    def _draw_tasks(self, random: np.random.Generator) -> np.ndarray:
        """The task of every row of a window, (window * batch_size,)."""
        # A whole window even where the stream ends within it: a longer stream begins with the same batches.
        if self.mixed:
            return random.choice(len(self.sizes), size=self.window * self.batch_size, p=self.rates)
        return random.choice(len(self.sizes), size=self.window, p=self.rates).repeat(self.batch_size)

    def _batches(self, tasks: np.ndarray, drawn: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """The window's global batches, (window, batch_size), given the rows each task has drawn before it."""
        rows = np.empty_like(tasks)
        offsets = np.cumsum([0, *self.sizes])
        for task in np.unique(tasks).tolist():  # of many tasks few are in a window
            mine = np.flatnonzero(tasks == task)
            rows[mine] = offsets[task] + self._rows(task, int(drawn[task]), len(mine))
        if self.group_by_length:
            # With one task per batch, a task's rows fill whole batches: sorted by task, no cut mixes two. Rows of
            # equal length stay in the random order in which they were drawn.
            keys = (self.lengths[rows],) if self.mixed else (self.lengths[rows], tasks)
            rows = rows[np.lexsort(keys)]
        return random.permutation(rows.reshape(self.window, self.batch_size))

    def _rows(self, task: int, first: int, count: int) -> np.ndarray:
        """Rows number first … first + count - 1 of the task's endless sequence of passes, (count,)."""
        passes, places = np.divmod(np.arange(first, first + count), self.sizes[task])
        rows = np.empty_like(places)
        for number in np.unique(passes):
            now = passes == number
            rows[now] = self._order(task, int(number))[places[now]]
        return rows

    def _order(self, task: int, number: int) -> np.ndarray:
        """The order of the task's rows in a pass, (rows,), drawn once a pass: on large tasks it takes long."""
        if self.orders.get(task, (None,))[0] != number:
            random = np.random.default_rng([self.seed, _PASS, task, number])
            self.orders[task] = number, random.permutation(self.sizes[task])
        return self.orders[task][1]
