"""Threads that share one model: what each computes is, bit for bit, what one thread alone computes.

As a program it runs everything: `python -m tests.shared_model --threads 8 --edits 50`. It prints one JSON line and ends
with 1 where anything differs. test_threads.py runs a short form.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import torch

from fatezero_ext import Controller, Storage, edit, invert, load_model, plain, register_attention_control
from fatezero_ext.inversion.invert import Reconstruction
from fatezero_ext.storage.disk_cache.cache import InversionCache

from .conftest import GOLDEN
from .small_runs import EDIT, EDITS, SOURCE, STEPS, clip, named

CLIPS = {"clip": clip(1), "longer": clip(2, frames=4), "wider": clip(3, frames=2, height=16, width=24)}
WAYS = {
    "features": Storage("features", "ram"),
    "maps": Storage("maps", "ram"),
    "recompute": Storage("recompute"),
    "int8": Storage("features", "ram", "int8"),
}
KEEP_ALL = named(cross_replace=0.0, self_replace=0.0, guidance=3.0)  # leaves attention to a registered control


def inverted(model, storage, latents, **options):
    controller = Controller(model.unet, storage=storage)
    return invert(controller, model.text_encoder, latents, SOURCE, steps=STEPS, **options)


def outcome(model, controller, prompt, settings):
    """Everything that an inversion and an edit give."""
    result = edit(controller, model.text_encoder, prompt, settings)
    return controller.trace.latents, controller.trace.noise, result.latents, result.mask


def kept(way, name, which):
    """An inversion and an edit under one of WAYS."""
    return lambda model, _cache: outcome(model, inverted(model, WAYS[way], CLIPS[which]), *EDITS[name])


def on_disk(name, which):
    """Likewise through the disk cache, which all threads share: they write and find the same entries."""

    def job(model, cache):
        return outcome(model, inverted(model, Storage("features", "disk", cache=cache), CLIPS[which]), *EDITS[name])

    return job


def reconstructed(model, _cache):
    controller = inverted(model, WAYS["features"], CLIPS["clip"], reconstruct=Reconstruction(3.0))
    return outcome(model, controller, *EDITS["blend"])


def under_a_control(model, _cache):
    """A control of this thread takes part in every layer of both passes, and in no other thread's."""
    sites = Counter()

    def louder(q, k, v, site):
        sites[site.frames] += 1
        return plain(q, k, v, site) * 1.01

    with register_attention_control(model.unet, louder):
        found = outcome(model, inverted(model, WAYS["features"], CLIPS["longer"]), EDIT, KEEP_ALL)
    assert sites == {4: 2 * STEPS * len(model.unet.layers)}, sites
    return found


def nested(model, _cache):
    """A control that asks the same UNet about another clip, inside its own layers."""
    x, text = CLIPS["wider"], model.text_encoder.encode(EDIT)
    first = model.unet.layers[0].address

    def asks(q, k, v, site):
        if site.address == first:
            inner.append(model.unet(x, 501, text, frames=len(x), attend=plain))
        return plain(q, k, v, site)

    inner = []
    found = model.unet(CLIPS["clip"], 301, text, frames=3, attend=asks)
    return found, *inner


JOBS = {
    f"{way} {name} {which}": kept(way, name, which)
    for way, name, which in [
        ("features", "blend", "clip"),
        ("features", "refine", "wider"),
        ("maps", "replace", "longer"),
        ("recompute", "blend", "longer"),
        ("recompute", "replace", "clip"),
        ("int8", "blend", "wider"),
    ]
} | {
    "disk blend": on_disk("blend", "clip"),
    "disk refine": on_disk("refine", "longer"),
    "reconstruction": reconstructed,
    "control": under_a_control,
    "nested": nested,
}


def alone(model, folder, names=tuple(JOBS)):
    """What each job gives in one thread."""
    with torch.no_grad():
        return {name: JOBS[name](model, InversionCache(folder / "alone")) for name in names}


def same(found, wanted):
    """Whether two outcomes are the same bits."""
    return len(found) == len(wanted) and all(a.equal(b) for a, b in zip(found, wanted, strict=True))


def shared(model, wanted, cache, threads, edits, seed=0):
    """Let `threads` do `edits` jobs each on one model; the faults by what went wrong, empty where nothing did.

    wanted: by job, see `alone`; every thread does them in an order of its own
    """
    faults, intra_op, start = Counter(), set(), threading.Barrier(threads)

    def work(number):
        chosen = random.Random(f"{seed} {number}")
        turns = [name for _ in range(edits // len(wanted) + 1) for name in chosen.sample(list(wanted), len(wanted))]
        intra_op.add(torch.get_num_threads())  # kernels round by how they are split
        start.wait()
        for name in turns[:edits]:
            try:
                with torch.no_grad():
                    if not same(JOBS[name](model, cache), wanted[name]):
                        faults[f"{name}: other bits"] += 1
            except Exception as error:
                faults[f"{name}: {error!r:.200}"] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert intra_op == {torch.get_num_threads()}
    for checked in cache.verify():
        if not checked.sound:
            faults[f"cache: {checked.problem or dict(checked.damaged)}"] += 1
    return faults


def main():
    """Run the program; returns the exit code."""
    grammar = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    grammar.add_argument("--threads", type=int, default=8)
    grammar.add_argument("--edits", type=int, default=50, help="of each thread")
    grammar.add_argument("--seed", type=int, default=0)
    options = grammar.parse_args()
    torch.set_num_threads(1)
    model = load_model(GOLDEN / "model")
    with tempfile.TemporaryDirectory() as folder:
        wanted = alone(model, Path(folder))
        began = time.perf_counter()
        cache = InversionCache(Path(folder) / "shared")
        faults = shared(model, wanted, cache, options.threads, options.edits, options.seed)
    seconds = round(time.perf_counter() - began, 1)
    total = options.threads * options.edits
    said = {"threads": options.threads, "edits": total, "failed": sum(faults.values()), "faults": faults.most_common(9)}
    sys.stdout.write(json.dumps({**said, "seconds": seconds}) + "\n")
    return int(bool(faults))


if __name__ == "__main__":
    raise SystemExit(main())
