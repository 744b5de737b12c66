"""A training config: a node that tunes stands between the model and the inversion, with the config's settings."""

import pytest

from .conftest import PIPELINES
from .test_translation import constants

TRAINING = {
    "train_steps": 1000,
    "learning_rate": 1e-5,
    "train_temporal_conv": True,
    "gradient_checkpointing": True,
    "checkpointing_steps": 50,
    "seed": 74831,
    "trainer_pipeline_config": {"target": "video_diffusion.trainer.ddpm_trainer.DDPMTrainer"},
    "model_config.lora": 160,
    "editing_config.prompt2prompt_edit": ...,
    "test_pipeline_config.target": f"{PIPELINES}.ddim_spatial_temporal.DDIMSpatioTemporalStableDiffusionPipeline",
}
PICTURES = {"dataset_config.class_data_root": "data/negative_reg/car", "dataset_config.class_data_prompt": "a car"}


def node(translation, class_type):
    (found,) = [each for each in translation.graph.nodes.values() if each.class_type == f"FateZero_{class_type}"]
    return found


def test_the_published_keys_become_widgets_of_tune_on_clip(translated):
    translation = translated(TRAINING)
    widgets = constants(translation, "TuneOnClip")
    wanted = {
        "steps": 1000,
        "learning_rate": 1e-5,
        "recipe": "fatezero",
        "temporal_rank": 160,
        "training_seed": 74831,
        "gradient_checkpointing": True,
        "warmup_steps": 0,
        "save_every": 50,
    }
    assert {name: widgets[name] for name in wanted} == wanted
    tuned = node(translation, "TuneOnClip")
    control = node(translation, "RegisterAttentionControl")
    assert translation.graph.nodes[control.links["unet"].node] is tuned
    read = ("train", "lora", "learning_rate", "seed is")
    assert not any(word in warning for warning in translation.warnings for word in read)
    assert any("the paper use checkpoints of steps 150 to 250" in warning for warning in translation.warnings)


def test_steps_as_published_need_no_remark_and_a_warm_up_is_as_long_as_theirs(translated):
    warm = {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 10, "gradient_accumulation_steps": 2}
    translation = translated({**TRAINING, **warm, "train_steps": 200, "max_grad_norm": 1.0, "adam_epsilon": 1e-8})
    assert constants(translation, "TuneOnClip")["warmup_steps"] == 20
    assert not any(word in warning for warning in translation.warnings for word in ("checkpoints", "max_grad", "adam"))


def test_class_pictures_are_encoded_at_the_clips_size(translated):
    translation = translated({**TRAINING, **PICTURES})
    widgets = constants_of_pictures(translation)
    assert (widgets["source"], widgets["count"], widgets["short_side"]) == ("data/negative_reg/car", 0, 512)
    assert constants(translation, "TuneOnClip")["class_prompt"] == "a car"
    assert "class_latent" in node(translation, "TuneOnClip").links


def constants_of_pictures(translation):
    loaders = [each for each in translation.graph.nodes.values() if each.class_type == "FateZero_LoadFrames"]
    (pictures,) = [each for each in loaders if each.title == "Load class pictures"]
    return pictures.constants


def test_convolutions_that_are_not_trained_are_left_out(translated):
    translation = translated({**TRAINING, "train_temporal_conv": False})
    assert constants(translation, "TuneOnClip")["recipe"] == "tune-a-video"


def test_a_config_without_training_has_no_such_node(translated):
    translation = translated({"learning_rate": 1e-5})
    assert not [each for each in translation.graph.nodes.values() if each.class_type == "FateZero_TuneOnClip"]
    assert any("learning_rate is not used: belongs to tuning" in warning for warning in translation.warnings)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train_steps", 0),
        ("learning_rate", 0.0),
        ("lr_scheduler", "cosine"),
        ("train_batch_size", 2),
        ("adam_beta2", 0.99),
        ("max_grad_norm", 0.5),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(refused, key, value):
    assert key in refused({**TRAINING, key: value})
