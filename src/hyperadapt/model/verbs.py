"""Verbs that an adapted model inherits from transformers, or users know from PEFT, and which would break it.

Each is refused in one line that says what to do instead. All others of transformers' verbs work;
tests/test_as_transformers_verbs.py has the whole table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperadapt.errors import UserError, nearest

TASKS = "hyperadapt's weights are no PEFT adapters: one model holds all tasks, see add_task and keep_tasks"
ANOTHER_METHOD = (
    "to train another method, adapt another copy of the base model; a new task is added by add_task"
)
NO_MERGE = (
    "weights differ from task to task, and no base model can hold them all; "
    "merge_and_unload(task) gives one of a task"
)
NEW_WEIGHTS = "it would draw trained weights anew; adapt or load a base model anew"
CONTINUOUS = "it passes no task_ids; use generate(..., task_ids=...)"
ANOTHER_STACK = "the new stack would not be adapted; put it into the base model, and adapt that"
SHARDS = "shard the model through Trainer or accelerate (FSDP2)"

REFUSED = {
    "add_adapter": ANOTHER_METHOD,
    "load_adapter": "hyperadapt.load loads what save_pretrained saved",
    "set_adapter": f"a row's task_ids say its task; {TASKS}",
    "enable_adapters": TASKS,
    "disable_adapters": "without what it has learnt it is the base model; load that beside it",
    "active_adapters": f"a row's task_ids say its task; {TASKS}",
    "delete_adapter": TASKS,
    "get_adapter_state_dict": "model.hyperadapt.state_dict() has what the method added",
    "enable_peft_hotswap": TASKS,
    "merge_adapter": NO_MERGE,
    "unload": "load the base model anew",
    "from_pretrained": "hyperadapt.load(path, base_model=...) loads a saved adapted model",
    "push_to_hub": "save_pretrained to a directory, and upload that with huggingface_hub.upload_folder",
    "register_for_auto_class": "hyperadapt.load loads a saved adapted model, no auto class does",
    "init_weights": NEW_WEIGHTS,
    "initialize_weights": NEW_WEIGHTS,
    "post_init": NEW_WEIGHTS,
    "dequantize": "load the base model without quantization_config, and adapt that",
    "set_encoder": ANOTHER_STACK,
    "set_decoder": ANOTHER_STACK,
    "set_use_kernels": "kernels of the hub would take the place of adapted modules; leave it out",
    "generate_batch": CONTINUOUS,
    "init_continuous_batching": CONTINUOUS,
    "continuous_batching_context_manager": CONTINUOUS,
    "prepare_distribute_model": SHARDS,
    "maybe_distribute_model": SHARDS,
    "save_distributed_checkpoint": f"save_pretrained writes one file; {SHARDS}",
    "gather_sharded_state_dict_for_save": f"save_pretrained(state_dict=...) takes gathered tensors; {SHARDS}",
}

UPLOAD = "save to a directory, and upload that with huggingface_hub.upload_folder"
REFUSED_TO_SAVE = {
    "push_to_hub": UPLOAD,
    "repo_id": UPLOAD,
    "commit_message": UPLOAD,
    "create_pr": UPLOAD,
    "variant": "a saved model is one file of one name; save to another directory",
    "distributed_checkpoint": "a saved model is one file; pass the gathered tensors as state_dict",
}
# Options of transformers' save_pretrained that mean nothing where one file is written.
WITHOUT_MEANING = (
    "max_shard_size",
    "safe_serialization",
    "save_function",
    "save_original_format",
    "save_peft_format",
    "token",
)


class Refusal:
    """A method, of the class or of an object, that only says what to do instead."""

    def __init__(self, name: str, instead: str) -> None:
        self.name, self.instead = name, instead

    def __get__(self, instance: object, owner: type) -> Any:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise UserError(f"{self.name} does not go with an adapted model: {self.instead}")

        return refuse


class RefusedVerbs:
    """Mixed in before transformers' classes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UserError(
            "the class of an adapted model makes none from a configuration: hyperadapt.adapt adapts a base model, and "
            "hyperadapt.load loads a saved adapted one"
        )

    @property
    def peft_config(self) -> Any:
        """What PEFT leaves with a model that it has put its layers into, as its last step; else there is none."""
        if "peft_config" not in vars(self):
            raise AttributeError("an adapted model has no peft_config")
        return vars(self)["peft_config"]

    @peft_config.setter
    def peft_config(self, config: Any) -> None:
        vars(self)["peft_config"] = config
        check_without_peft(self)


for name, instead in REFUSED.items():
    setattr(RefusedVerbs, name, Refusal(name, instead))


def check_without_peft(model: Any) -> None:
    """Check that PEFT has not put its layers into an adapted model.

    Raises:
        UserError: if it has.
    """
    if getattr(model, "peft_config", None):
        raise UserError(
            "the adapted model has adapters of PEFT, which froze all that hyperadapt trains: adapt or load a base "
            "model anew, without them"
        )


def check_save_options(options: Mapping[str, Any]) -> None:
    """Check what save_pretrained is given beside what it takes.

    Raises:
        UserError: if an option is unknown, or asks for what a saved model is not.
    """
    for option, value in options.items():
        if option not in (*WITHOUT_MEANING, *REFUSED_TO_SAVE):
            known = ("is_main_process", "state_dict", *WITHOUT_MEANING)
            raise UserError(f"save_pretrained has no option '{option}'; {nearest(option, known)}")
        if option in REFUSED_TO_SAVE and value:
            raise UserError(
                f"save_pretrained({option}={value!r}) is not supported: {REFUSED_TO_SAVE[option]}"
            )
