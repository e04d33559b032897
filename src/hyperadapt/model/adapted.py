"""The adapted model, as transformers' own and yet of many tasks."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hyperadapt.adaptation import Adaptation
from hyperadapt.errors import UserError, nearest
from hyperadapt.methods import Method
from hyperadapt.model import file, optional
from hyperadapt.model.fingerprint import TensorDigest
from hyperadapt.model.heads import IGNORED, HeadOptions, row_losses
from hyperadapt.model.stack import AdaptedStack, CachedWeights, by_name, cache_rows, check_task_ids
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
    can_write_alone = False  # it is a decoder alone, as servers of LoRAs run

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
        if not getattr(self.config, "use_cache", True):
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

    def go_on_with(
        self,
        cache: Any,
        rows: Tensor,
        task_ids: Tensor,
        encoder_hidden_states: Tensor | None = None,
        copied: bool = False,
    ) -> Any:
        """Let a generation go on with some of its rows, each as often as it is named, by what was made for them.

        Args:
            cache: of the generation; it is changed, unless it is `copied`.
            rows: (R,), numbers of rows.
            task_ids: (R,), theirs, to be given to the next step as this very tensor.
            encoder_hidden_states: theirs, where there is an encoder, likewise.
            copied: leave the cache as it is, for other rows.

        Returns:
            The cache to go on with.
        """
        kept = getattr(cache, "site_weights", None)
        if copied:
            cache = deepcopy(cache, {id(kept): kept})  # but for the weights, of which rows are taken
        size = cache_rows(cache)
        cache.batch_select_indices(rows)
        if kept is not None:
            chosen = kept.prepared.of_rows(rows, size)
            own = task_ids if self.method.task_conditioned else None
            cache.site_weights = CachedWeights(
                own, encoder_hidden_states, chosen, self.hyperadapt.by_site(chosen)
            )
        return cache

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
        num_labels: int | None = None,
        description: str | Sequence[str] | None = None,
    ) -> None:
        """Add a task, with everything else kept; make the optimizer after this.

        Args:
            name: of the new task; its id is the next one.
            init_from: a task whose parameters it starts from, or several, from whose mean; else they are drawn anew.
            features: its vector z (t',), where the method was given task features.
            num_labels: of its head, where the model is an encoder alone; 1 is a regression. It starts from those heads
                of `init_from` that have as many.
            description: what the task is, one text or several, where the method takes task_descriptions: it needs no
                training then.

        Raises:
            UserError: if the name is taken, init_from is unknown, features are missing or of the wrong length, or
                num_labels missing.
        """
        if name in self.tasks:
            raise UserError(f"the model already has a task '{name}'")
        heads = self.hyperadapt.heads
        if heads is not None:
            HeadOptions({} if num_labels is None else {name: num_labels}).check([name])
        elif num_labels is not None:
            raise UserError(
                "num_labels are for models that are an encoder alone; this one writes its answers"
            )
        vector = None if features is None else torch.tensor(features, dtype=torch.float32)
        if description is not None and features is not None:
            raise UserError(f"task '{name}' is given features and a description; leave one of them out")
        if description is not None:
            vector = self.features_of(name, description)
        others = (init_from,) if isinstance(init_from, str) else tuple(init_from or ())
        ids = tuple(self.task_id(other) for other in others)
        self.hyperadapt.add_task(name, ids, vector)
        if heads is not None and num_labels is not None:
            heads.add_task(num_labels, ids)
        self.tasks = (*self.tasks, name)

    def features_of(self, name: str, description: str | Sequence[str]) -> Tensor:
        """Encode what is said of a task, (n, t').

        Raises:
            UserError: if the method reads no descriptions, or this is none.
        """
        from hyperadapt.descriptions import described
        from hyperadapt.model.adapt import check_takes_descriptions

        return described([name], {name: description}, check_takes_descriptions(self.method))[0]

    def keep_tasks(self, names: Sequence[str]) -> None:
        """Drop all tasks but these, whose ids are their places here; make the optimizer after this.

        Raises:
            UserError: if the model has no such task, one comes twice, or none is named.
        """
        ids = tuple(self.task_id(name) for name in names)
        if isinstance(names, str) or not ids or len(set(ids)) < len(ids):
            raise UserError(f"the tasks to keep must be at least one, each named once, not {names!r}")
        self.hyperadapt.keep_tasks(ids)
        if self.hyperadapt.heads is not None:
            self.hyperadapt.heads.keep_tasks(ids)
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

    def export(self, task: str, directory: str | Path, format: str = "peft") -> Path:
        """Write a task's LoRA in a format that others read: PEFT's, which vLLM, SGLang and LoRAX serve.

        Args:
            task: a name.
            directory: new or empty.
            format: "peft".

        Returns:
            The directory.

        Raises:
            UserError: if the method makes no LoRA, or there is no such task or format; nothing is written.
        """
        from hyperadapt.export import export

        return export(self, task, directory, format)

    def merge_and_unload(self, task: str | None = None) -> PreTrainedModel:
        """Return the plain base model with a task's LoRA in its weights; unlike PEFT's this model stays as it is.

        Args:
            task: a name; of a model with one task it may be left out.

        Raises:
            UserError: if the method makes no LoRA, there is no such task, or the base model is quantised.
        """
        from hyperadapt.export.merge import merged

        if task is None and len(self.tasks) > 1:
            raise UserError(
                f"merge_and_unload takes one task, whose weights differ from the others'; {nearest('', self.tasks)}"
            )
        return merged(self, self.tasks[0] if task is None else task)


class AdaptedCausalModel(AdaptedModel):
    """Mixed in before the class of a model without an encoder."""

    can_write_alone = True

    accepts_loss_kwargs = True  # the base model's loss takes the number of items in a step

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
                are all before the first that labels do not ignore (-100); without labels all are.

        Raises:
            UserError: if task_ids are missing or do not fit the batch, or what is conditioned on the prompt finds none.
        """
        if self.hyperadapt.reads_prompt:
            kwargs = by_name(type(self).forward, args, kwargs)
            args, labels = (), kwargs.get("labels")
            if prompt_mask is None and labels is not None:
                tokens = kwargs.get("input_ids")
                tokens = kwargs["inputs_embeds"] if tokens is None else tokens
                prompt_mask = prompt_before(labels, tokens, kwargs.get("attention_mask"))
            kwargs["prompt_mask"] = prompt_mask
        return super().forward(*args, task_ids=task_ids, **kwargs)


def prompt_before(labels: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Return which tokens stand before a row's first label, (batch, seq).

    Args:
        labels: (batch, seq), -100 where there is none.
        tokens: (batch, seq, ...).
        mask: (batch, seq), 1 for a token; of another shape it is left alone.

    Raises:
        UserError: if labels are not of these tokens; or, where reading them waits for nothing, a row has no such token.
    """
    if labels.shape != tokens.shape[:2]:
        raise UserError(
            f"labels have shape {tuple(labels.shape)} and the input {tuple(tokens.shape[:2])}: which tokens are the "
            "prompt, on which this method conditions, cannot be told; pass prompt_mask (batch, seq)"
        )
    prompt = labels.ne(IGNORED).cumsum(1).eq(0)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        there = prompt & mask.bool() if mask is not None and mask.shape == prompt.shape else prompt
        if not bool(there.any(1).all()):
            row = int(there.any(1).logical_not().nonzero()[0])
            raise UserError(
                f"row {row} has no token before its first label, and this method conditions on the prompt: let labels "
                "ignore it (-100), or pass prompt_mask (batch, seq)"
            )
    return prompt


class AdaptedEncoderModel(AdaptedModel):
    """Mixed in before the class of a model that is an encoder alone: each task has a head, which gives its logits."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse.

        Raises:
            UserError: an encoder alone writes nothing.
        """
        raise UserError("an encoder alone writes no texts; its answers are the logits of its forward")

    def forward(
        self, *args: Any, task_ids: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Run the encoder, adapted for each row's task, and the task's head.

        Args:
            task_ids: (batch,), index of each row's task in `tasks`; the rest as in the base model.
            labels: (batch,), the number of a label, or the score of a task with one; -100 for none. Of a batch with
                both they are floats.

        Returns:
            SequenceClassifierOutput: logits (batch, widest task), those that a row's task does not have at float32's
            lowest number; loss, where there are labels, is the mean over their rows of cross-entropy or squared error.

        Raises:
            UserError: if task_ids are missing or do not fit the batch, or a label is none of its task's.
        """
        kwargs = by_name(super().forward, args, kwargs)
        whole = kwargs.pop("return_dict", None) is not False
        tokens = (
            kwargs.get("input_ids") if kwargs.get("input_ids") is not None else kwargs.get("inputs_embeds")
        )
        if task_ids is None and len(self.tasks) == 1 and tokens is not None:
            task_ids = tokens.new_zeros(len(tokens), dtype=torch.long)
        check_task_ids(task_ids, tokens, self.tasks)
        assert task_ids is not None
        outputs = super().forward(task_ids=task_ids, return_dict=True, **kwargs)
        heads: Any = self.hyperadapt.heads
        logits, loss = heads(outputs.last_hidden_state, kwargs.get("attention_mask"), task_ids), None
        if labels is not None:
            heads.check_labels(labels, task_ids, self.tasks)
            loss = row_losses(logits, labels).sum() / labels.ne(IGNORED).sum()
        found = SequenceClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=getattr(outputs, "hidden_states", None),
            attentions=getattr(outputs, "attentions", None),
        )
        return found if whole else found.to_tuple()
