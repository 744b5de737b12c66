"""Settings of tuning a UNet on a clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from numbers import Real

from ..choices import RECIPES, Recipe
from ..errors import SettingsError, described, is_whole
from ..models.unet.inflate import TemporalLayers

TRAINED: Mapping[Recipe, tuple[str, ...]] = {
    "fatezero": ("attn_temporal", ".to_q", "conv_temporal"),
    "tune-a-video": ("attn1.to_q", "attn2.to_q", "attn_temporal"),
}
"""Endings of the names of the modules that a recipe trains.

Source: FateZero's train_tune_a_video.py with `train_temporal_conv`, as all its published configs set it; Tune-A-Video's
configs.
"""
PUBLISHED_RANK = 160
"""Rank of the low-rank temporal convolutions in most of FateZero's published configs."""
WHOLE = {"steps": 1, "warmup_steps": 0, "accumulation": 1, "seed": 0, "save_every": 1, "preview_every": 0}
"""Smallest values of the whole numbers."""
MOST_SEED, MOST = 2**62, 3e38
ABOVE_ZERO = ("learning_rate", "epsilon", "max_grad_norm")
FREE_TO_CHANGE = ("steps", "learning_rate", "gradient_checkpointing", "save_every", "preview_every")
"""Settings that a resumed run may have otherwise: the rate of the steps to come, and what changes no step's numbers."""


@dataclass(frozen=True, kw_only=True)
class TuningSettings:
    """Settings of a tuning run; the defaults are those of FateZero's training program, with its published rank.

    steps:          updates of the weights; with class pictures each step makes two, one on pictures and one on the clip
    learning_rate:  of AdamW, constant behind the warm-up
    recipe:         what is trained. "fatezero": every projection to queries, attention over time and convolutions over
                    time; "tune-a-video": the projections to queries of self- and cross-attention, and attention over
                    time
    temporal:       layers over time that a UNet gets which has none; others keep theirs. None: those of the recipe,
                    low-rank convolutions of rank 160 for "fatezero" and none for "tune-a-video"
    warmup_steps:   updates in which the rate grows from 0
    accumulation:   draws of noise whose gradients are averaged in an update
    betas, weight_decay, epsilon: of AdamW
    max_grad_norm:  norm that gradients are clipped to, all together
    seed:           at most 2**62, of the noise, the timesteps and what is random in new layers
    gradient_checkpointing: compute each block once more in the backward pass in place of keeping its activations
    save_every:     steps after which the state is saved; a run that is killed loses no more than these
    preview_every:  steps after which `TuningStep.preview` shows how the middle frame is reconstructed; 0: never
    Raises SettingsError for values that cannot be used.
    """

    steps: int = 300
    learning_rate: float = 3e-5
    recipe: Recipe = "fatezero"
    temporal: TemporalLayers | None = None
    warmup_steps: int = 0
    accumulation: int = 1
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    seed: int = 0
    gradient_checkpointing: bool = True
    save_every: int = 50
    preview_every: int = 0

    def __post_init__(self) -> None:
        if self.recipe not in TRAINED:
            raise SettingsError(f"the recipe is {self.recipe!r}; it is one of {', '.join(RECIPES)}. Choose one.")
        for name, least in WHOLE.items():
            if not is_whole(getattr(self, name), least, MOST_SEED if name == "seed" else None):
                raise SettingsError(
                    f"{name} is {described(getattr(self, name))}; a whole number of at least {least} is needed. "
                    f"300 steps suit most clips."
                )
            object.__setattr__(self, name, int(getattr(self, name)))  # JSON knows no NumPy
        for name in ABOVE_ZERO:
            _check_number(name, getattr(self, name), lambda x: 0 < x < MOST, "a number above 0")
        _check_number("weight_decay", self.weight_decay, lambda x: x >= 0, "0 or more")
        for name in (*ABOVE_ZERO, "weight_decay"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if not (isinstance(self.betas, tuple) and len(self.betas) == 2):
            raise SettingsError(
                f"betas is {described(self.betas)}; a pair of numbers is needed. (0.9, 0.999) is usual."
            )
        for beta in self.betas:
            _check_number("betas", beta, lambda x: 0 <= x < 1, "two numbers of 0 to below 1")
        object.__setattr__(self, "betas", tuple(map(float, self.betas)))
        if self.temporal is not None and self.temporal.rank is not None:
            object.__setattr__(self, "temporal", replace(self.temporal, rank=int(self.temporal.rank)))

    @property
    def trained(self) -> tuple[str, ...]:
        """Endings of the names of the modules that are trained."""
        return TRAINED[self.recipe]

    @property
    def new_layers(self) -> TemporalLayers:
        """Layers over time of a UNet that has none."""
        if self.temporal is not None:
            return self.temporal
        if self.recipe == "tune-a-video":
            return TemporalLayers(convolutions=False)
        return TemporalLayers(rank=PUBLISHED_RANK)

    def described(self) -> dict[str, object]:
        """Return all settings as JSON has them."""
        layers = self.new_layers
        return {**asdict(self), "betas": list(self.betas), "temporal": {**asdict(layers), "ranks": dict(layers.ranks)}}


def _check_number(name: str, value: object, holds: Callable[[float], bool], wanted: str) -> None:
    """Raise SettingsError unless a value is a finite number for which `holds` is true."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(number) and holds(number)):
        raise SettingsError(
            f"{name} is {described(value)}; {wanted} is needed. Leave it out for the default, which suits most clips."
        )
