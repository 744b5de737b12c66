"""A whole config as a graph of this pack's nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType

from ...fatezero_ext.errors import FateZeroError
from ...fatezero_ext.models.unet.inflate import InflationSettings
from ..clips.compare_clips import MOST_EDITS
from ..headless.graph import Graph, Link, Node, graph_of
from ..headless.schemas.registry import NodeType, NodeTypes
from ..method.invert import INVERSION, RECONSTRUCTION
from .config import P2P_PIPELINE, PLAIN_PIPELINE, Config, ModelConfig
from .edits import Widgets, edit_widgets
from .errors import ConfigError
from .tuning import TuningConfig, taken_keys, tuning_of, tuning_remarks, tuning_widgets
from .unused_keys import unused_keys

AUTHORS_FPS = 10.0
"""Frames per second of the videos that the authors' program saves."""
AUTHORS_SIZE = 512
"""Pixels at which the layers of the authors' masks, chosen by their number, are those of 16 x 16 cells."""
YAML_KEYS = {
    "start": "dataset_config.start_sample_frame",
    "count": "dataset_config.n_sample_frame",
    "sampling_rate": "dataset_config.sampling_rate",
    **{f"crop_{side}": f"dataset_config.offset.{side}" for side in ("left", "right", "top", "bottom")},
    "short_side": "dataset_config.image_size",
    "reconstruction_guidance": "editing_config.guidance_scale",
    "guidance": "editing_config.guidance_scale",
}
"""Keys of the config whose values these widgets get; the other widgets' ranges are those of the config's own types."""


@dataclass(frozen=True)
class Options:
    """Choices of the caller.

    name:          start of the result files' names
    quirks:        "original" or "fixed", the widget of Prompt-to-Prompt Edit
    models_prefix: put in front of the model's folder name, such as "CompVis/"
    """

    name: str
    quirks: str = "original"
    models_prefix: str = ""


@dataclass(frozen=True)
class Translation:
    """The graph, and what a reader should know about it."""

    graph: Graph
    warnings: tuple[str, ...]


def translate(config: Config, options: Options, types: NodeTypes) -> Translation:
    """Return the workflow that computes what the authors' program computes with this config.

    types: the known nodes; widgets that the config says nothing about take their defaults
    Raises ConfigError where something cannot be honoured.
    """
    tuning = tuning_of(config)
    warnings = [*unused_keys(config, taken_keys(tuning)), *tuning_remarks(tuning)]
    _check(config, warnings)
    builder = _Builder(types)
    source_prompt = config.dataset_config.prompt
    frames, decoded = _add_inversion(builder, config, options, warnings, tuning)
    name = re.sub(r"[^\w.-]+", "_", options.name).strip(".") or "config"
    clips = []
    for index in range(len(config.editing_config.editing_prompts)):
        widgets = edit_widgets(config.editing_config, source_prompt, index, warnings) | {"quirks": options.quirks}
        if widgets.get("blend_words"):
            _check_mask_size(config.dataset_config.image_size, index, warnings)
        clips.append(_add_edit(builder, decoded, index, widgets, f"video/{name}_{index}"))
    if config.editing_config.use_make_grid:
        _add_grid(builder, frames, clips, config.editing_config.editing_prompts, f"video/{name}_all", warnings)
    return Translation(graph_of(builder.nodes), tuple(warnings))


class _Builder:
    """Collects nodes, numbered in the order they come."""

    def __init__(self, types: NodeTypes) -> None:
        self._types = types
        self.nodes: list[Node] = []

    def add(self, class_type: str, title: str, links: dict[str, Link], widgets: Widgets | None = None) -> str:
        """Add a node with these widgets, the others at their defaults; returns its id."""
        defaults = {widget.id: widget.default for widget in self._types[class_type].widgets if widget.id not in links}
        unknown = set(widgets or {}) - set(defaults)
        assert not unknown, f"{class_type} has no widgets {unknown}"
        _check_ranges(self._types[class_type], widgets or {})
        node_id = str(len(self.nodes) + 1)
        inputs = MappingProxyType({**defaults, **(widgets or {}), **links})
        self.nodes.append(Node(node_id, class_type, title, inputs))
        return node_id


def _check_ranges(node_type: NodeType, widgets: Widgets) -> None:
    for widget in node_type.widgets:
        low, high = getattr(widget, "min", None), getattr(widget, "max", None)
        value = widgets.get(widget.id)
        if value is not None and (low is not None and value < low or high is not None and value > high):
            raise ConfigError(
                f"{YAML_KEYS.get(widget.id, widget.id)} is {value}; {low} to {high} is what {widget.id} of "
                f"{node_type.schema.display_name} takes. Correct it."
            )


