"""Parameter counts: of any model, and as the HyperFormer paper's Tables 1 and 3 give them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hyperadapt.methods import Method


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of an adapted model, in numbers and as multiples of the base model.

    Attributes:
        base: parameters of the base model.
        total: parameters of the adapted model.
        trained: those that are trained.
        tasks: number of tasks.
    """

    base: int
    total: int
    trained: int
    tasks: int

    @property
    def trained_per_task(self) -> float:
        """Trained parameters over tasks."""
        return self.trained / self.tasks

    @property
    def total_ratio(self) -> float:
        """Total as a multiple of the base model ("#Total params")."""
        return self.total / self.base

    @property
    def trained_per_task_percent(self) -> float:
        """Trained parameters per task in percent of the base model ("#Trained params / per task")."""
        return 100 * self.trained_per_task / self.base

    def as_dict(self) -> dict[str, float]:
        """Return all counts and ratios by name."""
        ratios = ("trained_per_task", "total_ratio", "trained_per_task_percent")
        return {**asdict(self), **{name: getattr(self, name) for name in ratios}}


def count_parameters(model: Any) -> ParameterCount:
    """Count the parameters of an adapted model; tied ones once."""
    own = sum(parameter.numel() for parameter in model.hyperadapt.parameters())
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return ParameterCount(total - own, total, trained, len(model.tasks))


def count_without_weights(config: PretrainedConfig, method: Method, n_tasks: int) -> ParameterCount:
    """Count what adapting a model would give, from its configuration alone."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    from hyperadapt.model import adapt

    with torch.device("meta"):
        base = AutoModelForSeq2SeqLM.from_config(config)
        return count_parameters(adapt(base, method, [f"task{index}" for index in range(n_tasks)]))
