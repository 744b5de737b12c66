"""A native ComfyUI MODEL under attention control: zero-shot, through the model's own attention replacement points.

Everything a MODEL carries applies as it is: LoRA, quantised weights, other packs' patches, ComfyUI's memory management.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ...fatezero_ext.attention.clip_parts import PartAttention
from ...fatezero_ext.attention.controlled_layer import ControlledLayer
from ...fatezero_ext.attention.functional import Attend, merge_heads, split_heads
from ...fatezero_ext.attention.kernels import kernel
from ...fatezero_ext.attention.key_frames import DEFAULT_KEY_FRAMES, KeyFrame, resolve_key_frames
from ...fatezero_ext.attention.sites import Kind, LayerAddress, Site, Stage
from ...fatezero_ext.diffusion.noise_model import LatentFormat, NoiseModel, Result
from ...fatezero_ext.diffusion.schedule import STABLE_DIFFUSION_SCHEDULER, Schedule
from ...fatezero_ext.digests import combined, weights_digest
from ...fatezero_ext.errors import ModelError
from .checks import (
    check_frames_stay_together,
    check_kind,
    described_patches,
    extras_of,
    parts_that_may_see_all_frames,
    uncacheable_parts,
    warn_of_guidance,
)
from .sampling import Session, within_sampling

EDITED = 0  # ComfyUI names the texts of a call by index; the one that is recorded and edited comes first
WIDTH_OF_2X = 1024
"""Width of the text embeddings of Stable Diffusion 2.x; 1.x has 768."""
CALL, INPUTS = "fatezero_call", "fatezero_inputs"
"""Keys of ComfyUI's transformer options: the `_Call`, and the input of the layer that runs."""


@dataclass(frozen=True)
class _Call:
    """One call of the model, as the replacements see it.

    attend: computes a batch whose last chunk is the one that is recorded or edited
    others: computes a batch without it
    """

    attend: Attend
    others: Attend
    sites: Mapping[LayerAddress, Site] = field(default_factory=dict)


@dataclass(frozen=True)
class _Run:
    """One run of a model.

    session: ComfyUI's sampling, which lasts as long as the run
    sigmas:  noise levels of the model's sampling, on its device
    """

    session: Session
    sigmas: Tensor


_RUNS: ContextVar[Mapping[NativeModel, _Run]] = ContextVar("fatezero_native_runs", default=MappingProxyType({}))
"""The runs of this thread, by model: a controller may run another one inside."""


