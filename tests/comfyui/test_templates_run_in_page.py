"""The templates for one's own clip, and the one that tunes, run from the page; those with more models are elsewhere."""

import json

import pytest
from safetensors.torch import load_file, save_file

from benchmarks.make_checkpoint import parts, single_file
from tests.comfyui.browser import opened
from tests.comfyui.test_template_page import CHECKPOINT, EXAMPLES, OBJECT, TUNED, overlapping, saved_clips
from tests.sounding_clips import write_clip

OWN = [
    path
    for path in sorted(EXAMPLES.glob("[!0-9]*.json"))
    if CHECKPOINT in path.read_text() and path != OBJECT and not any(name in path.stem for name in ("SAM3", "VACE"))
]
"""The template of an object is run by five actions in test_template_page.py."""
FRAMES, NAME = 3, "my clip.mp4"
FEW = (
    ("LoadVideo", "file", NAME),
    ("FateZero_VideoEdit", "size", 64),
    ("FateZero_VideoEdit", "steps", 3),
    ("FateZero_VideoEdit", "frames", FRAMES),
    ("FateZero_PrepareFrames", "short_side", 64),
    ("FateZero_PrepareFrames", "count", FRAMES),
    ("FateZero_DDIMInvert", "steps", 3),
)
"""Widgets of a run that a CPU can do, and the clip."""
TUNE, STEPS, SAVED_AS = "FateZero_TuneOnClip", 12, "tuned on red circle"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(page_server):
    base = page_server.base
    (base / "models" / "checkpoints").mkdir(parents=True, exist_ok=True)
    save_file(single_file(*parts("sd1", "comfyui")), base / "models" / "checkpoints" / CHECKPOINT)
    (base / "input").mkdir(exist_ok=True)
    write_clip(base / "input" / NAME, "aac")
    return base


@pytest.fixture(scope="module")
def page(base, page_server, pictures):
    page_server.post("/api/settings", {"Comfy.VueNodes.Enabled": False})
    with opened(page_server.url, pictures) as shown:
        yield shown


def opened_template(page, path):
    page.load(json.loads(path.read_text()))
    page.page.wait_for_timeout(1000)
    page.page.keyboard.press("Escape")
    present = set(page.page.evaluate("app.graph.nodes.map(node => node.type)"))
    for node_type, name, value in FEW:
        if node_type in present:
            page.set_widget(node_type, name, value)
    page.show_all()


def success(page):
    end, told = page.wait_for_end()[-1]
    assert end == "execution_success", told
    page.drawn()


@pytest.mark.parametrize("path", OWN, ids=[path.stem for path in OWN])
def test_a_template_for_ones_own_clip_saves_an_edit(page, base, path):
    before = saved_clips(base)
    opened_template(page, path)
    page.press_run()
    success(page)
    page.picture(f"ran_{path.stem}")
    assert not overlapping(page)
    (saved,) = saved_clips(base) - before
    assert saved.stat().st_size in range(500, 10**7)


def test_tuning_is_cancelled_and_goes_on_and_its_result_is_edited(page, base):
    state = base / "models" / "diffusers" / f"{SAVED_AS}.tuning.safetensors"
    before = saved_clips(base)
    opened_template(page, TUNED)
    page.set_widget(TUNE, "steps", STEPS)
    node = page.page.evaluate(f"String(app.graph.nodes.find(node => node.type == '{TUNE}').id)")
    page.run_until(node, 2)
    _, stopped = page.stop(node)
    page.drawn()
    page.picture("tuning_stopped")
    losses = load_file(state)["losses"]
    assert len(losses) in range(2, STEPS) and len(losses) - stopped in (0, 1)
    assert not saved_clips(base) - before
    page.press_run()
    success(page)
    page.show_all()
    page.picture("tuning_done")
    assert page.counted(node)[0] in range(len(losses), STEPS + 1)  # no step is done twice
    found = load_file(state)["losses"]
    assert len(found) == STEPS and found[: len(losses)].equal(losses)
    assert (state.with_name(SAVED_AS) / "model_index.json").is_file()
    assert len(saved_clips(base) - before) == 1
    assert not overlapping(page)
