"""All verbs that an adapted model inherits from transformers: each works here, or is refused with the right one."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from peft import LNTuningConfig, LoraConfig, PromptTuningConfig, get_peft_model, inject_adapter_in_model
from torch import Tensor, nn
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
)

import hyperadapt as ha
from hyperadapt import CheckpointError
from hyperadapt.errors import UserError
from hyperadapt.model import adapt, fingerprint, mixed, optional
from hyperadapt.model.verbs import REFUSED
from hyperadapt.training.trainer import MixtureTrainer
from test_checkpoint import as_if_trained, header_of, logits, tensors_in
from tiny import (
    METHODS,
    PLUS_PLUS,
    TASKS,
    gradients,
    redraw,
    relative_error,
    tiny_adapted,
    tiny_batch,
    tiny_t5,
)

BATCH = tiny_batch()
INPUTS = {name: BATCH[name] for name in ("input_ids", "attention_mask", "task_ids")}
LORA = LoraConfig(target_modules=["q"])


# --- the table -------------------------------------------------------------------------------------------------------


def public_verbs(kind: type) -> set[str]:
    """Public methods and properties that a class has from transformers, forward aside."""
    return {
        name
        for base in kind.__mro__
        if base.__module__.startswith("transformers.")
        for name, value in vars(base).items()
        if not name.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, property | classmethod | staticmethod))
    } - {"forward"}


def same_as_base(name: str, *args: Any) -> Callable[[Any], None]:
    """A verb that answers as the base model does."""

    def check(model: Any) -> None:
        found, expected = getattr(model, name), getattr(tiny_t5(), name)
        if callable(expected):
            found, expected = found(*args), expected(*args)
        assert found == expected

    return check


def changes_nothing(name: str, *args: Any) -> Callable[[Any], None]:
    """A verb that leaves what the model computes, and what it trains, as they are."""

    def check(model: Any) -> None:
        before, trained = logits(model), {n for n, p in model.named_parameters() if p.requires_grad}
        getattr(model, name)(*args)
        assert torch.equal(logits(model), before)
        assert {n for n, p in model.named_parameters() if p.requires_grad} == trained
        assert type(model.encoder).forward is type(tiny_adapted().encoder).forward

    return check


def recomputes(enable: str, disable: str) -> Callable[[Any], None]:
    def check(model: Any) -> None:
        model.train()(**BATCH).loss.backward()
        expected = gradients(model)
        for switch, active in ((enable, True), (disable, False)):
            getattr(model, switch)()
            assert model.is_activation_checkpointing is active
            model.zero_grad()
            model(**BATCH).loss.backward()
            for name, gradient in gradients(model).items():
                assert relative_error(gradient, expected[name]) < 1e-4, name

    return check


def casts(name: str, dtype: torch.dtype) -> Callable[[Any], None]:
    def check(model: Any) -> None:
        model.to(torch.float32 if dtype == torch.float16 else torch.float16)
        getattr(model, name)()
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert logits(model).dtype == dtype

    return check


def check_to(model: Any) -> None:
    expected = logits(model)
    model.to(torch.float64)
    assert torch.allclose(logits(model), expected.double(), atol=1e-4)
    assert model.to("cpu") is model


def check_cuda(model: Any) -> None:
    if not torch.cuda.is_available():
        with pytest.raises((AssertionError, RuntimeError)):
            model.cuda()
        assert model.device.type == "cpu"
    else:
        assert model.cuda().device.type == "cuda"
        model.cpu()
    logits(model)


def check_train(model: Any) -> None:
    assert model.train().hyperadapt.training
    assert not model.eval().hyperadapt.training


def check_generate(model: Any) -> None:
    whole = model.generate(**INPUTS, max_new_tokens=4, num_beams=2)
    for task_id in range(3):
        rows = BATCH["task_ids"] == task_id
        alone = model.generate(
            **{name: value[rows] for name, value in INPUTS.items()}, max_new_tokens=4, num_beams=2
        )
        assert torch.equal(alone, whole[rows][:, : alone.shape[1]])


def check_transition_scores(model: Any) -> None:
    output = model.generate(**INPUTS, max_new_tokens=3, return_dict_in_generate=True, output_scores=True)
    scores = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    with torch.no_grad():
        full = model(**INPUTS, decoder_input_ids=output.sequences).logits.log_softmax(-1)
    expected = full[:, :-1].gather(2, output.sequences[:, 1:, None])[..., 0]
    reached = scores.isfinite() & (output.sequences[:, 1:] != 0)
    assert torch.allclose(scores[reached], expected[reached], atol=1e-4)


def check_prepare_inputs(model: Any) -> None:
    prepared = model.prepare_inputs_for_generation(
        torch.zeros(6, 1, dtype=torch.long),
        encoder_outputs=(torch.zeros(6, 2, 32),),
        task_ids=BATCH["task_ids"],
    )
    assert torch.equal(prepared["task_ids"], BATCH["task_ids"])


def check_compiled_call(model: Any) -> None:
    assert callable(model.get_compiled_call(None))


def check_embeddings(model: Any) -> None:
    assert model.get_input_embeddings() is model.shared
    assert model.get_output_embeddings() is model.lm_head


def check_set_embeddings(model: Any) -> None:
    expected = logits(model)
    model.set_input_embeddings(nn.Embedding.from_pretrained(model.shared.weight.detach().clone()))
    model.set_output_embeddings(nn.Linear(32, 96, bias=False).requires_grad_(False))
    model.tie_weights()
    assert model.lm_head.weight is model.shared.weight
    assert torch.allclose(logits(model), expected, atol=1e-5)
    model.half()
    assert logits(model).dtype == torch.float16  # the norms look at the embeddings that are there now


def check_resize(model: Any) -> None:
    assert model.resize_token_embeddings(104) is model.shared
    assert logits(model).shape[-1] == model.config.vocab_size == 104


def check_stacks(model: Any) -> None:
    assert model.get_encoder() is model.encoder
    assert model.get_decoder() is model.decoder


def check_numbers(model: Any) -> None:
    assert model.num_parameters(only_trainable=True) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    assert model.get_memory_footprint() >= 4 * model.num_parameters()


def check_tied(model: Any) -> None:
    assert model.get_expanded_tied_weights_keys(all_submodels=True) == dict.fromkeys(
        ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"), "shared.weight"
    )


def check_parts(model: Any) -> None:
    assert model.get_parameter_or_buffer("hyperadapt.conditioning.z") is model.hyperadapt.conditioning.z
    assert [*dict(model.named_non_persistent_buffers())] == [
        name for name, _ in model.named_buffers() if name not in model.state_dict()
    ]
    found = model.retrieve_modules_from_names(["shared.weight"])
    assert found == [model.shared]


def check_save(model: Any, directory: Path) -> None:
    model.save_pretrained(directory, max_shard_size="1GB", safe_serialization=True, token=None, variant=None)
    assert torch.equal(logits(ha.load(directory, base_model=tiny_t5())), logits(model))
    for option, value, message in (
        ("variant", "fp16", "is one file of one name"),
        ("push_to_hub", True, "huggingface_hub.upload_folder"),
        ("state_dicts", {}, "has no option 'state_dicts'; did you mean 'state_dict'?"),
    ):
        with pytest.raises(UserError, match=message.replace("?", r"\?")):
            model.save_pretrained(directory, **{option: value})


def check_warning(model: Any) -> None:
    model.warn_if_padding_and_no_attention_mask(torch.tensor([[5, 6]]), None)


def check_loss_function(model: Any) -> None:
    model.loss_function = expected = object()
    assert model.loss_function is expected


def check_kernels(model: Any) -> None:
    assert model.use_kernels is False
    with pytest.raises(UserError, match="set_use_kernels does not go with"):
        model.use_kernels = True


def check_attention(model: Any) -> None:
    expected = logits(model)
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    assert torch.allclose(logits(model), expected, atol=1e-4)


def check_plans(model: Any) -> None:
    model.init_parallel_plans()
    for plan in ("tp_plan", "ep_plan", "fsdp_plan", "pp_plan"):
        assert getattr(model, plan) == getattr(tiny_t5(), plan)


def check_input_gradients(model: Any) -> None:
    model.enable_input_require_grads()
    hidden = model(**BATCH, output_hidden_states=True).encoder_hidden_states[0]
    assert hidden.requires_grad
    model.disable_input_require_grads()
    assert not model(**BATCH, output_hidden_states=True).encoder_hidden_states[0].requires_grad


def check_raises_as_base(name: str, *args: Any) -> Callable[[Any], None]:
    def check(model: Any) -> None:
        with pytest.raises(NotImplementedError):
            getattr(tiny_t5(), name)(*args)
        with pytest.raises(NotImplementedError):
            getattr(model, name)(*args)

    return check


def check_tags(model: Any) -> None:
    model.add_model_tags("mine")
    assert model.model_tags == ["mine"]


def check_shifted(model: Any) -> None:
    shifted = model.prepare_decoder_input_ids_from_labels(labels=BATCH["labels"])
    assert torch.equal(shifted, tiny_t5().prepare_decoder_input_ids_from_labels(labels=BATCH["labels"]))


def check_only_for_loading(name: str) -> Callable[[Any], None]:
    """A verb that transformers itself calls where it loads, saves or batches, and which looks at no weights."""

    def check(model: Any) -> None:
        assert getattr(type(model), name) is not None
        assert name not in REFUSED

    return check


CHECKPOINTING = recomputes("activation_checkpointing_enable", "activation_checkpointing_disable")
OLD_CHECKPOINTING = recomputes("gradient_checkpointing_enable", "gradient_checkpointing_disable")
WORKS: dict[str, Callable[..., None]] = {
    "activation_checkpointing_disable": CHECKPOINTING,
    "activation_checkpointing_enable": CHECKPOINTING,
    "add_model_tags": check_tags,
    "adjust_generation_fn": check_only_for_loading("adjust_generation_fn"),
    "barrier_after_gathered_checkpoint_save": changes_nothing("barrier_after_gathered_checkpoint_save", None),
    "base_model": lambda model: model.base_model is model,
    "can_generate": same_as_base("can_generate"),
    "can_record_outputs": lambda model: model.can_record_outputs,
    "compute_transition_scores": check_transition_scores,
    "cuda": check_cuda,
    "destroy_cached_continuous_batching_manager": changes_nothing(
        "destroy_cached_continuous_batching_manager"
    ),
    "device": same_as_base("device"),
    "disable_input_require_grads": check_input_gradients,
    "dtype": same_as_base("dtype"),
    "dummy_inputs": lambda model: model.dummy_inputs,
    "enable_input_require_grads": check_input_gradients,
    "ep_plan": check_plans,
    "eval": check_train,
    "float": casts("float", torch.float32),
    "fsdp_plan": check_plans,
    "fsdp_size": same_as_base("fsdp_size"),
    "generate": check_generate,
    "get_compiled_call": check_compiled_call,
    "get_correct_attn_implementation": same_as_base("get_correct_attn_implementation", "sdpa"),
    "get_correct_experts_implementation": same_as_base("get_correct_experts_implementation", "eager"),
    "get_decoder": check_stacks,
    "get_encoder": check_stacks,
    "get_expanded_tied_weights_keys": check_tied,
    "get_experts_implementation": same_as_base("get_experts_implementation"),
    "get_init_context": check_only_for_loading("get_init_context"),
    "get_input_embeddings": check_embeddings,
    "get_memory_footprint": check_numbers,
    "get_output_embeddings": check_embeddings,
    "get_parameter_or_buffer": check_parts,
    "get_position_embeddings": check_raises_as_base("get_position_embeddings"),
    "gradient_checkpointing_disable": OLD_CHECKPOINTING,
    "gradient_checkpointing_enable": OLD_CHECKPOINTING,
    "half": casts("half", torch.float16),
    "heal_tokens": check_only_for_loading("heal_tokens"),
    "init_parallel_plans": check_plans,
    "is_activation_checkpointing": same_as_base("is_activation_checkpointing"),
    "is_backend_compatible": same_as_base("is_backend_compatible"),
    "is_custom_code": same_as_base("is_custom_code"),
    "is_distributed_loading_by_transformers": same_as_base("is_distributed_loading_by_transformers"),
    "is_gradient_checkpointing": same_as_base("is_gradient_checkpointing"),
    "is_remote_code": same_as_base("is_remote_code"),
    "load_custom_generate": check_only_for_loading("load_custom_generate"),
    "loss_function": check_loss_function,
    "mark_tied_weights_as_initialized": check_only_for_loading("mark_tied_weights_as_initialized"),
    "named_non_persistent_buffers": check_parts,
    "num_parameters": check_numbers,
    "pp_plan": check_plans,
    "prepare_decoder_input_ids_from_labels": check_shifted,
    "prepare_inputs_for_generation": check_prepare_inputs,
    "resize_position_embeddings": check_raises_as_base("resize_position_embeddings", 8),
    "resize_token_embeddings": check_resize,
    "retrieve_modules_from_names": check_parts,
    "save_pretrained": check_save,
    "set_attn_implementation": check_attention,
    "set_experts_implementation": changes_nothing("set_experts_implementation", {}),
    "set_input_embeddings": check_set_embeddings,
    "set_output_embeddings": check_set_embeddings,
    "should_save_on_this_rank": check_only_for_loading("should_save_on_this_rank"),
    "supports_context_parallel": same_as_base("supports_context_parallel"),
    "supports_pp_plan": same_as_base("supports_pp_plan"),
    "supports_tp_plan": same_as_base("supports_tp_plan"),
    "tie_weights": changes_nothing("tie_weights"),
    "to": check_to,
    "tp_plan": check_plans,
    "tp_size": same_as_base("tp_size"),
    "train": check_train,
    "use_kernels": check_kernels,
    "warn_if_padding_and_no_attention_mask": check_warning,
}
OF_PEFT = {"merge_and_unload", "merge_adapter", "unload"}  # which users know from peft's models alone


def test_every_verb_of_transformers_is_in_the_table() -> None:
    verbs = public_verbs(T5ForConditionalGeneration)
    assert len(verbs) > 90
    assert WORKS.keys() | (REFUSED.keys() - OF_PEFT) == verbs
    assert not WORKS.keys() & REFUSED.keys()


@pytest.mark.parametrize("name", sorted(WORKS))
def test_a_verb_works(name: str, tmp_path: Path) -> None:
    check = WORKS[name]
    check(tiny_adapted(), *([tmp_path] if check is check_save else []))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_verb_that_would_break_the_model_is_refused_in_one_line(name: str) -> None:
    model = tiny_adapted()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for owner in (model, type(model)):
        with pytest.raises(UserError, match=f"^{name} does not go with an adapted model: .+") as error:
            getattr(owner, name)("anything", at=1)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 200
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not hasattr(model, "peft_config")


def test_a_base_model_beside_it_keeps_all_its_verbs() -> None:
    tiny_adapted()
    base = tiny_t5()
    base.add_adapter(LORA)
    assert base.active_adapters() == ["default"]


@pytest.mark.parametrize("verb", ["activation_checkpointing_enable", "gradient_checkpointing_enable"])
def test_reentrant_checkpointing_is_refused(verb: str) -> None:
    with pytest.raises(UserError, match="use_reentrant=True does not go with an adapted model: leave it out"):
        getattr(tiny_adapted(), verb)({"use_reentrant": True})


def test_a_resumed_training_leaves_a_head_of_its_own_as_it_is(tmp_path: Path) -> None:
    """As that of T5 v1.1, whose configuration says that it is tied all the same; Trainer ties when it resumes."""

    def trainer(max_steps: int) -> Any:
        base = tiny_t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
        base.lm_head.weight = nn.Parameter(torch.randn(96, 32, generator=torch.Generator().manual_seed(0)))
        model = redraw(ha.adapt(base, PLUS_PLUS, TASKS))
        rows = [{name: value[index] for name, value in BATCH.items()} for index in range(6)]
        arguments = Seq2SeqTrainingArguments(
            str(tmp_path),
            max_steps=max_steps,
            save_steps=1,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            per_device_train_batch_size=6,
            lr_scheduler_type="constant",
        )
        return Seq2SeqTrainer(model, arguments, train_dataset=rows)

    trainer(1).train()
    resumed = trainer(2)
    head = resumed.model.lm_head.weight.clone()
    resumed.train(resume_from_checkpoint=True)
    assert resumed.model.lm_head.weight is not resumed.model.shared.weight
    assert torch.equal(resumed.model.lm_head.weight, head)


# --- types and devices -----------------------------------------------------------------------------------------------


def cast_half(model: Any) -> Any:
    return model.half()


def cast_bfloat16(model: Any) -> Any:
    return model.bfloat16()


def cast_double(model: Any) -> Any:
    return model.to(torch.float64)


def cast_there_and_back(model: Any) -> Any:
    return model.bfloat16().float()


def cast_only_what_was_added(model: Any) -> Any:
    model.hyperadapt.bfloat16()
    return model


def cast_the_embeddings_up(model: Any) -> Any:
    model.bfloat16()
    model.shared.float()
    return model


CASTS = [cast_half, cast_bfloat16, cast_double, cast_there_and_back, cast_only_what_was_added]


def assert_same(loaded: Any, model: Any) -> None:
    state = loaded.state_dict()
    for name, value in model.state_dict().items():
        assert state[name].dtype == value.dtype, name
        assert torch.equal(state[name], value), name
    if (
        model.shared.weight.dtype
        == model.lm_head.weight.dtype
        == model.encoder.block[0].layer[0].SelfAttention.q.weight.dtype
    ):
        assert torch.equal(logits(loaded), logits(model.eval()))


@pytest.mark.parametrize("method", [PLUS_PLUS, METHODS[0], METHODS[1]], ids=lambda method: method.name)
@pytest.mark.parametrize("cast", [*CASTS, cast_the_embeddings_up])
def test_a_model_that_was_cast_comes_back_bit_for_bit(
    cast: Callable[[Any], Any], method: Any, tmp_path: Path
) -> None:
    tiny_t5().save_pretrained(tmp_path / "base")
    base = T5ForConditionalGeneration.from_pretrained(tmp_path / "base")
    model = cast(as_if_trained(redraw(ha.adapt(base, method, TASKS))))
    model.save_pretrained(tmp_path / "saved")
    assert_same(ha.load(tmp_path / "saved"), model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "method", [PLUS_PLUS, METHODS[0], METHODS[8], METHODS[9]], ids=lambda method: method.name
)
def test_a_base_model_of_another_type_is_adapted_saved_and_loaded(
    method: Any, dtype: torch.dtype, tmp_path: Path
) -> None:
    """From its files: transformers keeps some of T5's matrices in float32 where float16 is asked for."""
    tiny_t5().save_pretrained(tmp_path / "base")
    base = T5ForConditionalGeneration.from_pretrained(tmp_path / "base", dtype=dtype)
    model = as_if_trained(redraw(ha.adapt(base, method, TASKS)))
    model.save_pretrained(tmp_path / "saved")
    loaded = ha.load(tmp_path / "saved")
    assert_same(loaded, model)
    assert torch.equal(logits(loaded), logits(model.eval()))
    for name, value in tensors_in(tmp_path / "saved").items():
        assert value.dtype == model.state_dict()[name].dtype


