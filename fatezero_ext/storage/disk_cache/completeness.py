"""What the files of a saved inversion must hold: every page every layer, and levels that are numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from .entry import Entry
from .manifest import JSON
from .tensor_file import DamagedFile

LEVELS = "levels"
LEVEL_DTYPES = (torch.float32, torch.float16)
CLIP_AXES = 4
LAYERS = "layers"
"""In what an entry is about: the layers that each of its pages has, as they print."""
PAGE = "step-"
MOST_STEPS = 1000
"""Of any inversion: as many as a model was trained on. What an entry says of itself may name any number."""


def page_name(step: int) -> str:
    """The file of a step's page."""
    return f"{PAGE}{step:03d}"


def content_faults(entry: Entry, unread: Collection[str]) -> dict[str, str]:
    """Files whose bytes are as written but hold too little, with the reason, a clause.

    unread: files that are damaged already
    """
    pages, faults = {}, {}
    steps = entry.about.get("steps")
    if LAYERS in entry.about and LEVELS not in entry.names:  # as every inversion writes it
        faults[LEVELS] = "it is not there"
    for name in (name for name in entry.names if name not in unread):
        try:
            if name.startswith(PAGE):
                pages[name] = layers_of(entry.tensor_names(name))
            elif name == LEVELS and (reason := unusable(entry.read(name), steps)):
                faults[name] = reason
        except DamagedFile as damage:
            faults[name] = damage.reason
    return faults | incomplete_pages(entry.about, pages, [*unread, *faults])


def layers_of(tensor_names: Collection[str]) -> frozenset[str]:
    """The layers that a page's tensors belong to, such as `up.1.0.cross` of `up.1.0.cross:features`."""
    return frozenset(name.partition(":")[0] for name in tensor_names if not name.endswith(":scale"))


def incomplete_pages(
    about: Mapping[str, JSON], pages: Mapping[str, frozenset[str]], damaged: Collection[str] = ()
) -> dict[str, str]:
    """Pages that lack a layer or are not there, with the reason.

    about:   of the entry; where it does not say which layers and steps there are, pages are held against each other
    pages:   layers by file
    damaged: files that are known to be there and are not in `pages`
    """
    said, steps = about.get(LAYERS), about.get("steps")
    wanted = set(map(str, said)) if isinstance(said, list) else set().union(*pages.values())
    faults = {name: lacking(wanted - layers) for name, layers in pages.items() if wanted - layers}
    if isinstance(said, list) and said and isinstance(steps, int):
        known = {*pages, *damaged}
        faults |= {
            name: "it is not there" for name in map(page_name, range(min(steps, MOST_STEPS))) if name not in known
        }
    return faults


def lacking(layers: Collection[str]) -> str:
    """The reason for which a page cannot be used."""
    first, *more = sorted(layers)
    return f"it has no attention of {first}" + (f" and {len(more)} more layers" if more else "")


def unusable(levels: Mapping[str, Tensor], steps: JSON, clip: Sequence[int] | None = None) -> str:
    """The reason for which levels cannot be used; empty where they can.

    levels: "latents" [steps + 1, frames, channels, height, width] and "noise", the last of them
    steps:  of the inversion; what is no whole number: any
    clip:   frames, channels, height, width; None: any
    """
    if levels.keys() != {"latents", "noise"}:
        return f"it holds {', '.join(sorted(levels))[:80] or 'nothing'}, and latents and noise are needed"
    kept = [list(levels[name].shape) for name in ("latents", "noise")]
    one = kept[1] if clip is None else list(clip)
    count = [steps + 1] if isinstance(steps, int) else kept[0][:1]
    wanted = [*count, *one]
    if len(one) != CLIP_AXES or kept != [wanted, one]:
        return f"its levels are shaped {kept[0]} and {kept[1]}, not {wanted} and {one}"
    if not all(x.dtype in LEVEL_DTYPES for x in levels.values()):
        return "it holds levels in another precision than any inversion writes"
    return "" if all(x.isfinite().all() for x in levels.values()) else "it holds values that are not finite"
