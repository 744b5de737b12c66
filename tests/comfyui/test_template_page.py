"""Templates in the real page: their order, moving cards, places, and few actions from the list to a saved edit."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import av
import pytest
from safetensors.torch import save_file

from benchmarks.make_checkpoint import parts, single_file
from fatezero_ext.cli.examples import EXAMPLES
from fatezero_ext.media.video import read_video
from tests.comfyui.browser import CHROMIUM, opened
from tests.comfyui.http_server import PACK, ROOT, Server
from tests.comfyui.workflows import TEMPLATES
from tests.sounding_clips import FPS, write_clip

FIRST = EXAMPLES / "A first edit, nothing to download.json"
TUNED = EXAMPLES / "Tune a model on the clip, change the shape.json"
REAL = [path for path in sorted(EXAMPLES.glob("[!0-9]*.json")) if path not in (FIRST, TUNED)]
LISTED = (FIRST, *REAL, TUNED, *TEMPLATES)
"""All templates, as they stand in the page's list."""
OBJECT = EXAMPLES / "Change an object, keep the motion.json"
BLUEPRINT = "Edit video by words"
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
FILES = {"file", "ckpt_name", "unet_name", "clip_name", "vae_name"}
"""Inputs that name files."""
SAM3 = {"SAM3_VideoTrack", "SAM3_TrackToMask"}
VUE = "Comfy.VueNodes.Enabled"
BOXES = """() => app.graph.nodes.map(node => {
    const shown = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    const [x, y] = app.canvas.ds.offset, scale = app.canvas.ds.scale;
    const [wide, high] = node.flags.collapsed ? [node._collapsed_width, 0] : node.size;
    const own = [node.pos[0], node.pos[1] - 30, wide, high + 30];
    const canvas = app.canvas.canvas.getBoundingClientRect();
    return shown
        ? [(shown.left - canvas.left) / scale - x, (shown.top - canvas.top) / scale - y,
           shown.width / scale, shown.height / scale]
        : own;
})"""
"""Left, top, width and height of every node with its title, as drawn."""
UPLOAD = """() => {
    const node = app.graph.nodes.find(node => node.type == 'LoadVideo');
    const button = node.widgets.find(widget => widget.type == 'button');
    const middle = [node.pos[0] + node.size[0] / 2, node.pos[1] + button.last_y + 10];
    const [x, y] = app.canvas.ds.convertOffsetToCanvas(middle);
    const canvas = app.canvas.canvas.getBoundingClientRect();
    return [x + canvas.left, y + canvas.top];
}"""
"""Where Load Video's button is on the screen."""
CLOSE_DIALOGS = "() => document.querySelectorAll('.p-dialog-close-button').forEach(button => button.click())"
"""That of missing nodes does not go by Escape on 0.8.0."""
TOUCH = 2  # pixels by which neighbours may touch through rounding


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def server(comfyui, base):
    if CHROMIUM is None or find_spec("playwright") is None:
        pytest.skip("these tests drive the page: install the Python package playwright, and a Chromium")
    with Server(comfyui, base) as started:
        started.post("/api/settings", {"Comfy.TutorialCompleted": True, VUE: False})
        yield started


@pytest.fixture
def page(server, pictures):
    with opened(server.url, pictures) as shown:
        yield shown


