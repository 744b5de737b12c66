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
    from .attention_maps import RecordedMaps as RecordedMaps
    from .attention_maps import recorded_maps as recorded_maps
    from .cache_entry import Draft as Draft
    from .cache_entry import Entry as Entry
    from .cache_folder import Checked as Checked
    from .cache_folder import InversionCache as InversionCache
    from .cache_folder import Pruned as Pruned
    from .cache_folder import default_cache as default_cache
    from .cache_room import Listing as Listing
    from .checkpoints import VideoModel as VideoModel
    from .checkpoints import load_model as load_model
    from .checkpoints import load_toy as load_toy
    from .checkpoints import load_unet as load_unet
    from .choices import Kernel as Kernel
    from .choices import Place as Place
    from .choices import Policy as Policy
    from .choices import Precision as Precision
    from .choices import Side as Side
    from .controlled import ControlledLayer as ControlledLayer
    from .controller import Controller as Controller
    from .controller import EditResult as EditResult
    from .controller import edit as edit
    from .edit_settings import BlendSettings as BlendSettings
    from .edit_settings import EditSettings as EditSettings
    from .edit_settings import MaskUse as MaskUse
    from .edit_settings import Mode as Mode
    from .errors import FateZeroError as FateZeroError
    from .errors import ModelError as ModelError
    from .errors import PromptError as PromptError
    from .errors import SettingsError as SettingsError
    from .errors import StoreError as StoreError
    from .errors import VideoError as VideoError
    from .heat_maps import OnPage as OnPage
    from .heat_maps import asked_words as asked_words
    from .heat_maps import principal_components as principal_components
    from .heat_maps import self_attention_maps as self_attention_maps
    from .heat_maps import word_heats as word_heats
    from .heat_maps import word_labels as word_labels
    from .inversion import OnPlan as OnPlan
    from .inversion import Reconstruction as Reconstruction
    from .inversion import invert as invert
    from .latent_colours import LatentColours as LatentColours
    from .layers import KeyFrame as KeyFrame
    from .layers import Kind as Kind
    from .layers import LayerAddress as LayerAddress
    from .layers import Projection as Projection
    from .layers import Site as Site
    from .layers import Stage as Stage
    from .loops import OnStep as OnStep
    from .loops import StepDone as StepDone
    from .lora import apply_lora as apply_lora
    from .map_control import MapController as MapController
    from .noise_model import LatentFormat as LatentFormat
    from .noise_model import NoiseModel as NoiseModel
    from .noise_model import Registration as Registration
    from .noise_model import register_attention_control as register_attention_control
    from .prompt_to_prompt import AttentionControl as AttentionControl
    from .prompt_to_prompt import AttentionStore as AttentionStore
    from .prompt_to_prompt import DummyController as DummyController
    from .prompt_to_prompt import EmptyControl as EmptyControl
    from .prompt_to_prompt import StepMaps as StepMaps
    from .prompts import Clip as Clip
    from .prompts import Prompt as Prompt
    from .prompts import Quirks as Quirks
    from .prompts import Window as Window
    from .prompts import Word as Word
    from .reading import Reading as Reading
    from .records import Form as Form
    from .records import Kept as Kept
    from .records import Page as Page
    from .records import Record as Record
    from .residence import Prepare as Prepare
    from .schedule import Schedule as Schedule
    from .single_file import Prediction as Prediction
    from .sound import Sound as Sound
    from .sound import SoundFile as SoundFile
    from .stores import PageStore as PageStore
    from .stores import Storage as Storage
    from .text import TextEncoder as TextEncoder
    from .text import Tokens as Tokens
    from .trace import Trace as Trace
    from .unet import InflationSettings as InflationSettings
    from .unet import Pseudo3DUNet as Pseudo3DUNet
    from .unet import TemporalLayers as TemporalLayers
    from .unet.temporal import TemporalPosition as TemporalPosition
    from .vae import VideoVAE as VideoVAE
    from .video import Rounding as Rounding
    from .video import Video as Video
    from .video import read_video as read_video
    from .video import write_video as write_video

_HOMES = {
    "attend": "Capture",
    "attention": "Attend attention_probs plain",
    "attention_maps": "RecordedMaps recorded_maps",
    "cache_entry": "Draft Entry",
    "cache_folder": "Checked InversionCache Pruned default_cache",
    "cache_room": "Listing",
    "checkpoints": "VideoModel load_model load_toy load_unet",
    "choices": "Kernel Place Policy Precision Side",
    "controlled": "ControlledLayer",
    "controller": "Controller EditResult edit",
    "edit_settings": "BlendSettings EditSettings MaskUse Mode",
    "errors": "FateZeroError ModelError PromptError SettingsError StoreError VideoError",
    "heat_maps": "OnPage asked_words principal_components self_attention_maps word_heats word_labels",
    "inversion": "OnPlan Reconstruction invert",
    "latent_colours": "LatentColours",
    "layers": "KeyFrame Kind LayerAddress Projection Site Stage",
    "loops": "OnStep StepDone",
    "lora": "apply_lora",
    "map_control": "MapController",
    "noise_model": "LatentFormat NoiseModel Registration register_attention_control",
    "prompt_to_prompt": "AttentionControl AttentionStore DummyController EmptyControl StepMaps",
    "prompts": "Clip Prompt Quirks Window Word",
    "reading": "Reading",
    "records": "Form Kept Page Record",
    "residence": "Prepare",
    "schedule": "Schedule",
    "single_file": "Prediction",
    "sound": "Sound SoundFile",
    "stores": "PageStore Storage",
    "text": "TextEncoder Tokens",
    "trace": "Trace",
    "unet": "InflationSettings Pseudo3DUNet TemporalLayers",
    "unet.temporal": "TemporalPosition",
    "vae": "VideoVAE",
    "video": "Rounding Video read_video write_video",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - one of the public names
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
