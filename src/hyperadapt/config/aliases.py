"""What fields are called in other libraries."""

from __future__ import annotations

from typing import NamedTuple


class Alias(NamedTuple):
    """What a name of other libraries is called here.

    Attributes:
        places: the fields, as "training.max_steps"; none where there is no such thing.
        remark: what is different.
    """

    places: tuple[str, ...]
    remark: str = ""


_NAMES: dict[Alias, str] = {
    Alias(("training.learning_rate",)): "lr max_lr",
    Alias(("training.max_steps",)): "steps num_steps n_steps total_steps train_steps max_train_steps "
    "num_training_steps",
    Alias(("training.epochs",)): "epoch num_epochs n_epochs max_epochs num_train_epochs",
    Alias(("training.patience",)): "early_stopping early_stopping_patience",
    Alias(("training.batch_size",), "(all rows of a step, over all processes)"): "bs train_batch_size "
    "per_device_train_batch_size per_device_batch_size micro_batch_size",
    Alias(
        ("training.gradient_accumulation_steps",)
    ): "grad_accum accumulate_grad_batches gradient_accumulation",
    Alias(("training.lr_scheduler_type",)): "scheduler lr_scheduler scheduler_type",
    Alias(("training.warmup_steps",)): "warmup num_warmup_steps",
    Alias(("training.eval_steps",), "(a number of steps, after which is scored and saved)"): "eval_every "
    "evaluation_steps eval_strategy evaluation_strategy save_every save_steps save_strategy",
    Alias(("evaluation.num_beams",)): "beams beam_size",
    Alias(
        ("model.name",)
    ): "model_name model_name_or_path base_model base_model_name_or_path pretrained_model "
    "pretrained_model_name_or_path",
    Alias(("model.tokenizer",)): "tokenizer_name tokenizer_name_or_path",
    Alias(("model.quantization",)): "load_in_4bit load_in_8bit quantization_config",
    Alias(("data.max_source_length",)): "max_length max_len max_seq_len max_seq_length max_input_length "
    "model_max_length",
    Alias((), "a task file says its own max_target_length"): "max_target_length max_new_tokens target_length",
    Alias(("data.max_train_rows",)): "max_train_samples",
    Alias(("data.max_eval_rows",)): "max_eval_samples max_val_samples",
    Alias(("data.max_test_rows",)): "max_test_samples max_predict_samples",
    Alias(("data.tasks",)): "task dataset datasets dataset_name train_file",
    Alias(("output_dir",)): "out out_dir save_dir output_directory",
    Alias(("seed",)): "random_seed",
    Alias(
        ("method.r", "method.reduction_factor"),
        "(a reduction_factor is the model's width over the adapter's: a greater one is a smaller adapter)",
    ): "lora_r lora_rank",
    Alias(
        ("method.reduction_factor", "method.encoder_bottleneck_dim")
    ): "adapter_size adapter_dim bottleneck_size bottleneck_dim",
    Alias(("method.target_modules",)): "lora_target_modules target_module",
    Alias(("method.lora_alpha",)): "alpha",
    Alias(
        ("method.lora_dropout",), "(that of the base model is model.config.dropout_rate of one that is built)"
    ): "dropout adapter_dropout",
}
# What people bring along from transformers' Trainer, PEFT and others, in lower case.
ALIASES = {name: alias for alias, names in _NAMES.items() for name in names.split()}
