"""What every method is: validated options, and how it is put together for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import ValidationError

from hyperadapt.errors import UserError, validation_message
from hyperadapt.fields import Fields

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from hyperadapt.adaptation import Adaptation
    from hyperadapt.backbones import Backbone


class Host(NamedTuple):
    """The model that a method is built into, and for which tasks.

    Attributes:
        backbone: the model's family.
        model: the base model, which is only read.
        tasks: names, in the order of their ids.
        features: given task features z, (n_tasks, t'), where the method takes them.
    """

    backbone: Backbone
    model: PreTrainedModel
    tasks: tuple[str, ...]
    features: Tensor | None = None


class Method(Fields):
    """A method's options: frozen, validated, saved with every model.

    Attributes:
        name: in configurations and saved models.
        task_in_input: whether the task's name is put before the input's text, unless the configuration decides; it
            is not where task embeddings tell the tasks apart (HyperFormer, section 2.3).
        trainability_options: options that change nothing else, so that a run may go on from one where they differ.
    """

    name: ClassVar[str]
    task_in_input: ClassVar[bool] = False
    trainability_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, /, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise UserError(f"method {self.name}: {validation_message(error, type(self))}") from None

    @property
    def task_conditioned(self) -> bool:
        """Whether parameters depend on the task, so that task_ids are needed."""
        return True

    @property
    def description_encoder(self) -> str | None:
        """The text encoder that reads descriptions of tasks; None where nothing depends on them."""
        return None

    def build(self, host: Host) -> Adaptation:
        """Build what the method adds to a model."""
        raise NotImplementedError


class FullFineTuning(Method):
    """Train every parameter of the base model on all tasks; the task is named in the input's text alone.

    Attributes:
        train_embeddings: of tokens; HyperGrid's multi-task baseline leaves them as they are (section 7.2).
    """

    name = "full_fine_tuning"
    task_in_input = True
    trainability_options = ("train_embeddings",)

    train_embeddings: bool = True

    @property
    def task_conditioned(self) -> bool:
        return False

    def build(self, host: Host) -> Adaptation:
        from hyperadapt.adaptation import Adaptation

        return Adaptation(trained_backbone="all" if self.train_embeddings else "all_but_embeddings")