def test_on_a_wider_base_model_the_saved_numbers_are_the_same(tmp_path: Path) -> None:
    model = as_if_trained(tiny_adapted()).half()
    model.save_pretrained(tmp_path)
    loaded = ha.load(tmp_path, base_model=tiny_t5())
    for name, value in tensors_in(tmp_path).items():
        assert torch.equal(loaded.state_dict()[name], value.to(loaded.state_dict()[name].dtype)), name
    assert loaded.encoder.final_layer_norm.weight.dtype == torch.float32
    assert logits(loaded).dtype == torch.float32


def test_on_a_narrower_base_model_that_trained_tensors_are_rounded_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    as_if_trained(ha.adapt(tiny_t5(), ha.FullFineTuning(), TASKS)).save_pretrained(tmp_path)
    loaded = ha.load(tmp_path, base_model=tiny_t5().bfloat16())
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    count = len(tensors_in(tmp_path))
    assert (
        f"note: {count} trained tensors of the base model are rounded to the type" in capfd.readouterr().err
    )


def test_norms_that_are_frozen_after_training_stay_in_the_type_of_the_rest() -> None:
    model = redraw(ha.adapt(tiny_t5().bfloat16(), PLUS_PLUS, TASKS))
    expected = logits(model)
    for name, parameter in model.named_parameters():
        if "layer_norm" in name and not name.startswith("hyperadapt."):
            assert parameter.dtype == torch.float32
            parameter.requires_grad_(False)
    assert logits(model).dtype == torch.bfloat16
    assert torch.equal(logits(model), expected)