def _check_mask_size(size: int, index: int, warnings: list[str]) -> None:
    if size != AUTHORS_SIZE:
        warnings.append(
            f"editing_config.p2p_config.{index}.blend_words: dataset_config.image_size is {size}; at sizes other than "
            f"{AUTHORS_SIZE} the authors' program makes masks from other layers or stops, so masks here may differ."
        )


def _check(config: Config, warnings: list[str]) -> None:
    """Raise ConfigError for contradictions; add warnings about values that are read differently."""
    editing, dataset = config.editing_config, config.dataset_config
    pipeline = config.test_pipeline_config and config.test_pipeline_config.target
    wanted = P2P_PIPELINE if editing.prompt2prompt_edit else PLAIN_PIPELINE
    if pipeline is None:
        warnings.append(f"test_pipeline_config.target is missing; taken as {wanted}.")
    elif editing.prompt2prompt_edit and pipeline != wanted:
        raise ConfigError(
            f"prompt2prompt_edit is true, but test_pipeline_config.target is {pipeline}, which has no attention "
            f"control; {wanted} is needed. Change one of them."
        )
    if not editing.prompt2prompt_edit:
        warnings.append("prompt2prompt_edit is not true: the edits run without attention control.")
        if editing.p2p_config:
            warnings.append("editing_config.p2p_config is not used: prompt2prompt_edit is not true.")
    _check_prompts(config)
    if dataset.n_sample_frame == 0:
        raise ConfigError("dataset_config.n_sample_frame is 0; needed is 1 or more, or -1 for all. Correct it.")
    if "offset" in dataset.model_fields_set and "top" not in dataset.offset.model_fields_set:
        warnings.append("dataset_config.offset.top is missing; the authors' program then cuts 200 pixels, as here.")
    if editing.guidance_scale < 1:
        warnings.append("editing_config.guidance_scale is below 1, which means no guidance; 1 is written.")
    if config.disk_store:
        warnings.append("disk_store is true; here attention is kept in memory (see Attention Store Cache).")
    extra = sorted(set(editing.p2p_config or {}) - set(range(len(editing.editing_prompts))))
    if editing.prompt2prompt_edit and extra:
        warnings.append(f"editing_config.p2p_config has entries {extra} without an editing prompt; left out.")


def _check_prompts(config: Config) -> None:
    editing, source = config.editing_config, config.dataset_config.prompt
    if editing.source_prompt not in (None, source):
        raise ConfigError(
            f"editing_config.source_prompt is {editing.source_prompt!r}, dataset_config.prompt is {source!r}; one "
            f"prompt for the inversion and the edits is needed. Make them equal."
        )
    if editing.prompt2prompt_edit and not editing.use_inversion_attention and editing.editing_prompts[0] != source:
        raise ConfigError(
            f"use_inversion_attention is false and editing_prompts.0 is {editing.editing_prompts[0]!r}; attention is "
            f"then read from a pass under dataset_config.prompt, {source!r}, only. Make the first edit that prompt."
        )


def _add_inversion(
    builder: _Builder, config: Config, options: Options, warnings: list[str], tuning: TuningConfig | None
) -> tuple[dict[str, Link], dict[str, Link]]:
    """Add the nodes up to the inversion. Returns links to the frames and their rate, and to what edits need."""
    frames = builder.add("FateZero_LoadFrames", "Load frames", {}, _framing(config, warnings))
    model = builder.add("FateZero_LoadPseudo3DUNet", "Load model", {}, _model(config, options, warnings))
    latent = builder.add("VAEEncode", "Encode", {"pixels": Link(frames, 0), "vae": Link(model, 2)})
    unet = Link(model, 0) if tuning is None else _add_tuning(builder, config, options, tuning, model=model, clip=latent)
    registered = builder.add("FateZero_RegisterAttentionControl", "Control", {"unet": unet})
    cached = builder.add("FateZero_AttentionStoreCache", "Keep attention", {"controller": Link(registered, 0)})
    inverted = builder.add(
        "FateZero_DDIMInvert",
        "Invert",
        {"controller": Link(cached, 0), "clip": Link(model, 1), "latent": Link(latent, 0)},
        _inversion(config),
    )
    rate = {"images": Link(frames, 0), "fps": Link(frames, 1)}
    return rate, {"controller": Link(inverted, 0), "clip": Link(model, 1), "vae": Link(model, 2), "fps": rate["fps"]}


