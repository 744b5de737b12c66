"""Hostile model folders, files and pickles: no code is run, no memory taken, nothing hangs, and our own words are said.

Every number is a case; FATEZERO_HOSTILE_MODELS=1000 tries so many, FATEZERO_THOROUGH=1 three hundred.
"""

import os
import random
import re
import shutil
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fatezero_ext import apply_lora, load_model, load_unet
from fatezero_ext.errors import FateZeroError
from fatezero_ext.metrics.clip_scores import load_clip

from ..conftest import THOROUGH
from . import hostile_models, hostile_pickles

CASES = int(os.environ.get("FATEZERO_HOSTILE_MODELS", 300 if THOROUGH else 0))
KEPT = (0, 1, 2, 9, 11, 14, 17, 21, 23, 24, 26, 29, 32, 38, 40, 50, 62, 63, 64, 139, 391)
"""Tried every day: each once failed in a way of its own, or hung."""
LARGE = 3 * 2**30 if THOROUGH else 64 * 2**20
SECONDS = 10
MEMORY = 2 * 10**9
FOREIGN = re.compile(
    r"weights_only|torch\.load|safe_globals|deserializing|size mismatch|Expected|Traceback|state_dict for|pickle_module"
    r"|from_pretrained|huggingface|Error\(|Invalid|invalid|allocat|unexpected keyword|object is not|object has no"
)
"""Words that torch, safetensors, diffusers, transformers and Python use, and we do not."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes, sockets and limits of memory are POSIX")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A good model of each kind, and a pipeline in memory for LoRAs."""
    root = tmp_path_factory.mktemp("good")
    for kind, make in hostile_models.GOOD.items():
        make(root / kind)
    return root, load_model(root / "pipeline")


class Late(BaseException):
    """Not to be caught by what is tested."""


@contextmanager
def bounded():
    """End what takes longer than SECONDS, or more than MEMORY more than there is."""
    import resource

    def late(_number, _frame):
        raise Late(f"longer than {SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, late)
    if sys.platform == "linux":
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def use(kind, folder, model):
    """Load a model and let each part of it work once."""
    if kind == "clip":
        load_clip(folder).embeddings(torch.zeros(1, 16, 16, 3), ("a road",))
    elif kind == "lora":
        apply_lora(model.unet, model.text_encoder, _first(folder, "adapter_model.safetensors"), say=lambda said: None)
    elif kind == "tuned":
        load_unet(folder)(torch.zeros(2, 4, 8, 8), 10, torch.zeros(1, 77, hostile_models.WIDTH), frames=2)
    elif kind == "checkpoint":
        load_model(_first(folder, "whole.safetensors"))
    else:
        loaded = load_model(folder)
        loaded.unet(torch.zeros(2, 4, 8, 8), 10, loaded.text_encoder.encode("a road"), frames=2)
        loaded.unet.schedule(3)
        loaded.vae.decode(loaded.vae.encode(torch.zeros(1, 16, 16, 3)))


def _first(folder, name):
    """The file of this name, or of its stem where it became a pickle."""
    stem = name.partition(".")[0]
    return next((path for path in sorted(folder.iterdir()) if path.name.startswith(stem)), folder / name)


def fault(number, good, folder):
    """What is wrong with how case `number` is met; None: nothing."""
    chance = random.Random(number)
    kind = chance.choice(sorted(hostile_models.GOOD))
    root, model = good
    shutil.copytree(root / kind, folder)
    done = hostile_models.spoil(folder, chance, LARGE)
    said = None
    try:
        with bounded(), torch.no_grad():
            use(kind, folder, model)
    except FateZeroError as error:
        said = str(error)
    except BaseException as error:  # whatever it is, it is a fault
        return f"{number}: {kind}, {done}: {type(error).__name__}: {str(error)[:300]}"
    finally:
        ran = any(path.name == hostile_pickles.MARKER for path in folder.rglob("*"))
        shutil.rmtree(folder)
    if ran:
        return f"{number}: {kind}, {done}: code was run"
    if said is None:
        return None
    parts = re.split(r"[;:.]\s", said.replace(str(folder), "FOLDER"))
    odd = FOREIGN.search(said.replace(str(folder), "FOLDER"))
    if odd or len(parts) < 3 or not said.endswith(".") or len(said) > 1500 or not said.isprintable():
        return f"{number}: {kind}, {done}: raw words {odd and odd[0]!r}: {said[:300]}"
    return None


def test_spoilt_models_are_met_with_our_own_words_and_nothing_else(good, tmp_path):
    faults = [fault(number, good, tmp_path / str(number)) for number in sorted({*KEPT, *range(CASES)})]
    assert [each for each in faults if each] == []
