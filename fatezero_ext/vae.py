"""Frames to latents and back, with the same calls as a ComfyUI VAE object."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import AutoencoderKL
from einops import rearrange
from torch import Tensor

from .errors import VideoError
from .residence import Prepare, stay

FRAMES_AT_ONCE = 8  # bounds memory; frames are independent in the VAE
BYTES_PER_PIXEL_AND_BYTE = 2_178  # ComfyUI's own estimate for decoding with a Stable Diffusion VAE


class VideoVAE:
    """An image VAE applied frame by frame; latents are raw (not multiplied by the scaling factor)."""

    def __init__(self, net: AutoencoderKL) -> None:
        self.net = net.requires_grad_(False).eval()
        self.prepare: Prepare = stay

    def __repr__(self) -> str:
        return f"VideoVAE({self.net.config.latent_channels} channels, {self.pixels_per_cell} pixels a cell)"

    @property
    def pixels_per_cell(self) -> int:
        """Image pixels along one side of a latent cell."""
        return 2 ** (len(self.net.config.block_out_channels) - 1)

    @property
    def downscale_ratio(self) -> int:
        """Pixels a cell, under ComfyUI's name."""
        return self.pixels_per_cell

    @property
    def latent_channels(self) -> int:
        """Of the latents."""
        return self.net.config.latent_channels

    def spacial_compression_encode(self) -> int:
        """Pixels a cell; ComfyUI's spelling."""
        return self.pixels_per_cell

    spacial_compression_decode = spacial_compression_encode

    def temporal_compression_decode(self) -> None:
        """None: frames are images."""

    def throw_exception_if_invalid(self) -> None:
        """ComfyUI asks before it saves a VAE."""

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """The posterior mean of frames, which is reproducible and what ComfyUI's VAEEncode gives.

        pixels: [frames, height, width, 3 or more], 0..1; sides are cropped about the centre to whole cells
        Returns raw latents [frames, channels, height / cell, width / cell], float32.
        Raises VideoError for an empty clip, frames smaller than a cell, or another number of axes.
        """
        if pixels.ndim != 4:
            raise _not_frames(pixels, "[frames, height, width, 3]", "Load Video")
        frames, height, width = pixels.shape[:3]
        cell = self.pixels_per_cell
        if not frames or height < cell or width < cell:
            raise VideoError(
                f"the clip has {frames} frames of {height}x{width}; at least one frame of {cell}x{cell} pixels is "
                f"needed. Check the video and its start and count."
            )
        self.prepare(_working_memory(height, width, self.net.dtype))
        top, left = height % cell // 2, width % cell // 2
        cropped = pixels[:, top : top + height // cell * cell, left : left + width // cell * cell, :3]
        images = rearrange(cropped, "f h w c -> f c h w").mul(2).sub(1).to(self.net.device, self.net.dtype)
        means = [self.net.encode(part).latent_dist.mean for part in images.split(FRAMES_AT_ONCE)]
        return torch.cat(means).float().to(pixels.device)

    @torch.no_grad()
    def decode(self, samples: Tensor) -> Tensor:
        """samples: raw latents [frames, channels, h, w] -> frames [frames, height, width, 3], float32, 0..1.

        Raises VideoError for another number of axes.
        """
        if samples.ndim != 4:
            raise _not_frames(samples, "[frames, channels, height, width]", "P2P Edit or VAE Encode")
        height, width = (side * self.pixels_per_cell for side in samples.shape[-2:])
        self.prepare(_working_memory(height, width, self.net.dtype))
        latents = samples.to(self.net.device, self.net.dtype)
        images = torch.cat([self.net.decode(part).sample for part in latents.split(FRAMES_AT_ONCE)])
        pixels = rearrange(images.float(), "f c h w -> f h w c")
        return pixels.add(1).div(2).clamp(0, 1).to(samples.device)

    def encode_tiled(
        self, pixels: Tensor, tile_x: int = 512, tile_y: int = 512, overlap: int = 64, **_time: object
    ) -> Tensor:
        """`encode` in tiles that are faded into each other, for large frames; sizes are pixels, the larger side counts.

        Seams differ from `encode`: the network sees less at a tile's edge.
        """
        with self._tiles(max(tile_x, tile_y) // self.pixels_per_cell, overlap // self.pixels_per_cell):
            return self.encode(pixels)

    def decode_tiled(
        self, samples: Tensor, tile_x: int = 64, tile_y: int = 64, overlap: int = 16, **_time: object
    ) -> Tensor:
        """`decode` in tiles that are faded into each other; sizes are cells."""
        with self._tiles(max(tile_x, tile_y), overlap):
            return self.decode(samples)

    @contextmanager
    def _tiles(self, tile: int, overlap: int) -> Iterator[None]:
        """diffusers' own tiling, for one call."""
        tile = max(tile, 1)
        sizes = {
            "tile_latent_min_size": tile,
            "tile_sample_min_size": tile * self.pixels_per_cell,
            "tile_overlap_factor": min(max(overlap, 0) / tile, 0.75),
            "use_tiling": True,
        }
        before = {name: getattr(self.net, name) for name in sizes}
        vars(self.net).update(sizes)
        try:
            yield
        finally:
            vars(self.net).update(before)


def _not_frames(x: Tensor, wanted: str, node: str) -> VideoError:
    return VideoError(
        f"a tensor shaped {list(x.shape)} came; the frames of one clip, {wanted}, are needed. Connect {node}."
    )


def _working_memory(height: int, width: int, dtype: torch.dtype) -> int:
    """Bytes that frames of height x width pixels need beside the weights, as many as are in work at once."""
    return FRAMES_AT_ONCE * height * width * dtype.itemsize * BYTES_PER_PIXEL_AND_BYTE
