"""A config as a graph: what each key becomes, what is warned about, what is refused."""

import re

import pytest

from .conftest import PIPELINES, SOURCE

PLAIN = f"{PIPELINES}.ddim_spatial_temporal.DDIMSpatioTemporalStableDiffusionPipeline"


def constants(translation, class_type):
    (node,) = [node for node in translation.graph.nodes.values() if node.class_type == f"FateZero_{class_type}"]
    return node.constants


def test_frames_are_read_as_the_data_set_was(translated):
    widgets = constants(translated({"dataset_config.start_sample_frame": 5}), "LoadFrames")
    assert widgets == {
        "source": "data/jeep",
        "start": 5,
        "count": 3,
        "sampling_rate": 2,
        "crop_left": 1,
        "crop_right": 2,
        "crop_top": 3,
        "crop_bottom": 4,
        "short_side": 512,
        "centre_square": True,
        "fps": 10.0,
    }


def test_frames_default_as_in_the_authors_program(translated):
    keys = ("n_sample_frame", "sampling_rate", "offset")
    widgets = constants(translated({f"dataset_config.{key}": ... for key in keys}), "LoadFrames")
    assert [widgets[name] for name in ("start", "count", "sampling_rate", "crop_top")] == [0, 8, 1, 0]
    assert constants(translated({"dataset_config.n_sample_frame": -1}), "LoadFrames")["count"] == 0
    assert constants(translated({"dataset_config.start_sample_frame": None}), "LoadFrames")["start"] == 0
    assert constants(translated({"dataset_config.image_size": 256}), "LoadFrames")["short_side"] == 256


def test_an_offset_without_top_cuts_as_the_authors_program_does(translated):
    translation = translated({"dataset_config.offset.top": ...})
    assert constants(translation, "LoadFrames")["crop_top"] == 200
    assert any("offset.top is missing" in warning for warning in translation.warnings)


def test_model_and_inversion(translated):
    translation = translated(models_prefix="publisher/")
    model = constants(translation, "LoadPseudo3DUNet")
    assert (model["model"], model["key_frames"], model["least_sc_channel"]) == ("publisher/tuned_jeep", "mid", 640)
    inversion = constants(translation, "DDIMInvert")
    assert (inversion["source_prompt"], inversion["steps"]) == (SOURCE, 4)
    assert (inversion["attention_from"], inversion["inversion_passes"]) == ("inversion", 0)
    assert constants(translated({"editing_config.num_inference_steps": ...}), "DDIMInvert")["steps"] == 20


@pytest.mark.parametrize("value", [..., None])
def test_model_without_settings_has_the_authors_defaults(translated, value):
    model = constants(translated({"model_config": value}), "LoadPseudo3DUNet")
    assert (model["key_frames"], model["least_sc_channel"]) == ("-1, first", 0)


def test_every_edit_is_decoded_saved_and_compared(translated):
    graph = translated().graph
    titles = [node.title for node in graph.nodes.values()]
    for index in (0, 1):
        assert {f"Edit {index}", f"Decode {index}", f"Save edit {index}"} <= set(titles)
    (compare,) = [node for node in graph.nodes.values() if node.title == "Compare"]
    assert list(compare.links) == ["source", "edit_1", "edit_2"]
    assert graph.nodes[compare.links["source"].node].title == "Load frames"
    assert compare.constants["labels"] == f"source\n{SOURCE}\na red car on the road,"
    prefixes = [node.constants.get("filename_prefix") for node in graph.nodes.values()]
    assert [name for name in prefixes if name] == ["video/my_config_0", "video/my_config_1", "video/my_config_all"]


def test_no_comparison_where_the_config_wants_none(translated):
    graph = translated({"editing_config.use_make_grid": False}).graph
    assert "Compare" not in {node.title for node in graph.nodes.values()}


def test_more_edits_than_the_comparison_shows_are_said(translated):
    many = {
        "editing_config.editing_prompts": [SOURCE] * 10,
        "editing_config.p2p_config": {i: {"cross_replace_steps": 0.5, "self_replace_steps": 0.5} for i in range(10)},
    }
    translation = translated(many)
    assert any("10 edits; the comparison shows the first 8" in warning for warning in translation.warnings)
    assert len([node for node in translation.graph.nodes.values() if node.class_type == "FateZero_P2PEdit"]) == 10


def test_quirks_and_guidance_are_the_authors(translated, edit):
    widgets, _ = edit()
    assert widgets["quirks"] == "original" and widgets["guidance"] == 7.5
    assert edit(editing_config__guidance_scale=...)[0]["guidance"] == 7.0
    edits = [node for node in translated(quirks="fixed").graph.nodes.values() if node.title.startswith("Edit")]
    assert {node.constants["quirks"] for node in edits} == {"fixed"}


