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
NODES = {"page_edit": "FateZero_P2PEdit", "page_compare": "FateZero_CompareClips"}
SCALE, WIDEST, HIGHEST = 1.2, 440, 640
"""Zoom of the page, and limits of the pictures in pixels."""
COLOURS = 128


def main() -> None:
    """Run the colour edit and save a picture of each of `NODES`."""
    with TemporaryDirectory() as base, Server(Path(os.environ["COMFYUI_PATH"]), base) as server:
        server.post("/api/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": True})
        with opened(server.url, base) as page:
            page.load(json.loads(TEMPLATES[0].read_text()))
            page.page.evaluate(ADD_NODES)
            for name, value in {"kind": "custom", "blend_words": "circle", "blend_latents": True}.items():
                page.set_widget("FateZero_P2PEdit", name, value)
            page.queue()
            page.wait_for_end()
            for name, node_type in NODES.items():
                photograph(page, node_type, Path(base) / f"{name}.png").save(PICTURES / f"{name}.png", optimize=True)


def photograph(page: Page, node_type: str, path: Path) -> Image.Image:
    """Return a picture of a node, cut off at `HIGHEST`, in few colours."""
    page.page.evaluate(f"() => {{ app.canvas.ds.scale = {SCALE}; app.canvas.deselectAll?.() }}")
    page.page.evaluate("type => app.canvas.centerOnNode(app.graph.nodes.find(node => node.type == type))", node_type)
    page.drawn()
    node_id = page.page.evaluate("type => String(app.graph.nodes.find(node => node.type == type).id)", node_type)
    node = page.page.locator(f'[data-node-id="{node_id}"]').first
    box = node.bounding_box()
    box["y"] = max(box["y"], 0)
    page.page.screenshot(path=path, clip=box)
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((WIDEST, 10_000))
    return picture.crop((0, 0, picture.width, min(picture.height, HIGHEST))).quantize(COLOURS)


if __name__ == "__main__":
    main()
