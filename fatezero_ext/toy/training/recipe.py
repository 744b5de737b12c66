"""The recipe of a work folder: options that decide its results, so that none of another recipe is taken over."""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from blake3 import blake3

from ...atomic_files import whole_file
from ...errors import SettingsError
from ...untrusted.plain_files import read_json

FILE = "recipe.json"
DECIDES: Mapping[str, tuple[str, ...]] = {
    "vae": ("start", "objects", "seed", "vae_channels", "vae_steps", "vae_batch"),
    "pool": ("start", "objects", "seed", "scenes"),
    "denoiser": ("start", "objects", "seed", "batch", "rate", "attention_alone"),
    "decoder": ("start", "objects", "seed", "vae_batch", "decoder_steps"),
    "export": ("start", "objects"),
}
"""Options that decide a stage's results. The UNet's steps are none: their end can be chosen while it learns. Neither
are the number of processes, the device and its precision: a run may move to another machine."""
NEEDS: Mapping[str, tuple[str, ...]] = {
    "vae": (),
    "pool": ("vae",),
    "denoiser": ("vae", "pool"),
    "decoder": ("vae",),
    "export": ("vae", "denoiser"),
}
"""Stages whose results a stage reads."""

Recipe = dict[str, object]


def check(work: Path, stages: Iterable[str], options: argparse.Namespace) -> None:
    """Raise SettingsError where an option of these stages differs from the recipe of a work folder."""
    known = _recipe_in(work)
    for name, value in recipe_of(stages, options).items():
        if name in known and known[name] != value:
            raise SettingsError(_differing(work, name, getattr(options, name), known[name]))


def follow(work: Path, stage: str, options: argparse.Namespace) -> None:
    """Write down the options of a stage that begins; those of later ones may still change.

    A folder without a recipe, of a run from before there were any, gets that of the options.
    Raises SettingsError where one differs; nothing is then written.
    """
    check(work, [stage], options)
    with whole_file(work / FILE) as unfinished:
        unfinished.write_text(json.dumps(_recipe_in(work) | recipe_of([stage], options), indent=1) + "\n")


def _recipe_in(work: Path) -> Recipe:
    recipe = read_json(work / FILE) if (work / FILE).exists() else {}
    if "vae_steps" in recipe:  # of a run from before there was a choice of channels
        recipe.setdefault("vae_channels", None)
    if "rate" in recipe:  # of one from before attention could be trained alone
        recipe.setdefault("attention_alone", None)
    return recipe


def recipe_of(stages: Iterable[str], options: argparse.Namespace) -> Recipe:
    """Return the options that decide the results of some stages; a model to go on from by its weights' digest."""
    names = dict.fromkeys(name for stage in stages for name in DECIDES[stage])
    given = {name: getattr(options, name) for name in names}
    recipe: Recipe = {name: None if value is False else value for name, value in given.items()}
    if options.start is not None and "start" in recipe:
        recipe["start"] = _weights_of(options.start)
    return recipe


def _weights_of(model: Path) -> str:
    """Return the digest of a model folder's weights, by which a copy of the model is the same model."""
    hasher = blake3()
    for path in sorted(path for kind in ("*.safetensors", "*.bin") for path in model.rglob(kind)):
        hasher.update(path.relative_to(model).as_posix().encode())
        hasher.update(path.read_bytes())
    return hasher.hexdigest()


def _differing(work: Path, name: str, given: object, known: object) -> str:
    option = f"--{name.replace('_', '-')}"
    if name != "start":
        typed = option if known is True else f"{option} {_typed(known)}"
        was = f"with {typed}" if known is not None else f"without {option}"
        needed = f"Give {typed}" if known is not None else f"Leave {option} out"
        return (
            f"{option} is {_typed(given)}; what is in {work} was made {was}. {needed} to go on with it, or another "
            f"--work folder to begin anew."
        )
    came = "there is no --start" if given is None else f"--start is {given}"
    began, needed = ("no model", "no --start") if known is None else ("another model", "that model as --start")
    return (
        f"{came}; what is in {work} was begun from {began}. Give {needed} to go on with it, or another --work folder "
        f"to begin anew."
    )


def _typed(value: object) -> str:
    """Write a value as it is typed behind its option."""
    if value is None or isinstance(value, bool):
        return "given" if value else "not given"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
