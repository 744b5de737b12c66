"""A program for test_killed_inversions: inverts into a cache in processes that are killed, or whose files are damaged.

Prints one JSON line per round, kills before damages. Arguments: the cache's folder, the rounds of each, a seed.
"""

import hashlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from fatezero_ext import BlendSettings, Controller, EditSettings, Storage, edit, invert, load_model
from fatezero_ext.storage.disk_cache.cache import InversionCache

MODEL = Path(__file__).parents[1] / "golden" / "model"
SOURCE, EDIT = "a silver jeep driving down a curvy road", "a silver car driving down a curvy road"
BLEND = BlendSettings(("jeep",), ("car",), 0.5, latents=True)
SETTINGS = EditSettings("replace", 1.0, self_replace=1.0, guidance=3.0, blend=BLEND)  # reads every page
STEPS = 6


def job(model, cache, said):
    """Invert through the cache and edit; a digest of everything, and whether the UNet inverted."""
    clip = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    storage = Storage("features", "disk", cache=cache)
    plans = []
    controller = invert(
        Controller(model.unet, storage=storage), model.text_encoder, clip, SOURCE, steps=STEPS, on_plan=plans.append
    )
    result = edit(controller, model.text_encoder, EDIT, SETTINGS)
    found = hashlib.sha256()
    for tensor in (controller.trace.latents, controller.trace.noise, result.latents, result.mask):
        found.update(tensor.numpy().tobytes())
    outcome = {"bits": found.hexdigest(), "inverted": "found" not in plans[0]}
    Path(said).write_text(json.dumps(outcome))


def in_a_process(model, cache, said, *, kill_after=None):
    """Run the job in a process of its own; its outcome, or None where it was killed first."""
    said.unlink(missing_ok=True)
    log = said.with_suffix(".log")
    log.unlink(missing_ok=True)
    pid = os.fork()
    if not pid:
        logging.basicConfig(filename=log, level=logging.WARNING)
        try:
            job(model, cache, said)
        except BaseException as error:
            said.write_text(json.dumps({"error": repr(error)}))
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status)
    outcome = json.loads(said.read_text()) if said.exists() and not killed else {}
    return {**outcome, "killed": killed, "warnings": log.read_text().count("\n") if log.exists() else 0}


def damage(folder, generator):
    """Corrupt, cut or swap files of the only entry; says what was done."""
    (entry,) = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    files = sorted(entry.iterdir())
    kind, path = generator.choice(["flip", "cut", "swap", "remove"]), generator.choice(files)
    if kind == "flip":
        content = bytearray(path.read_bytes())
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
    elif kind == "cut":
        with path.open("r+b") as file:
            file.truncate(generator.randrange(path.stat().st_size))
    elif kind == "remove":
        path.unlink()
    else:
        steps = [file for file in files if file.name.startswith("step")]
        path, other = generator.sample(steps, 2)
        content = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    return f"{kind} {path.name}"


def say(outcome):
    """One line for the test that started this program."""
    sys.stdout.write(json.dumps(outcome) + "\n")
    sys.stdout.flush()


def main(folder, rounds, seed):
    """Run the rounds."""
    torch.set_num_threads(1)
    kills, damages = random.Random(seed), random.Random(seed)
    folder, model = Path(folder), load_model(MODEL)
    said, cache = folder / "said.json", InversionCache(folder / "cache")
    began = time.perf_counter()
    clean = in_a_process(model, InversionCache(folder / "clean"), said)
    took = time.perf_counter() - began
    say({"clean": clean})
    for what in ["kill"] * rounds + ["damage"] * rounds:
        if what == "kill":  # the last of which leaves a saved inversion, as each damage does
            shutil.rmtree(cache.folder, ignore_errors=True)
            first = in_a_process(model, cache, said, kill_after=kills.uniform(0, took))
            done = "killed" if first["killed"] else "too late"
        else:
            done = damage(cache.folder, damages)
        again = in_a_process(model, cache, said)
        if what == "damage":
            in_a_process(model, cache, said)  # makes anew what was found damaged
        last = in_a_process(model, cache, said)
        drafts = cache.folder / ".drafts"
        left = len(list(drafts.iterdir())) if drafts.exists() else 0
        sound = all(checked.sound for checked in cache.verify())
        say({"done": done, "again": again, "last": last, "left": left, "sound": sound})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