class NativeModel(NoiseModel):
    """A ComfyUI MODEL of Stable Diffusion 1.x or 2.x kind; frames share keys as in the pseudo-3D UNet.

    The MODEL itself is never changed: each run patches a clone of it. Threads may share one; ComfyUI samples for one
    thread at a time.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - ComfyUI's ModelPatcher
        key_frames: Sequence[KeyFrame] = DEFAULT_KEY_FRAMES,
        conditioning: Any = None,  # noqa: ANN401 - ComfyUI's CONDITIONING
    ) -> None:
        """key_frames: see `resolve_key_frames`; conditioning: its ControlNets take part in every call, None: none.

        Raises ModelError for a MODEL of another kind, SettingsError for conditioning with more than ControlNets.
        """
        super().__init__()
        resolve_key_frames(key_frames, frames=1)
        self.model, self.extras = model, extras_of(conditioning)
        self.name = f"MODEL ({check_kind(model)})"
        warn_of_guidance(model)
        self.latent_format = LatentFormat(scale=model.model.latent_format.scale_factor)
        self._net, self._sampling = model.model.diffusion_model, model.get_model_object("model_sampling")
        self._places = dict(_layers(self._net, tuple(key_frames), _changed_inputs(model)))
        self.layers = tuple(self._places)
        self.kernel = kernel("auto", self.device, self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.model.manual_cast_dtype or self.model.model_dtype()

    @property
    def device(self) -> torch.device:
        return self.model.load_device

    @property
    def channels(self) -> int:
        return self._net.in_channels

    @property
    def text_width(self) -> int:
        to_k: Any = self.layers[-1].module.to_k
        return to_k.in_features

    @property
    def levels(self) -> int:
        return 1 + sum(1 for block in self._net.input_blocks for module in block if _is(module, "Downsample"))

    @property
    def trained_side(self) -> int:
        """64 cells, 512 pixels; of Stable Diffusion 2.x the models that predict velocity 96, 768 pixels."""
        return 96 if self._prediction == "v_prediction" and self.text_width == WIDTH_OF_2X else 64

    @property
    def uncacheable_parts(self) -> str:
        return uncacheable_parts(self.model, self.extras)

    @property
    def needs_whole_clip(self) -> str:
        unknown = parts_that_may_see_all_frames(self.model, self.extras)
        return f"{self.name} has {unknown}, which may look at all frames at once. Take it off." if unknown else ""

    def schedule(self, steps: int) -> Schedule:
        """Return DDIM's timesteps on the noise levels of the model's own sampling."""
        sigmas = self._sampling.sigmas.double().cpu()
        alphas = (1 / (1 + sigmas**2)).tolist()
        config = {"num_train_timesteps": len(alphas), "prediction_type": self._prediction}
        schedule = Schedule.from_config({**STABLE_DIFFUSION_SCHEDULER, **config}, steps)
        return replace(schedule, alphas=tuple(alphas), final_alpha=alphas[0])

    @property
    def _prediction(self) -> str:
        kinds = {kind.__name__ for kind in type(self._sampling).__mro__}
        return "v_prediction" if "V_PREDICTION" in kinds else "epsilon"

    def digest(self) -> str:
        """Digest of the weights without patches, of the key frames and of the patches."""
        originals = {name: entry.weight for name, entry in self.model.backup.items()}
        weights = {name: originals.get(f"diffusion_model.{name}", x) for name, x in self._net.state_dict().items()}
        keys = [list(layer.key_frames) for layer in self.layers]
        patches = described_patches(self.model.patches)
        return combined({"weights": weights_digest(weights), "key frames": keys, "patches": patches})

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        return self._net.named_parameters()

    def run(self, work: Callable[[], Result], chunks: int, frames: int, height: int, width: int) -> Result:
        """Do `work` inside ComfyUI's sampling, whose own estimate says how much memory to free."""
        if self in _RUNS.get():
            return work()
        check_frames_stay_together(self.model, frames)

        def inside(session: Session) -> Result:
            run = _Run(session, self._sampling.sigmas.to(self.device))
            token = _RUNS.set({**_RUNS.get(), self: run})
            try:
                return work()
            finally:
                _RUNS.reset(token)
                self.forget_sites()

        shape = (frames, self.channels, height, width)
        return within_sampling(self._patched(), self.extras, shape, self.text_width, inside)

    def __call__(
        self, latents: Tensor, timestep: int | Tensor, text: Tensor, *, frames: int, attend: Attend | None = None
    ) -> Tensor:
        self.check_call(latents, text, frames)
        if len(latents) != frames:
            raise ModelError(
                f"{len(latents)} latents came for {frames} frames; a MODEL takes one clip under all texts. Give the "
                f"clip once."
            )
        run = _RUNS.get().get(self)
        if run is None:
            return self.run(
                lambda: self(latents, timestep, text, frames=frames, attend=attend),
                len(text), frames, *latents.shape[-2:],
            )  # fmt: skip
        step = torch.as_tensor(timestep, device=latents.device).reshape(1)
        sigma = run.sigmas.to(latents.device).index_select(0, step)
        x = latents.float() * (1 + sigma**2).sqrt()
        others, part = self.attend, None
        if isinstance(attend, PartAttention):
            others, part = attend.of_others(self.attend), attend.part.frames
        call = _Call(attend or others, others, self.sites(frames, *latents.shape[-2:]))
        # The last text first: ComfyUI joins a batch back to front, and so nothing has to be put in order again.
        clean = run.session.denoised(x, sigma.expand(frames), text.split(1)[::-1], {CALL: call}, part)
        prediction = torch.cat([self._predicted(x, found, sigma) for found in reversed(clean)])
        return prediction.to(latents.dtype)

    def _predicted(self, x: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
        """Return the model's prediction: a DDIM step on it is an Euler step on ComfyUI's scale."""
        if self._prediction == "epsilon":
            return (x - clean) / sigma
        alpha = 1 / (1 + sigma**2)
        return (x * alpha - clean) / (1 - alpha).sqrt()

    def _patched(self) -> Any:  # noqa: ANN401 - ComfyUI's ModelPatcher
        """Return a clone of the MODEL whose attention calls this object, and through it other packs' replacements."""
        clone = self.model.clone()
        replaced = clone.model_options["transformer_options"].get("patches_replace", {})
        for layer, (block, number) in self._places.items():
            point = "attn2" if layer.address.kind == "cross" else "attn1"
            theirs = replaced.get(point, {})
            foreign = theirs.get((block, number, 0), theirs.get((block, number)))
            clone.set_model_patch_replace(self._replacement(layer, foreign), point, block, number, 0)
        clone.set_model_attn1_patch(_tell_inputs)
        return clone

    def _replacement(self, layer: ControlledLayer, foreign: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
        """Return a function to replace a layer's attention; a closure, as ComfyUI copies other callables with a MODEL.

        What another pack's replacement adds to plain attention, as image prompts do, is added to the controlled one.
        """

        def split(x: Tensor) -> Tensor:
            return split_heads(x, layer.heads)

        def attention(q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]) -> Tensor:
            site = options[CALL].sites[layer.address]
            self._check_shapes(site, q, k, options["cond_or_uncond"])
            out = merge_heads(_attended(site, split(q), split(k), split(v), options))
            if foreign is None:
                return out
            own = replace(site, key_frames=())
            unchanged = self.kernel(split(q), split(k), split(v), own)
            return out + foreign(q, k, v, options) - merge_heads(unchanged)

        return attention

    def _check_shapes(self, site: Site, q: Tensor, k: Tensor, texts: Sequence[int]) -> None:
        """Raise ModelError if a patch on the MODEL has changed a layer's batch or cells."""
        batch, cells = len(texts) * site.frames, site.cells
        own_keys = site.is_cross or k.shape[1] % cells == 0
        if len(q) != batch or len(k) != batch or q.shape[1] != cells or not own_keys:
            raise ModelError(
                f"{self.name}: {site.address} got {list(q.shape[:2])} cells where {[batch, cells]} are needed; a "
                f"patch on the MODEL (HyperTile, token merging, Deep Shrink, regional prompts) changes them. Take it "
                f"off."
            )


def _tell_inputs(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Note a self-attention layer's input in the block's own options, from which the replacement behind it reads it."""
    options[INPUTS] = n if context is n and value is n else None
    return n, context, value


def _attended(site: Site, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]) -> Tensor:
    """Compute the attention of a batch under control, its recorded or edited chunk last, as `attend` expects it."""
    call, texts = options[CALL], list(options["cond_or_uncond"])
    if not site.is_cross:
        site = replace(site, inputs=options.get(INPUTS))
    if EDITED not in texts:
        return call.others(q, k, v, site)
    at = texts.index(EDITED)
    if at == len(texts) - 1:
        return call.attend(q, k, v, site)
    turned = len(texts) - 1 - at  # chunks behind the edited one go in front of all
    q, k, v = (x.roll(turned * site.frames, 0) for x in (q, k, v))
    if site.inputs is not None:
        site = replace(site, inputs=site.inputs.roll(turned * site.frames, 0))
    return call.attend(q, k, v, site).roll(-turned * site.frames, 0)


def _is(module: nn.Module, name: str) -> bool:
    return type(module).__name__ == name


def _changed_inputs(model: Any) -> frozenset[str]:  # noqa: ANN401 - ComfyUI's ModelPatcher
    """Return the kinds of attention whose inputs other packs change: queries and keys are not their projections."""
    patches = model.model_options["transformer_options"].get("patches", {})
    return frozenset(kind for kind, point in (("self", "attn1_patch"), ("cross", "attn2_patch")) if patches.get(point))


def _layers(
    net: Any,  # noqa: ANN401 - ComfyUI's UNet
    key_frames: tuple[KeyFrame, ...],
    changed: frozenset[str],
) -> Iterator[tuple[ControlledLayer, tuple[str, int]]]:
    """Yield every attention layer in running order, with the block's name and number in ComfyUI."""
    units: dict[tuple[str, int], int] = {}
    for place, stage, index, level, transformer in _transformers(net):
        unit = units[stage, index] = units.get((stage, index), -1) + 1
        attentions: tuple[tuple[Kind, Any], ...] = (("self", transformer.attn1), ("cross", transformer.attn2))
        for kind, attn in attentions:
            layer = ControlledLayer(
                address=LayerAddress(stage, index, unit, kind),
                level=level,
                key_frames=key_frames if kind == "self" else (),
                module=attn,
                query_dim=attn.to_q.in_features,
                heads=attn.heads,
                dim_head=attn.dim_head,
                upcast=attn.attn_precision == torch.float32,
                projects=kind not in changed,
            )
            yield layer, place


def _transformers(net: Any) -> Iterator[tuple[tuple[str, int], Stage, int, int, Any]]:  # noqa: ANN401 - ComfyUI's UNet
    """Yield (ComfyUI's block, stage, block of the stage, level, transformer block), named as in diffusers."""

    def found(block: Any) -> list[Any]:  # noqa: ANN401 - ComfyUI's block
        return [module.transformer_blocks[0] for module in block if hasattr(module, "transformer_blocks")]

    level = 0
    for number, block in enumerate(net.input_blocks):
        for transformer in found(block):
            yield ("input", number), "down", level, level, transformer
        level += any(_is(module, "Downsample") for module in block)
    deepest = level
    for transformer in found(net.middle_block):
        yield ("middle", 0), "mid", 0, deepest, transformer
    for number, block in enumerate(net.output_blocks):
        for transformer in found(block):
            yield ("output", number), "up", deepest - level, level, transformer
        level -= any(_is(module, "Upsample") for module in block)
