"""The pseudo-3D UNet: a diffusers UNet2DConditionModel inflated in place."""

from .inflate import InflationSettings, TemporalLayers
from .model import Pseudo3DUNet

__all__ = ["InflationSettings", "Pseudo3DUNet", "TemporalLayers"]