def test_the_type_of_the_base_model_is_that_of_most_of_it(tmp_path: Path) -> None:
    model = redraw(ha.adapt(tiny_t5().bfloat16(), PLUS_PLUS, TASKS))
    model.shared.float()
    assert model.dtype == torch.float32
    model.save_pretrained(tmp_path)
    config = json.loads(header_of(tmp_path)["hyperadapt"])
    assert config["base_dtype"] == "bfloat16"
    assert config["base_dtypes"] == {"shared.weight": "float32"}


@pytest.mark.parametrize("method", [PLUS_PLUS, METHODS[0]], ids=lambda method: method.name)
@pytest.mark.parametrize(
    ("offload", "options"), [(cpu_offload, {}), (disk_offload, {"offload_dir": "there"})]
)
def test_an_offloaded_model_is_saved_whole(
    offload: Any, options: dict[str, str], method: Any, tmp_path: Path
) -> None:
    model = as_if_trained(tiny_adapted(method)).eval()
    expected = logits(model)
    options = {name: str(tmp_path / value) for name, value in options.items()}
    offload(model, execution_device=torch.device("cpu"), **options)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(logits(model), expected)
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(ha.load(tmp_path / "saved", base_model=tiny_t5())), expected)
    assert torch.equal(logits(model), expected)


