"""Text-driven video editing by fused attention (FateZero), independent of ComfyUI.

The names below are loaded when they are first used: `import fatezero_ext` alone is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attend import Capture as Capture
    from .attention import Attend as Attend
    from .attention import attention_probs as attention_probs
    from .attention import plain as plain
    from .checkpoints import VideoModel as VideoModel
    from .checkpoints import load_model as load_model
    from .checkpoints import load_toy as load_toy
    from .checkpoints import load_unet as load_unet
    from .controller import Controller as Controller
    from .controller import EditResult as EditResult
    from .controller import edit as edit
    from .edit_settings import BlendSettings as BlendSettings
    from .edit_settings import EditSettings as EditSettings
    from .errors import FateZeroError as FateZeroError
    from .inversion import invert as invert
    from .layers import LayerAddress as LayerAddress
    from .layers import Site as Site
    from .lora import apply_lora as apply_lora
    from .noise_model import NoiseModel as NoiseModel
    from .noise_model import register_attention_control as register_attention_control
    from .stores import Storage as Storage
    from .unet import InflationSettings as InflationSettings
    from .unet import Pseudo3DUNet as Pseudo3DUNet
    from .unet import TemporalLayers as TemporalLayers

_HOMES = {
    "attend": ("Capture",),
    "attention": ("Attend", "attention_probs", "plain"),
    "checkpoints": ("VideoModel", "load_model", "load_toy", "load_unet"),
    "controller": ("Controller", "EditResult", "edit"),
    "edit_settings": ("BlendSettings", "EditSettings"),
    "errors": ("FateZeroError",),
    "inversion": ("invert",),
    "lora": ("apply_lora",),
    "layers": ("LayerAddress", "Site"),
    "stores": ("Storage",),
    "noise_model": ("NoiseModel", "register_attention_control"),
    "unet": ("InflationSettings", "Pseudo3DUNet", "TemporalLayers"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - one of the public names
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
