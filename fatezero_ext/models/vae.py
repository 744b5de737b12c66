"""The VAE: frames to latents and back, with the calls of a ComfyUI VAE object."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import cast

import torch
from diffusers.models import AutoencoderKL
from einops import rearrange
from torch import Tensor

from ..diffusion.finite import broken_weights
from ..errors import VideoError, described
from ..media.frame_checks import check_frames
from ..media.streamed import PART
from ..memory.held_memory import WeightsReport
from ..memory.residency import LoadToDevice, prepared, stay_put
from .not_offered import RefusesByName

FRAMES_AT_ONCE = PART  # bounds memory; frames are independent in the VAE
BYTES_PER_PIXEL_AND_BYTE = 2_178  # ComfyUI's own estimate for decoding with a Stable Diffusion VAE
TILE_SIDE = 512  # pixels, the tile that ComfyUI's tiled nodes start with
TILE_OVERLAP = 64
NOT_OFFERED = dict.fromkeys(
    ("first_stage_model", "patcher", "load_model"), "connect the VAE of Load Checkpoint or Load VAE"
)
"""Attributes of a VAE that other packs use and this one does not have, with what to do instead."""


class VideoVAE(RefusesByName, WeightsReport):
    """An image VAE applied frame by frame; latents are raw (not multiplied by the scaling factor).

    Core ComfyUI nodes can use it as a VAE: to encode and decode, tiled too, to encode for inpainting, and to save it.
    load_to_device: called before the weights are used. A program that manages memory sets it after construction, once
                    it has seen `net`
    """

    part, comfy_name, remedies = "VAE", "VAE", NOT_OFFERED
    net: AutoencoderKL
    latent_dim, output_channels = 2, 3  # ComfyUI's words for pictures: two sides, three colours

    def __init__(self, net: AutoencoderKL) -> None:
        self.net = net.requires_grad_(False).eval()
        self.load_to_device: LoadToDevice = stay_put

    def __repr__(self) -> str:
        return f"VideoVAE({self.latent_channels} channels, {self.pixels_per_cell} pixels a cell)"

    @property
    def pixels_per_cell(self) -> int:
        """Image pixels along a side of a latent cell."""
        return 2 ** (len(self.net.config["block_out_channels"]) - 1)

    @property
    def downscale_ratio(self) -> int:
        """Image pixels along a side of a latent cell; ComfyUI's name."""
        return self.pixels_per_cell

    upscale_ratio = downscale_ratio

    @property
    def latent_channels(self) -> int:
        """Number of latent channels."""
        return self.net.config["latent_channels"]

    def spacial_compression_encode(self) -> int:
        """Image pixels along a side of a latent cell; ComfyUI's name."""
        return self.pixels_per_cell

    spacial_compression_decode = spacial_compression_encode

    def temporal_compression_decode(self) -> None:
        """Return None: every frame has latents of its own."""

    def throw_exception_if_invalid(self) -> None:
        """Do nothing: a VAE without weights is not loaded."""

    def get_sd(self) -> dict[str, Tensor]:
        """Return the weights by diffusers' names, which ComfyUI reads back."""
        return self.net.state_dict()

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode frames to the mean of the posterior, which is reproducible and what ComfyUI's VAEEncode returns.

        pixels: [frames, height, width, 3 or more], 0..1; sides are cropped about the centre to whole cells
        Returns raw latents [frames, channels, height / cell, width / cell], float32.
        Raises VideoError for what is no clip of numbers 0..1, an empty one, or frames smaller than a cell.
        """
        return self._encoded(pixels, self.net)

    def encode_tiled(
        self,
        pixels: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        **_time: int | None,
    ) -> Tensor:
        """Encode in square tiles that fade into each other, for frames that do not fit the memory whole.

        tile_x, tile_y: pixels, the smaller one counts; overlap: pixels, at most half a tile; None: 512, 64
        Tiles have statistics of their own in the VAE's norms, and so the result is near the whole's, not the same.
        """
        cells = [None if side is None else side // self.pixels_per_cell for side in (tile_x, tile_y, overlap)]
        tiled = self._tiled(*cells)
        return self._encoded(pixels, tiled, tiled.tile_sample_min_size)

    def decode(self, samples: Tensor) -> Tensor:
        """Decode raw latents to frames.

        samples: [frames, channels, h, w]
        Returns [frames, height, width, 3], float32, 0..1.
        Raises VideoError for what is no latents, or those of another shape.
        """
        return self._decoded(samples, self.net)

    def decode_tiled(
        self,
        samples: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        **_time: int | None,
    ) -> Tensor:
        """Decode raw latents in square tiles that fade into each other.

        tile_x, tile_y, overlap: as of `encode_tiled`, but in cells, as ComfyUI's VAEDecodeTiled gives them
        """
        tiled = self._tiled(tile_x, tile_y, overlap)
        return self._decoded(samples, tiled, tiled.tile_latent_min_size)

    @torch.no_grad()
    def _encoded(self, pixels: Tensor, net: AutoencoderKL, tile: int | None = None) -> Tensor:
        """tile: pixels along a side of what `net` computes in one go; None: whole frames"""
        check_frames(pixels, "the clip", more_channels=True)
        frames, height, width = pixels.shape[:3]
        cell = self.pixels_per_cell
        if height < cell or width < cell:
            raise VideoError(
                f"the clip has {frames} frames of {height}x{width}; at least one frame of {cell}x{cell} pixels is "
                f"needed. Check the video and its start and count."
            )
        prepared(self.load_to_device, _working_memory((tile or height, tile or width), self.net.dtype))
        top, left = height % cell // 2, width % cell // 2
        cropped = pixels[:, top : top + height // cell * cell, left : left + width // cell * cell, :3]
        means = []
        for part in rearrange(cropped, "f h w c -> f c h w").split(FRAMES_AT_ONCE):
            images = part.mul(2).sub(1).to(self.net.device, self.net.dtype)
            means.append(net.encode(images).latent_dist.mean.float().to(pixels.device))
        return self._finite(torch.cat(means), "latents", cropped)

    @torch.no_grad()
    def _decoded(self, samples: Tensor, net: AutoencoderKL, tile: int | None = None) -> Tensor:
        """tile: cells along a side of what `net` computes in one go; None: whole frames"""
        if not isinstance(samples, Tensor):
            raise VideoError(
                f"{described(samples)} came in place of latents; a tensor [frames, {self.latent_channels}, height, "
                f"width] is needed. Give `latents` of what edit(...) returned."
            )
        if samples.ndim != 4 or samples.shape[1] != self.latent_channels or not samples.numel():
            raise VideoError(
                f"latents shaped {list(samples.shape)} came; this VAE decodes [frames, {self.latent_channels}, height, "
                f"width] of Stable Diffusion 1.x and 2.x. Latents of video models need the VAE of their own model."
            )
        pixels_at_once = [(tile or side) * self.pixels_per_cell for side in samples.shape[-2:]]
        prepared(self.load_to_device, _working_memory(pixels_at_once, self.net.dtype))
        images = []
        for part in samples.split(FRAMES_AT_ONCE):
            decoded = net.decode(part.to(self.net.device, self.net.dtype)).sample
            images.append(decoded.float().to(samples.device))
        frames = rearrange(torch.cat(images), "f c h w -> f h w c")
        return self._finite(frames, "frames", samples).add_(1).div_(2).clamp_(0, 1)

    def _finite(self, gives: Tensor, what: str, source: Tensor) -> Tensor:
        """Return `gives`; raises VideoError unless all of it is finite, for other frames would be saved black."""
        if gives.isfinite().all():
            return gives
        if not source.isfinite().all():
            cause, advice = "its input is not finite either", "Look where that comes from."
        elif advice := broken_weights(self.net.named_parameters()):
            cause = "its input is finite"
        else:
            cause = f"it computes in {self.net.dtype}"
            advice = "Load the VAE in float32: some leave the range of half precision, and frames go black."
        raise VideoError(f"the VAE gives {what} that are not finite (NaN or infinite), and {cause}. {advice}")

    def _tiled(self, x: int | None, y: int | None, overlap: int | None) -> AutoencoderKL:
        """Return diffusers' VAE set to tiles, over the same weights. x, y, overlap: cells."""
        cell = self.pixels_per_cell
        side = max(min(TILE_SIDE // cell if tile is None else tile for tile in (x, y)), 2)
        overlap = min(TILE_OVERLAP // cell if overlap is None else max(overlap, 0), side // 2)
        tiled = copy.copy(self.net)
        tiled.use_tiling = True
        tiled.tile_latent_min_size, tiled.tile_sample_min_size = side, side * cell
        # diffusers rounds products of it down, and a float has a rounding error.
        tiled.tile_overlap_factor = cast(float, Fraction(overlap, side))
        return tiled


def _working_memory(sides: Sequence[int], dtype: torch.dtype) -> int:
    """Bytes that the frames in work at once need beside the weights; sides: their height and width in pixels."""
    return FRAMES_AT_ONCE * math.prod(sides) * dtype.itemsize * BYTES_PER_PIXEL_AND_BYTE
