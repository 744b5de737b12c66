"""Stand-ins for the ComfyUI core nodes that the example workflows and their kin use: same ids, sockets and meaning."""

from __future__ import annotations

from ...api import io
from .animations import SaveAnimatedWEBP
from .checkpoints import CheckpointLoaderSimple
from .images import ImageBatch, ImageFromBatch, ImageScale, LoadImage, MaskToImage, RepeatImageBatch, SaveImage
from .latents import CLIPTextEncode, VAEDecode, VAEEncode
from .masks import MASK_NODES
from .previews import PreviewAny, PreviewImage
from .primitives import PRIMITIVE_NODES
from .videos import CreateVideo, GetVideoComponents, LoadVideo, SaveVideo

CORE_NODES: tuple[type[io.ComfyNode], ...] = (
    CLIPTextEncode,
    CheckpointLoaderSimple,
    CreateVideo,
    GetVideoComponents,
    ImageBatch,
    ImageFromBatch,
    ImageScale,
    LoadImage,
    LoadVideo,
    MaskToImage,
    PreviewAny,
    PreviewImage,
    RepeatImageBatch,
    SaveAnimatedWEBP,
    SaveImage,
    SaveVideo,
    VAEDecode,
    VAEEncode,
    *MASK_NODES,
    *PRIMITIVE_NODES,
)