def test_what_needs_no_download_is_listed_first_then_what_is_for_real_files_and_all_cards_move(page):
    page.open_templates(PACK)
    for path in LISTED:
        page.card(path.stem)
    listed = page.page.evaluate(
        "[...document.querySelectorAll('[data-testid^=template-workflow-]')].map(e => e.dataset.testid)"
    )
    names = [each.removeprefix("template-workflow-") for each in listed]
    assert names == [path.stem for path in LISTED]
    for path in LISTED:
        frames = page.page.evaluate(
            """async address => {
                const answer = await fetch(address);
                const decoder = new ImageDecoder({data: await answer.arrayBuffer(), type: 'image/webp'});
                await decoder.tracks.ready;
                return decoder.tracks.selectedTrack.frameCount;
            }""",
            f"/api/workflow_templates/{PACK}/{path.stem}.jpg",
        )
        assert frames > 8, path.stem
    card = page.card(OBJECT.stem)
    seen = {card.screenshot()}
    for _ in range(20):
        page.page.wait_for_timeout(150)
        seen.add(card.screenshot())
        if len(seen) > 1:
            break
    assert len(seen) > 1  # the page shows the picture's content, whatever its file is called
    page.picture("real_templates")


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "nodes_2"])
def test_every_template_opens_without_missing_nodes_or_overlaps(server, pictures, vue):
    server.post("/api/settings", {VUE: vue})
    try:
        with opened(server.url, pictures) as page:
            if vue and not page.page.evaluate(f"app.ui.settings.settingsLookup?.['{VUE}'] !== undefined"):
                pytest.skip("this page has no Nodes 2.0")
            known = set(page.page.evaluate("Object.keys(LiteGraph.registered_node_types)"))
            for path in LISTED:
                page.load(json.loads(path.read_text()))
                page.page.wait_for_timeout(1000)
                page.page.keyboard.press("Escape")  # the dialog of missing models
                page.page.evaluate(CLOSE_DIALOGS)
                page.show_all()
                assert set(page.missing()) <= SAM3 - known, path.stem
                assert not overlapping(page), path.stem
                page.picture(f"template_{'nodes_2' if vue else 'canvas'}_{path.stem}")
    finally:
        server.post("/api/settings", {VUE: False})


def test_comfyui_finds_nothing_wrong_with_them_but_files_that_are_not_there(server, page):
    for path in REAL:
        page.load(json.loads(path.read_text()))
        if page.missing():
            assert set(page.missing()) <= SAM3
            continue
        status, answer = server.post("/prompt", {"prompt": page.prompt()})
        wrong = [error for node in answer["node_errors"].values() for error in node["errors"]]
        assert status == 400 and wrong, path.stem  # no clip is uploaded
        for error in wrong:
            assert error["type"] in ("value_not_in_list", "custom_validation_failed"), (path.stem, error)
            unchosen = "no clip is chosen in " in error["details"]
            assert unchosen or error["extra_info"]["input_name"] in FILES, (path.stem, error)


def overlapping(page):
    """Pairs of boxes of nodes that lie over each other, as drawn."""
    boxes = page.page.evaluate(BOXES)
    return [(one, other) for number, one in enumerate(boxes) for other in boxes[:number] if overlap(one, other)]


def overlap(one, other):
    return all(
        one[axis] + TOUCH < other[axis] + other[axis + 2] and other[axis] + TOUCH < one[axis] + one[axis + 2]
        for axis in (0, 1)
    )


def test_a_missing_checkpoint_is_offered_for_download(page):
    page.load(json.loads(OBJECT.read_text()))
    details = page.page.get_by_text("View details")
    found = page.page.get_by_text(CHECKPOINT).first
    found.or_(details).first.wait_for()
    if details.count():
        details.first.click()
    page.page.get_by_text(CHECKPOINT).first.wait_for()
    page.page.get_by_role("button", name="Download").first.wait_for()
    page.picture("missing_model")


def test_the_blueprint_is_found_in_the_library_and_gives_a_box_without_missing_nodes(page):
    listed = page.page.evaluate("async () => Object.values(await (await fetch('/api/global_subgraphs')).json())")
    (own,) = [each for each in listed if each["name"] == BLUEPRINT]
    assert own["info"]["node_pack"].endswith(PACK)
    page.page.evaluate("() => { app.extensionManager.command.execute('Workspace.ToggleSidebarTab.node-library') }")
    page.page.get_by_placeholder("Search").first.fill("Edit video by")
    page.page.get_by_text(BLUEPRINT).first.wait_for()
    page.picture("blueprint_in_the_library")
    page.load(json.loads((ROOT / "subgraphs" / f"{BLUEPRINT}.json").read_text()))
    (box,) = page.page.evaluate("app.graph.nodes.map(node => node.widgets.map(widget => widget.name))")
    box = [name for name in box if not name.startswith("fatezero_")]
    assert box == ["source_prompt", "edit_prompt", "kind", "strength", "ckpt_name"]
    inside = page.page.evaluate("app.graph.nodes[0].subgraph.nodes.map(node => node.type)")
    assert sorted(inside) == ["CheckpointLoaderSimple", "FateZero_VideoEdit"]
    page.page.keyboard.press("Escape")
    page.show_all()
    page.page.wait_for_timeout(1000)
    page.picture("blueprint")
    fields = [field.bounding_box() for field in page.page.locator("textarea:visible").all()]
    assert len(fields) == 2 and fields[0]["y"] + fields[0]["height"] <= fields[1]["y"]