def test_a_base_model_that_was_offloaded_or_has_no_numbers_is_refused_in_one_line(tmp_path: Path) -> None:
    tiny_adapted().save_pretrained(tmp_path)
    offloaded = cpu_offload(tiny_t5(), execution_device=torch.device("cpu"))
    for call in (
        lambda: ha.adapt(offloaded, PLUS_PLUS, TASKS),
        lambda: ha.load(tmp_path, base_model=offloaded),
    ):
        with pytest.raises(UserError, match="adapt the model first, and dispatch it after"):
            call()
    with pytest.raises(CheckpointError, match="has no numbers: it lies on the meta device"):
        ha.load(tmp_path, base_model=tiny_t5().to("meta"))
    with pytest.raises(UserError, match="lies on the meta device, and has no numbers to be saved"):
        tiny_adapted().to("meta").save_pretrained(tmp_path)


# --- what `adapt` and `load` are given -------------------------------------------------------------------------------


def test_a_run_directory_is_loaded(trained: Path) -> None:
    expected = ha.load(trained / "model")
    for place in (trained, str(trained), trained / "model/model.safetensors"):
        loaded = ha.load(place)
        assert all(torch.equal(v, expected.state_dict()[n]) for n, v in loaded.state_dict().items())


def test_an_unfinished_run_names_its_newest_checkpoint(run: Path) -> None:
    for step in ("checkpoint-9", "checkpoint-20"):
        (run / "model").rename(run / step)
        (run / "model").mkdir()
        for file in (run / step).iterdir():
            (run / "model" / file.name).write_bytes(file.read_bytes())
    for file in (run / "model").iterdir():
        file.unlink()
    (run / "model").rmdir()
    with pytest.raises(CheckpointError, match=r"not finished; load one of them, as .*/checkpoint-20$"):
        ha.load(run)
    assert ha.load(run / "checkpoint-20").tasks == ("colour", "warmth")


