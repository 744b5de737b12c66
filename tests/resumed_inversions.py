"""Inversions that are killed again and again, each run going on where the one before it ended.

As a program: `python -m tests.resumed_inversions --kills 20 --frames 64`, by the built-in model. It prints one JSON
line and ends with 1 unless every chain of runs has the clean run's bits and no step that was on disk is computed again.
tests/storage/test_resumed_inversions.py runs a short form.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from fatezero_ext import Controller, InflationSettings, Storage, invert, load_model, load_toy
from fatezero_ext.storage.disk_cache.cache import InversionCache
from fatezero_ext.storage.disk_cache.completeness import FINISHED
from fatezero_ext.storage.disk_cache.eviction import list_unfinished
from fatezero_ext.storage.disk_cache.locks import folder_lock
from fatezero_ext.storage.disk_cache.manifest import read_manifest

from .conftest import GOLDEN

SOURCE = "a red circle on the grass"


def run(model, cache, options, log):
    """One inversion through the cache; each step that is computed is a line of the log, and so is the digest."""
    clip = torch.randn(options.frames, 4, options.side, options.side, generator=torch.Generator().manual_seed(1))
    plans = []

    def done(step):
        behind = re.match(r"goes on behind step (\d+)", plans[0])
        if not plans[0].startswith("found") and step.done > (int(behind[1]) if behind else 0):
            os.write(log, b"%d\n" % step.done)

    inverted = invert(
        Controller(model.unet, storage=Storage(options.policy, "disk", cache=cache)),
        model.text_encoder,
        clip,
        SOURCE,
        steps=options.steps,
        inversion_passes=options.passes,
        frames_at_once=options.frames_at_once,
        on_plan=plans.append,
        on_step=done,
    )
    os.write(log, f"bits {digest(inverted.trace)}\n".encode())


def digest(trace):
    """Digest of all that an inversion gives, its pages included."""
    found = hashlib.sha256()
    store = trace.store
    for step in range(len(trace.schedule)) if hasattr(store, "entry") else ():
        for part in range(max(1, len(store.parts))):
            page = {str(address): record for address, record in store.read(step, part).items()}
            for name in sorted(page):
                found.update(name.encode())
                found.update(page[name].kept.values.numpy().tobytes())
    for tensor in (trace.latents, trace.noise, trace.evaluated):
        found.update(b"" if tensor is None else tensor.numpy().tobytes())
    return found.hexdigest()


def in_a_process(model, cache, options, folder, kill_after=None):
    """Run it in a process of its own; the steps it computed, and the digest or "" where it was killed first."""
    path = folder / "log"
    path.unlink(missing_ok=True)
    pid = os.fork()
    if not pid:
        try:
            run(model, cache, options, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        except BaseException as error:  # the parent must see it, and nothing of its own may run twice
            path.write_text(f"bits {error!r}\n")
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    bits = next((line.removeprefix("bits ") for line in lines if line.startswith("bits")), "")
    return [int(line) for line in lines if line.isdecimal()], bits


def steps_on_disk(cache):
    """Number of finished steps that a killed run left."""
    if not cache.folder.exists():
        return 0
    with folder_lock(cache.folder):
        left = list_unfinished(cache.folder)
        manifests = [read_manifest(cache.folder / each.place, each.key) for each in left if each.problem is None]
        return max([0, *(sum(name.startswith(FINISHED) for name in manifest.files) for manifest in manifests)])


def chains(model, options, folder):
    """Kill runs until there were enough, each beginning where the last one ended; the figures."""
    chance = random.Random(options.seed)
    clean_cache = InversionCache(folder / "clean")
    began = time.perf_counter()
    steps, clean = in_a_process(model, clean_cache, options, folder)
    took = time.perf_counter() - began
    shutil.rmtree(clean_cache.folder)
    found = {"kills": 0, "resumed": 0, "inversions": 0, "same_bits": 0, "steps": len(steps), "computed": 0}
    found |= {"lost_at_kills": 0, "twice": 0, "clean_s": round(took, 2)}
    assert steps == list(range(1, len(steps) + 1)), clean
    while found["kills"] < options.kills:
        cache, saved, bits = InversionCache(folder / f"chain-{found['inversions']}"), 0, ""
        while not bits:
            last = found["kills"] >= options.kills
            computed, bits = in_a_process(model, cache, options, folder, None if last else chance.uniform(0, took))
            found["resumed"] += saved > 0
            found["twice"] += sum(step <= saved for step in computed)
            found["computed"] += len(computed)
            if not bits:
                found["kills"] += 1
                now = steps_on_disk(cache)
                # A run that was killed before it took over the draft left that as it was.
                found["lost_at_kills"] += max(0, max(computed, default=0) - max(now, saved))
                saved = max(now, saved)
        found["inversions"] += 1
        found["same_bits"] += bits == clean
        shutil.rmtree(cache.folder)
    return found


def main():
    """Run the program; returns the exit code."""
    grammar = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    grammar.add_argument("--kills", type=int, default=20)
    grammar.add_argument("--frames", type=int, default=64)
    grammar.add_argument("--side", type=int, default=16, help="of the latents, cells")
    grammar.add_argument("--steps", type=int, default=6)
    grammar.add_argument("--passes", type=int, default=1)
    grammar.add_argument("--frames-at-once", type=int, default=8)
    grammar.add_argument("--policy", default="features", choices=("features", "maps", "recompute"))
    grammar.add_argument("--model", default="built-in", choices=("built-in", "reference"))
    grammar.add_argument("--seed", type=int, default=0)
    options = grammar.parse_args()
    torch.set_num_threads(1)
    settings = InflationSettings(norm="frame")  # only such a model computes a clip in parts
    model = load_toy(settings) if options.model == "built-in" else load_model(GOLDEN / "model", settings)
    with tempfile.TemporaryDirectory() as folder:
        found = chains(model, options, Path(folder))
    right = found["same_bits"] == found["inversions"] and not found["twice"] and found["resumed"]
    given = {name: value for name, value in vars(options).items() if name != "kills"}
    sys.stdout.write(json.dumps({**given, **found}) + "\n")
    return int(not right)


if __name__ == "__main__":
    raise SystemExit(main())
