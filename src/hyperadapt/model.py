"""`adapt`: give a transformers model a method, by subclassing its own classes at run time.

    model   names `task_ids` in its forward, so that Trainer keeps the column and generate expands it over beams;
    stack   turns task_ids or the encoded input into the weights of all its sites, once a batch, for its blocks;
    block   binds them for the length of its forward, in its own thread;
    sites   the modules there take their own of what is bound: they apply a form, or gate their matrix;
    read    modules whose output a site needs beside its own input leave it where the weights are bound.

The base model's code is neither copied nor edited, and its parameters keep their names.
"""

from __future__ import annotations

import copy
import inspect
import reprlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hyperadapt import checkpoint
from hyperadapt.adaptation import DRAFT, Adaptation, Generated, SiteWeights
from hyperadapt.backbones import Backbone, backbone_of
from hyperadapt.conditioning import Inputs
from hyperadapt.errors import UserError, nearest
from hyperadapt.fingerprint import TensorDigest, digest_tensors, fingerprint
from hyperadapt.forms import Form, Gate
from hyperadapt.forms.base import autocast_dtype
from hyperadapt.forms.grid import gated_linear
from hyperadapt.forms.norm import RmsNorm, fused_rms_norm
from hyperadapt.methods import Method, as_method
from hyperadapt.methods.base import Host
from hyperadapt.output_layer import OutputLayer
from hyperadapt.rollback import unchanged_on_failure
from hyperadapt.sites import Site
from hyperadapt.verbs import RefusedVerbs, check_save_options


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
        saved = checkpoint.saved_names(self)
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
        run_output_layer_fast(self)  # it is another module now
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
            checkpoint.save(self, save_directory, state_dict)


