"""Text-driven video editing by fused attention (FateZero), independent of ComfyUI.

The names below are loaded when they are first used: `import fatezero_ext` alone takes milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention.clip_parts import ClipPart as ClipPart
    from .attention.controlled_layer import ControlledLayer as ControlledLayer
    from .attention.controller_bases import AttentionControl as AttentionControl
    from .attention.controller_bases import AttentionStore as AttentionStore
    from .attention.controller_bases import DummyController as DummyController
    from .attention.controller_bases import EmptyControl as EmptyControl
    from .attention.controller_bases import StepMaps as StepMaps
    from .attention.functional import Attend as Attend
    from .attention.functional import attention_probs as attention_probs
    from .attention.functional import plain as plain
    from .attention.key_frames import KeyFrame as KeyFrame
    from .attention.map_control import MapController as MapController
    from .attention.records import Form as Form
    from .attention.records import Record as Record
    from .attention.records import StepRecords as StepRecords
    from .attention.records import StoredTensor as StoredTensor
    from .attention.sites import Kind as Kind
    from .attention.sites import LayerAddress as LayerAddress
    from .attention.sites import Projection as Projection
    from .attention.sites import Site as Site
    from .attention.sites import Stage as Stage
    from .choices import Kernel as Kernel
    from .choices import Place as Place
    from .choices import Policy as Policy
    from .choices import Precision as Precision
    from .choices import Recipe as Recipe
    from .choices import Side as Side
    from .choices import World as World
    from .diffusion.noise_model import LatentFormat as LatentFormat
    from .diffusion.noise_model import NoiseModel as NoiseModel
    from .diffusion.noise_model import Registration as Registration
    from .diffusion.noise_model import register_attention_control as register_attention_control
    from .diffusion.preview_colours import LatentColours as LatentColours
    from .diffusion.schedule import Schedule as Schedule
    from .editing.automatic import resolved_settings as resolved_settings
    from .editing.edit import EditResult as EditResult
    from .editing.edit import edit as edit
    from .editing.settings import BlendSettings as BlendSettings
    from .editing.settings import EditKind as EditKind
    from .editing.settings import EditSettings as EditSettings
    from .editing.settings import MaskUse as MaskUse
    from .editing.settings import Mode as Mode
    from .editing.source_pixels import keep_source_pixels as keep_source_pixels
    from .errors import FateZeroError as FateZeroError
    from .errors import ModelError as ModelError
    from .errors import PromptError as PromptError
    from .errors import SettingsError as SettingsError
    from .errors import StoreError as StoreError
    from .errors import VideoError as VideoError
    from .inspection.components import principal_components as principal_components
    from .inspection.heat_maps import OnRead as OnRead
    from .inspection.heat_maps import asked_words as asked_words
    from .inspection.heat_maps import self_attention_maps as self_attention_maps
    from .inspection.heat_maps import word_heats as word_heats
    from .inspection.heat_maps import word_labels as word_labels
    from .inspection.recorded_maps import RecordedMaps as RecordedMaps
    from .inspection.recorded_maps import recorded_maps as recorded_maps
    from .inspection.selection import Reading as Reading
    from .inversion.controller import Controller as Controller
    from .inversion.guided_prediction import OnFrames as OnFrames
    from .inversion.guided_prediction import OnStep as OnStep
    from .inversion.guided_prediction import StepDone as StepDone
    from .inversion.invert import Reconstruction as Reconstruction
    from .inversion.invert import invert as invert
    from .inversion.recording import Capture as Capture
    from .inversion.run import OnPlan as OnPlan
    from .inversion.trace import Trace as Trace
    from .media.audio import Sound as Sound
    from .media.audio import SoundFile as SoundFile
    from .media.framing import Framing as Framing
    from .media.streamed import StreamedFrames as StreamedFrames
    from .media.video import Rounding as Rounding
    from .media.video import Video as Video
    from .media.video import read_video as read_video
    from .media.video import write_video as write_video
    from .memory.residency import LoadToDevice as LoadToDevice
    from .models.load import VideoModel as VideoModel
    from .models.load import load_model as load_model
    from .models.load import load_toy as load_toy
    from .models.load import load_unet as load_unet
    from .models.lora.apply import apply_lora as apply_lora
    from .models.single_file.checkpoint import Prediction as Prediction
    from .models.text_encoder import ClipTextEncoder as ClipTextEncoder
    from .models.unet.inflate import InflationSettings as InflationSettings
    from .models.unet.inflate import TemporalLayers as TemporalLayers
    from .models.unet.model import Pseudo3DUNet as Pseudo3DUNet
    from .models.unet.temporal import TemporalPosition as TemporalPosition
    from .models.vae import VideoVAE as VideoVAE
    from .prompts.prompt import Prompt as Prompt
    from .prompts.prompt import Quirks as Quirks
    from .prompts.prompt import TextEncoder as TextEncoder
    from .prompts.prompt import Tokens as Tokens
    from .prompts.prompt import Window as Window
    from .prompts.prompt import Word as Word
    from .prompts.removal import removal_prompt as removal_prompt
    from .storage.disk_cache.cache import Checked as Checked
    from .storage.disk_cache.cache import InversionCache as InversionCache
    from .storage.disk_cache.cache import Pruned as Pruned
    from .storage.disk_cache.cache import default_cache as default_cache
    from .storage.disk_cache.entry import Draft as Draft
    from .storage.disk_cache.entry import Entry as Entry
    from .storage.disk_cache.eviction import Listing as Listing
    from .storage.paged_tensor import PagedTensor as PagedTensor
    from .storage.record_store import RecordStore as RecordStore
    from .storage.settings import Storage as Storage
    from .tuning.folder import TunedFolder as TunedFolder
    from .tuning.folder import WeightsFormat as WeightsFormat
    from .tuning.settings import TuningSettings as TuningSettings
    from .tuning.tune import ClassPictures as ClassPictures
    from .tuning.tune import OnTuningPlan as OnTuningPlan
    from .tuning.tune import OnTuningStep as OnTuningStep
    from .tuning.tune import TuningResult as TuningResult
    from .tuning.tune import TuningStep as TuningStep
    from .tuning.tune import tune as tune

_HOMES = {
    "attention.clip_parts": "ClipPart",
    "attention.controller_bases": "AttentionControl AttentionStore DummyController EmptyControl StepMaps",
    "attention.controlled_layer": "ControlledLayer",
    "attention.functional": "Attend attention_probs plain",
    "attention.key_frames": "KeyFrame",
    "attention.map_control": "MapController",
    "attention.records": "Form Record StepRecords StoredTensor",
    "attention.sites": "Kind LayerAddress Projection Site Stage",
    "choices": "Kernel Place Policy Precision Recipe Side World",
    "diffusion.noise_model": "LatentFormat NoiseModel Registration register_attention_control",
    "diffusion.preview_colours": "LatentColours",
    "diffusion.schedule": "Schedule",
    "editing.automatic": "resolved_settings",
    "editing.edit": "EditResult edit",
    "editing.settings": "BlendSettings EditKind EditSettings MaskUse Mode",
    "editing.source_pixels": "keep_source_pixels",
    "errors": "FateZeroError ModelError PromptError SettingsError StoreError VideoError",
    "inspection.components": "principal_components",
    "inspection.heat_maps": "OnRead asked_words self_attention_maps word_heats word_labels",
    "inspection.recorded_maps": "RecordedMaps recorded_maps",
    "inspection.selection": "Reading",
    "inversion.controller": "Controller",
    "inversion.guided_prediction": "OnFrames OnStep StepDone",
    "inversion.invert": "Reconstruction invert",
    "inversion.recording": "Capture",
    "inversion.run": "OnPlan",
    "inversion.trace": "Trace",
    "media.audio": "Sound SoundFile",
    "media.framing": "Framing",
    "media.streamed": "StreamedFrames",
    "media.video": "Rounding Video read_video write_video",
    "memory.residency": "LoadToDevice",
    "models.load": "VideoModel load_model load_toy load_unet",
    "models.lora.apply": "apply_lora",
    "models.single_file.checkpoint": "Prediction",
    "models.text_encoder": "ClipTextEncoder",
    "models.unet.inflate": "InflationSettings TemporalLayers",
    "models.unet.model": "Pseudo3DUNet",
    "models.unet.temporal": "TemporalPosition",
    "models.vae": "VideoVAE",
    "prompts.removal": "removal_prompt",
    "prompts.prompt": "Prompt Quirks TextEncoder Tokens Window Word",
    "storage.disk_cache.cache": "Checked InversionCache Pruned default_cache",
    "storage.disk_cache.entry": "Draft Entry",
    "storage.disk_cache.eviction": "Listing",
    "storage.paged_tensor": "PagedTensor",
    "storage.record_store": "RecordStore",
    "storage.settings": "Storage",
    "tuning.folder": "TunedFolder WeightsFormat",
    "tuning.settings": "TuningSettings",
    "tuning.tune": "ClassPictures OnTuningPlan OnTuningStep TuningResult TuningStep tune",
}
"""Modules and their public names: the imports above once more, which type checkers can read and which never run."""
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - one of the public names
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
