"""Hyperdecoders and what they are compared with (Ivison & Peters, EMNLP 2022, arXiv 2203.08304).

Adapters stand in parallel to the feed-forward blocks. Encoder and decoder each have one kind of them:

none              no adapter
manual            learnt, shared by all tasks
manual_specific   learnt, one for each task
task              generated from an embedding of the task
generated         generated from the encoded input, for every row; such an encoder runs twice, first with learnt ones

method           encoder    decoder
Hyperdecoder     manual     generated
SingleAdapter    manual     manual
TaskHypernet     task       task
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from hyperadapt.errors import UserError
from hyperadapt.methods.base import Host, Method

if TYPE_CHECKING:
    from torch import nn

    from hyperadapt.adaptation import Adaptation, SiteGroup, TrainedBackbone
    from hyperadapt.sites import Site

Kind = Literal["none", "manual", "manual_specific", "task", "generated"]


class Hyperdecoder(Method):
    """Adapters in parallel to the feed-forward blocks, those of the decoder generated from the encoded input.

    theta_i = H([e; l_i]) for every row (eq. 9), e = MLP(mean of the encoder's states) (eq. 8).

    Attributes:
        encoder: where the encoder's adapters come from; the whole grid of Table 8 can be trained.
        decoder: where the decoder's come from.
        encoder_bottleneck_dim: width of the encoder's adapters.
        decoder_bottleneck_dim: width of the decoder's.
        hypernetwork_bottleneck: width of the hypernetworks' hidden layer.
        layer_embedding_dim: size of l_i, which the paper does not say.
        mlp: without it e is the mean of the encoder's states itself (Table 9).
        after_layer_norm: adapters read what the feed-forward block's layer norm returns (Table 9); else what goes into
            it (eq. 2).
        fine_tune_encoder: train all of the encoder, which then has no adapters, and the embeddings, which both stacks
            share. In some of the authors' runs this is what "none" means.
        fine_tune_decoder: the same of the decoder, and its output layer; with both it is full fine-tuning.
    """

    name = "hyperdecoder"
    task_in_input = True

    encoder: Kind = "manual"
    decoder: Kind = "generated"
    encoder_bottleneck_dim: int = Field(64, ge=1, strict=True)
    decoder_bottleneck_dim: int = Field(64, ge=1, strict=True)
    hypernetwork_bottleneck: int = Field(128, ge=1, strict=True)
    layer_embedding_dim: int = Field(10, ge=1, strict=True)
    mlp: bool = True
    after_layer_norm: bool = False
    fine_tune_encoder: bool = False
    fine_tune_decoder: bool = False

    @model_validator(mode="after")
    def _something_is_trained(self) -> Hyperdecoder:
        for stack, kind in (("encoder", self.encoder), ("decoder", self.decoder)):
            if stack in self.fine_tuned and kind != "none":
                raise ValueError(
                    f"fine_tune_{stack} leaves no adapters in it; set {stack} to none, not {kind}"
                )
        if self.encoder == self.decoder == "none" and not self.fine_tuned:
            raise ValueError(
                "with neither encoder nor decoder adapters nothing is trained; fine_tune_encoder and "
                "fine_tune_decoder train a stack itself"
            )
        return self

    @property
    def fine_tuned(self) -> list[TrainedBackbone]:
        """The stacks that are trained whole."""
        stacks: dict[TrainedBackbone, bool] = {
            "encoder": self.fine_tune_encoder,
            "decoder": self.fine_tune_decoder,
        }
        return [stack for stack, trained in stacks.items() if trained]

    @property
    def task_conditioned(self) -> bool:
        return not {self.encoder, self.decoder}.isdisjoint(("manual_specific", "task"))

    def build(self, host: Host) -> Adaptation:
        from hyperadapt.adaptation import DRAFT, Adaptation
        from hyperadapt.conditioning import PerStack

        backbone, model, tasks, _ = host
        if "decoder" not in backbone.stacks and self.decoder == "generated":
            raise UserError(
                f"{self.name}: decoder: {backbone.name} has no decoder whose adapters could be generated; to generate "
                "those of the encoder from its own input, write encoder: generated and decoder: none"
            )
        kinds: dict[str, tuple[Kind, int]] = {
            "encoder": (self.encoder, self.encoder_bottleneck_dim),
            "decoder": (self.decoder, self.decoder_bottleneck_dim),
        }
        conditionings: dict[str, nn.Module] = {}
        groups: dict[str, list[SiteGroup]] = {}
        for stack in backbone.stacks:
            kind, bottleneck_dim = kinds[stack]
            parts: dict[str, tuple[Kind, int]] = {} if kind == "none" else {stack: (kind, bottleneck_dim)}
            if stack == "encoder" and kind == "generated":
                parts = {DRAFT.format(stack): ("manual", bottleneck_dim), **parts}
            if "encoder" not in backbone.stacks and kind == "generated":
                self.check_prompt_reader()
                # Without an encoder the same stack reads the prompt first, with the encoder's adapters.
                groups[DRAFT.format(stack)] = []
                if self.encoder != "none":
                    parts = {DRAFT.format(stack): kinds["encoder"], **parts}
            for name, (of_part, width) in parts.items():
                sites = backbone.feed_forward_sites(model, stack)
                conditionings[name], group = self.adapters(of_part, width, sites, tasks)
                groups[name] = [group]
        if missing := [stack for stack in self.fine_tuned if stack not in backbone.stacks]:
            raise UserError(f"{self.name}: fine_tune_{missing[0]}: {backbone.name} has no {missing[0]}")
        one: TrainedBackbone = next(iter(self.fine_tuned), "none")
        return Adaptation(PerStack(conditionings), groups, "all" if len(self.fine_tuned) == 2 else one)

    def check_prompt_reader(self) -> None:
        """Check what reads the prompt where there is no encoder.

        Raises:
            UserError: if its adapters are to be generated too, of which nothing has read anything.
        """
        if self.encoder == "generated":
            raise UserError(
                f"{self.name}: encoder: a model without an encoder reads the prompt once before, with "
                "adapters that are none, manual, manual_specific or task, not generated"
            )

    def adapters(
        self, kind: Kind, bottleneck_dim: int, sites: tuple[Site, ...], tasks: tuple[str, ...]
    ) -> tuple[nn.Module, SiteGroup]:
        """Build a stack's adapters of one kind, and what they are conditioned on."""
        from hyperadapt.adaptation import SiteGroup
        from hyperadapt.conditioning import EncodedInput, TaskEmbedding, TaskLookup, Unconditioned
        from hyperadapt.forms import ParallelBottleneck
        from hyperadapt.generators import BottleneckHypernet, Generator, SharedTable, TaskTable
        from hyperadapt.sites import Tap

        reads = Tap.NORM_OUTPUT if self.after_layer_norm else Tap.BLOCK_INPUT
        form, d_model = ParallelBottleneck(bottleneck_dim, reads=reads), sites[0].d_in
        weights = form.weights(sites[0])
        conditioning: nn.Module
        generator: Generator
        if kind == "manual":
            conditioning, generator = Unconditioned(), SharedTable(len(sites), weights)
        elif kind == "manual_specific":
            conditioning, generator = TaskLookup(tasks), TaskTable(len(tasks), len(sites), weights)
        else:
            conditioning = (
                TaskEmbedding(tasks, d_model) if kind == "task" else EncodedInput(d_model, self.mlp)
            )
            generator = BottleneckHypernet(
                len(sites), weights, d_model, self.layer_embedding_dim, self.hypernetwork_bottleneck
            )
        return conditioning, SiteGroup(sites, form, [generator])


class SingleAdapter(Hyperdecoder):
    """Learnt adapters in encoder and decoder, shared by all tasks (appendix A.1)."""

    name = "single_adapter"

    decoder: Kind = "manual"


class TaskHypernet(Hyperdecoder):
    """Adapters in encoder and decoder that hypernetworks generate from embeddings of the task (appendix A.2)."""

    name = "task_hypernet"

    encoder: Kind = "task"
    decoder: Kind = "task"
