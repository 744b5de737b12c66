"""Work done inside ComfyUI's own sampling; comfy is imported inside functions only."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...fatezero_ext.diffusion.noise_model import Result

_SAMPLING = threading.RLock()
"""ComfyUI's sampling loads, patches and unloads models that all clones share: one thread at a time. Again in the same
thread, as when a controller runs another MODEL inside, is allowed."""


class Session:
    """A MODEL that ComfyUI has loaded and prepared, as long as its sampling lasts."""

    def __init__(self, model: Any, options: dict[str, Any], extras: dict[str, Any], noise: Tensor) -> None:  # noqa: ANN401
        """model: ComfyUI's BaseModel; options: its patcher's; extras: of every conditioning, such as a ControlNet."""
        self._model, self._options, self._extras, self._noise = model, options, extras, noise
        self._encoded: dict[tuple[object, ...], tuple[Tensor, Any]] = {}
        self._cut: tuple[Sequence[int], dict[str, Any]] = ((), {})

    def denoised(
        self,
        x: Tensor,
        sigma: Tensor,
        texts: Sequence[Tensor],
        extra: Mapping[str, Any],
        part: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Return the model's estimates of the clean latents, one for each text.

        x:     [frames, channels, height, width] at noise level `sigma` [frames], ComfyUI's scale
        texts: [1, tokens, width] each; ComfyUI says in `cond_or_uncond` which of them, by index, a batch is made of
               and puts the first one last
        extra: entries of `transformer_options` in this call, for every patch on the model
        part:  the frames' numbers in the clip, whose pictures ControlNets get; None: it is whole
        """
        from comfy.samplers import calc_cond_batch

        extras = self._extras if part is None else self._extras_of(part)
        conditions = [[{**condition, **extras} for condition in self._condition(text)] for text in texts]
        options = {**self._options, "transformer_options": {**self._options["transformer_options"], **extra}}
        return calc_cond_batch(self._model, conditions, x, sigma, options)

    def _condition(self, text: Tensor) -> Any:  # noqa: ANN401 - ComfyUI's encoded conditioning
        """Encode a text once; its tensor is held, so that its address identifies it."""
        from comfy.sampler_helpers import convert_cond
        from comfy.samplers import process_conds

        key = (text.data_ptr(), *text.shape)
        if key not in self._encoded:
            # ControlNets were prepared with the placeholder; some would be built anew each time.
            prompts = {"positive": convert_cond([[text, {}]])}
            encoded = process_conds(self._model, self._noise, prompts, self._noise.device)["positive"]
            self._encoded[key] = (text, encoded)
        return self._encoded[key][1]

    def _extras_of(self, part: Sequence[int]) -> dict[str, Any]:
        """Return the extras of a part of a clip; those of one part are held, so that the device never has them all."""
        if self._cut[0] != part:
            control = self._extras.get("control")
            cut = {} if control is None else {"control": _of_frames(control, part)}
            self._cut = (part, {**self._extras, **cut})
        return self._cut[1]


def _of_frames(control: Any, part: Sequence[int]) -> Any:  # noqa: ANN401 - ComfyUI's ControlBase
    """Return a ControlNet as prepared for this run, with the pictures of some frames of the clip.

    Fewer pictures than frames are taken in turn, as ComfyUI does.
    """
    cut = copy.copy(control)
    cut.cond_hint = cut.control_input = None  # made of all pictures
    if (hints := control.cond_hint_original) is not None:
        rows = [frame % len(hints) for frame in part]
        cut.cond_hint_original = hints[rows]
        cut.extra_concat_orig = [mask[[row % len(mask) for row in rows]] for mask in control.extra_concat_orig]
    if control.previous_controlnet is not None:
        cut.previous_controlnet = _of_frames(control.previous_controlnet, part)
    return cut


def within_sampling(
    patcher: Any,  # noqa: ANN401 - ComfyUI's ModelPatcher
    extras: dict[str, Any],
    shape: tuple[int, int, int, int],
    text_width: int,
    work: Callable[[Session], Result],
) -> Result:
    """Let ComfyUI load and prepare the model (and ControlNets), do `work`, and let it clean up, whatever happens.

    shape: of the clip's latents
    """
    from comfy.samplers import CFGGuider, Sampler

    done: list[Result] = []

    class Work(Sampler):
        def sample(
            self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], _callback: Any, noise: Tensor, *_rest: Any, **_more: Any  # noqa: ANN401, E501
        ) -> Tensor:  # fmt: skip
            done.append(work(Session(model_wrap.inner_model, extra_args["model_options"], extras, noise)))
            return noise

    guider = CFGGuider(patcher)
    placeholder = [[torch.zeros(1, 77, text_width), extras]]  # brings the ControlNets; each call has texts of its own
    guider.set_conds(placeholder, placeholder)
    noise = torch.zeros(shape)
    sigmas = patcher.get_model_object("model_sampling").sigmas[[-1, 0]]
    with _SAMPLING:
        guider.sample(noise, noise, Work(), sigmas.cpu(), disable_pbar=True)
    return done[0]
