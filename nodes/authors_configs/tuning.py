"""The keys of the authors' training configs, and the widgets of Tune on Clip that they set."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field

from .config import Config, ModelConfig, Section, validated
from .edits import Widgets

MARKS = ("train_steps", "trainer_pipeline_config")
"""Keys of which any makes a config one for training."""
OF_DATASET = ("class_data_root", "class_data_prompt")
RANK, ACCUMULATION = "lora", "gradient_accumulation_steps"
MOST_PUBLISHED = 250
"""Most steps of the checkpoints that published edits use."""


class Trainer(Section):
    """Choice of the training program."""

    target: Literal["video_diffusion.trainer.ddpm_trainer.DDPMTrainer"] | None = None


class TuningConfig(Section):
    """The keys of a training config that are taken over, with the authors' defaults."""

    train_steps: int = Field(default=300, ge=1, le=100_000)
    learning_rate: float = Field(default=3e-5, gt=0, le=1)
    lr_scheduler: Literal["constant", "constant_with_warmup"] = "constant"
    lr_warmup_steps: int = Field(default=0, ge=0, le=100_000)
    train_batch_size: Literal[1] = 1
    train_temporal_conv: bool = False
    gradient_checkpointing: bool = False
    checkpointing_steps: int = Field(default=1000, ge=1, le=100_000)
    seed: int | None = Field(default=None, ge=0, le=999_999_999)
    trainer_pipeline_config: Trainer = Trainer()
    class_data_root: str | None = None
    class_data_prompt: str | None = None
    lora: int | None = Field(default=None, ge=1, le=1280)
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=1000)
    # Tune on Clip has these values alone; published configs leave them out.
    adam_beta1: float = Field(default=0.9, ge=0.9, le=0.9)
    adam_beta2: float = Field(default=0.999, ge=0.999, le=0.999)
    adam_weight_decay: float = Field(default=1e-2, ge=1e-2, le=1e-2)
    adam_epsilon: float = Field(default=1e-8, ge=1e-8, le=1e-8)
    max_grad_norm: float = Field(default=1.0, ge=1.0, le=1.0)

    @property
    def class_folder(self) -> str | None:
        """Folder of the class pictures below the input folder."""
        return None if self.class_data_root is None else str(PurePosixPath(self.class_data_root))


def tuning_of(config: Config) -> TuningConfig | None:
    """Return the training that a config asks for; None: it is one for edits alone."""
    extra: dict[str, Any] = config.model_extra or {}
    if not any(mark in extra for mark in MARKS):
        return None
    inflation = config.inflation or ModelConfig()
    found = {key: value for key, value in extra.items() if key in TuningConfig.model_fields}
    found |= {key: value for key, value in (config.dataset_config.model_extra or {}).items() if key in OF_DATASET}
    found |= {key: value for key, value in (inflation.model_extra or {}).items() if key == RANK}
    return validated(TuningConfig, found)


def taken_keys(tuning: TuningConfig | None) -> frozenset[str]:
    """Return the dotted keys that have an effect in a training config and none in others."""
    if tuning is None:
        return frozenset()
    top = TuningConfig.model_fields.keys() - {*OF_DATASET, RANK, ACCUMULATION}
    return frozenset({*top, *(f"dataset_config.{key}" for key in OF_DATASET), f"model_config.{RANK}"})


def tuning_remarks(tuning: TuningConfig | None) -> list[str]:
    """Return what should be known about a config's steps: the authors' program keeps a model of every so many."""
    if tuning is None or tuning.train_steps <= MOST_PUBLISHED:
        return []
    return [
        f"Tune on Clip gives the model of step {tuning.train_steps}, the last one; the edits of the paper use "
        f"checkpoints of steps 150 to {MOST_PUBLISHED}. Set its steps so."
    ]


def tuning_widgets(tuning: TuningConfig, prompt: str, name: str) -> Widgets:
    """Return the widgets of Tune on Clip.

    Without `train_temporal_conv` the authors' program leaves convolutions over time as the identity, so that there may
    as well be none.
    """
    warm = tuning.lr_warmup_steps * tuning.gradient_accumulation_steps  # as in their program
    if tuning.lr_scheduler == "constant":
        warm = 0
    return {
        "prompt": prompt,
        "name": re.sub(r"[^\w.-]+", "_", name).strip("._-") or "tuned",
        "steps": tuning.train_steps,
        "learning_rate": tuning.learning_rate,
        "recipe": "fatezero" if tuning.train_temporal_conv else "tune-a-video",
        "temporal_rank": tuning.lora or 0,
        "training_seed": tuning.seed or 0,
        "gradient_checkpointing": tuning.gradient_checkpointing,
        "warmup_steps": warm,
        "save_every": tuning.checkpointing_steps,
        "class_prompt": "" if tuning.class_data_root is None else tuning.class_data_prompt or prompt,
    }
