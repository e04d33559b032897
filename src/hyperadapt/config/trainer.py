"""What of transformers' Trainer may be set beside a configuration's own fields, with Trainer's defaults."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from hyperadapt.fields import Fields
from hyperadapt.files.paths import absolute

LogLevel = Literal["detail", "debug", "info", "warning", "error", "critical", "passive"]


def absolute_if_path(value: Any) -> Any:
    """Take a text for the path of a file, which in Python is relative to the working directory."""
    return absolute(value) if isinstance(value, str) else value


FileOrMapping = Annotated[dict[str, Any] | str | None, AfterValidator(absolute_if_path)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

# Fields of transformers' TrainingArguments that other fields of the configuration decide -> those.
INSTEAD = {
    "output_dir": "output_dir",
    "seed": "seed",
    "data_seed": "seed",
    "max_steps": "training.max_steps",
    "num_train_epochs": "training.epochs",
    "per_device_train_batch_size": "training.batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "learning_rate": "training.learning_rate",
    "lr_scheduler_type": "training.lr_scheduler_type",
    "warmup_steps": "training.warmup_steps",
    "weight_decay": "training.weight_decay",
    "label_smoothing_factor": "training.label_smoothing",
    "eval_steps": "training.eval_steps",
    "save_steps": "training.eval_steps",
    "save_total_limit": "training.save_total_limit",
    "logging_steps": "training.logging_steps",
    "per_device_eval_batch_size": "evaluation.batch_size",
    "generation_num_beams": "evaluation.num_beams",
    "generation_max_length": "a task's max_target_length",
    "train_sampling_strategy": "data.group_by_length",
    "load_best_model_at_end": "training.keep",
    "metric_for_best_model": "training.best_by",
    "resume_from_checkpoint": "--resume",
    "activation_checkpointing": "training.arguments.gradient_checkpointing",
    "activation_checkpointing_kwargs": "training.arguments.gradient_checkpointing_kwargs",
}
# Those that are not open to choice: evaluation, checkpoints, batches and the loss are hyperadapt's own, and kernels of
# others would take the place of adapted modules.
CLOSED = frozenset(
    [
        "eval_strategy",
        "save_strategy",
        "save_only_model",
        "greater_is_better",
        "logging_strategy",
        "logging_nan_inf_filter",
        "remove_unused_columns",
        "label_names",
        "length_column_name",
        "sortish_sampler",
        "predict_with_generate",
        "prediction_loss_only",
        "generation_config",
        "dataloader_drop_last",
        "dataloader_in_order",
        "dataloader_multiprocessing_context",
        "auto_find_batch_size",
        "ignore_data_skip",
        "enable_jit_checkpoint",
        "push_to_hub",
        "do_train",
        "do_eval",
        "do_predict",
        "eval_delay",
        "eval_on_start",
        "eval_do_concat_batches",
        "eval_use_gather_object",
        "eval_accumulation_steps",
        "include_for_metrics",
        "batch_eval_metrics",
        "bf16_full_eval",
        "fp16_full_eval",
        "save_on_each_node",
        "hub_token",
        "hub_private_repo",
        "hub_model_id",
        "hub_strategy",
        "hub_always_push",
        "hub_revision",
        "restore_callback_states_from_checkpoint",
        "use_liger_kernel",
        "liger_kernel_config",
        "use_cache",
        "parallelism_config",
        "local_rank",
    ]
)


class TrainerConfig(Fields):
    """Arguments of transformers' Trainer, under its own names and with its own defaults.

    Attributes:
        bf16: compute in bfloat16, with weights as they are.
        fp16: the same in float16.
        tf32: multiply in TF32 on GPUs that can; by default as PyTorch is set.
        optim: the optimizer, as adamw_torch_fused, adafactor or sgd.
        optim_args: its own arguments, as "a=1,b=2".
        optim_target_modules: the modules that some optimizers are for.
        adam_beta1: of AdamW.
        adam_beta2: of AdamW.
        adam_epsilon: of AdamW.
        max_grad_norm: gradients are cut at this norm; 0 leaves them.
        lr_scheduler_kwargs: arguments of the schedule, as {num_decay_steps: 3000}.
        average_tokens_across_devices: the loss is the mean over the tokens of all processes.
        neftune_noise_alpha: noise on the embeddings in training.
        gradient_checkpointing: compute activations anew on the way back, in less memory.
        gradient_checkpointing_kwargs: of torch.utils.checkpoint; use_reentrant is false.
        torch_empty_cache_steps: steps between two emptyings of the device's cache.
        torch_compile: compile the model.
        torch_compile_backend: by default inductor.
        torch_compile_mode: as max-autotune.
        report_to: trackers, as tensorboard or [wandb, mlflow]; "none" is none, "all" those that are installed.
        run_name: in trackers.
        project: in trackers.
        trackio_space_id: where Trackio shows it.
        trackio_bucket_id: where Trackio keeps it.
        trackio_static_space_id: where Trackio shows it at the end.
        logging_first_step: log the first step too.
        include_num_input_tokens_seen: count input tokens: all, non_padding or no.
        log_level: of the first process.
        log_level_replica: of the others.
        log_on_each_node: log in the first process of each machine.
        disable_tqdm: show no progress bars; by default they are shown.
        dataloader_num_workers: processes that load batches.
        dataloader_pin_memory: keep batches where a GPU copies them without waiting.
        dataloader_persistent_workers: keep these processes.
        dataloader_prefetch_factor: batches that each has ready.
        use_cpu: train on the CPU; by default where there is no accelerator.
        full_determinism: the same numbers on a GPU too, more slowly.
        ddp_find_unused_parameters: of DistributedDataParallel.
        ddp_bucket_cap_mb: of DistributedDataParallel.
        ddp_broadcast_buffers: of DistributedDataParallel.
        ddp_static_graph: of DistributedDataParallel.
        ddp_backend: as gloo or nccl.
        ddp_timeout: seconds that processes wait for each other.
        fsdp: shard the model, as full_shard.
        fsdp_config: a mapping, or a JSON file with one.
        deepspeed: a mapping, or a JSON file with one.
        accelerator_config: a mapping, or a JSON file with one.
        skip_memory_metrics: report no memory of Trainer's own counting.
        debug: as underflow_overflow.
    """

    bf16: bool = False
    fp16: bool = False
    tf32: bool | None = None
    optim: str = "adamw_torch_fused"
    optim_args: str | None = None
    optim_target_modules: str | list[str] | None = None
    adam_beta1: Finite = Field(0.9, ge=0, lt=1)
    adam_beta2: Finite = Field(0.999, ge=0, lt=1)
    adam_epsilon: Finite = Field(1e-8, ge=0)
    max_grad_norm: Finite = Field(1.0, ge=0)
    lr_scheduler_kwargs: dict[str, Any] | None = None
    average_tokens_across_devices: bool = True
    neftune_noise_alpha: Finite | None = None
    gradient_checkpointing: bool | None = None
    gradient_checkpointing_kwargs: dict[str, Any] | None = None
    torch_empty_cache_steps: int | None = Field(None, ge=1)
    torch_compile: bool = False
    torch_compile_backend: str | None = None
    torch_compile_mode: str | None = None
    report_to: str | list[str] | None = "none"
    run_name: str | None = None
    project: str = "huggingface"
    trackio_space_id: str | None = None
    trackio_bucket_id: str | None = None
    trackio_static_space_id: str | Literal[False] | None = None
    logging_first_step: bool = False
    include_num_input_tokens_seen: Literal["all", "non_padding", "no"] | bool = "no"
    log_level: LogLevel = "passive"
    log_level_replica: LogLevel = "warning"
    log_on_each_node: bool = True
    disable_tqdm: bool | None = None
    dataloader_num_workers: int = Field(0, ge=0)
    dataloader_pin_memory: bool = True
    dataloader_persistent_workers: bool = False
    dataloader_prefetch_factor: int | None = Field(None, ge=1)
    use_cpu: bool | None = None
    full_determinism: bool = False
    ddp_find_unused_parameters: bool | None = None
    ddp_bucket_cap_mb: int | None = None
    ddp_broadcast_buffers: bool | None = None
    ddp_static_graph: bool | None = None
    ddp_backend: str | None = None
    ddp_timeout: int = Field(1800, ge=1)
    fsdp: str | None = None
    fsdp_config: FileOrMapping = None
    deepspeed: FileOrMapping = None
    accelerator_config: FileOrMapping = None
    skip_memory_metrics: bool = True
    debug: str | list[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _decided_elsewhere(cls, fields: Any) -> Any:
        for name in fields if isinstance(fields, dict) else ():
            if name in INSTEAD:
                raise ValueError(f"'{name}' is decided by the run's configuration; set {INSTEAD[name]}")
            if name in CLOSED:
                raise ValueError(f"'{name}' is decided by the run's configuration; it is not open to choice")
            nearest = get_close_matches(str(name), [*cls.model_fields, *INSTEAD], n=1, cutoff=0.8)
            if nearest and nearest[0] in INSTEAD:
                raise ValueError(f"'{name}' is unknown; did you mean '{INSTEAD[nearest[0]]}'?")
        return fields

    @field_validator("gradient_checkpointing_kwargs")
    @classmethod
    def _not_reentrant(cls, options: dict[str, Any] | None) -> dict[str, Any] | None:
        if options and options.get("use_reentrant"):
            raise ValueError(
                "use_reentrant must be false, as it is by default; the reentrant kind goes backward through the "
                "generated weights once a block"
            )
        return options

    def chosen(self) -> dict[str, Any]:
        """Return what differs from the defaults, by name."""
        return self.model_dump(exclude_defaults=True)
