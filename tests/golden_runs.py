"""The reference runs: their settings, and their inversions as we compute them. Tests import the fixture."""

from dataclasses import replace
from functools import cache

import pytest

from fatezero_ext import BlendSettings, Capture
from fatezero_ext.attention.records import MapRecord, StoredTensor
from fatezero_ext.diffusion.schedule import Schedule
from fatezero_ext.inversion.footprint import ClipShape, recorded_forms
from fatezero_ext.inversion.loop import Recording, invert_latents
from fatezero_ext.prompts.prompt import read_prompt
from fatezero_ext.storage.record_store import MemoryStore, Recomputed

from .conftest import STYLE_RUN, THOROUGH, frames_first
from .small_runs import named

SHAPE = BlendSettings(("silver", "jeep"), ("Porsche", "car"), threshold=0.65)
SHAPE_WITH_LATENTS = BlendSettings(("silver", "jeep"), ("Porsche", "car"), threshold=0.65, latents=True)
RUNS = {
    "A_recon": named("refine", 0.8, self_replace=0.9, quirks="original"),
    "B_style": named("refine", 0.8, self_replace=0.8, equalizer={"watercolor": 10}, quirks="original"),
    "C2_shape_th065": named("replace", 0.5, self_replace=0.5, blend=SHAPE, quirks="original"),
    "D2_latentblend_th065": named("replace", 0.5, self_replace=0.5, blend=SHAPE_WITH_LATENTS, quirks="original"),
    "F2_shape_tuned_th065": named("replace", 0.5, self_replace=0.5, blend=SHAPE, quirks="original"),
}
INVERSIONS = {"inv_default_n6": 6, "inv_style_n10": 10, "inv_tuned_n6": 6}
SOURCE = "a silver jeep driving down a curvy road in the countryside"


def thinned(latents):
    """[steps, frames, channels, h, w] as the reference keeps them: [steps, channels, frames, h/4, w/4]."""
    return latents.transpose(1, 2)[..., ::4, ::4]


@pytest.fixture(scope="module")
def inverted(golden, model):
    """name, policy, frames_at_once -> (unet, trace); each inversion runs once."""

    @cache
    def run(name, policy="features", frames_at_once=0):
        if policy == "recompute" and not frames_at_once:  # inverts to the bits of kept features, as test_policies holds
            unet, trace = run(name)
            return unet, replace(trace, store=Recomputed())
        if policy == "maps" and not THOROUGH:  # which an inversion records, as test_recorded_maps holds
            unet, trace = run(name)
            return unet, replace(trace, store=maps_of(unet, trace))
        unet = golden.unet(STYLE_RUN if "style" in name else None, tuned="tuned" in name)
        tensors = golden.tensors(f"{name}/latents")
        latents = frames_first(tensors["latents_input"])
        trace = invert_latents(
            unet,
            latents,
            tensors["text_source"],
            read_prompt(model.text_encoder, SOURCE),
            Schedule.from_config(None, INVERSIONS[name]),
            capture=Capture(),
            recording=Recording(Recomputed(), {}) if policy == "recompute" else recording(unet, latents, policy),
            parts=unet.parts(len(latents), frames_at_once),
        )
        return unet, trace

    return run


def maps_of(unet, trace):
    """A store of the maps that the kept features make."""
    store, sites = MemoryStore(), unet.source_sites(trace.text, trace.frames, *trace.size)
    for step in range(len(trace.schedule)):
        page = trace.store.read(step)
        store.write(step, {at: MapRecord(StoredTensor(page[at].probs(trace.text, sites[at]))) for at in page})
    return store


def recording(unet, latents, policy):
    shape = ClipShape(len(latents), *latents.shape[-2:], tokens=77)
    return Recording(MemoryStore(), recorded_forms(unet, Capture(), policy, shape))
