"""The pseudo-3D UNet: a diffusers UNet2DConditionModel inflated in place."""

from .features import kept_form
from .inflate import ControlledLayer, InflationSettings, TemporalLayers
from .model import LatentFormat, Pseudo3DUNet, Registration, register_attention_control

__all__ = [
    "ControlledLayer",
    "InflationSettings",
    "LatentFormat",
    "Pseudo3DUNet",
    "Registration",
    "TemporalLayers",
    "kept_form",
    "register_attention_control",
]