class AdaptedStack(nn.Module):
    """Mixed in before the class of an encoder or decoder stack."""

    stack_name: str
    model: tuple[AdaptedModel]  # in a tuple, or the model would become its own grandchild

    def forward(
        self, *args: Any, task_ids: Tensor | None = None, past_key_values: Any = None, **kwargs: Any
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
        model, adaptation = self.model[0], self.model[0].hyperadapt
        encoded, mask = kwargs.get("encoder_hidden_states"), kwargs.get("encoder_attention_mask")

        def run(site_weights: SiteWeights) -> Any:
            with_cache = {} if past_key_values is None else {"past_key_values": past_key_values}
            with bound(site_weights):
                return super(AdaptedStack, self).forward(
                    *args, site_weights=site_weights, **with_cache, **kwargs
                )

        # A cache lives as long as one generation, so the weights kept on it are neither made anew at each step nor
        # left over for the next batch. One that was reset, to be used again, has no states of the encoder.
        kept: Kept | None = getattr(past_key_values, "site_weights", None)
        begun = getattr(past_key_values, "is_updated", {}).get(0)
        if kept is not None and begun and kept.task_ids is task_ids:
            # Gates come from the first token, whatever moves the encoder's states between devices. The states of other
            # rows, or of the same ones in another order, are not these.
            moved = adaptation.has_gates(self.stack_name) and have_equal_values(kept.encoded, encoded)
            if kept.encoded is encoded or moved:
                # A compiled step would take every site's tensors for inputs, and copy them into its CUDA graph.
                compiled = torch.compiler.is_compiling()
                return run(adaptation.by_site(kept.generated) if compiled else kept.site_weights)
        if model.method.task_conditioned:
            check_task_ids(task_ids, tokens, model.tasks)
        assert tokens is not None
        inputs = Inputs(self.stack_name, tokens, task_ids, encoded, mask)
        dtype = autocast_dtype(tokens.device.type) or embedding_weight(self).dtype
        if adaptation.has_draft(self.stack_name):
            of_draft = adaptation(inputs._replace(stack=DRAFT.format(self.stack_name)), dtype)
            draft = run(adaptation.by_site(of_draft))
            inputs = inputs._replace(encoded=draft[0], mask=kwargs.get("attention_mask"))
        if begun and adaptation.has_gates(self.stack_name):
            raise UserError(
                "these past_key_values do not hold the gates, which the first token decides; go on only with what this "
                "model returned for the same encoder_outputs under torch.no_grad()"
            )
        generated = adaptation(inputs, dtype)._replace(mask=kwargs.get("attention_mask"))
        if torch.is_grad_enabled():
            return run(adaptation.by_site(generated))
        generated = generated._replace(gates={})
        site_weights = adaptation.by_site(generated)
        output = run(site_weights)
        cache = getattr(output, "past_key_values", None) if past_key_values is None else past_key_values
        if cache is not None:
            cache.site_weights = Kept(task_ids, encoded, generated, site_weights)
        return output


def embedding_weight(stack: Any) -> Tensor:
    """Return a stack's first weight, by its name, as a replica of nn.DataParallel has no parameters to list."""
    return stack.get_input_embeddings().weight


def by_name(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Name what a method, as a module's forward, is given by position."""
    if not args:
        return kwargs
    names = [name for name in inspect.signature(method).parameters if name != "self"]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def have_equal_values(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two states are the same wherever they lie, as far as it can be told within a compiled step: in shape."""
    if one is None or other is None or one.shape != other.shape:
        return one is other
    return torch.compiler.is_compiling() or torch.equal(one, other.to(one.device))


class Kept(NamedTuple):
    """The weights of a generation, and what they were made from."""

    task_ids: Tensor | None
    encoded: Tensor | None
    generated: Generated
    site_weights: SiteWeights


class AdaptedBlock(nn.Module):
    """Mixed in before the class of a block."""

    def forward(self, *args: Any, site_weights: SiteWeights, **kwargs: Any) -> Any:
        # Bound here and not in the stack: a checkpointed recompute runs after the stack's forward has returned.
        with bound(site_weights):
            return super().forward(*args, **kwargs)


class Call(NamedTuple):
    """One call of a stack or block, while it runs.

    Attributes:
        site_weights: of all the stack's sites.
        inputs: path of a site -> the output of the module that it reads, from when that ran until the site does.
    """

    site_weights: SiteWeights
    inputs: dict[str, Tensor]


class Innermost(threading.local):
    """The call that a thread is in, the innermost of several: no other thread's, nor one that it went on from."""

    def __init__(self) -> None:
        self.call: Call | None = None


INNERMOST = Innermost()  # not a ContextVar, which torch.compile cannot trace


class bound:  # noqa: N801 - reads as a statement
    """Bind weights to the sites that this thread runs, for a while."""

    def __init__(self, site_weights: SiteWeights) -> None:
        self.call, self.outer = Call(site_weights, {}), INNERMOST.call

    def __enter__(self) -> None:
        INNERMOST.call = self.call

    def __exit__(self, *exc: object) -> None:
        INNERMOST.call = self.outer


def call_around(site: Site) -> Call:
    """Return the call in which a site runs."""
    assert INNERMOST.call is not None, f"{site.path} ran outside its block"
    return INNERMOST.call


class AdaptedSite(nn.Module):
    """Mixed in before the class of a module whose output a form changes (the first, where it returns several)."""

    form: Form
    site: Site

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        call = call_around(self.site)
        weights = call.site_weights.at(self.site).weights
        y = output[0] if isinstance(output, tuple) else output
        if self.site.insertion == "sequential":
            x = y
        else:
            x = args[0] if self.site.reads is None else call.inputs.pop(self.site.path)
        changed = self.form.apply(x.to(y.dtype), y, weights)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed


class AdaptedLinear(nn.Module):
    """Mixed in before the class of a linear map whose matrix is gated."""

    form: Gate
    site: Site
    weight: Tensor
    bias: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        call, x = call_around(self.site), input
        at_site, read = call.site_weights.at(self.site), call.inputs.pop(self.site.path)
        gates = None if at_site.gates is None else at_site.gates.get(self.site.path)
        if gates is None:
            weights = {name: weight.to(x.dtype) for name, weight in at_site.weights.items()}
            gates = self.form.gate(read.to(x.dtype), x, weights, at_site.mask)
            if at_site.gates is not None:
                at_site.gates[self.site.path] = gates
        y = gated_linear(x, self.weight, gates)
        return y if self.bias is None else y + self.bias


class ReadModule(nn.Module):
    """Mixed in before the class of a module whose output a site reads, within the same call.

    No hook: what is unpickled in a new process has hooks under numbers that the process gives to others again.
    """

    reader: Site

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        if INNERMOST.call is not None:
            INNERMOST.call.inputs[self.reader.path] = output
        return output


class PlainStack(nn.Module):
    """Mixed in before the class of a stack whose weights have one type: where it is autocast's too, autocast is off.

    It would do nothing but look at every operator, and widen what an adapter's layer norm adds.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        weight = embedding_weight(self)
        kind = weight.device.type
        if autocast_dtype(kind) != weight.dtype:
            return super().forward(*args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return super().forward(*args, **kwargs)


class Norm(nn.Module):
    """Mixed in before the class of a root-mean-square norm of the base model, frozen or trained.

    A trained scale is in float32, whatever the base model's type: in bfloat16 a number near 1 would not move by a step.
    """

    eps: float
    weight: Tensor
    model: tuple[PreTrainedModel]  # whose embeddings' type the output has; in a tuple, so as to be no child

    def forward(self, hidden_states: Tensor) -> Tensor:
        y: Any
        if hidden_states.device.type != "cpu":
            y = fused_rms_norm(hidden_states, self.weight, self.eps)
        elif self.weight.requires_grad and self.weight.dtype == torch.float32 and torch.is_grad_enabled():
            y = RmsNorm.apply(hidden_states, self.weight, self.eps)
        else:
            y = super().forward(hidden_states)
        return y.to(self.model[0].get_input_embeddings().weight.dtype)


def adapt(
    base: PreTrainedModel, method: Method | type[Method] | Mapping[str, Any] | str, tasks: Sequence[str]
) -> Any:
    """Adapt a model to many tasks: freeze it, and add what the method trains.

    Args:
        base: any model whose family has a backbone; it is changed in place and returned, or left as it was on failure.
        method: as `HyperFormerPlusPlus(reduction_factor=32)`; with its default options also by its class or name, or
            with others as a configuration has it, {"name": "hyperformer++", "reduction_factor": 32}.
        tasks: names; a row's task_id is the index of its task here.

    Returns:
        The base model, now also an `AdaptedModel`.

    Raises:
        UserError: if the family is unknown, the model is adapted already, tasks are empty or repeat, or the
            method's options do not fit the model, as where they train what is quantised.
    """
    return adapt_with_features(base, as_method(method), tasks, None)


def adapt_with_features(
    base: PreTrainedModel,
    method: Method,
    tasks: Sequence[str],
    features: Tensor | None,
    digests: dict[str, TensorDigest] | None = None,
) -> Any:
    """Adapt a model with task features z (n_tasks, t') at hand rather than in the method's file.

    Args:
        base, method, tasks: as in `adapt`.
        features: z.
        digests: of the base model's tensors, where they are known already.
    """
    backbone = check_base(base)
    names = tuple(tasks) if isinstance(tasks, Iterable) and not isinstance(tasks, str) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"tasks must be a list of at least one name, not {reprlib.repr(tasks)}")
    tasks = names
    if repeated := sorted(name for name, times in Counter(tasks).items() if times > 1):
        more = f" and {len(repeated) - 8} more" if len(repeated) > 8 else ""
        raise UserError(f"tasks are repeated: {', '.join(repeated[:8])}{more}")
    adaptation = method.build(Host(backbone, base, tasks, features)).to(base.device).train(base.training)
    quantised = getattr(base, "is_quantized", False)
    if quantised and adaptation.trained_backbone not in ("none", "layer_norms"):
        raise UserError(
            f"{method.name} trains weights of the base model that are quantised; load it without quantization_config, "
            "or choose a method that leaves them frozen"
        )
    digests = digests or digest_tensors(base.named_parameters())
    # Everything that reads is done: only now is the base model changed.
    with unchanged_on_failure(base):
        if quantised:
            keep_differentiable(base)
        freeze(base, backbone, adaptation)
        run_fast(base, backbone)
        trained = tuple(name for name, parameter in base.named_parameters() if parameter.requires_grad)
        model: Any = base
        subclass(model, AdaptedModel)
        model.method, model.tasks, model.saved_base = method, tasks, trained
        model.base_digests, model.base_fingerprint = digests, fingerprint(digests)
        model.base_vocabulary = checkpoint.vocabulary(base)
        model.all_tied_weights_keys = truly_tied(base)
        model.hyperadapt = adaptation
        # By this word Trainer knows that a quantised model has parameters on top which can be trained.
        model._hf_peft_config_loaded = quantised
        if adaptation.groups:
            insert(model, backbone, adaptation)
    return model


def check_base(base: Any) -> Backbone:
    """Check that a model can be adapted, and find its backbone.

    Raises:
        UserError: if it is no model of transformers or of no known family, is adapted already, by hyperadapt or by
            PEFT, has nothing to adapt, or was dispatched to devices.
    """
    if isinstance(base, AdaptedModel):
        raise UserError(f"the model is adapted already, with {base.method.name}; load the base model anew")
    if getattr(base, "peft_config", None):  # a PeftModel, or a model that PEFT put its layers into
        raise UserError(
            "the model has adapters of PEFT: merge them into it by PEFT's merge_and_unload(), and adapt what that "
            "returns, or load the base model anew"
        )
    if not isinstance(base, PreTrainedModel):
        raise UserError(
            f"the base model must be a model of transformers, not {reprlib.repr(type(base).__name__)}: load it with "
            "AutoModelForSeq2SeqLM; what wraps it comes after `adapt`"
        )
    backbone = backbone_of(base)
    for name, stack in backbone.stacks(base).items():
        if not len(backbone.blocks(stack)):
            raise UserError(f"the model's {name} has no blocks to adapt")
    for name, module in base.named_modules():
        if "forward" in vars(module):  # it would hide that of the class, which is what is adapted
            raise UserError(
                f"{name or 'the model'} has a forward of its own, as a device map gives it: adapt the model first, and "
                f"dispatch it after"
            )
    return backbone


def truly_tied(base: PreTrainedModel) -> dict[str, str]:
    """Return which of the weights that a model names as tied to others are so, each with the other's name."""
    return {
        target: source
        for target, source in base.all_tied_weights_keys.items()
        if base.get_parameter_or_buffer(target) is base.get_parameter_or_buffer(source)
    }


def keep_differentiable(base: PreTrainedModel) -> None:
    """Keep bitsandbytes from packing weights of 4 bits, which it does when they are first evaluated on a CPU.

    Its packed product, faster where only few rows are predicted, has no gradient: a training that goes on after an
    evaluation would silently lose most of its own.

    Raises:
        UserError: if they are packed already, which rounds their scales for good.
    """
    for name, module in base.named_modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
                raise UserError(
                    f"{name} has been evaluated already, by which bitsandbytes packs its weights so that nothing can "
                    "be trained through them; load the base model anew and adapt it first"
                )
            module.support_avx512bf16_for_cpu = False


def freeze(base: PreTrainedModel, backbone: Backbone, adaptation: Adaptation) -> None:
    """Leave of the base model's own parameters only those trained that the method names, norms in float32."""
    base.requires_grad_(adaptation.trained_backbone == "all")
    if adaptation.trained_backbone == "all_but_embeddings":
        base.requires_grad_(True)
        base.get_input_embeddings().requires_grad_(False)
    if adaptation.trained_backbone in ("encoder", "decoder"):
        backbone.stacks(base)[adaptation.trained_backbone].requires_grad_(True)
    if adaptation.trained_backbone == "decoder":
        base.get_output_embeddings().requires_grad_(True)
    if adaptation.trained_backbone == "layer_norms":
        train_norms(base, backbone)


def train_norms(base: PreTrainedModel, backbone: Backbone) -> None:
    """Train the base model's norms, in float32."""
    for stack in backbone.stacks(base):
        for site in backbone.norm_sites(base, stack):
            base.get_submodule(site.path).float().requires_grad_(True)


def run_fast(base: Any, backbone: Backbone) -> None:
    """Run what the base model has of its own in as few calls as it can be, whatever the method."""
    for name, stack in backbone.stacks(base).items():
        norms: list[Any] = [base.get_submodule(site.path) for site in backbone.norm_sites(base, name)]
        scales = {id(norm.weight) for norm in norms}
        rest = [weight for weight in stack.parameters() if id(weight) not in scales]
        if len({weight.dtype for weight in rest if weight.is_floating_point()}) == 1:
            subclass(stack, PlainStack)
        for norm in norms:
            subclass(norm, Norm)
            norm.eps, norm.model = backbone.norm_eps(base), (base,)
    run_output_layer_fast(base)


def run_output_layer_fast(base: PreTrainedModel) -> None:
    """Let the output layer multiply by what is fastest, where it is plain and frozen."""
    layer = base.get_output_embeddings()
    if type(layer) is nn.Linear and layer.bias is None and not layer.weight.requires_grad:
        subclass(layer, OutputLayer)


def insert(model: Any, backbone: Backbone, adaptation: Adaptation) -> None:
    """Subclass the stacks and blocks that hold sites, and the modules at the sites."""
    stack: Any
    block: Any
    module: Any
    for name, stack in backbone.stacks(model).items():
        if not adaptation.site_groups(name):
            continue
        subclass(stack, AdaptedStack)
        stack.stack_name, stack.model = name, (model,)
        for block in backbone.blocks(stack):
            subclass(block, AdaptedBlock)
        for group in adaptation.site_groups(name):
            for site in group.sites:
                module = model.get_submodule(site.path)
                assert not isinstance(module, AdaptedSite | AdaptedLinear), f"{site.path} is two sites"
                subclass(module, AdaptedLinear if site.insertion == "gate" else AdaptedSite)
                module.form, module.site = group.form, site
                if site.reads is not None:
                    module = model.get_submodule(site.reads)
                    assert not isinstance(module, ReadModule), f"{site.reads} is read by two sites"
                    subclass(module, ReadModule)
                    module.reader = site


def subclass(module: nn.Module, mixin: Any) -> None:
    """Put a mixin before a module's class."""
    module.__class__ = mixed(mixin, type(module))  # type: ignore[arg-type]


@cache
def mixed(mixin: Any, original: Any) -> type:
    """Make a class of both, one for all modules of a class, as torch.compile looks at each class anew.

    It keeps its name and module, by which transformers, FSDP and device maps know it, and its forward's signature, from
    which Trainer and generate read what may be passed.
    """
    signature = inspect.signature(original.forward)
    added = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(mixin.forward).parameters.items()
        if name not in {*signature.parameters, "args", "kwargs"}
    ]
    parameters = sorted([*signature.parameters.values(), *added], key=lambda parameter: parameter.kind)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return mixin.forward(self, *args, **kwargs)

    forward.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    names = {name: getattr(original, name) for name in ("__module__", "__qualname__")}
    own = {"forward": forward, "_mixed_from": (mixin, original)}
    copies = {"__reduce_ex__": reduce_mixed, "__deepcopy__": copy_mixed}
    return type(original.__name__, (mixin, original), {**names, **own, **copies})


def reduce_mixed(module: nn.Module, protocol: int) -> Any:
    """Copy or pickle a module as any object, but for its class, which `import` would not find under its name."""
    original, mixins = type(module), list[Any]()
    while "_mixed_from" in vars(original):
        mixin, original = vars(original)["_mixed_from"]
        mixins.append(mixin)
    reduced: Any = object.__reduce_ex__(module, max(protocol, 2))
    _, _, *state = reduced
    return (blank, (original, *reversed(mixins)), *state)


def copy_mixed(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy a module deeply; a norm that is copied alone, as PEFT does, reads its type from the model that it is in."""
    make, arguments, state, *_ = reduce_mixed(module, 2)
    kept = {"model"} if isinstance(module, Norm) and not memo else set[str]()
    memo[id(module)] = copied = make(*arguments)
    copied.__setstate__(
        {name: value if name in kept else copy.deepcopy(value, memo) for name, value in state.items()}
    )
    return copied


def blank(original: Any, *mixins: Any) -> nn.Module:
    """Make an empty object of a class and what was mixed in before it, one after another."""
    for mixin in mixins:
        original = mixed(mixin, original)
    return original.__new__(original)


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
