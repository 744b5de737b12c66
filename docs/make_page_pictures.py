"""Photograph nodes in ComfyUI's page for web/docs/pictures: `COMFYUI_PATH=... python docs/make_page_pictures.py`.

Run from the checkout with ComfyUI's Python, with playwright in it and a Chromium (see docs/testing.md). It runs the
colour edit in a ComfyUI of its own and drives its page as the tests do.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout need not be installed

from tests.comfyui.browser import Page, opened  # noqa: E402
from tests.comfyui.http_server import Server  # noqa: E402
from tests.comfyui.page_graph import ADD_NODES  # noqa: E402
from tests.comfyui.workflows import TEMPLATES  # noqa: E402

PICTURES = ROOT / "web" / "docs" / "pictures"
DRAWN = {"page_edit": "FateZero_P2PEdit", "page_compare": "FateZero_CompareClips"}
SCALE, WIDEST, GAP = 1.2, 400, 6
"""Zoom of the page; greatest width of a picture, and its margin, in pixels."""
ROOM = 260
"""Height that a node gets on top of its own, so that its film is large, in units of the canvas."""
PARTS = ".fatezero-row, .fatezero-screen"
"""What is photographed: the words as buttons, the film and what is below it."""
COLOURS = 192


def main() -> None:
    """Run the colour edit and save a picture of each of `DRAWN`."""
    with TemporaryDirectory() as base, Server(Path(os.environ["COMFYUI_PATH"]), base) as server:
        server.post("/api/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": True})
        with opened(server.url, base) as page:
            page.load(json.loads(TEMPLATES[0].read_text()))
            page.page.evaluate(ADD_NODES)
            for name, value in {"kind": "custom", "blend_words": "circle", "blend_latents": True}.items():
                page.set_widget("FateZero_P2PEdit", name, value)
            page.queue()
            page.wait_for_end()
            for name, node_type in DRAWN.items():
                photograph(page, node_type, Path(base) / f"{name}.png").save(PICTURES / f"{name}.png", optimize=True)


def photograph(page: Page, node_type: str, path: Path) -> Image.Image:
    """Return a picture of what the pack's scripts put on a node, in few colours."""
    node_id = page.page.evaluate(
        """([type, scale, room]) => {
            const node = app.graph.nodes.find(node => node.type == type);
            node.setSize([node.size[0], node.size[1] + room]);
            Object.assign(app.canvas.ds, { scale, offset: [400 - node.pos[0], 100 - node.pos[1]] });
            return String(node.id);
        }""",
        [node_type, SCALE, ROOM],
    )
    page.drawn()
    added = page.page.locator(f'[data-node-id="{node_id}"]').locator(PARTS).all()
    boxes = [box for box in (each.bounding_box() for each in added) if box is not None]
    left, top = (min(box[side] for box in boxes) - GAP for side in ("x", "y"))
    right, bottom = (max(box[at] + box[by] for box in boxes) + GAP for at, by in (("x", "width"), ("y", "height")))
    page.page.screenshot(path=path, clip={"x": left, "y": top, "width": right - left, "height": bottom - top})
    picture = Image.open(path, formats=["PNG"]).convert("RGB")
    picture.thumbnail((WIDEST, WIDEST * 2))
    return picture.quantize(COLOURS)


if __name__ == "__main__":
    main()
