"""Film a first edit in ComfyUI's page for the README: `COMFYUI_PATH=... python docs/make_page_film.py`.

Run from the checkout with ComfyUI's Python, with playwright in it and a Chromium (see docs/testing.md). The template
that needs no download is opened, given other words and run as a user does; all words come from it. Over photographs of
the page are drawn: what is being done, the mouse, and what it clicks. The result moves as the page plays the file that
the run has saved.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageSequence

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # the checkout need not be installed

from built_in_templates import FIRST  # noqa: E402

from fatezero_ext.pictures.labelled_sheet import label_font  # noqa: E402
from tests.comfyui import browser  # noqa: E402
from tests.comfyui.browser import Page, opened  # noqa: E402
from tests.comfyui.http_server import Server  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import ElementHandle, Locator

TEMPLATE = ROOT / "example_workflows" / f"{FIRST.title}.json"
PACK = "fatezero"
"""Folder of the nodes, as the README names it."""
WIDE, HIGH, BAND, LETTERS = 960, 600, 52, 25
"""Sides of the page; height of the line of words above it, and of its letters, in pixels."""
LEFT, TOP, EDGE = 64, 84, 24
"""What the page's bars cover, and the least distance from there, in pixels."""
TITLE = 30
"""Height of a node's title above its place, in units of the canvas."""
INK, PAPER, MARK = (255, 255, 255), (24, 78, 140), (255, 176, 32)
RING = 20
ARROW = ((0, 0), (0, 25), (6, 19), (10, 28), (15, 26), (11, 17), (19, 17))
AIM = 0.8, 0.6
"""Place in a box that the mouse goes to, in parts of its sides: beside its words."""
GLIDE, TICK, LOOK, READ = 5, 50, 400, 800
"""Pictures of a way of the mouse; milliseconds of one of them, of a look at a thing, and of reading a line."""
HINT = 700
"""Milliseconds until the page shows a hint beside a button under the mouse."""
PLAYED, QUALITY = 3, 80
"""Times the result is played; quality of the pictures, in percent."""
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.VueNodes.Enabled": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Graph.CanvasMenu": False,
    "Comfy.Canvas.SelectionToolbox": False,
    "Comfy.TextareaWidget.FontSize": 17,
}
"""Settings of the page: nothing lies over the nodes, and what is typed can be read."""
FOREIGN = '[data-testid^="template-workflow-"] img { visibility: hidden }'
"""Cards of ComfyUI's own templates, which are other people's pictures, do not get into ours."""
Box = tuple[float, float, float, float]
"""Left, top, width and height in the page."""