def test_an_adapter_of_peft_is_named_as_one(tmp_path: Path) -> None:
    get_peft_model(tiny_t5(), LORA).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds an adapter of PEFT: peft\.PeftModel\.from_pretrained"):
        ha.load(tmp_path)


@pytest.mark.parametrize(
    "method",
    ["adapters", ha.Adapters, {"name": "adapters"}, {"name": "adapters", "reduction_factor": 16}],
    ids=["name", "class", "mapping", "mapping with options"],
)
def test_a_method_is_taken_by_name_class_or_as_a_configuration_has_it(method: Any) -> None:
    assert ha.adapt(tiny_t5(), method, TASKS).method == ha.Adapters(
        **({"reduction_factor": 16} if isinstance(method, dict) and len(method) == 2 else {})
    )


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("hyperfromer++", r"did you mean 'hyperformer\+\+'\?"),
        ({"reduction_factor": 8}, "field 'name' is missing"),
        (3, "^3 is no method; choices: full_fine_tuning"),
        (T5Config, "is no method; choices"),
        (None, "^None is no method"),
    ],
)
def test_what_is_no_method_is_refused_in_one_line(method: Any, message: str) -> None:
    base = tiny_t5()
    with pytest.raises(UserError, match=message) as error:
        ha.adapt(base, method, TASKS)
    assert "\n" not in str(error.value)
    assert type(base) is T5ForConditionalGeneration


