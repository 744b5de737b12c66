"""What one forward pass needs and diffusers' signatures have no room for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..attention import Attend, plain
from ..layers import LayerAddress, Site


@dataclass
class Call:
    """Shared by all inflated modules of one UNet and set anew by every call of it.

    frames: frames of the clip in this call
    attend: how the attention layers of this call are computed
    sites:  every layer's site in this call
    """

    frames: int = 1
    attend: Attend = plain
    sites: Mapping[LayerAddress, Site] = field(default_factory=dict)
