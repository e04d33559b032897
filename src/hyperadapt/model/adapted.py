"""The adapted model, as transformers' own and yet of many tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hyperadapt.adaptation import Adaptation
from hyperadapt.errors import UserError, nearest
from hyperadapt.methods import Method
from hyperadapt.model import file, optional
from hyperadapt.model.fingerprint import TensorDigest
from hyperadapt.model.stack import AdaptedStack, by_name
from hyperadapt.model.verbs import RefusedVerbs, check_save_options


class AdaptedModel(RefusedVerbs, PreTrainedModel):
    """Mixed in before the base model's class; `hyperadapt` is the child module that holds what the method adds.

    Attributes:
        hyperadapt: the conditioning and generators.
        method: the method's options.
        tasks: names of the tasks, in the order of their ids.
        base_fingerprint: identifies the base model's weights.
        base_digests: name -> digest of each of them, by which `save_pretrained` finds those that have changed since.
        base_vocabulary: rows of its token embeddings.
        saved_base: names of the base model's own parameters that are saved with it whether or not they are trained now:
            they were trained, or are no longer what they were, as what was resized, set by hand or cast.
    """

    # T5's forward takes **kwargs but no num_items_in_batch; without this word Trainer would not scale the loss
    # over accumulated batches.
    accepts_loss_kwargs = False

    hyperadapt: Adaptation
    method: Method
    tasks: tuple[str, ...]
    base_fingerprint: dict[str, str]
    base_digests: dict[str, TensorDigest]
    base_vocabulary: int
    saved_base: tuple[str, ...]
    _task_ids: tuple[tuple[str, ...], dict[str, int]] = ((), {})  # tasks, and the id of each

    def forward(self, *args: Any, task_ids: Tensor | None = None, **kwargs: Any) -> Any:
        """Run the base model, adapted for each row's task.

        Args:
            task_ids: (batch,), index of each row's task in `tasks`; the rest as in the base model.

        Raises:
            UserError: if task_ids are missing or do not fit the batch.
        """
        if self.method.task_conditioned:
            kwargs["task_ids"] = task_ids
        if not self.config.use_cache:
            # As Trainer sets it. T5's decoder looks at a copy of this configuration, and would go on to copy every key
            # and value into a cache.
            args, kwargs = (), by_name(type(self).forward, args, kwargs)
            if kwargs.get("use_cache") is None:
                kwargs["use_cache"] = False
        if getattr(self, "_is_replica", False):
            # nn.DataParallel copies modules onto another device for one call, and their attributes as they are.
            for module in self.modules():
                if isinstance(module, AdaptedStack):
                    module.model = (self,)
        return super().forward(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as the base model does; a model that drafts (assisted generation) must be adapted too.

        Raises:
            UserError: if the assistant is not, and would be given task_ids that it does not know.
        """
        generate = super().generate  # type: ignore[misc]
        assistant = by_name(generate, args, kwargs).get("assistant_model")
        if assistant is not None and "task_ids" in kwargs and not isinstance(assistant, AdaptedModel):
            raise UserError(
                "assistant_model does not know task_ids; give it the same tasks, if need be by a method that adds "
                "nothing: ha.adapt(assistant, ha.FullFineTuning(), model.tasks)"
            )
        return generate(*args, **kwargs)

    @property
    def _keys_to_ignore_on_save(self) -> list[str]:  # type: ignore[override]
        """What save_pretrained leaves out: with it Trainer resumes without a warning about missing keys."""
        saved = file.saved_names(self)
        return [name for name in self.state_dict() if name not in saved]

    def task_id(self, name: str) -> int:
        """Return the id of a task.

        Raises:
            UserError: if the model has no such task.
        """
        # Looked up, and not searched for: an evaluation asks for every row.
        if self._task_ids[0] is not self.tasks:
            self._task_ids = self.tasks, {task: number for number, task in enumerate(self.tasks)}
        if name not in self._task_ids[1]:
            raise UserError(f"the model has no task '{name}'; {nearest(name, self.tasks)}")
        return self._task_ids[1][name]

    def add_task(
        self,
        name: str,
        init_from: str | Sequence[str] | None = None,
        features: Sequence[float] | None = None,
    ) -> None:
        """Add a task, with everything else kept; make the optimizer after this.

        Args:
            name: of the new task; its id is the next one.
            init_from: a task whose parameters it starts from, or several, from whose mean; else they are drawn anew.
            features: its vector z (t',), where the method was given task features.

        Raises:
            UserError: if the name is taken, init_from is unknown, or features are missing or of the wrong length.
        """
        if name in self.tasks:
            raise UserError(f"the model already has a task '{name}'")
        given = None if features is None else torch.tensor(features, dtype=torch.float32)
        others = (init_from,) if isinstance(init_from, str) else tuple(init_from or ())
        self.hyperadapt.add_task(name, tuple(self.task_id(other) for other in others), given)
        self.tasks = (*self.tasks, name)

    def keep_tasks(self, names: Sequence[str]) -> None:
        """Drop all tasks but these, whose ids are their places here; make the optimizer after this.

        Raises:
            UserError: if the model has no such task, one comes twice, or none is named.
        """
        ids = tuple(self.task_id(name) for name in names)
        if isinstance(names, str) or not ids or len(set(ids)) < len(ids):
            raise UserError(f"the tasks to keep must be at least one, each named once, not {names!r}")
        self.hyperadapt.keep_tasks(ids)
        self.tasks = tuple(names)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the embeddings as transformers does; they stay frozen or trained, and are saved from then on."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        optional.speed_up_output_layer(self)  # it is another module now
        return embeddings

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Say what `tie_weights` ties: what `adapt` found tied. T5's configuration says it of every output layer."""
        return dict(self.all_tied_weights_keys)

    def activation_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Recompute activations, as transformers does.

        Raises:
            UserError: if it is to be done reentrantly, where each block would go back through the generators again.
        """
        options = args[0] if args else kwargs.get("activation_checkpointing_kwargs")
        if options and options.get("use_reentrant"):
            raise UserError(
                "gradient checkpointing with use_reentrant=True does not go with an adapted model: leave it out, or "
                "set use_reentrant=False"
            )
        super().activation_checkpointing_enable(*args, **kwargs)

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **options: Any,
    ) -> None:
        """Save what was trained, and all that `ha.load` needs beside the base model; see checkpoint.py.

        Args:
            save_directory: made where needed.
            is_main_process: whether this process writes.
            state_dict: the gathered tensors, where the model holds only shards of them.
            options: transformers' other ones, which mean nothing for one file: max_shard_size, safe_serialization,
                save_function, save_original_format, save_peft_format and token.

        Raises:
            UserError: if it cannot be written, or an option is unknown or asks for what a saved model is not.
        """
        check_save_options(options)
        if is_main_process:
            file.save(self, save_directory, state_dict)


class AdaptedCausalModel(AdaptedModel):
    """Mixed in before the class of a model without an encoder."""

    def forward(
        self,
        *args: Any,
        task_ids: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the base model, adapted for each row's task.

        Args:
            task_ids: (batch,), index of each row's task in `tasks`.
            prompt_mask: (batch, seq), 1 for the tokens of the prompt, which some methods condition on. By default these
                are the tokens that labels ignore (-100); without labels all are.

        Raises:
            UserError: if task_ids are missing or do not fit the batch.
        """
        if self.hyperadapt.reads_prompt:
            kwargs = by_name(type(self).forward, args, kwargs)
            args, labels = (), kwargs.get("labels")
            if prompt_mask is None and labels is not None:
                prompt_mask = labels.eq(-100)
            kwargs["prompt_mask"] = prompt_mask
        return super().forward(*args, task_ids=task_ids, **kwargs)