def injected() -> Any:
    return inject_adapter_in_model(LORA, tiny_t5())


def with_adapter() -> Any:
    base = tiny_t5()
    base.add_adapter(LORA)
    return base


@pytest.mark.parametrize(
    "make",
    [lambda: get_peft_model(tiny_t5(), LORA), with_adapter, injected],
    ids=["PeftModel", "add", "inject"],
)
def test_a_model_with_adapters_of_peft_is_refused_in_one_line(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    tiny_adapted().save_pretrained(tmp_path)
    for call in (lambda: ha.adapt(make(), PLUS_PLUS, TASKS), lambda: ha.load(tmp_path, base_model=make())):
        with pytest.raises(UserError, match=r"has adapters of PEFT: .* merge_and_unload\(\)") as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "put_in",
    [
        lambda model: get_peft_model(model, LORA),
        lambda model: get_peft_model(model, LORA, mixed=True),
        lambda model: get_peft_model(model, LNTuningConfig(target_modules=["layer_norm"])),
        lambda model: inject_adapter_in_model(LORA, model),
    ],
    ids=["PeftModel", "mixed", "norms", "inject"],
)
def test_peft_is_refused_by_an_adapted_model_which_it_would_freeze(
    put_in: Callable[[Any], Any], tmp_path: Path
) -> None:
    model = tiny_adapted()
    for call in (lambda: put_in(model), lambda: model.save_pretrained(tmp_path / "saved")):
        with pytest.raises(UserError, match="has adapters of PEFT, which froze all that hyperadapt") as error:
            call()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "saved").exists()


