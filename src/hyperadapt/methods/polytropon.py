"""Polytropon, modular multi-task learning (Ponti et al. 2022, arXiv 2202.13914): tasks are mixtures of shared skills.

A skill is a low-rank change of every linear map in the attention blocks; a task's change is the mean of the skills'
parameters, weighted by its row of a tasks x skills matrix that is learnt with them, one matrix for each map.
Hyperdecoders calls it a modular task hypernetwork, and takes four skills (appendix A.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hyperadapt.methods.base import Host, Method

if TYPE_CHECKING:
    from hyperadapt.adaptation import Adaptation


class Polytropon(Method):
    """A low-rank change of all attention maps, mixed for every task from skills that the tasks share.

    Attributes:
        n_skills: how many.
        rank: of a skill's change of a map.
        allocation: "bernoulli", each skill is switched on or off (relaxed, drawn for each row of a training batch), or
            "softmax".
        allocation_learning_rate: of the tasks x skills matrices; the skills have that of the training.
    """

    name = "polytropon"
    task_in_input = True

    n_skills: int = Field(8, ge=1, strict=True)
    rank: int = Field(16, ge=1, strict=True)
    allocation: Literal["bernoulli", "softmax"] = "bernoulli"
    allocation_learning_rate: float = Field(1e-2, gt=0)

    def build(self, host: Host) -> Adaptation:
        from hyperadapt.adaptation import Adaptation, SiteGroup
        from hyperadapt.conditioning import TaskLookup
        from hyperadapt.forms import LowRank
        from hyperadapt.generators import SkillTable

        backbone, model, tasks, _ = host
        form = LowRank(self.rank)
        groups: dict[str, list[SiteGroup]] = {}
        for stack, table in backbone.stacks.items():
            sites = backbone.linear_maps(model, stack, table.attention_maps)
            groups[stack] = []
            for shape in dict.fromkeys((site.d_in, site.d_out) for site in sites):
                alike = [site for site in sites if (site.d_in, site.d_out) == shape]
                skills = SkillTable(
                    len(tasks),
                    len(alike),
                    form.weights(alike[0]),
                    self.n_skills,
                    self.allocation,
                    self.allocation_learning_rate,
                )
                groups[stack].append(SiteGroup(alike, form, [skills]))
        return Adaptation(TaskLookup(tasks, by_row_in_training=self.allocation == "bernoulli"), groups)
