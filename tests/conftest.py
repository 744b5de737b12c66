"""Reference outputs of the authors' program, and a small model to compute them with."""

import json
import os
from pathlib import Path

# One thread, also for the programs that tests start: on a busy machine, threads of so small models wait for each other
# many times longer than they compute. Set before torch is imported. Another number has to give the same outcome.
os.environ["OMP_NUM_THREADS"] = os.environ.get("FATEZERO_TEST_THREADS", "1")

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file

from fatezero_ext import InflationSettings, load_model, load_unet

from .features import FEATURES

THOROUGH = bool(os.environ.get("FATEZERO_THOROUGH"))
"""Run what takes too long for every day: each policy on each reference run, a hundred kills and damages."""
OUTCOMES, HOLDERS = {}, {}
GOLDEN = Path(__file__).parent / "golden"
STYLE_RUN = InflationSettings(key_frames=("mid",), least_sc_channel=32)


class Golden:
    """Reads the reference outputs; thinned latents keep every fourth cell of each side."""

    def __init__(self, tuned_folder):
        self.folder = GOLDEN
        self.tuned_folder = tuned_folder

    def tensors(self, name):
        return load_file(self.folder / f"{name}.safetensors")

    def json(self, name):
        return json.loads((self.folder / f"{name}.json").read_text())

    def unet(self, settings=None, *, tuned=False):
        return load_unet(self.tuned_folder if tuned else self.folder / "model" / "unet", settings)


@pytest.fixture(scope="session")
def golden(tmp_path_factory):
    """The reference outputs; the tuned UNet is stored as its difference to the 2-D one."""
    tuned = tmp_path_factory.mktemp("tuned")
    weights = load_file(GOLDEN / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    changed = load_file(GOLDEN / "model_tuned" / "difference.safetensors")
    save_file(weights | changed, tuned / "diffusion_pytorch_model.safetensors")
    (tuned / "config.json").write_text((GOLDEN / "model_tuned" / "config.json").read_text())
    return Golden(tuned)


@pytest.fixture(scope="session")
def model():
    """The reference model with its text encoder and VAE, default inflation."""
    return load_model(GOLDEN / "model")


@pytest.fixture
def noise():
    """Seeded normal tensors."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


def pytest_runtest_logreport(report):
    """Remember how each test ended and which features it holds, for the table of features."""
    if report.when == "call" or report.outcome != "passed":
        OUTCOMES[report.nodeid] = report.outcome
        for kind, name in report.user_properties:
            if kind == "feature":
                HOLDERS.setdefault(name, []).append(report.nodeid)


def pytest_collection_modifyitems(items):
    """Let each test's report say which features it holds: it may come from another process."""
    for item in items:
        item.user_properties += [("feature", mark.args[0]) for mark in item.iter_markers("feature")]


def pytest_terminal_summary(terminalreporter):
    """Print the features of the authors' program with the tests that hold them."""
    if not HOLDERS:
        return
    terminalreporter.section("features of the authors' program and the tests that hold them")
    for name in FEATURES:
        tests = sorted(set(HOLDERS.get(name, ())))
        functions = dict.fromkeys(node.partition("[")[0] for node in tests)
        for function in functions:
            ended = {OUTCOMES[node] for node in tests if node.partition("[")[0] == function}
            terminalreporter.write_line(f"{name:<72} {'/'.join(sorted(ended))}  {function}")


def recorded(controller, step):
    """What an inversion recorded at a step: address -> (map in float32, site)."""
    trace, unet = controller.trace, controller.unet
    sites = unet.source_sites(trace.text, trace.frames, *trace.size)
    page = trace.store.read(step)
    return {at: (record.probs(torch.zeros(()), sites[at]), sites[at]) for at, record in page.items()}


def relative(got, wanted):
    """Relative L2 distance."""
    return ((got - wanted).norm() / wanted.norm()).item()


def frames_first(clip):
    """[b c f h w] as the UNet takes it, [(b f) c h w]."""
    return rearrange(clip, "b c f h w -> (b f) c h w")