@dataclass
class Film:
    """Pictures of a page, one after another, each under a line that says what is being done.

    said: this line for the pictures that come next
    at:   the mouse
    seen: the page as it was photographed last
    view: zoom of the canvas, and where its origin is in the page
    """

    page: Page
    said: str = ""
    at: tuple[float, float] = (WIDE * 0.55, HIGH * 0.55)
    seen: Image.Image = field(default_factory=lambda: Image.new("RGB", (WIDE, HIGH)))
    view: tuple[float, float, float] = (1, 0, 0)
    pictures: list[Image.Image] = field(default_factory=list)
    milliseconds: list[int] = field(default_factory=list)

    def look(self) -> None:
        """Photograph the page."""
        self.page.drawn()
        self.seen = Image.open(BytesIO(self.page.page.screenshot()), formats=["PNG"]).convert("RGB")

    def show(self, box: Box) -> None:
        """Let a box of the canvas fill what the page's bars leave free."""
        left, top, width, height = box
        free, room = WIDE - LEFT - 2 * EDGE, HIGH - TOP - 2 * EDGE
        scale = min(free / width, room / height)
        x = LEFT + EDGE + (free - width * scale) / 2 - left * scale
        y = TOP + EDGE + (room - height * scale) / 2 - top * scale
        self.view = scale, x, y
        self.page.page.evaluate(
            """([scale, x, y]) => {
                const canvas = app.canvas.canvas.getBoundingClientRect();
                const offset = [(x - canvas.left) / scale, (y - canvas.top) / scale];
                Object.assign(app.canvas.ds, { scale, offset });
            }""",
            self.view,
        )
        self.look()

    def hold(self, milliseconds: int, marked: Box | None = None, *, pressed: bool = False) -> None:
        """Add the photograph with its line, the mouse and a frame about what is marked."""
        picture = Image.new("RGB", (WIDE, BAND + HIGH), PAPER)
        picture.paste(self.seen, (0, BAND))
        draw = ImageDraw.Draw(picture)
        draw.text((EDGE, BAND / 2), self.said, fill=INK, font=label_font(LETTERS), anchor="lm")
        if marked is not None:
            left, top, width, height = marked
            frame = (left - 5, BAND + top - 5, left + width + 5, BAND + top + height + 5)
            draw.rounded_rectangle(frame, radius=8, outline=MARK, width=4)
        x, y = self.at[0], self.at[1] + BAND
        if pressed:
            draw.ellipse((x - RING, y - RING, x + RING, y + RING), outline=MARK, width=5)
        draw.polygon([(x + dx, y + dy) for dx, dy in ARROW], fill="white", outline="black")
        self.pictures.append(picture)
        self.milliseconds.append(milliseconds)

    def move(self, box: Box) -> None:
        """Let the mouse glide into a box, slower at both ends."""
        (x, y), (left, top, width, height) = self.at, box
        to_x, to_y = left + AIM[0] * width, top + AIM[1] * height
        for step in range(1, GLIDE + 1):
            part = (step / GLIDE) ** 2 * (3 - 2 * step / GLIDE)
            self.at = x + part * (to_x - x), y + part * (to_y - y)
            self.hold(TICK)

    def click(self, box: Box, milliseconds: int = LOOK) -> None:
        """Move to a box, let it be seen with what the page shows about it, and click there."""
        self.move(box)
        self.page.page.mouse.move(*self.at)
        self.page.page.wait_for_timeout(HINT)
        self.look()
        self.hold(milliseconds, box)
        self.hold(2 * TICK, box, pressed=True)
        self.page.page.mouse.click(*self.at)

    def save(self, path: Path) -> None:
        """Write all pictures as an animated WebP."""
        first, *others = self.pictures
        options = {"duration": self.milliseconds, "loop": 0, "quality": QUALITY, "method": 6}
        first.save(path, format="WEBP", save_all=True, append_images=others, minimize_size=True, **options)
        sys.stderr.write(f"{path.name}: {path.stat().st_size // 1024} KiB, {sum(self.milliseconds) / 1000:.1f} s\n")


def box_of(place: ElementHandle | Locator) -> Box:
    """Return where an element or a locator of Playwright is drawn."""
    box = place.bounding_box()
    return box["x"], box["y"], box["width"], box["height"]


def around(boxes: Sequence[Sequence[float]]) -> Box:
    """Return the smallest box around all of these."""
    left, top = (min(box[side] for box in boxes) for side in (0, 1))
    right, bottom = (max(box[side] + box[side + 2] for box in boxes) for side in (0, 1))
    return left, top, right - left, bottom - top


def words_box(page: Page, title: str) -> Box:
    """Return where the words of the node of this title are typed."""
    found = page.page.evaluate_handle(
        "title => app.graph.nodes.find(node => node.title == title).widgets[0].element", title
    )
    return box_of(found.as_element())


def choose_template(film: Film) -> None:
    """Open the list, the pack's part of it, and the card."""
    page = film.page.page
    film.said = "Open Templates and choose this pack"
    film.look()
    hidden = page.add_style_tag(content=FOREIGN)
    film.click(box_of(page.get_by_role("button", name="Templates").first))
    pack = page.get_by_text(PACK, exact=True).first
    pack.scroll_into_view_if_needed()
    film.look()
    film.click(box_of(pack))
    hidden.evaluate("style => style.remove()")
    card = film.page.template(TEMPLATE.stem)
    card.locator("img").first.wait_for()
    page.wait_for_timeout(1000)  # all cards are loaded
    film.said = "Click a card. This one needs nothing but the pack"
    film.look()
    film.click(box_of(card), READ)
    card.wait_for(state="detached")
    page.wait_for_function("app.graph.nodes.some(node => node.type == 'FateZero_VideoEdit')")


