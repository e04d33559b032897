"""`adapt`: give a transformers model a method, by subclassing its own classes at run time.

    model   names `task_ids` in its forward, so that Trainer keeps the column and generate expands it over beams;
    stack   turns task_ids or the encoded input into the weights of all its sites, once a batch, for its blocks;
    block   binds them for the length of its forward, in its own thread;
    sites   the modules there take their own of what is bound, and apply a form;
    tapped  modules whose input or output a form reads beside its own leave it where the weights are bound.

The base model's code is neither copied nor edited, and its parameters keep their names.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from hyperadapt.adaptation import Adaptation
from hyperadapt.backbones import Backbone, backbone_of
from hyperadapt.backbones.base import ArchitectureName
from hyperadapt.descriptions import Descriptions, described
from hyperadapt.errors import UserError
from hyperadapt.methods import Method, as_method
from hyperadapt.methods.base import Host
from hyperadapt.methods.task_embedding import TaskEmbeddingMethod
from hyperadapt.model import file, optional
from hyperadapt.model.adapted import AdaptedCausalModel, AdaptedEncoderModel, AdaptedModel
from hyperadapt.model.fingerprint import TensorDigest, digest_tensors, fingerprint
from hyperadapt.model.heads import HeadOptions, Pooling, TaskHeads, own_parameters
from hyperadapt.model.mixed import subclass
from hyperadapt.model.norm import TrainedNorm
from hyperadapt.model.rollback import unchanged_on_failure
from hyperadapt.model.sites import AdaptedSite, TappedModule
from hyperadapt.model.stack import AdaptedBlock, AdaptedCausalStack, AdaptedStack, CalledBlock

MODELS: dict[ArchitectureName, type[AdaptedModel]] = {
    "encoder_decoder": AdaptedModel,
    "decoder_only": AdaptedCausalModel,
    "encoder_only": AdaptedEncoderModel,
}
STACKS: dict[ArchitectureName, type[AdaptedStack]] = {
    "encoder_decoder": AdaptedStack,
    "decoder_only": AdaptedCausalStack,
    "encoder_only": AdaptedStack,
}


def adapt(
    base: PreTrainedModel,
    method: Method | type[Method] | Mapping[str, Any] | str,
    tasks: Sequence[str],
    num_labels: Mapping[str, int] | None = None,
    pooling: Pooling = "mean",
    head_learning_rate: float | None = None,
    descriptions: Descriptions | None = None,
) -> Any:
    """Adapt a model to many tasks: freeze it, and add what the method trains.

    Args:
        base: any model whose family has a backbone; it is changed in place and returned, or left as it was on failure.
        method: as `HyperFormerPlusPlus(reduction_factor=32)`; with its default options also by its class or name, or
            with others as a configuration has it, {"name": "hyperformer++", "reduction_factor": 32}.
        tasks: names; a row's task_id is the index of its task here.
        num_labels: of each task, where the model is an encoder alone, {"cola": 2, "stsb": 1}: 1 is a regression.
        pooling: what its heads read: the "mean" of a row's last states, or that of its first token, "cls".
        head_learning_rate: of its heads; by default that of all else.
        descriptions: of each task, one text or several, where the method takes task_descriptions.

    Returns:
        The base model, now also an `AdaptedModel`.

    Raises:
        UserError: if the family is unknown, the model is adapted already, tasks are empty or repeat, or the
            method's options do not fit the model, as where they train what is quantised; or num_labels are missing, or
            given where no head is.
    """
    heads = None if num_labels is None else HeadOptions(num_labels, pooling, head_learning_rate)
    method = as_method(method)
    features = None
    if descriptions is not None:
        encoder = check_takes_descriptions(method)
        features = described(tuple(tasks), descriptions, encoder)
    return adapt_with_features(base, method, tasks, features, heads=heads)


def check_takes_descriptions(method: Method) -> str:
    """Check that a method's task embeddings come from descriptions, and name the encoder that reads them.

    Raises:
        UserError: if not.
    """
    if method.description_encoder is None:
        able = isinstance(method, TaskEmbeddingMethod)
        how = (
            "it does with task_descriptions=True" if able else "hyperlora, hyperformer and hyperformer++ can"
        )
        raise UserError(f"{method.name} does not read descriptions of tasks; {how}")
    return method.description_encoder


def adapt_with_features(
    base: PreTrainedModel,
    method: Method,
    tasks: Sequence[str],
    features: Tensor | None,
    digests: dict[str, TensorDigest] | None = None,
    heads: HeadOptions | None = None,
) -> Any:
    """Adapt a model with task features z (n_tasks, t') at hand rather than in the method's file.

    Args:
        base, method, tasks: as in `adapt`.
        features: z.
        digests: of the base model's tensors, where they are known already.
        heads: of a model that is an encoder alone.
    """
    backbone = check_base(base)
    names = tuple(tasks) if isinstance(tasks, Iterable) and not isinstance(tasks, str) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"tasks must be a list of at least one name, not {reprlib.repr(tasks)}")
    tasks = names
    if repeated := sorted(name for name, times in Counter(tasks).items() if times > 1):
        more = f" and {len(repeated) - 8} more" if len(repeated) > 8 else ""
        raise UserError(f"tasks are repeated: {', '.join(repeated[:8])}{more}")
    check_heads(backbone, tasks, heads)
    adaptation = method.build(Host(backbone, base, tasks, features))
    if heads is not None:
        adaptation.heads = TaskHeads(heads, tasks, base.config.hidden_size)
    adaptation = adaptation.to(base.device).train(base.training)
    quantised = getattr(base, "is_quantized", False)
    if quantised and adaptation.trained_backbone not in ("none", "layer_norms"):
        raise UserError(
            f"{method.name} trains weights of the base model that are quantised; load it without quantization_config, "
            "or choose a method that leaves them frozen"
        )
    digests = digests or digest_tensors(own_parameters(base, heads))
    # Everything that reads is done: only now is the base model changed.
    with unchanged_on_failure(base):
        if heads is not None and getattr(base, "pooler", None) is not None:
            setattr(base, "pooler", None)  # noqa: B010 - of a class that is not known
        if quantised:
            keep_differentiable(base)
        freeze(base, backbone, adaptation)
        optional.speed_up(base, backbone, adaptation)
        trained = tuple(name for name, parameter in base.named_parameters() if parameter.requires_grad)
        model: Any = base
        if adaptation.groups:
            insert(model, backbone, adaptation)  # first: the model may be the stack, which runs within it
        subclass(model, MODELS[backbone.architecture])
        model.method, model.tasks, model.saved_base = method, tasks, trained
        model.base_digests, model.base_fingerprint = digests, fingerprint(digests)
        model.base_vocabulary = file.vocabulary(base)
        model.all_tied_weights_keys = truly_tied(base)
        model.hyperadapt = adaptation
        # By this word Trainer knows that a quantised model has parameters on top which can be trained.
        model._hf_peft_config_loaded = quantised
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
            "AutoModelForSeq2SeqLM, AutoModelForCausalLM or AutoModel; what wraps it comes after `adapt`"
        )
    backbone = backbone_of(base)
    for name in backbone.modules(base):
        if not len(backbone.blocks(base, name)):
            raise UserError(f"the model's {name} has no blocks to adapt")
    if not backbone.has_heads and base.get_output_embeddings() is None:
        raise UserError(
            f"a {type(base).__name__} has no output layer, by which {backbone.name} writes its answers; load the model "
            f"with {backbone.auto_class.__name__}"
        )
    for name, module in base.named_modules():
        if "forward" in vars(module):  # it would hide that of the class, which is what is adapted
            raise UserError(
                f"{name or 'the model'} has a forward of its own, as a device map gives it: adapt the model first, and "
                f"dispatch it after"
            )
    return backbone


def check_heads(backbone: Backbone, tasks: Sequence[str], heads: HeadOptions | None) -> None:
    """Check that a model that is an encoder alone has a head for each task, and that no other has heads.

    Raises:
        UserError: if not.
    """
    if backbone.has_heads:
        (heads or HeadOptions({})).check(tasks)
    elif heads is not None:
        raise UserError(
            f"num_labels are for models that are an encoder alone; {backbone.name} writes its answers"
        )


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
        backbone.modules(base)[adaptation.trained_backbone].requires_grad_(True)
    if adaptation.trained_backbone == "decoder":
        base.get_output_embeddings().requires_grad_(True)
    if adaptation.trained_backbone == "layer_norms":
        train_norms(base, backbone)
    for name, parameter in base.named_parameters():
        if backbone.fixed and name.endswith(backbone.fixed):
            parameter.requires_grad_(False)


def train_norms(base: PreTrainedModel, backbone: Backbone) -> None:
    """Train the base model's norms, in float32."""
    for stack in backbone.stacks:
        for site in backbone.norm_sites(base, stack):
            norm: Any = base.get_submodule(site.path).float().requires_grad_(True)
            subclass(norm, TrainedNorm)
            norm.model = (base,)


def insert(model: Any, backbone: Backbone, adaptation: Adaptation) -> None:
    """Subclass the stacks and blocks that hold sites, and the modules at the sites."""
    stack: Any
    block: Any
    module: Any
    for name, stack in backbone.modules(model).items():
        if not adaptation.site_groups(name):
            continue
        subclass(stack, STACKS[backbone.architecture])
        stack.stack_name, stack.model = name, (model,)
        for block in backbone.blocks(model, name):
            subclass(block, AdaptedBlock if backbone.hands_on else CalledBlock)
        for group in adaptation.site_groups(name):
            for site in group.sites:
                module = model.get_submodule(site.path)
                assert not isinstance(module, AdaptedSite), f"{site.path} is two sites"
                subclass(module, AdaptedSite)
                module.form, module.site = group.form, site
                asked = {tap: site.sources[tap] for tap in group.form.taps if tap in site.sources}
                module.tapped = {tap: source for tap, source in asked.items() if source.path != site.path}
                for source in module.tapped.values():
                    tapped: Any = model.get_submodule(source.path)
                    assert not isinstance(tapped, TappedModule), f"{source.path} is tapped by two sites"
                    subclass(tapped, TappedModule)
                    tapped.reader, tapped.side = site, source.side
