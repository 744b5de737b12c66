"""Scenes of a training run as latents, masks and token ids: rendering and encoding happen once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from ..world.captions import BACKGROUND, OBJECT, SECOND, Wording, caption_words, sample_wording
from ..world.rich import rich_scene_at
from ..world.world import NO_STYLE, Scene
from .autoencoder import SCALING, frames_and_masks
from .tokenizer import token_words

CAPTIONS = 4
"""Captions per scene."""
CELL = 4
"""Pixels per latent cell and side."""
NO_ROLE, OBJECT_ROLE, BACKGROUND_ROLE, SECOND_ROLE = 0, 1, 2, 3
_ROLES = {"": NO_ROLE, OBJECT: OBJECT_ROLE, BACKGROUND: BACKGROUND_ROLE, SECOND: SECOND_ROLE}
_SEED = 50_000
_CHUNK = 64


@dataclass(frozen=True)
class Pool:
    """Scenes that a training run draws from.

    latents: [scenes, 4, h, w] float16, unit variance
    masks:   [scenes, h, w] float16, share of the cell that things cover
    second:  [scenes, h, w] float16, the part of it that is the second thing's
    tokens:  [scenes, CAPTIONS, 77] int16
    roles:   [scenes, CAPTIONS, 77] int8, what each token speaks of
    styled:  [scenes] bool
    """

    latents: Tensor
    masks: Tensor
    second: Tensor
    tokens: Tensor
    roles: Tensor
    styled: Tensor

    def __len__(self) -> int:
        return len(self.latents)


@torch.no_grad()
def build_pool(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, seed: int, indices: range, objects: tuple[str, ...] = ()
) -> Pool:
    """Draw, encode and caption scenes of the list that belongs to `seed`; objects: names that may occur in it."""
    latents, covers, tokens, roles, styled = [], [], [], [], []
    for start in range(indices.start, indices.stop, _CHUNK):
        chunk = range(start, min(start + _CHUNK, indices.stop))
        frames, covered = frames_and_masks(_SEED + seed, chunk, objects)
        latents.append((vae.encode(frames.to(vae.device)).latent_dist.mean * SCALING).half().cpu())
        covers.append(torch.nn.functional.avg_pool2d(covered, CELL).half())
    words = _TokenizedWords(tokenizer)
    for index in indices:
        scene = rich_scene_at(_SEED + seed, index, objects)
        rng = np.random.default_rng((seed, index, 2))
        captions = [words.caption(scene, sample_wording(rng)) for _ in range(CAPTIONS)]
        tokens.append([ids for ids, _ in captions])
        roles.append([role for _, role in captions])
        styled.append(scene.style != NO_STYLE)
    masks = torch.cat(covers)
    return Pool(
        torch.cat(latents),
        masks.sum(dim=1),
        masks[:, 1].clone(),
        torch.tensor(tokens, dtype=torch.int16),
        torch.tensor(roles, dtype=torch.int8),
        torch.tensor(styled),
    )


def save_pool(pool: Pool, path: Path) -> None:
    """Write the pool, whole or not at all."""
    partial = path.with_suffix(".partial")
    torch.save(vars(pool), partial)
    partial.rename(path)


def load_pool(*paths: Path) -> Pool:
    """Read pools and join them in that order."""
    parts = [torch.load(path, weights_only=True) for path in paths]
    return Pool(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


class _TokenizedWords:
    """Cache of each caption's tokens; there are far fewer captions than scenes."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self.tokenizer = tokenizer
        self.known: dict[tuple[tuple[str, str], ...], tuple[list[int], list[int]]] = {}

    def caption(self, scene: Scene, wording: Wording) -> tuple[list[int], list[int]]:
        words = tuple(caption_words(scene, wording))
        if words not in self.known:
            ids, owners = token_words(self.tokenizer, [word for word, _ in words])
            self.known[words] = ids, [_ROLES[words[owner][1]] if owner >= 0 else NO_ROLE for owner in owners]
        return self.known[words]
