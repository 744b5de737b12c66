"""What is measured: Stable Diffusion 1.5's shape with random weights, made on the device; or a tiny one of its kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.subjects import EDITS, SOURCE, STABLE_DIFFUSION_15, Subject
from fatezero_ext import Controller, InflationSettings, Pseudo3DUNet, Storage, edit, invert
from fatezero_ext.attention.kernels import kernel
from fatezero_ext.choices import Kernel
from fatezero_ext.diffusion.schedule import Schedule
from fatezero_ext.editing.edit import EditResult
from fatezero_ext.editing.plan import compile_edit
from fatezero_ext.models.load import VideoModel
from fatezero_ext.models.single_file.checkpoint import TOKENIZER
from fatezero_ext.models.text_encoder import ClipTextEncoder
from fatezero_ext.models.vae import VideoVAE
from fatezero_ext.prompts.prompt import read_prompt

TINY_UNET = {**STABLE_DIFFUSION_15, "block_out_channels": (16, 16, 16, 16), "layers_per_block": 1,
             "cross_attention_dim": 16, "attention_head_dim": 2, "norm_num_groups": 4}  # fmt: skip
VAE_15 = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
TINY_VAE = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
TEXT_15 = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TINY_TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@dataclass(frozen=True)
class Scale:
    """How much is computed, and where.

    frames: of the clips, the usual one first; side: of the latents, cells
    steps:  of a whole job; few: of what is repeated; pairs: of timings; calls: of the UNet, timed on their own
    limits: of memory that an edit is tried under
    """

    device: torch.device
    tiny: bool
    dtype: torch.dtype
    frames: tuple[int, ...]
    side: int
    steps: int
    few: int
    pairs: int
    calls: int
    limits: int
    unet: Mapping[str, object]
    vae: Mapping[str, object]
    text: Mapping[str, object]


def full_scale(device: torch.device) -> Scale:
    """Stable Diffusion 1.5 in half precision, clips of 512x512."""
    return Scale(device, False, torch.float16, (8, 16, 32), 64, 50, 10, 3, 10, 12, STABLE_DIFFUSION_15, VAE_15, TEXT_15)


def tiny_scale(device: torch.device) -> Scale:
    """The same code in seconds on one core."""
    return Scale(device, True, torch.float32, (2, 3), 8, 3, 3, 1, 1, 6, TINY_UNET, TINY_VAE, TINY_TEXT)


@dataclass(frozen=True)
class Scene:
    """A model on its device, and what is done with it."""

    scale: Scale
    model: VideoModel

    @cached_property
    def texts(self) -> Tensor:
        """[3, 77, width] source, negative and edit."""
        return torch.cat([self.model.text_encoder.encode(text) for text in (SOURCE, "", EDITS["style"][0])])

    def clip(self, frames: int | None = None) -> Tensor:
        """Raw latents [frames, 4, side, side] of a clip, on the CPU as a VAE gives them."""
        generator = torch.Generator().manual_seed(0)
        scale = self.scale
        x = torch.randn(frames or scale.frames[0], 4, scale.side, scale.side, generator=generator)
        return x / self.model.unet.latent_format.scale

    def subject(self, frames: int | None = None, steps: int | None = None, name: str = "style") -> Subject:
        """The clip with a plan of one of EDITS, for what goes below the public calls."""
        scale, unet, text = self.scale, self.model.unet, self.model.text_encoder
        steps = steps or scale.steps
        words, settings = EDITS[name]
        source = read_prompt(text, SOURCE)
        plan = compile_edit(settings, source, read_prompt(text, words), steps)
        latents = (self.clip(frames) * unet.latent_format.scale).to(scale.device)
        return Subject(
            unet, latents, self.texts.to(scale.device), source, plan, Schedule.from_config(unet.scheduler, steps)
        )

    def inverted(
        self, storage: Storage, *, frames: int | None = None, steps: int | None = None, **more: object
    ) -> Controller:
        """The public call: a clip's inversion, one UNet call a step unless `inversion_passes` asks for more."""
        controller = Controller(self.model.unet, storage=storage)
        given: dict[str, Any] = {"steps": steps or self.scale.steps, "inversion_passes": 0, **more}
        return invert(controller, self.model.text_encoder, self.clip(frames), SOURCE, **given)

    def edited(self, controller: Controller, name: str = "style", **more: object) -> EditResult:
        """The public call: one of EDITS."""
        words, settings = EDITS[name]
        return edit(controller, self.model.text_encoder, words, settings, **more)

    def with_kernel(self, name: Kernel) -> Scene:
        """The same scene, its UNet's attention computed by another kernel."""
        unet = self.model.unet.with_weights({}, name=f"{self.model.unet.name}, {name}")
        unet.kernel = kernel(name, self.scale.device, self.scale.dtype)
        return replace(self, model=replace(self.model, unet=unet))


def build_scene(scale: Scale) -> Scene:
    """Make all parts with random weights where they compute: on a GPU that takes a second, on a CPU a minute."""
    unet = Pseudo3DUNet(random_unet(scale), InflationSettings(), name="Stable Diffusion 1.5's shape")
    unet.kernel = kernel("auto", scale.device, scale.dtype)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True, model_max_length=77)
    with _made_on(scale):
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, **scale.vae
        )
        text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **scale.text))
    text.to(scale.device, scale.dtype)
    return Scene(scale, VideoModel(unet, ClipTextEncoder(tokenizer, text), VideoVAE(vae)))


def random_unet(scale: Scale) -> UNet2DConditionModel:
    """A 2-D UNet with random weights, not inflated."""
    with _made_on(scale):
        return UNet2DConditionModel(**scale.unet).requires_grad_(False).eval()


@contextmanager
def _made_on(scale: Scale) -> Iterator[None]:
    """Weights come into being on the device, in their dtype, from a seed."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(scale.dtype)
    try:
        with torch.device(scale.device):
            yield
    finally:
        torch.set_default_dtype(before)
