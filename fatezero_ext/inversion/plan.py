"""A checked inversion that has not been computed yet: enough to check edits against."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..attention.clip_parts import Parts
from ..diffusion.noise_model import NoiseModel
from ..diffusion.schedule import Schedule
from ..errors import SettingsError
from ..prompts.prompt import Prompt, TextEncoder, read_prompt
from .arguments import check_controller, check_latents, check_passes, check_text_encoder
from .controller import Controller
from .footprint import ClipShape
from .recording import Capture


@dataclass(frozen=True)
class InversionPlan:
    """All that is known of an inversion before its first step.

    controller: what to record of which UNet, and where to keep it
    schedule:   the steps
    prompt:     the source prompt
    latents:    [frames, channels, height, width] float32, the clip, scaled
    inversion_passes: fixed-point passes of each step, see `invert`
    frames_at_once: most frames that one call of the UNet computes, see `invert`
    """

    controller: Controller
    schedule: Schedule
    prompt: Prompt
    latents: Tensor
    inversion_passes: int = 0
    frames_at_once: int = 0

    @property
    def unet(self) -> NoiseModel:
        return self.controller.unet

    @property
    def capture(self) -> Capture:
        return self.controller.capture

    @property
    def frames(self) -> int:
        return len(self.latents)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the clip in cells."""
        height, width = self.latents.shape[-2:]
        return height, width

    @property
    def parts(self) -> Parts:
        """The parts in which the clip is computed."""
        return self.unet.parts(self.frames, self.frames_at_once)

    def shape(self, tokens: int) -> ClipShape:
        """Return the clip's shape under a text of so many tokens."""
        return ClipShape(self.frames, *self.size, tokens)


def plan_inversion(
    controller: Controller,
    text_encoder: TextEncoder,
    latents: Tensor,
    source_prompt: str,
    *,
    steps: int = 50,
    inversion_passes: int = 1,
    frames_at_once: int = 0,
) -> InversionPlan:
    """Check an inversion without computing anything. Takes and raises what `invert` does."""
    check_passes(inversion_passes)
    check_controller(controller)
    check_text_encoder(text_encoder)
    unet = controller.unet
    prompt = read_prompt(text_encoder, source_prompt, "source prompt")
    schedule = unet.schedule(steps)
    check_latents(latents, unet)
    _check_repeatable(controller)
    scaled = latents.float() * unet.latent_format.scale
    unet.parts(len(latents), frames_at_once, controlled=True)  # raises for what cannot be split
    return InversionPlan(controller, schedule, prompt, scaled, int(inversion_passes), frames_at_once)


def _check_repeatable(controller: Controller) -> None:
    """Raise SettingsError if the storage needs a repeatable run but the model or a controller may not repeat itself."""
    storage, unet = controller.storage, controller.unet
    unet.report_left_out()
    if storage.place == "disk" and unet.uncacheable_parts:
        raise SettingsError(
            f"place 'disk' cannot be used: {unet.name} has {unet.uncacheable_parts}, which cannot be identified in a "
            f"later session. Keep attention in ram or on the gpu."
        )
    if unet.attend is unet.kernel or not (storage.recomputes or storage.place == "disk"):
        return
    needs = (
        f"policy {storage.policy!r} needs to run the source twice with the same result"
        if storage.recomputes
        else "place 'disk' needs an inversion that can be identified in a later session"
    )
    raise SettingsError(
        f"{needs}; a registered controller may change between runs. Use policy features in ram or on the gpu, or "
        f"unregister it."
    )
