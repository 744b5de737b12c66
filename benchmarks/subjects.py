"""What is measured: a UNet, a clip, two prompts, without pictures or text encoders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from fatezero_ext import BlendSettings, Capture, EditSettings, InflationSettings, Pseudo3DUNet, load_model, load_unet
from fatezero_ext.attention.clip_parts import Parts
from fatezero_ext.diffusion.schedule import Schedule
from fatezero_ext.editing.loop import edit_latents
from fatezero_ext.editing.plan import EditPlan, compile_edit, mask_layers
from fatezero_ext.inversion.footprint import ClipShape, recorded_forms
from fatezero_ext.inversion.loop import Recording, invert_latents
from fatezero_ext.inversion.trace import Trace
from fatezero_ext.prompts.prompt import Prompt, read_prompt
from fatezero_ext.storage.record_store import MemoryStore, Recomputed, RecordStore

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
SOURCE = "a silver jeep driving down a curvy road in the countryside"
EDIT = "watercolor painting of a silver jeep driving down a curvy road in the countryside"
SHAPE_EDIT = "a Porsche car driving down a curvy road in the countryside"
STABLE_DIFFUSION_15 = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
STYLE = EditSettings(
    "refine",
    cross_replace=0.8,
    self_replace=0.8,
    equalizer={"watercolor": 10.0},
    blend=None,
    guidance=7.5,
    quirks="original",
)
SHAPE = EditSettings(
    "replace",
    cross_replace=0.5,
    self_replace=0.5,
    equalizer={},
    blend=BlendSettings(("silver jeep",), ("Porsche car",), 0.3),
    guidance=7.5,
)
EDITS = {"style": (EDIT, STYLE), "shape": (SHAPE_EDIT, SHAPE)}


@dataclass(frozen=True)
class Subject:
    """A UNet with a clip under it.

    latents: [frames, channels, height, width], scaled; texts: [3, 77, width] source, negative, edit
    """

    unet: Pseudo3DUNet
    latents: Tensor
    texts: Tensor
    prompt: Prompt
    plan: EditPlan
    schedule: Schedule

    @property
    def clip(self) -> ClipShape:
        """The clip's shape."""
        return ClipShape(len(self.latents), *self.latents.shape[-2:], self.texts.shape[1])

    def recording(self, policy: str, store: RecordStore | None = None, parts: Parts = ()) -> Recording:
        """Where attention goes under a policy, in memory unless a store is given; parts: of the clip, none: whole."""
        if policy.startswith("recompute"):
            return Recording(Recomputed(int("same level" in policy)), {})
        stored = [list(part.frames) for part in parts] if len(parts) > 1 else []
        kept = MemoryStore(parts=stored) if store is None else store
        return Recording(kept, recorded_forms(self.unet, Capture(), policy, self.clip))

    def inverted(self, recording: Recording, parts: Parts = ()) -> Trace:
        """One whole inversion, of all frames at once unless in parts."""
        return invert_latents(
            self.unet,
            self.latents,
            self.texts[:1],
            self.prompt,
            self.schedule,
            capture=Capture(),
            recording=recording,
            parts=parts,
        )

    def edited(self, trace: Trace, parts: Parts = ()) -> Tensor:
        """One whole edit: its latents."""
        plan = replace(self.plan, mask_layers=mask_layers(self.plan.settings, self.unet, trace))
        return edit_latents(self.unet, trace, plan, self.texts[1:], parts=parts).latents

    def bare_inversion(self) -> Tensor:
        """The same UNet calls and DDIM steps as an inversion, and nothing else."""
        x, timesteps = self.latents, torch.tensor(self.schedule.timesteps, device=self.latents.device)
        with torch.no_grad():
            for step in reversed(range(len(self.schedule))):
                noise = self.unet(x, timesteps[step], self.texts[:1], frames=len(x))
                x = self.schedule.invert(x, noise, step)
        return x

    def bare_edit(self, noise: Tensor) -> Tensor:
        """The same UNet calls, guidance and DDIM steps as an edit, and nothing else."""
        x, timesteps = noise, torch.tensor(self.schedule.timesteps, device=noise.device)
        with torch.no_grad():
            for step in range(len(self.schedule)):
                both = self.unet(x.repeat(2, 1, 1, 1), timesteps[step], self.texts[1:], frames=len(x))
                x = self.schedule.denoise(x, torch.lerp(*both.chunk(2), self.plan.settings.guidance), step)
        return x


def subject(
    model: str,
    frames: int,
    side: int,
    steps: int,
    edit: str = "style",
    *,
    device: str = "cpu",
    dtype: str = "float32",
    norm: Literal["clip", "frame"] = "clip",
) -> Subject:
    """A model with random latents and texts.

    model: "reference": the tests' small model in the setting of reference run B; "sd15": Stable Diffusion 1.5's shape
           with random weights
    side:  of the latents, cells
    edit:  a key of EDITS
    """
    kind = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    if model == "reference":
        settings = InflationSettings(key_frames=("mid",), least_sc_channel=32, norm=norm)
        unet = load_unet(GOLDEN / "model" / "unet", settings, dtype=kind)
    else:
        name = "Stable Diffusion 1.5, random weights"
        unet = Pseudo3DUNet(_random_unet(kind), InflationSettings(norm=norm), name=name)
    unet.net.to(device)
    latents = torch.randn(frames, 4, side, side, generator=generator)
    texts = torch.randn(3, 77, unet.net.config.cross_attention_dim, generator=generator)
    text_encoder = load_model(GOLDEN / "model").text_encoder
    source = read_prompt(text_encoder, SOURCE)
    prompt, edit_settings = EDITS[edit]
    plan = compile_edit(edit_settings, source, read_prompt(text_encoder, prompt), steps)
    schedule = Schedule.from_config(None, steps)
    return Subject(unet, latents.to(device), texts.to(device), source, plan, schedule)


def _random_unet(dtype: torch.dtype) -> UNet2DConditionModel:
    """Weights straight in their dtype, as torch initialises them, from a seed."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return UNet2DConditionModel(**STABLE_DIFFUSION_15)
    finally:
        torch.set_default_dtype(before)
