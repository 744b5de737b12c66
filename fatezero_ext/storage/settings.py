"""User settings for the storage of recorded attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from ..choices import PLACES, POLICIES, PRECISION_NAMES, Place, Policy, Precision
from ..errors import SettingsError
from .disk_cache.cache import InversionCache


@dataclass(frozen=True)
class Storage:
    """Settings for the storage of attention.

    policy:    "features": what attention comes from (small); "maps": every map itself (the reference); "recompute":
               nothing, the source runs again beside the edit, as the inversion ran it; "recompute same level": the same
               on the latent at the edit's own noise level; "auto": features, or recompute where they do not fit
    place:     "gpu": the device the model runs on; "ram": the computer's memory; "disk": files that later runs find
               again, of recompute the latents alone; "auto": the first of gpu and ram with room
    precision: number format of what is stored; "int8" is lossy
    budget:    most bytes to store; None: as many as are free
    cache:     cache folder of place "disk"; None: `default_cache()`
    """

    policy: Policy = "auto"
    place: Place = "auto"
    precision: Precision = "as computed"
    budget: int | None = None
    cache: InversionCache | None = None

    def __post_init__(self) -> None:
        choices = {"policy": POLICIES, "place": PLACES, "precision": PRECISION_NAMES}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise SettingsError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}. Choose one of these."
                )
        if self.budget is not None and not (
            isinstance(self.budget, Real) and math.isfinite(self.budget) and self.budget > 0
        ):
            raise SettingsError(
                f"the budget is {self.budget} bytes; a positive number is needed. Raise it, or give none to use what "
                f"is free."
            )

    @property
    def recomputes(self) -> bool:
        """True if no attention is stored."""
        return self.policy in ("recompute", "recompute same level")
