"""Text-driven video editing by fused attention (FateZero), independent of ComfyUI."""

from .attend import Capture
from .attention import Attend, attention_probs, plain
from .checkpoints import VideoModel, load_model, load_toy, load_unet
from .controller import Controller, EditResult, edit, invert
from .errors import FateZeroError
from .layers import LayerAddress, Site
from .plan import BlendSettings, EditSettings
from .stores import Storage
from .unet import InflationSettings, Pseudo3DUNet, TemporalLayers, register_attention_control

__all__ = [
    "Attend",
    "BlendSettings",
    "Capture",
    "Controller",
    "EditResult",
    "EditSettings",
    "FateZeroError",
    "InflationSettings",
    "LayerAddress",
    "Pseudo3DUNet",
    "Site",
    "Storage",
    "TemporalLayers",
    "VideoModel",
    "attention_probs",
    "edit",
    "invert",
    "load_model",
    "load_toy",
    "load_unet",
    "plain",
    "register_attention_control",
]
