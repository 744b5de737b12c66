"""Keys that change nothing here: known ones with the reason, and unknown ones."""

from __future__ import annotations

from collections.abc import Iterator

from ..headless.schemas.registry import near_miss
from .config import Section
from .errors import KeyPath, dotted
from .yaml_reader import Unresolved

TRAINING = "belongs to tuning a model, and the config does not say that one is tuned (train_steps)"
NO_CHANCE = "an edit draws nothing at random"
SAVED_FILES = "files are named by the Save Video nodes"
MODEL = "; it may change the authors' UNet, while here the checkpoint's own config decides"
UNUSED = {
    "seed": NO_CHANCE,
    "logdir": SAVED_FILES,
    "verbose": "there is no log folder",
    "batch_size": "there is one clip",
    "mixed_precision": "the precision widget of Load Stable Diffusion for Video decides; auto is float16 on a GPU",
    "enable_xformers": "a memory-saving attention is always used",
    "pretrained_epoch_list": "choose one checkpoint's folder in Load Stable Diffusion for Video",
    "use_invertion_latents": "only the key of editing_config is read",
    "trainer_pipeline_config": TRAINING,
    **dict.fromkeys(
        (
            "train_steps checkpointing_steps learning_rate lr_scheduler lr_warmup_steps "
            "train_temporal_conv train_batch_size gradient_checkpointing "
            "adam_beta1 adam_beta2 adam_weight_decay adam_epsilon max_grad_norm"
        ).split(),
        TRAINING,
    ),
    "validation_steps": "edits run once, after the last step; preview_every of Tune on Clip shows a frame on the way",
    "use_8bit_adam": "the optimizer's numbers are 32-bit here",
    "gradient_accumulation_steps": "the authors' program divides the loss by it, which AdamW takes back unless clipped",
    "scale_lr": "there is one clip and one device",
    "prior_preservation": "the authors' program reads it nowhere",
    "dataset_config.stride": "it chooses at random among several starts in a long clip; start_sample_frame is used",
    "dataset_config.class_data_root": TRAINING,
    "dataset_config.class_data_prompt": TRAINING,
    "editing_config.clip_length": "all frames that dataset_config selects are edited",
    "editing_config.sample_seeds": NO_CHANCE,
    "editing_config.num_samples_per_prompt": NO_CHANCE,
    "editing_config.strength": "the authors' program reads it nowhere",
    "editing_config.annotate": "labels are in the comparison",
    "editing_config.annotate_size": "labels fit themselves to the pictures",
    "editing_config.grid_column_size": "the authors' program reads it nowhere",
    "editing_config.traverse_p2p_config": "the authors' program does the same either way",
    "editing_config.subdir": SAVED_FILES,
    "editing_config.p2p_config.*.use_inversion_attention": "the key of editing_config decides",
    "editing_config.p2p_config.*.save_self_attention": "the authors' program overwrites it",
    "editing_config.p2p_config.*.disk_store": "attention is kept in memory",
    "model_config.lora": "read off the checkpoint",
    "test_pipeline_config.num_inference_steps": "the key of editing_config decides",
    "test_pipeline_config.disk_store": "attention is kept in memory",
}
"""Reasons why known keys have no effect; * stands for any edit."""


def unused_keys(section: Section, taken: frozenset[str] = frozenset(), path: KeyPath = ()) -> Iterator[str]:
    """Yield a sentence for each key of the section and its sections that has no effect.

    taken: dotted keys that have one although no section has a field for them
    """
    fields = {field.alias or name: name for name, field in type(section).model_fields.items()}
    for key, value in (section.model_extra or {}).items():
        if dotted((*path, key)) in taken:
            continue
        yield _sentence((*path, key), value, [*fields, *_siblings(path)])
    for key, name in fields.items():
        value = getattr(section, name)
        if isinstance(value, Section) and name in section.model_fields_set:
            yield from unused_keys(value, taken, (*path, key))
        elif isinstance(value, dict):
            for index, entry in value.items():
                if isinstance(entry, Section):
                    yield from unused_keys(entry, taken, (*path, key, index))


def _sentence(path: KeyPath, value: object, known: list[str]) -> str:
    reason = UNUSED.get(_pattern(path))
    if reason is None:
        why = MODEL if path[0] == "model_config" else ""
        return f"{dotted(path)} is not used here{why}.{near_miss(str(path[-1]), known)}"
    dangling = f" (it is {value!r})" if isinstance(value, Unresolved) else ""
    return f"{dotted(path)} is not used: {reason}{dangling}."


def _siblings(path: KeyPath) -> list[str]:
    above = dotted(path) and f"{_pattern(path)}."
    names = [name.removeprefix(above) for name in UNUSED if name.startswith(above)]
    return [name for name in names if "." not in name]


def _pattern(path: KeyPath) -> str:
    return ".".join("*" if isinstance(part, int) else str(part) for part in path)
