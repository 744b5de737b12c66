"""Checks that a saved inversion is complete: every page has every layer, and the levels are finite."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from .entry import Entry
from .manifest import JSON
from .tensor_file import DamagedFile

LEVELS = "levels"
EVALUATED = "evaluated"
LEVEL_DTYPES = (torch.float32, torch.float16)
CLIP_AXES = 4
LAYERS = "layers"
"""Key in an entry's description: the layers of each page, as text."""
PARTS = "parts"
"""Key in an entry's description: the frames of each part of its pages; pages are whole without it."""
WRONG_PARTS = "its description names parts that do not make a clip"
PAGE = "step-"
FINISHED = "done-"
"""Begins the names of files of an unfinished inversion: the latents after each finished step, counted from 1."""
MOST_STEPS = 1000
"""Most steps of any inversion, as many as a model is trained on; an entry's description may claim any number."""
_PARTS = TypeAdapter(list[list[int]], config=ConfigDict(strict=True))


def page_name(step: int, part: int | None = None) -> str:
    """Name of the file with a step's page, or with a part of it."""
    return f"{PAGE}{step:03d}" if part is None else f"{PAGE}{step:03d}-part-{part:03d}"


def page_names(steps: int, parts: int) -> list[str]:
    """Names of all files with pages; parts: of each page, 0 where they are whole."""
    return [page_name(step, part) for step in range(steps) for part in (range(parts) if parts else (None,))]


def finished_name(done: int) -> str:
    """Name of the file with the latents after so many steps of a run."""
    return f"{FINISHED}{done:03d}"


def stored_parts(about: Mapping[str, JSON]) -> list[list[int]] | None:
    """Return the frames of each part of an entry's pages, [] where they are whole; None if its description is wrong."""
    try:
        parts = _PARTS.validate_python(about.get(PARTS, []))
    except ValidationError:
        return None
    frames = sorted(frame for part in parts for frame in part)
    complete = not parts or (frames == list(range(len(frames))) and len(frames) == about.get("frames"))
    return parts if complete and all(part and part == sorted(part) for part in parts) else None


def content_faults(entry: Entry, unread: Collection[str]) -> dict[str, str]:
    """Find files that match their checksum but are incomplete, with the reason, a clause.

    unread: files that are known to be damaged
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
    """Layers that a page's tensors belong to, such as `up.1.0.cross` of `up.1.0.cross:features`."""
    return frozenset(name.partition(":")[0] for name in tensor_names if not name.endswith(":scale"))


def incomplete_pages(
    about: Mapping[str, JSON], pages: Mapping[str, frozenset[str]], damaged: Collection[str] = ()
) -> dict[str, str]:
    """Find pages that lack a layer or are missing, with the reason.

    about:   description of the entry; if it names no layers and steps, pages are compared with each other
    pages:   layers by file
    damaged: files that are known to be there and are not in `pages`
    """
    stated, steps = about.get(LAYERS), about.get("steps")
    wanted = set(map(str, stated)) if isinstance(stated, list) else set().union(*pages.values())
    faults = {name: lacking(wanted - layers) for name, layers in pages.items() if wanted - layers}
    if (parts := stored_parts(about)) is None:
        faults[LEVELS] = WRONG_PARTS
    elif isinstance(stated, list) and stated and isinstance(steps, int):
        known = {*pages, *damaged}
        needed = page_names(min(steps, MOST_STEPS), len(parts))
        faults |= {name: "it is not there" for name in needed if name not in known}
    return faults


def lacking(layers: Collection[str]) -> str:
    """Reason why a page that lacks layers cannot be used."""
    first, *more = sorted(layers)
    return f"it has no attention of {first}" + (f" and {len(more)} more layers" if more else "")


def unusable(
    levels: Mapping[str, Tensor],
    steps: JSON,
    clip: Sequence[int] | None = None,
    *,
    evaluated: bool | None = None,
    let_go: Callable[[], None] = lambda: None,
) -> str:
    """Reason why levels cannot be used, or "" if they can.

    levels: "latents" [steps + 1, frames, channels, height, width], "noise", the last of them, and of an inversion with
            fixed-point passes "evaluated" [steps, frames, channels, height, width]
    steps:  of the inversion; any if this is no whole number
    clip:   frames, channels, height, width; None: any
    evaluated: whether there must be "evaluated"; None: there may be
    let_go: called behind each level that was read; takes those in files out of memory
    """
    with_evaluated = EVALUATED in levels if evaluated is None else evaluated
    needed = ("latents", "noise", EVALUATED) if with_evaluated else ("latents", "noise")
    if levels.keys() != set(needed):
        return f"it holds {', '.join(sorted(levels))[:80] or 'nothing'}, and {' and '.join(needed)} are needed"
    shapes = [list(levels[name].shape) for name in ("latents", "noise")]
    one = shapes[1] if clip is None else list(clip)
    count = [steps + 1] if isinstance(steps, int) else shapes[0][:1]
    wanted = [*count, *one]
    if len(one) != CLIP_AXES or shapes != [wanted, one]:
        return f"its levels are shaped {shapes[0]} and {shapes[1]}, not {wanted} and {one}"
    if with_evaluated and list(levels[EVALUATED].shape) != [wanted[0] - 1, *one]:
        return f"its evaluated latents are shaped {list(levels[EVALUATED].shape)}, not {[wanted[0] - 1, *one]}"
    if not all(x.dtype in LEVEL_DTYPES for x in levels.values()):
        return "it holds levels in another precision than any inversion writes"
    for level in (level for x in levels.values() for level in x):  # a check of all makes more copies of them
        finite = bool(level.isfinite().all())
        let_go()
        if not finite:
            return "it holds values that are not finite"
    return ""
