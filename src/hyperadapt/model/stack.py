"""Stacks, which turn task_ids or the encoded input into the weights of all their sites, and their blocks.

The weights ride the arguments from a stack to its blocks, so that a checkpointed recompute finds those of its own
forward, and in a generation the cache object, whose life is the generation's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hyperadapt.adaptation import DRAFT, Prepared, SiteWeights
from hyperadapt.conditioning import Inputs
from hyperadapt.errors import UserError
from hyperadapt.forms.base import autocast_dtype
from hyperadapt.model.bind import bound, innermost


class AdaptedStack(nn.Module):
    """Mixed in before the class of a stack of an encoder-decoder."""

    stack_name: str
    model: tuple[Any]  # the AdaptedModel, in a tuple, or the model would become its own grandchild
    lost = (
        "these past_key_values do not hold the gates, which the first token decides; go on only with what this model "
        "returned for the same encoder_outputs under torch.no_grad()"
    )

    def forward(
        self,
        *args: Any,
        task_ids: Tensor | None = None,
        past_key_values: Any = None,
        prompt_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if torch.jit.is_tracing():
            raise UserError(
                "torch.jit.trace would keep the tasks of one batch for all that follow; "
                "use torch.compile or torch.export"
            )
        if len(args) > 1:  # by name, so that masks and states are found below
            args, kwargs = (), by_name(type(self).forward, args, kwargs)
            past_key_values = kwargs.pop("past_key_values", past_key_values)
        tokens = args[0] if args else kwargs.get("input_ids")
        tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
        assert tokens is not None
        model, adaptation = self.model[0], self.model[0].hyperadapt
        encoded, mask = kwargs.get("encoder_hidden_states"), kwargs.get("encoder_attention_mask")

        def run(site_weights: SiteWeights) -> Any:
            with_cache = {} if past_key_values is None else {"past_key_values": past_key_values}
            with bound(site_weights):
                return super(AdaptedStack, self).forward(
                    *args, site_weights=site_weights, **with_cache, **kwargs
                )

        def run_draft(site_weights: SiteWeights) -> Tensor:
            options = self.draft_options(tokens, kwargs)
            with bound(site_weights):
                return super(AdaptedStack, self).forward(*args, site_weights=site_weights, **options)[0]

        # A cache lives as long as one generation, so the weights kept on it are neither made anew at each step nor
        # left over for the next batch. One that was reset, to be used again, has not begun.
        kept: CachedWeights | None = getattr(past_key_values, "site_weights", None)
        begun = self.begun(past_key_values, tokens)
        # Gates come from the first token, whatever moves the encoder's states between devices. The states of other
        # rows, or of the same ones in another order, are not these.
        if (
            kept is not None
            and begun
            and are_same(kept.task_ids, task_ids)
            and (
                kept.encoded is encoded
                or (adaptation.keeps(self.stack_name) and have_equal_values(kept.encoded, encoded))
            )
        ):
            # A compiled step would take every site's tensors for inputs, and copy them into its CUDA graph.
            compiled = torch.compiler.is_compiling()
            return run(adaptation.by_site(kept.prepared) if compiled else kept.site_weights)
        ids = task_ids
        if model.method.task_conditioned:
            if ids is None and len(model.tasks) == 1:
                ids = tokens.new_zeros(len(tokens), dtype=torch.long)
            check_task_ids(ids, tokens, model.tasks)
        if begun and self.is_decided_at_first(adaptation):
            raise UserError(self.lost)
        reads = self.what_is_read(tokens, kwargs.get("attention_mask"), prompt_mask)
        inputs = Inputs(self.stack_name, tokens, ids, encoded, mask)
        dtype = autocast_dtype(tokens.device.type) or embedding_weight(self).dtype
        if adaptation.has_draft(self.stack_name):
            of_draft = adaptation(inputs._replace(stack=DRAFT.format(self.stack_name)), dtype)
            draft = run_draft(adaptation.by_site(of_draft))
            inputs = inputs._replace(encoded=draft, mask=reads)
        prepared = adaptation(inputs, dtype)._replace(mask=reads)
        if torch.is_grad_enabled():
            return run(adaptation.by_site(prepared))
        prepared = prepared._replace(kept={})
        site_weights = adaptation.by_site(prepared)
        output = run(site_weights)
        cache = getattr(output, "past_key_values", None) if past_key_values is None else past_key_values
        if cache is not None:
            cache.site_weights = CachedWeights(task_ids, encoded, prepared, site_weights)
        return output

    def begun(self, cache: Any, tokens: Tensor) -> bool:
        """Tell whether a generation has its first step behind it, in which the encoder's keys and values are made."""
        return bool(getattr(cache, "is_updated", {}).get(0))

    def is_decided_at_first(self, adaptation: Any) -> bool:
        """Tell whether later steps cannot do without what the first has made."""
        return adaptation.keeps(self.stack_name)

    def what_is_read(self, tokens: Tensor, mask: Any, prompt_mask: Tensor | None) -> Tensor | None:
        """Return which tokens conditions and gates are made of, (batch, seq); None if all are."""
        return mask

    def draft_options(self, tokens: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a first run, whose output alone is wanted."""
        return kwargs


class AdaptedCausalStack(AdaptedStack):
    """Mixed in before the class of a stack that has no encoder: what papers condition on that is the prompt here."""

    lost = (
        "these past_key_values do not hold what the prompt decides; go on only with what this model returned for the "
        "same task_ids under torch.no_grad()"
    )

    def begun(self, cache: Any, tokens: Tensor) -> bool:
        """Tell whether the cache holds tokens.

        A static one counts them on its device. Where reading that would wait, a step of one token has begun: so a cache
        that was reset must not go on with a prompt of one token.
        """
        seen = 0 if cache is None else cache.get_seq_length()
        if isinstance(seen, Tensor):
            if torch.compiler.is_compiling() or (seen.device.type != "cpu" and tokens.shape[1] == 1):
                return tokens.shape[1] == 1
            return int(seen) > 0
        return seen > 0

    def is_decided_at_first(self, adaptation: Any) -> bool:
        return adaptation.keeps(self.stack_name) or adaptation.has_draft(self.stack_name)

    def what_is_read(self, tokens: Tensor, mask: Any, prompt_mask: Tensor | None) -> Tensor | None:
        """Return which tokens are of the prompt: all that are none of the target."""
        read = row_mask(mask, tokens)
        if prompt_mask is None:
            return read
        return prompt_mask if read is None else prompt_mask.to(read) * read

    def draft_options(self, tokens: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments without a cache, into which only the second run writes."""
        mask = row_mask(kwargs.get("attention_mask"), tokens)
        return {**kwargs, "attention_mask": mask, "use_cache": False}


def row_mask(mask: Any, tokens: Tensor) -> Tensor | None:
    """Return which of a prompt's tokens are no padding, (batch, seq), as generate has prepared it; None if all are.

    Args:
        mask: (batch, seq); or (batch, 1, seq, keys), 0 or true where a token is read; or one for each kind of layer.
        tokens: (batch, seq).
    """
    if isinstance(mask, dict):
        mask = mask.get("full_attention", next(iter(mask.values())))
    if mask is None or mask.dim() == 2:
        return mask
    itself = mask[:, 0, : tokens.shape[1], : tokens.shape[1]].diagonal(dim1=1, dim2=2)
    return itself if itself.dtype == torch.bool else itself == 0


def embedding_weight(stack: Any) -> Tensor:
    """Return a stack's first weight, by its name, as a replica of nn.DataParallel has no parameters to list."""
    return stack.get_input_embeddings().weight


def by_name(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Name what a method, as a module's forward, is given by position."""
    if not args:
        return kwargs
    names = [name for name in inspect.signature(method).parameters if name != "self"]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def are_same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two are the same tensor, or of the same numbers where reading them waits for nothing."""
    if one is other or one is None or other is None or torch.compiler.is_compiling():
        return one is other
    return one.device.type == other.device.type == "cpu" and torch.equal(one, other)


def have_equal_values(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two states are the same wherever they lie, as far as it can be told within a compiled step: in shape."""
    if one is None or other is None or one.shape != other.shape:
        return one is other
    return torch.compiler.is_compiling() or torch.equal(one, other.to(one.device))


class CachedWeights(NamedTuple):
    """The weights of a generation, and what they were made from."""

    task_ids: Tensor | None
    encoded: Tensor | None
    prepared: Prepared
    site_weights: SiteWeights


class AdaptedBlock(nn.Module):
    """Mixed in before the class of a block."""

    def forward(self, *args: Any, site_weights: SiteWeights, **kwargs: Any) -> Any:
        # Bound here and not in the stack: a checkpointed recompute runs after the stack's forward has returned.
        with bound(site_weights):
            return super().forward(*args, **kwargs)


class CalledBlock(AdaptedBlock):
    """The same of a stack that hands nothing on: the block takes what the stack has bound when it is called.

    A checkpointed recompute has the arguments of that call.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, site_weights=innermost(self).site_weights, **kwargs)


def check_task_ids(task_ids: Tensor | None, inputs: Tensor | None, tasks: tuple[str, ...]) -> None:
    """Check task_ids before anything runs; their values only on the CPU, where reading them waits for nothing.

    Raises:
        UserError: if they are missing, not (batch,) integers, or (on the CPU) out of range.
    """
    if task_ids is None:
        raise UserError(
            f"task_ids are missing: pass a LongTensor (batch,) with each row's index in {list(tasks[:8])}"
        )
    if not isinstance(task_ids, Tensor) or task_ids.dtype not in (torch.int64, torch.int32):
        raise UserError(
            f"task_ids must be a LongTensor (batch,), not {getattr(task_ids, 'dtype', type(task_ids))}"
        )
    if inputs is not None and task_ids.shape != inputs.shape[:1]:
        raise UserError(
            f"task_ids have shape {tuple(task_ids.shape)}, but the batch has {inputs.shape[0]} rows"
        )
    if task_ids.device.type == "cpu" and not torch.compiler.is_compiling() and task_ids.numel():
        low, high = int(task_ids.min()), int(task_ids.max())
        if low < 0 or high >= len(tasks):
            raise UserError(
                f"task_ids out of range: found {low if low < 0 else high}, but the model has tasks "
                f"0..{len(tasks) - 1} ({', '.join(tasks[:8])})"
            )


def cache_rows(cache: Any) -> int:
    """Return how many rows a cache holds."""
    own = getattr(cache, "self_attention_cache", cache)
    return len(own.layers[0].keys)
