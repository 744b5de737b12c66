"""A VAE of more channels that computes what a narrow one does: Net2WiderNet, arXiv 1511.05641."""

import torch
from diffusers.models import AutoencoderKL
from torch import Tensor


@torch.no_grad()
def widen(narrow: AutoencoderKL, wide: AutoencoderKL) -> None:
    """Give a VAE the weights of a narrower one, so that both have the same latents and pictures.

    Every channel becomes as many equal ones, side by side, so that norms see the groups that they saw. What a layer
    reads from copies of one channel is the old weight, split unevenly at random: the copies learn different things.
    wide: all its levels have the same whole multiple of the narrow one's channels; gets the weights
    """
    weights = wide.state_dict()
    for name, old in narrow.state_dict().items():
        new = _widened(old, weights[name].shape)
        if name.endswith((".to_q.weight", ".to_q.bias")):  # scores are sums over more channels, over their root
            new *= (len(old) / len(new)) ** 0.5
        weights[name].copy_(new)


def _widened(old: Tensor, shape: torch.Size) -> Tensor:
    new = old.repeat_interleave(shape[0] // old.shape[0], dim=0)
    copies = 1 if old.ndim < 2 else shape[1] // old.shape[1]
    if copies == 1:
        return new
    new = (new / copies).unsqueeze(2).repeat_interleave(copies, dim=2)
    uneven = torch.randn(new.shape)
    uneven -= uneven.mean(dim=2, keepdim=True)
    # The variance that weights of this many inputs have in a fresh layer.
    new += uneven * old.std() * copies**-0.5
    return new.flatten(1, 2)