def test_the_first_template_saves_an_edit_by_one_click_on_run(page, base):
    """Nothing is uploaded, downloaded, typed or chosen."""
    open_template(page, FIRST)
    page.press_run()
    end, told = page.wait_for_end()[-1]
    assert end == "execution_success", told
    page.drawn()
    page.picture("first_edit_done")
    assert not overlapping(page)
    saved = [path.name for path in (base / "output" / "video").iterdir()]
    assert any(name.startswith("edit_0") and name.endswith(".mp4") for name in saved)
    assert any(name.startswith("edit_beside_source_0") and name.endswith(".webp") for name in saved)


def open_template(page, path):
    """Open a template as a user does: the list, the pack, the card; from an empty page."""
    page.page.reload()
    page.ready()
    page.page.evaluate("app.graph.clear()")
    page.page.get_by_role("button", name="Templates").first.click()
    page.page.get_by_text(PACK, exact=True).first.click()
    page.template(path.stem).click()
    page.page.wait_for_function("app.graph.nodes.some(node => node.type == 'FateZero_VideoEdit')")
    page.template(path.stem).wait_for(state="detached")
    page.drawn()


CHECKPOINT_FILE, CLIP_FILE = os.environ.get("FATEZERO_CHECKPOINT"), os.environ.get("FATEZERO_CLIP")
"""A checkpoint of one's own (`python -m benchmarks.make_checkpoint FILE` makes one of real size), and a clip."""
FAST = {"size": 64, "steps": int(os.environ.get("FATEZERO_STEPS", "5")), "frames": 3}
"""Widgets of a run that a CPU can do."""


def test_five_actions_lead_from_an_empty_page_to_the_saved_clip(page, base):
    """Templates, the pack, a card, the clip, Run; two of them are decisions: the card and the clip."""
    (base / "models" / "checkpoints").mkdir(parents=True)
    if CHECKPOINT_FILE:
        (base / "models" / "checkpoints" / CHECKPOINT).symlink_to(Path(CHECKPOINT_FILE).resolve())
    else:
        save_file(single_file(*parts("sd1", "comfyui")), base / "models" / "checkpoints" / CHECKPOINT)
    clip = Path(CLIP_FILE).resolve() if CLIP_FILE else write_clip(base / "my clip.mp4", "aac")
    before = saved_clips(base)
    open_template(page, OBJECT)
    for name, value in FAST.items():  # not one of the actions
        page.set_widget("FateZero_VideoEdit", name, value)
    x, y = page.page.evaluate(UPLOAD)
    page.page.mouse.move(x, y)
    page.drawn()
    with page.page.expect_file_chooser() as chooser:
        page.page.mouse.down()
        page.drawn()
        page.page.mouse.up()
    chooser.value.set_files(clip)
    page.page.wait_for_function(
        "name => app.graph.nodes.find(node => node.type == 'LoadVideo').widgets[0].value == name", arg=clip.name
    )
    page.picture("five_actions_before_run")
    page.press_run()
    end, told = page.wait_for_end()[-1]
    assert end == "execution_success", told
    page.drawn()
    page.picture("five_actions_done")
    assert not overlapping(page)  # with all that a run shows on the nodes
    (saved,) = saved_clips(base) - before
    with av.open(str(saved)) as container:
        assert len(list(container.decode(video=0))) == FAST["frames"]
        rate = read_video(clip).fps if CLIP_FILE else FPS
        assert container.streams.video[0].average_rate == pytest.approx(rate / 3, rel=1e-3)
        assert container.streams.audio
    beside = saved.with_name(saved.name.replace("edit_", "edit_beside_source_")).with_suffix(".webp")
    assert beside.is_file()
    shown = f"image => image.src.includes('{beside.name}') && image.complete && image.naturalWidth > 1"
    page.page.wait_for_function(
        f"[...document.images].some({shown}) || app.graph.nodes.some(node => node.imgs?.some({shown}) "
        "|| node.type == 'SaveAnimatedWEBP' && node.widgets.length > 5)"
    )


def saved_clips(base):
    return set((base / "output" / "video").glob("edit_0*.mp4"))