def test_adapters_of_peft_within_a_stack_are_refused_when_the_model_is_saved(tmp_path: Path) -> None:
    model = tiny_adapted()
    inject_adapter_in_model(LORA, model.encoder)
    with pytest.raises(UserError, match=r"'encoder\.block\.0\.layer\.0\.SelfAttention\.q\.weight' is gone"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_no_trainer_is_made_with_a_model_that_peft_has_frozen(tmp_path: Path) -> None:
    prompts = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=2)
    with pytest.raises(UserError, match="has adapters of PEFT, which froze"):
        MixtureTrainer(get_peft_model(tiny_adapted(), prompts), *[Any] * 5)  # type: ignore[arg-type]


def test_the_class_of_an_adapted_model_is_not_made_from_a_configuration() -> None:
    kind = type(tiny_adapted())
    for make in (kind, kind._from_config):
        with pytest.raises(UserError, match=r"hyperadapt\.adapt adapts .* hyperadapt\.load loads") as error:
            make(T5Config())
        assert "\n" not in str(error.value)


def test_a_peft_model_that_was_merged_is_adapted() -> None:
    peft_model = get_peft_model(tiny_t5(), LORA)
    merged = peft_model.merge_and_unload()
    logits(redraw(ha.adapt(merged, PLUS_PLUS, TASKS)))


@pytest.mark.parametrize("base", ["google-t5/t5-small", nn.Linear(2, 2), nn.DataParallel(tiny_t5()), None])
def test_what_is_no_model_of_transformers_is_refused_in_one_line(base: Any) -> None:
    with pytest.raises(UserError, match=r"must be a model of transformers, not .*: load it with"):
        ha.adapt(base, PLUS_PLUS, TASKS)


@pytest.mark.parametrize("tasks", [3, "alpha", [], [1, 2], None, ["a", None], {"a": 1}.values()])
def test_what_are_no_names_of_tasks_is_refused_in_one_line(tasks: Any) -> None:
    with pytest.raises(UserError, match="tasks must be a list of at least one name, not ") as error:
        ha.adapt(tiny_t5(), PLUS_PLUS, tasks)
    assert "\n" not in str(error.value)


# --- all or nothing --------------------------------------------------------------------------------------------------


def everything(base: Any) -> dict[str, Any]:
    """All that `adapt` might change of a model."""
    found: dict[str, Any] = {"config": base.config.to_dict(), "tied": base.all_tied_weights_keys}
    for name, module in base.named_modules():
        plain = {
            key: (list(value) if isinstance(value, dict | set) else value)
            for key, value in vars(module).items()
            if key not in ("config", "generation_config")
        }
        found[f"module {name}"] = (type(module), module.training, plain)
    for name, parameter in base.named_parameters(remove_duplicate=False):
        found[f"parameter {name}"] = (
            id(parameter),
            parameter.requires_grad,
            parameter.dtype,
            parameter.data_ptr(),
        )
    return found


