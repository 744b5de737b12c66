"""120 frames in ComfyUI's page: a run that is stopped there goes on behind its last finished step, to the same bits."""

import json
import re
import time
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file

from fatezero_ext.media.video import write_video
from fatezero_ext.storage.disk_cache.cache import InversionCache
from fatezero_ext.storage.disk_cache.completeness import LEVELS
from fatezero_ext.toy.world.clips import sample_clip
from tests.comfyui.browser import CHROMIUM, SIZE, opened
from tests.comfyui.http_server import Server
from tests.comfyui.page_graph import INVERT as INVERT_TYPE
from tests.comfyui.page_graph import P2P
from tests.comfyui.workflows import EDIT, INVERT, TEMPLATES, with_frames
from tests.resumed_inversions import steps_on_disk

FRAMES, STEPS, AT_ONCE, FPS = 120, 12, 8, 8
CALLS = STEPS * 2 * FRAMES // AT_ONCE
"""Of the model in the inversion: each step has a fixed-point pass and the call behind it, both in parts."""
NAME = "120 frames.mp4"
WIDGETS = (
    ("FateZero_LoadPseudo3DUNet", "norm", "frame"),  # parts need not wait for each other
    ("FateZero_PrepareFrames", "count", FRAMES),
    ("FateZero_AttentionStoreCache", "policy", "recompute"),
    ("FateZero_AttentionStoreCache", "place", "disk"),
    (INVERT_TYPE, "steps", STEPS),
    (INVERT_TYPE, "frames_at_once", AT_ONCE),
    (P2P, "frames_at_once", AT_ONCE),
)
LATENTS = "92"
SAVED = """() => [...document.images].some(image => image.src.includes('beside_source') && image.naturalWidth > 1)
    || app.graph.nodes.some(node => node.type == 'SaveAnimatedWEBP'
        && (node.imgs?.length || node.widgets.some(widget => widget.name.startsWith('$$'))))"""
BEHIND = r"goes on behind step (\d+) of (\d+)"

pytestmark = pytest.mark.slow


@pytest.fixture
def clip(tmp_path):
    """A clip of the built-in world, as long as nobody computes it whole."""
    path = tmp_path / NAME
    drawn = sample_clip(3, frames=FRAMES, shape="circle", colour="red", background="grass")
    assert drawn.prompt == "a red circle on the grass"
    write_video(path, torch.from_numpy(drawn.frames), FPS)
    return path


@pytest.fixture
def started(comfyui, clip, tmp_path, monkeypatch):
    """Starts a ComfyUI that has run nothing, with the clip among its inputs and a cache of inversions of its own."""
    if CHROMIUM is None or find_spec("playwright") is None:
        pytest.skip("this test drives the page: install playwright, and name a Chromium in CHROMIUM")

    def start(name):
        base, cache = tmp_path / name, InversionCache(tmp_path / f"inversions of {name}")
        (base / "input").mkdir(parents=True)
        (base / "input" / NAME).write_bytes(clip.read_bytes())
        monkeypatch.setenv("FATEZERO_CACHE_DIR", str(cache.folder))
        return Server(comfyui, base), cache

    return start


def opened_workflow():
    """The colour edit's file with the clip in place of the sample."""
    document = json.loads(TEMPLATES[0].read_text())
    (sample,) = (node for node in document["nodes"] if node["type"] == "FateZero_SampleClip")
    sample |= {"type": "LoadVideo", "widgets_values": [NAME, "image"], "properties": {}}
    document["nodes"] = [node for node in document["nodes"] if node["type"] != "MarkdownNote"]  # Load Video grows
    return document


def computed(server, graph):
    """The edit's latents and frames of a graph that the server runs, or has run."""
    saved = {"class_type": "SaveLatent", "inputs": {"samples": [EDIT, 0], "filename_prefix": "edited"}}
    done = server.run(with_frames(graph) | {LATENTS: saved})
    assert done.end[0] == "execution_success", done.end
    (file,) = (server.base / "output").glob("edited_*.latent")
    _, frames = server.frames(done)
    return done, load_file(file)["latent_tensor"], frames


def levels(cache):
    """What the cache holds of its one inversion."""
    (found,) = cache.entries()
    entry = cache.find(found.key)
    try:
        return found.key, entry.read(LEVELS)
    finally:
        entry.release()


def test_a_long_run_that_is_stopped_in_the_page_goes_on_behind_its_last_step_to_the_same_bits(
    started, pictures, monkeypatch, record_testsuite_property
):
    monkeypatch.setitem(SIZE, "width", 1680)  # a large page takes the time that the run needs
    monkeypatch.setitem(SIZE, "height", 945)
    server, cache = started("stopped")
    with server:
        server.post("/api/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": False})
        with opened(server.url, pictures) as page:
            page.load(opened_workflow())
            for widget in WIDGETS:
                page.set_widget(*widget)
            page.show_all()
            graph = page.prompt()
            assert graph["1"]["inputs"]["file"] == NAME
            began = time.monotonic()
            page.run_until(INVERT, STEPS * FRAMES // 4)
            page.picture("long_clip_inversion")
            pressed = time.monotonic()
            taken, ended = page.stop(INVERT)
            stopped = time.monotonic()
            page.drawn()
            page.picture("long_clip_stopped")
            assert ended - taken <= AT_ONCE  # at most one call more
            kept = steps_on_disk(cache)
            assert kept in range(1, STEPS) and kept - ended // FRAMES in (0, 1)  # a bar moves after its step is on disk

            again = time.monotonic()
            page.run_until(INVERT, kept * FRAMES + FRAMES // 2)
            page.picture("long_clip_goes_on")
            page.wait_for_bar(EDIT, STEPS * FRAMES // 2)
            page.picture("long_clip_edit")
            messages = page.wait_for_end()
            assert messages[-1][0] == "execution_success", messages[-1]
            went_on = time.monotonic()
            assert re.findall(BEHIND, "\n".join(server.lines)) == [(str(kept), str(STEPS))]
            assert [line for line in page.said("said") if re.search(BEHIND, line)]
            bar = page.counted(INVERT)
            assert bar[0] >= kept * FRAMES and bar[-1] == STEPS * FRAMES
            assert len(bar) <= (STEPS - kept) * (CALLS // STEPS + 1) + 1  # calls and ends of the steps that were left
            page.page.wait_for_function(SAVED)
            page.show_all()
            page.picture("long_clip_result")
            assert [error for error in page.errors if "FateZero" in error] == []
        done, latents, frames = computed(server, graph)
        assert not {INVERT, EDIT} & set(done.executed)  # those of the page's run are looked at
    assert len(frames) == FRAMES

    fresh, other = started("fresh")
    with fresh:
        fresh_began = time.monotonic()
        done, wanted_latents, wanted_frames = computed(fresh, graph)
        fresh_took = time.monotonic() - fresh_began
        assert {INVERT, EDIT} <= set(done.executed)
        assert not re.search(BEHIND, "\n".join(fresh.lines))
    (key, found), (wanted_key, wanted) = levels(cache), levels(other)
    assert key == wanted_key and found.keys() == wanted.keys()
    assert all(found[name].equal(wanted[name]) for name in wanted)
    assert latents.equal(wanted_latents) and frames.equal(wanted_frames)
    for name, figure in {
        "stopped at": ended, "of": STEPS * FRAMES, "stood when taken": taken, "steps on disk": kept,
        "first of the second run": bar[0], "until pressed": pressed - began, "until stopped": stopped - pressed,
        "second run": went_on - again, "fresh run": fresh_took,
    }.items():  # fmt: skip
        record_testsuite_property(name, figure)