def test_guidance_below_1_means_none(translated):
    translation = translated({"editing_config.guidance_scale": 0.3})
    edits = [node for node in translation.graph.nodes.values() if node.title.startswith("Edit")]
    assert {node.constants["guidance"] for node in edits} == {1.0}
    assert any("guidance_scale is below 1" in warning for warning in translation.warnings)


def test_attention_of_a_reconstruction(translated):
    translation = translated({"editing_config.use_inversion_attention": False})
    inversion = constants(translation, "DDIMInvert")
    assert (inversion["attention_from"], inversion["reconstruction_guidance"]) == ("reconstruction", 7.5)
    first, second = [node.constants for node in translation.graph.nodes.values() if node.title in ("Edit 0", "Edit 1")]
    assert (first["cross_replace_end"], first["self_replace_end"]) == (0, 0)
    assert (second["cross_replace_end"], second["self_replace_end"]) == (0.5, 0.4)
    assert any("p2p_config.0 is not used" in warning for warning in translation.warnings)


def test_edits_without_attention_control(translated):
    changes = {
        "editing_config.prompt2prompt_edit": ...,
        "editing_config.p2p_config": ...,
        "test_pipeline_config.target": PLAIN,
        "train_temporal_conv": True,
        "learning_rate": "1e-5",
    }
    translation = translated(changes)
    for node in translation.graph.nodes.values():
        if node.title.startswith("Edit"):
            ends = {name: node.constants[f"{name}_replace_end"] for name in ("cross", "self")}
            assert node.constants["mode"] == "refine" and ends == {"cross": 0, "self": 0}
    told = "\n".join(translation.warnings)
    assert "without attention control" in told and "train_temporal_conv is not used" in told and "learning_rate" in told


