"""What the page must know of the nodes in our templates: for `docs/make_templates.py`."""

from __future__ import annotations

from typing import Any

from workflow_sheet import NodeKind

from fatezero_ext.cli.node_pack import load_pack

CORE = {
    "SAM3_VideoTrack": NodeKind(
        {"images": "IMAGE", "model": "MODEL", "initial_mask": "MASK?", "conditioning": "CONDITIONING?"},
        {"detection_threshold": "FLOAT", "max_objects": "INT", "detect_interval": "INT"},
        {"track_data": "SAM3_TRACK_DATA"},
    ),
    "SAM3_TrackToMask": NodeKind({"track_data": "SAM3_TRACK_DATA"}, {"object_indices": "STRING"}, {"masks": "MASK"}),
    "UNETLoader": NodeKind({}, {"unet_name": "COMBO", "weight_dtype": "COMBO"}, {"MODEL": "MODEL"}),
    "CLIPLoader": NodeKind({}, {"clip_name": "COMBO", "type": "COMBO", "device": "COMBO"}, {"CLIP": "CLIP"}),
    "VAELoader": NodeKind({}, {"vae_name": "COMBO"}, {"VAE": "VAE"}),
    "ModelSamplingSD3": NodeKind({"model": "MODEL"}, {"shift": "FLOAT"}, {"MODEL": "MODEL"}),
    "ThresholdMask": NodeKind({"mask": "MASK"}, {"value": "FLOAT"}, {"MASK": "MASK"}),
    "GrowMask": NodeKind({"mask": "MASK"}, {"expand": "INT", "tapered_corners": "BOOLEAN"}, {"MASK": "MASK"}),
    "WanVaceToVideo": NodeKind(
        {
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "vae": "VAE",
            "control_video": "IMAGE?",
            "control_masks": "MASK?",
            "reference_image": "IMAGE?",
        },
        {"width": "INT", "height": "INT", "length": "INT", "batch_size": "INT", "strength": "FLOAT"},
        {"positive": "CONDITIONING", "negative": "CONDITIONING", "latent": "LATENT", "trim_latent": "INT"},
    ),
    "KSampler": NodeKind(
        {"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING", "latent_image": "LATENT"},
        {"seed": "INT", "steps": "INT", "cfg": "FLOAT", "sampler_name": "COMBO", "scheduler": "COMBO"}
        | {"denoise": "FLOAT"},
        {"LATENT": "LATENT"},
    ),
    "GetImageSize": NodeKind({"image": "IMAGE"}, {}, {"width": "INT", "height": "INT", "batch_size": "INT"}),
    "TrimVideoLatent": NodeKind({"samples": "LATENT"}, {"trim_amount": "INT"}, {"LATENT": "LATENT"}),
}
"""Core nodes that the headless runner does not have."""


def kinds() -> dict[str, NodeKind]:
    """Return the pack's nodes, and the core nodes that are used beside them."""
    registry = load_pack("nodes.headless.schemas.registry")
    found = {}
    for name, node_type in registry.pack_node_types().items():
        types = {key: socket.get_io_type() for key, socket in node_type.inputs.items()}
        widgets = {widget.id for widget in node_type.widgets}
        optional = {key for key, socket in node_type.inputs.items() if socket.optional}
        found[name] = NodeKind(
            {key: kind + "?" * (key in optional) for key, kind in types.items() if key not in widgets},
            {key: kind for key, kind in types.items() if key in widgets},
            {socket.display_name or socket.get_io_type(): socket.get_io_type() for socket in node_type.schema.outputs},
        )
    return found | CORE


def defaults(name: str, /, **changed: Any) -> list[Any]:  # noqa: ANN401 - widgets have any type
    """Return the widgets' values of a node of the pack, as the page makes them, with some of them changed."""
    widgets = load_pack("nodes.headless.schemas.registry").pack_node_types()[name].widgets
    if unknown := changed.keys() - {widget.id for widget in widgets}:
        raise ValueError(f"{name} has no widget {', '.join(sorted(unknown))}")
    return [changed.get(widget.id, widget.default) for widget in widgets]
