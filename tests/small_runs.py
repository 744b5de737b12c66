"""Inversions and edits of small random clips, and what they call: for tests of how attention is kept."""

from contextlib import contextmanager

import torch

from fatezero_ext import BlendSettings, Capture, Controller, EditSettings, edit, invert

SOURCE = "a silver jeep driving down a curvy road"
EDIT = "a silver car driving down a curvy road"
REFINED = "a watercolor painting of a silver jeep driving down a curvy road"
STEPS = 5  # self-attention is fused in four of them, latents are blended in two
ROUNDING = 3e-4  # of whole edits, as in golden_checks: the authors' program differs so from itself


NAMED = {
    "mode": "replace",
    "cross_replace": 0.8,
    "self_replace": 0.8,
    "blend": None,
    "guidance": 7.5,
    "hold_still": False,
    "fresh_noise_seed": None,
    "drafts": 1,
    "equalizer": {},
}


def named(*positional, **settings):
    """Settings of which none are left to the program."""
    given = dict(zip(NAMED, positional, strict=False)) | settings
    return EditSettings(**{**NAMED, **given})


BLEND = BlendSettings(("jeep",), ("car",), threshold=0.5, latents=True)
EDITS = {
    "replace": (EDIT, named(guidance=3.0, equalizer={"car": 2.0})),
    "blend": (EDIT, named(guidance=3.0, equalizer={"car": 2.0}, blend=BLEND)),
    "refine": (REFINED, named("refine", guidance=3.0, blend=BlendSettings(("jeep",), ("jeep",), 0.5))),
}


def clip(seed=1, frames=3, height=16, width=16):
    """Latents of a clip of noise."""
    return torch.randn(frames, 4, height, width, generator=torch.Generator().manual_seed(seed))


FRAMES, SIDE, THING = 5, 16, 3


def film(noise=0.0, seed=0):
    """Latents of a ground before a fixed camera, with a thing of 3x3 cells that goes two cells a frame to the right."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(1, 4, SIDE, SIDE, generator=generator).repeat(FRAMES, 1, 1, 1)
    frames += noise * torch.randn(frames.shape, generator=generator)
    covered = torch.zeros(FRAMES, SIDE, SIDE, dtype=torch.bool)
    for number, frame in enumerate(frames):
        covered[number, 6 : 6 + THING, 2 * number + 2 : 2 * number + 2 + THING] = True
        frame[:, covered[number]] = 3.0
    return frames, covered


def inverted(model, storage, *, latents=None, unet=None, prompt=SOURCE, steps=STEPS, capture=None, **options):
    """A controller with the inversion of a clip, of one UNet call a step unless `inversion_passes` asks for more."""
    controller = Controller(unet or model.unet, capture or Capture(), storage)
    latents, options = clip() if latents is None else latents, {"inversion_passes": 0, **options}
    return invert(controller, model.text_encoder, latents, prompt, steps=steps, **options)


def edited(model, controller, name="blend", **options):
    """The latents of one of EDITS."""
    prompt, settings = EDITS[name]
    return edit(controller, model.text_encoder, prompt, settings, **options).latents


@contextmanager
def calls_of(module):
    """The batch size of every call of a module within the block."""
    calls = []

    def count(_module, given, named):
        calls.append(len(given[0] if given else named["hidden_states"]))

    hook = module.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


def trained_over_time(unet, chosen=lambda name: True, size=0.3):
    """Give a UNet's layers over time random weights, so that frames reach each other; those of chosen names alone."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in unet.net.named_parameters():
        if "_temporal" in name and chosen(name):
            parameter.data += size * torch.randn(parameter.shape, generator=generator).to(parameter)
    return unet