def test_a_missing_target_follows_the_kind_of_edit(translated):
    translation = translated({"test_pipeline_config": ...})
    assert any("target is missing; taken as" in warning for warning in translation.warnings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 3}, "seed is not used: an edit draws nothing at random"),
        ({"dataset_config.stride": 80}, "dataset_config.stride is not used"),
        ({"editing_config.clip_length": "${..dataset_config.n_sample_frame}"}, "editing_config.clip_length is not"),
        ({"editing_config.annotate": True}, "annotate is not used: labels are in the comparison"),
        ({"model_config.lora": 160}, "model_config.lora is not used: read off the checkpoint"),
        ({"dataset_config.class_data_prompt": "a car"}, "class_data_prompt is not used: belongs to tuning"),
        ({"enable_xformers": True, "mixed_precision": "fp16"}, "mixed_precision is not used"),
        ({"disk_store": True}, "disk_store is true; here attention is kept in memory"),
        ({"test_pipeline_config.num_inference_steps": "${..x.y}"}, r"it is '\$\{..x.y\}', whose reference cannot be"),
        ({"editing_config.p2p_config.1.use_inversion_attention": True}, "p2p_config.1.use_inversion_attention is not"),
        ({"model_config.upcast_attention": True}, "model_config.upcast_attention is not used here; it may change the"),
        ({"model_config.least_sc_chanel": 3}, "least_sc_chanel is not used here; .* Did you mean least_sc_channel"),
        (
            {"model_config.SparseCausalAttention_index": ...},
            "index is missing; the checkpoint's own .* as -1, first here",
        ),
        (
            {"model_config.least_sc_channel": ...},
            "least_sc_channel is missing; the checkpoint's own .* written as 0 here",
        ),
        ({"model_config": None}, "least_sc_channel is missing"),
        ({"editing_config.p2p_config.1.self_replace_step": 1}, "Did you mean self_replace_steps"),
        ({"dataset_config.offset.lefft": 1}, "dataset_config.offset.lefft is not used here. Did you mean left"),
        ({"trian_steps": 5}, "trian_steps is not used here. Did you mean train_steps"),
        ({"dataset_config.path": "/data/jeep"}, "only folders below the input folder"),
        ({"editing_config.p2p_config.7": {"cross_replace_steps": 1.0, "self_replace_steps": 1.0}}, r"entries \[7\]"),
    ],
)
def test_what_has_no_effect_is_said_by_its_full_key(translated, changes, words):
    warnings = translated(changes).warnings
    assert any(re.search(words, warning) for warning in warnings), warnings


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model_config.temporal_downsample_time": None, "model_config.temporal_downsample": False},
        {"editing_config.p2p_config.1.eta": 0},
        {"dataset_config.offset.top": 16384},
        {"editing_config.guidance_scale": 100},
    ],
)
def test_a_config_that_is_taken_over_whole_has_no_warnings(translated, changes):
    assert translated(changes).warnings == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset_config.prompt": 5}, "dataset_config.prompt is 5; needed is text"),
        ({"dataset_config.prompt": "${..x}"}, "prompt is '${..x}', whose reference cannot be resolved; needed is text"),
        ({"dataset_config.n_sample_frame": "8"}, "n_sample_frame is '8'; needed is a whole number"),
        ({"dataset_config.n_sample_frame": True}, "n_sample_frame is True; needed is a whole number"),
        ({"dataset_config.n_sample_frame": 0}, "n_sample_frame is 0; needed is 1 or more, or -1"),
        ({"dataset_config.sampling_rate": 0}, "sampling_rate is 0; needed is 1 or more"),
        ({"dataset_config.image_size": 500}, "image_size is 500; needed is a multiple of 8"),
        ({"dataset_config.crop": "random"}, "dataset_config.crop is 'random'; needed is 'center', which is all"),
        ({"dataset_config.offset": 3}, "dataset_config.offset is 3; needed is keys with values"),
        ({"editing_config": None}, "editing_config is empty; needed is keys with values"),
        ({"editing_config": ...}, "editing_config is missing"),
        ({"editing_config.use_invertion_latents": False}, "use_invertion_latents is False; needed is True"),
        ({"editing_config.use_invertion_latents": ...}, "use_invertion_latents is missing"),
        ({"editing_config.editing_prompts": []}, "editing_prompts is []; needed is at least one entry"),
        ({"editing_config.editing_prompts.1": True}, "editing_config.editing_prompts.1 is True; needed is text"),
        ({"editing_config.guidance_scale": "high"}, "guidance_scale is 'high'; needed is a number"),
        ({"editing_config.guidance_scale": float("nan")}, "guidance_scale is nan; needed is a finite number"),
        ({"editing_config.num_inference_steps": 1000}, "num_inference_steps is 1000; needed is 999 or less"),
        ({"editing_config.p2p_config.1": ...}, "p2p_config has no entry 1"),
        ({"editing_config.p2p_config": ...}, "p2p_config has no entry 0"),
        ({"editing_config.source_prompt": "a cat"}, "source_prompt is 'a cat', dataset_config.prompt is"),
        ({"model_config.SparseCausalAttention_index": ["frist"]}, "SparseCausalAttention_index: ... 'frist'"),
        ({"model_config.SparseCausalAttention_index": "mid"}, "index is 'mid'; needed is a list of frames"),
        ({"test_pipeline_config.target": "my.Pipeline"}, "target is 'my.Pipeline'; needed is"),
        (
            {"test_pipeline_config.target": PLAIN},
            "prompt2prompt_edit is true, but",
        ),
        (
            {"editing_config.use_inversion_attention": False, "editing_config.editing_prompts.0": "a cat"},
            "Make the first edit that prompt",
        ),
        ({"pretrained_model_path": ""}, "pretrained_model_path is ''; a model's folder"),
        ({"model_config.temporal_downsample": True}, "model_config.temporal_downsample is True; needed is null"),
        (
            {"model_config.temporal_downsample_time": 4},
            "temporal_downsample_time is 4; needed is null, because a model",
        ),
        ({"editing_config.p2p_config.1.eta": 0.5}, "p2p_config.1.eta is 0.5; needed is 0"),
        ({"editing_config.p2p_config.1.eta": None}, "p2p_config.1.eta is empty; needed is 0"),
        ({"editing_config.p2p_config.1.negative_prompt": ["blurry"]}, "negative_prompt is ['blurry']; needed is text"),
        (
            {"editing_config.guidance_scale": 150},
            "editing_config.guidance_scale is 150.0; 0.0 to 100.0 is what guidance",
        ),
        (
            {"editing_config.guidance_scale": 150, "editing_config.use_inversion_attention": False},
            "editing_config.guidance_scale is 150.0; 0.0 to 100.0 is what reconstruction_guidance of DDIM Inversion",
        ),
        ({"dataset_config.offset.top": 20000}, "dataset_config.offset.top is 20000; 0 to 16384 is what crop_top"),
        ({"dataset_config.image_size": 20000}, "dataset_config.image_size is 20000; 0 to 16384 is what short_side"),
        ({"dataset_config.n_sample_frame": 2000000}, "dataset_config.n_sample_frame is 2000000; 0 to 1000000 is what"),
        ({"dataset_config.start_sample_frame": 2000000}, "dataset_config.start_sample_frame is 2000000; 0 to"),
        ({"dataset_config.sampling_rate": 2000000}, "dataset_config.sampling_rate is 2000000; 1 to"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_key(refused, changes, words):
    message = refused(changes)
    assert all(part in message for part in words.split(" ... ")), message


def test_every_wrong_value_is_listed(refused):
    message = refused({"dataset_config.prompt": 5, "editing_config.guidance_scale": "high"})
    assert message.startswith("2 wrong values:") and "prompt is 5" in message and "guidance_scale is" in message
