"""Trainer with checkpoints that have manifests, and with resumed runs that add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.utils import SAFE_WEIGHTS_NAME

from hyperadapt.errors import notice
from hyperadapt.files import manifest
from hyperadapt.files.writing import writing
from hyperadapt.training.callbacks import SayCrowded, StepClock, Totals
from hyperadapt.training.checkpoints import delete_older, loading


class ResumableTrainer(Trainer):
    """Trainer whose checkpoints have manifests, and whose resumed runs add up to what an unbroken one counts."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.clock, self.totals = StepClock(), Totals(self)
        self.add_callback(self.clock)
        self.add_callback(self.totals)
        self.add_callback(SayCrowded())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.totals.add_up()
        folder = self.checkpoint(self.state.global_step)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with writing(folder):
                if self.args.should_save:
                    manifest.remove(folder)  # of a damaged checkpoint of this step, which is written over
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()  # every process writes its own random state
                if self.args.should_save:
                    manifest.add(folder)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save and limit is not None:
            delete_older(folder, limit)  # only now, when this one is whole

    def _init_training_state(self, *arguments: Any) -> Any:
        places = super()._init_training_state(*arguments)
        if self.state.best_global_step:
            # Trainer forgets the best checkpoint of a run that was moved, and would keep the last model for the best.
            self.state.best_model_checkpoint = str(self.checkpoint(self.state.best_global_step))
        return places

    def checkpoint(self, step: int) -> Path:
        """Return where the checkpoint of a step lies."""
        return Path(str(self.args.output_dir)) / f"checkpoint-{step}"

    def load_checkpoint(self, step: int) -> None:
        """Give the model the weights that it had after a step, once training has ended."""
        best, self.state.best_model_checkpoint = self.state.best_model_checkpoint, str(self.checkpoint(step))
        try:
            self._load_best_model()  # as Trainer loads the best one, whole or in shards
        finally:
            self.state.best_model_checkpoint = best

    def _finalize_training(self, trial: Any, num_train_samples: Any, start_time: float) -> Any:
        return super()._finalize_training(trial, num_train_samples, start_time - self.totals.seconds_before)

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))
        whole_model = best / SAFE_WEIGHTS_NAME
        manifest.check(whole_model if whole_model.is_file() else best)  # in shards there is no such file
        super()._load_best_model()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with loading(resume_from_checkpoint, "the model"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with loading(checkpoint, "optimizer.pt or scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with loading(checkpoint, "scaler.pt"):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with loading(checkpoint, "a random state (rng_state.pth)"):
            super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            saved = len(list(Path(checkpoint).glob("rng_state*.pth")))
            if saved != self.args.world_size:
                notice(
                    f"{checkpoint} is of {saved} processes, and {self.args.world_size} go on: what they draw at "
                    "random, as in dropout, is not what an unbroken run draws"
                )