def _add_tuning(
    builder: _Builder, config: Config, options: Options, tuning: TuningConfig, *, model: str, clip: str
) -> Link:
    """Add the training on a clip, and on class pictures where the config has them. Returns the link to the tuned UNet.

    model, clip: ids of the nodes that load the model and encode the clip
    """
    links = {"unet": Link(model, 0), "clip": Link(model, 1), "latent": Link(clip, 0)}
    if tuning.class_folder is not None:
        framing = {"source": tuning.class_folder, "count": 0, "short_side": config.dataset_config.image_size}
        pictures = builder.add("FateZero_LoadFrames", "Load class pictures", {}, {**framing, "centre_square": True})
        encoded = {"pixels": Link(pictures, 0), "vae": Link(model, 2)}
        links["class_latent"] = Link(builder.add("VAEEncode", "Encode class pictures", encoded), 0)
    widgets = tuning_widgets(tuning, config.dataset_config.prompt, options.name)
    return Link(builder.add("FateZero_TuneOnClip", "Tune", links, widgets), 0)


def _framing(config: Config, warnings: list[str]) -> Widgets:
    dataset = config.dataset_config
    source = PurePosixPath(dataset.path)
    if source.is_absolute() or ".." in source.parts:
        warnings.append(f"dataset_config.path is {dataset.path!r}; only folders below the input folder are read.")
    return {
        "source": str(source),
        "start": dataset.start_sample_frame or 0,
        "count": max(dataset.n_sample_frame, 0),
        "sampling_rate": dataset.sampling_rate,
        **{f"crop_{side}": getattr(dataset.offset, side) for side in ("left", "right", "top", "bottom")},
        "short_side": dataset.image_size,
        "centre_square": True,
        "fps": AUTHORS_FPS,
    }


def _model(config: Config, options: Options, warnings: list[str]) -> Widgets:
    inflation = config.inflation or ModelConfig()
    try:
        InflationSettings(key_frames=tuple(inflation.key_frames))
    except FateZeroError as error:
        raise ConfigError(f"model_config.SparseCausalAttention_index: {error}") from error
    folder = PurePosixPath(config.pretrained_model_path).name
    if not folder:
        raise ConfigError(
            f"pretrained_model_path is {config.pretrained_model_path!r}; a model's folder is needed. Name it."
        )
    inflated = {
        "key_frames": ", ".join(str(frame) for frame in inflation.key_frames),
        "least_sc_channel": inflation.least_sc_channel,
    }
    for name, value in inflated.items():
        if name not in inflation.model_fields_set:
            key = ModelConfig.model_fields[name].alias or name
            warnings.append(
                f"model_config.{key} is missing; the checkpoint's own config decides in the authors' program; written "
                f"as {value} here."
            )
    return {"model": f"{options.models_prefix}{folder}", **inflated}


def _inversion(config: Config) -> Widgets:
    editing = config.editing_config
    widgets = {
        "source_prompt": config.dataset_config.prompt,
        "steps": editing.num_inference_steps,
        "inversion_passes": 0,  # their program has none
    }
    if editing.prompt2prompt_edit and not editing.use_inversion_attention:
        return {
            **widgets,
            "attention_from": RECONSTRUCTION,
            "reconstruction_guidance": max(editing.guidance_scale, 1.0),
        }
    return {**widgets, "attention_from": INVERSION}


def _add_edit(builder: _Builder, sources: dict[str, Link], index: int, widgets: Widgets, prefix: str) -> Link:
    """Add the nodes of one edit; returns its decoded frames."""
    edited = builder.add(
        "FateZero_P2PEdit", f"Edit {index}", {name: sources[name] for name in ("controller", "clip")}, widgets
    )
    decoded = builder.add("VAEDecode", f"Decode {index}", {"samples": Link(edited, 0), "vae": sources["vae"]})
    images = Link(decoded, 0)
    _add_video(builder, {"images": images, "fps": sources["fps"]}, f"edit {index}", prefix)
    return images


def _add_grid(
    builder: _Builder, frames: dict[str, Link], clips: list[Link], prompts: list[str], prefix: str, warnings: list[str]
) -> None:
    if len(clips) > MOST_EDITS:
        warnings.append(f"there are {len(clips)} edits; the comparison shows the first {MOST_EDITS}.")
    shown = dict(_numbered(clips[:MOST_EDITS]))
    labels = "\n".join(["source", *(" ".join(prompt.split()) for prompt in prompts[: len(shown)])])
    grid = builder.add("FateZero_CompareClips", "Compare", {"source": frames["images"], **shown}, {"labels": labels})
    _add_video(builder, {"images": Link(grid, 0), "fps": frames["fps"]}, "comparison", prefix)


def _numbered(clips: list[Link]) -> Iterator[tuple[str, Link]]:
    for number, clip in enumerate(clips, start=1):
        yield f"edit_{number}", clip


def _add_video(builder: _Builder, links: dict[str, Link], what: str, prefix: str) -> None:
    video = builder.add("CreateVideo", f"Make video of {what}", links)
    builder.add("SaveVideo", f"Save {what}", {"video": Link(video, 0)}, {"filename_prefix": prefix})