def type_words(film: Film, document: Mapping[str, Any]) -> None:
    """Show the clip and the sentence about it, and type another for the edit, word by word."""
    film.show(around([group["bounding"] for group in document["groups"] if group["title"][0] in "123"]))
    scale, x, y = film.view
    (clip,) = (node for node in document["nodes"] if node["type"] == "FateZero_SampleClip")
    (left, top), (width, height) = clip["pos"], clip["size"]
    box = left * scale + x, (top - TITLE) * scale + y, width * scale, (height + TITLE) * scale
    source, wanted = (
        words_box(film.page, node["title"]) for node in document["nodes"] if node["type"] == "PrimitiveStringMultiline"
    )
    for film.said, shown in ("1  The clip. This one comes with the pack", box), ("2  Say what is in it", source):
        film.move(shown)
        film.hold(READ, shown)
    film.said = "3  Type what it should be"
    film.click(wanted)
    film.page.page.keyboard.press("Control+A")
    for number, word in enumerate(FIRST.others[0].split()):
        film.page.page.keyboard.type(f" {word}" if number else word)
        film.look()
        film.hold(3 * TICK, wanted)
    film.hold(READ, wanted)


def run(film: Film) -> None:
    """Press Run and wait for the end, with a look on the way."""
    film.said = "Press Run and wait some seconds"
    film.page.page.evaluate("seen.length = 0")
    film.click(box_of(film.page.page.locator('[data-testid="queue-button"]').first))
    film.page.wait_for_preview()
    film.look()
    film.hold(LOOK)
    end, told = film.page.wait_for_end()[-1]
    if end != "execution_success":
        raise RuntimeError(f"{end}: {told}")


def play_result(film: Film, document: Mapping[str, Any], saved: Path) -> None:
    """Show where the source moves beside the edit, then both from near."""
    film.show(next(group["bounding"] for group in document["groups"] if group["title"].startswith("4")))
    find = f"[...document.images].find(image => image.src.includes('{saved.name}') && image.complete)"
    film.page.page.wait_for_function(find)
    film.look()
    film.said = "4  Before and after, moving. Saved in ComfyUI's output folder"
    film.move(picture_box(film, find))
    film.hold(LOOK, picture_box(film, find))
    scale, x, y = film.view
    left, top, width, height = picture_box(film, find)
    film.show(((left - x) / scale, (top - y) / scale, width / scale, height / scale))
    left, top, width, height = picture_box(film, find)
    film.at = left + width + EDGE, top + height / 2
    with Image.open(saved, formats=["WEBP"]) as moving:
        frames = [(frame.convert("RGB"), frame.info["duration"]) for frame in ImageSequence.Iterator(moving)]
    for frame, milliseconds in frames * PLAYED:
        resized = frame.resize((round(width), round(height)), Image.Resampling.BILINEAR)
        film.seen.paste(resized, (round(left), round(top)))
        film.hold(milliseconds)


def picture_box(film: Film, find: str) -> Box:
    """Return where the picture is drawn, which the page fits into its element's middle."""
    element = film.page.page.evaluate_handle(find).as_element()
    left, top, width, height = box_of(element)
    wide, high = element.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    scale = min(width / wide, height / high)
    return left + (width - wide * scale) / 2, top + (height - high * scale) / 2, wide * scale, high * scale


def film_first_edit(page: Page, output: Path) -> Film:
    """Film the first edit from an empty page to its result; output: ComfyUI's folder for results."""
    document = json.loads(TEMPLATE.read_text(encoding="utf-8"))
    page.page.evaluate("app.graph.clear()")
    film = Film(page)
    choose_template(film)
    type_words(film, document)
    run(film)
    (saved,) = output.glob("video/*.webp")
    play_result(film, document, saved)
    return film


def main() -> None:
    """Write docs/first_edit.webp."""
    browser.SIZE.update(width=WIDE, height=HIGH)
    with TemporaryDirectory() as base, Server(Path(os.environ["COMFYUI_PATH"]), base, pack=PACK) as server:
        server.post("/api/settings", SETTINGS)
        with opened(server.url, base) as page:
            film_first_edit(page, Path(base, "output")).save(ROOT / "docs" / "first_edit.webp")


if __name__ == "__main__":
    main()
