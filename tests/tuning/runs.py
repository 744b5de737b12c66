"""Short tuning runs of the small model."""

import torch

from fatezero_ext import ClassPictures, TemporalLayers, TuningSettings, tune

from ..small_runs import SOURCE, clip

RATE = 1e-3
LAYERS = TemporalLayers(rank=4)
SETTINGS = TuningSettings(steps=3, learning_rate=RATE, temporal=LAYERS, save_every=1)
CLIP = clip(frames=2, height=8, width=8)
PICTURES = ClassPictures(clip(seed=5, frames=4, height=8, width=8), "a photo of a jeep")


class StopError(Exception):
    """A user's cancel button."""


def stop_after(step):
    """Raise where a user would cancel."""

    def on_step(done):
        if done.done == step:
            raise StopError

    return on_step


def tuned(model, settings=SETTINGS, latents=CLIP, prompt=SOURCE, **options):
    return tune(model.unet, model.text_encoder, latents, prompt, settings, **options)


def weights(unet):
    return {name: x.clone() for name, x in unet.net.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(x.equal(other[name]) for name, x in one.items())


def prediction(unet, x=CLIP):
    text = torch.randn(1, 77, unet.text_width, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return unet(x, 501, text, frames=len(x))
