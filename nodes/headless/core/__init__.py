"""Stand-ins for the ComfyUI core nodes that the example workflows use: same ids, sockets and meaning."""

from __future__ import annotations

from ...api import io
from .images import ImageBatch, ImageFromBatch, ImageScale, LoadImage, MaskToImage, RepeatImageBatch, SaveImage
from .latents import CLIPTextEncode, VAEDecode, VAEEncode
from .previews import PreviewAny, PreviewImage
from .videos import CreateVideo, GetVideoComponents, LoadVideo, SaveVideo

CORE_NODES: tuple[type[io.ComfyNode], ...] = (
    CLIPTextEncode,
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
    SaveImage,
    SaveVideo,
    VAEDecode,
    VAEEncode,
)
