"""Polytropon, modular multi-task learning (Ponti et al. 2022, arXiv 2202.13914): tasks are mixtures of shared skills.

A skill is a low-rank change of every linear map in the attention blocks; a task's change is the mean of the skills'
parameters, weighted by its row of a tasks x skills matrix that is learnt with them, one matrix for each map.
Hyperdecoders calls it a modular task hypernetwork, and takes four skills (appendix A.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from hyperadapt.methods.base import Host
from hyperadapt.methods.lora import LowRankMethod

if TYPE_CHECKING:
    from torch import nn

    from hyperadapt.forms import LowRank
    from hyperadapt.generators import Generator
    from hyperadapt.sites import Site, Weight


class Polytropon(LowRankMethod):
    """A low-rank change of linear maps, mixed for every task from skills that the tasks share.

    Attributes:
        n_skills: how many.
        r: rank of a skill's change of a map; `rank`, as it is called in earlier versions, is taken too.
        lora_alpha: 1, so that the change is divided by r.
        target_modules: by default all maps of the attentions.
        allocation: "bernoulli", each skill is switched on or off (relaxed, drawn for each row of a training batch), or
            "softmax".
        allocation_learning_rate: of the tasks x skills matrices; the skills have that of the training.
    """

    name = "polytropon"
    task_in_input = True

    n_skills: int = Field(8, ge=1, strict=True)
    r: int = Field(16, ge=1, strict=True)
    lora_alpha: float = Field(1, gt=0)
    allocation: Literal["bernoulli", "softmax"] = "bernoulli"
    allocation_learning_rate: float = Field(1e-2, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _rank_is_r(cls, options: Any) -> Any:
        if isinstance(options, dict) and "rank" in options:
            if "r" in options:
                raise ValueError("rank is the old name of r; leave it out")
            options = {"r" if name == "rank" else name: value for name, value in options.items()}
        return options

    def form(self) -> LowRank:
        from hyperadapt.forms import LowRank

        # Drawn as Ponti et al. do: up to the deviation of Kaiming's start, and not to its bound.
        return LowRank(self.r, self.scaling, self.lora_dropout, bound=3**-0.5)

    def targets(self, host: Host) -> dict[str, tuple[Site, ...]]:
        if self.target_modules is not None:
            return super().targets(host)
        backbone, model = host.backbone, host.model
        return {
            stack: backbone.linear_maps(model, stack, table.attention_maps)
            for stack, table in backbone.stacks.items()
        }

    def generators(self, host: Host, weights: dict[str, Weight], places: list[int]) -> list[Generator]:
        from hyperadapt.generators import SkillTable

        sizes = len(host.tasks), len(places), weights, self.n_skills
        return [SkillTable(*sizes, self.allocation, self.allocation_learning_rate)]

    def conditioning(self, host: Host, targets: dict[str, tuple[Site, ...]]) -> nn.Module:
        from hyperadapt.conditioning import TaskLookup

        return TaskLookup(host.tasks, by_row_in_training=self.allocation == "bernoulli")
