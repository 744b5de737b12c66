"""A loss that teaches cross-attention where its words are.

In a large model the attention of a word lands on its object by itself. A model as small as this one has to be taught,
and editing by attention needs it: blending masks come from these maps.
"""

from typing import Any

import torch
from diffusers.models import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from .pool import NO_ROLE, OBJECT_ROLE, SECOND_ROLE


class RecordingProcessor:
    """Plain attention that leaves its probabilities in a dictionary.

    maps: name of the layer -> [batch, cells, tokens], mean over heads; a forward pass overwrites them
    """

    def __init__(self, name: str, maps: dict[str, Tensor]) -> None:
        self.name = name
        self.maps = maps

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend from hidden states [batch, cells, channels] to text states [batch, tokens, width]."""
        q, k, v = (
            states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for states in (
                attn.to_q(hidden_states),
                attn.to_k(encoder_hidden_states),
                attn.to_v(encoder_hidden_states),
            )
        )
        probs = (q * attn.scale @ k.transpose(-1, -2)).softmax(dim=-1)
        self.maps[self.name] = probs.mean(dim=1)
        return attn.to_out[0]((probs @ v).transpose(1, 2).flatten(2))


def record_cross_attention(unet: UNet2DConditionModel, maps: dict[str, Tensor], levels: tuple[str, ...]) -> None:
    """Make the cross-attentions whose names start with one of `levels` record; the others use the fused kernel."""
    processors: dict[str, Any] = {}
    for name in unet.attn_processors:
        records = ".attn2." in name and name.startswith(levels)
        processors[name] = RecordingProcessor(name, maps) if records else AttnProcessor2_0()
    unet.set_attn_processor(processors)


def localisation_loss(
    maps: dict[str, Tensor], masks: Tensor, roles: Tensor, weight: Tensor, second: Tensor | None = None
) -> Tensor:
    """Penalise attention outside the place that its word speaks of, squared.

    maps:   [batch, cells, tokens] of every recorded layer, square
    masks:  [batch, h, w], share of the cell that things cover
    roles:  [batch, tokens]
    weight: [batch]
    second: [batch, h, w], the part of `masks` that is the second thing's; None for none
    Returns the mean over layers, samples and words that have a role.
    """
    second = torch.zeros_like(masks) if second is None else second
    regions = torch.stack((masks - second, second, masks), dim=1)
    places = {masks.shape[-1] ** 2: regions.flatten(2)}
    spoken = (roles != NO_ROLE) * weight[:, None]
    loss = masks.new_zeros(())
    for probs in maps.values():
        cells = probs.shape[1]
        if cells not in places:
            places[cells] = torch.nn.functional.adaptive_avg_pool2d(regions, int(cells**0.5)).flatten(2)
        share = places[cells] @ probs / probs.sum(dim=1, keepdim=True)
        outside = torch.where(roles == OBJECT_ROLE, 1 - share[:, 0], share[:, 2])
        outside = torch.where(roles == SECOND_ROLE, 1 - share[:, 1], outside)
        loss = loss + (outside**2 * spoken).sum()
    return loss / (len(maps) * (roles != NO_ROLE).sum().clamp(min=1))