STAGES = [
    (adapt, "backbone_of"),
    (adapt, "digest_tensors"),
    (adapt, "keep_differentiable"),
    (adapt, "freeze"),
    (adapt, "train_norms"),
    (optional, "speed_up"),
    (adapt, "subclass"),
    (adapt, "fingerprint"),
    (adapt, "truly_tied"),
    (adapt, "insert"),
    (mixed, "mixed"),
]


@pytest.mark.parametrize("call", [1, 3], ids=["at once", "half-way"])
@pytest.mark.parametrize(("owner", "name"), STAGES, ids=[name for _, name in STAGES])
def test_a_failed_adapt_leaves_the_base_model_as_it_was(
    owner: Any, name: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails in place of the stage's first call, or after the third, or after the only one."""
    base: Any = tiny_t5().bfloat16().train()
    base.encoder.requires_grad_(False)
    handle = base.shared.register_forward_hook(lambda *_: None)
    before, state = everything(base), {key: value.clone() for key, value in base.state_dict().items()}
    calls, original = 0, getattr(owner, name)

    def fail(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        result = original(*args, **kwargs) if call > 1 else None
        if calls == call or name not in ("subclass", "mixed"):
            raise MemoryError("injected")
        return result

    monkeypatch.setattr(owner, name, fail)
    if name == "keep_differentiable":
        base.is_quantized = True
        before = everything(base)
    with pytest.raises(MemoryError, match="injected"):
        ha.adapt(base, PLUS_PLUS, TASKS)
    monkeypatch.undo()
    assert everything(base) == before
    assert all(torch.equal(value, state[key]) for key, value in base.state_dict().items())
    handle.remove()
    assert not base.shared._forward_hooks
    base.is_quantized = False
    assert ha.adapt(base, PLUS_PLUS, TASKS) is base


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_an_adapt_that_fails_at_its_last_step_leaves_nothing(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_t5()
    before, expected = everything(base), logits_of_base(base)

    def insert_and_fail(*args: Any) -> None:
        insert(*args)
        raise KeyboardInterrupt

    insert = adapt.insert
    monkeypatch.setattr(adapt, "insert", insert_and_fail)
    if method == METHODS[0]:  # which has no sites
        monkeypatch.setattr(adapt, "truly_tied", insert_nothing_and_fail)
    with pytest.raises(KeyboardInterrupt):
        ha.adapt(base, method, TASKS)
    assert everything(base) == before
    assert torch.equal(logits_of_base(base), expected)


def insert_nothing_and_fail(*_: Any) -> None:
    raise KeyboardInterrupt


@torch.no_grad()
def logits_of_base(base: Any) -> Tensor:
    return base(**{name: value for name, value in BATCH.items() if name != "task_ids"}).logits


def test_a_failed_load_leaves_the_base_model_to_be_loaded_onto_again(tmp_path: Path) -> None:
    model = tiny_adapted()
    model.resize_token_embeddings(104)
    model.save_pretrained(tmp_path / "saved")
    base = tiny_t5()
    before = everything(base)
    with pytest.raises(CheckpointError, match="does not hold the tensors of its method"):
        ha.load(tmp_path / "saved", base, ha.Adapters(reduction_factor=8))
    assert everything(base) == before
    assert ha.load(tmp_path / "saved", base).config.vocab_size == 104


def test_options_that_do_not_fit_the_model_leave_it_as_it_was() -> None:
    base = tiny_t5()
    before = everything(base)
    with pytest.raises(UserError):
        ha.adapt(base, ha.HyperGrid(fan_in=5, fan_out=7), TASKS)
    with pytest.raises(UserError):
        ha.adapt(T5ForSequenceClassification(base.config), PLUS_PLUS, TASKS)
    assert everything(base) == before


def test_the_digests_are_read_once_where_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_adapted().save_pretrained(tmp_path)
    read: list[int] = []
    whole = fingerprint.digest_tensor
    monkeypatch.setattr(fingerprint, "digest_tensor", lambda tensor: read.append(1) or whole(tensor))
    base = tiny_t5()
    ha.load(tmp_path, base_model=base)
    assert len(read) == len(list(tiny_t5().parameters()))
