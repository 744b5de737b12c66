"""Sizes of the models that the training program makes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Channels of every level of the UNet and of the VAE, the finest first, and the rate the UNet learns at."""

    unet: tuple[int, int, int, int]
    vae: tuple[int, int, int]
    rate: float


SMALL = Sizes((32, 64, 96, 96), (16, 32, 32), 1e-3)
"""The model of coloured shapes: 5.5 million weights in the UNet, 0.25 in the VAE."""
LARGE = Sizes((48, 96, 128, 128), (32, 64, 64), 8e-4)
"""The model of shapes and objects: 10.4 and 0.9 million."""
