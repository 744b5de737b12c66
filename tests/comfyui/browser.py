"""ComfyUI's page in a headless Chromium."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

from tests.comfyui.http_server import SLOW

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SIZE = {"width": 2400, "height": 1350}  # the whole graph, large enough to be read
WAIT, RUN_LIMIT = 60_000 * SLOW, 240_000 * SLOW
"""Milliseconds; no wait is longer."""
READY = "window.app?.graph && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 100"
WATCHED = (
    "execution_start", "progress", "b_preview", "b_preview_with_metadata", "executed", "execution_success",
    "execution_error", "execution_interrupted",
)  # fmt: skip
WATCH = """names => {
    window.seen = [];
    for (const name of names)
        app.api.addEventListener(name, event => seen.push([name, name.startsWith('b_') ? null : event.detail]));
}"""
ENDED = "seen.some(([name]) => ['execution_success', 'execution_error', 'execution_interrupted'].includes(name))"
PREVIEWED = "seen.some(([name]) => name.startsWith('b_preview'))"
SEARCH_BOX, SEARCH_RESULTS = 'input[role="combobox"]:focus', '[role="option"]'
"""Of the search for nodes, in its older form and in its newer one."""
RUN, STOP = '[data-testid="queue-button"]', "Cancel current run"
COUNTED = "seen.filter(([name, data]) => name == 'progress' && data.node == node).map(([name, data]) => data.value)"
MOVED = f"([node, value]) => {COUNTED}.some(counted => counted >= value)"
NODE_INFO = '[data-testid="info-button"]'


@contextmanager
def opened(url, pictures):
    """The page of the ComfyUI at `url`, ready to be used; screenshots go into the folder `pictures`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            page = chromium.new_page(viewport=SIZE)
            page.set_default_timeout(WAIT)
            yield Page(page, url, Path(pictures))
        finally:
            chromium.close()


class Page:
    """What a user does on the page."""

    def __init__(self, page, url, pictures):
        self.page, self._pictures, self.errors = page, pictures, []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._listen)
        page.goto(url)
        self.ready()

    def _listen(self, message):
        """Take for errors what our scripts report in the console."""
        if message.type in ("warning", "error") and message.text.startswith("FateZero"):
            self.errors.append(message.text)

    def ready(self):
        """Wait until the page can be used, at its start and after it is loaded anew."""
        self.page.wait_for_function(READY)
        self.page.evaluate(WATCH, list(WATCHED))

    def picture(self, name):
        """Take a screenshot."""
        self.page.screenshot(path=self._pictures / f"{name}.png")

    def open_templates(self, pack):
        """Open the list of templates of a pack."""
        self.page.evaluate("() => { app.extensionManager.command.execute('Comfy.BrowseTemplates') }")
        self.page.get_by_text(pack, exact=True).first.click()

    def template(self, name):
        """The card of a template in that list."""
        return self.page.locator(f'[data-testid="template-workflow-{name}"]')

    def card(self, name):
        """The picture on that card, loaded: the page loads none that is out of sight."""
        self.template(name).scroll_into_view_if_needed()
        picture = self.template(name).locator("img").first
        picture.wait_for()
        self.page.wait_for_function("image => image.complete && image.naturalWidth > 1", arg=picture.element_handle())
        return picture

    def load(self, workflow):
        """Load a workflow's parsed JSON."""
        self.page.evaluate("async workflow => { await app.loadGraphData(workflow) }", workflow)

    def missing(self):
        """Types of nodes that the page does not know."""
        known = "type => LiteGraph.registered_node_types[type]"
        return self.page.evaluate(f"app.graph.nodes.map(node => node.type).filter(type => !({known})(type))")

    def prompt(self):
        """The graph as the page would queue it, in the API's format."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def queue(self):
        """Queue the graph."""
        self.page.evaluate("() => { seen.length = 0; app.queuePrompt(0, 1) }")

    def counted(self, node):
        """The values at which the bar of a node stood, in order."""
        return self.page.evaluate(f"node => {COUNTED}", node)

    def press_run(self):
        """Press Run, as a user does."""
        self.page.evaluate("() => { seen.length = 0 }")
        self.page.locator(RUN).first.click()

    def run_until(self, node, value):
        """Press Run, and wait until the node's bar stands there or further."""
        self.press_run()
        self.wait_for_bar(node, value)

    def wait_for_bar(self, node, value):
        self.page.wait_for_function(MOVED, arg=[node, value], timeout=RUN_LIMIT)

    def stop(self, node):
        """Press the button that cancels; returns where the node's bar stood when it was taken, and where it ended."""
        assert not self.page.evaluate(ENDED), "the run was over before the button could be pressed"
        with self.page.expect_response("**/interrupt*"):
            self.page.get_by_role("button", name=STOP).first.click()
        taken = self.counted(node)[-1]
        assert self.wait_for_end()[-1][0] == "execution_interrupted"
        return taken, self.counted(node)[-1]

    def wait_for_preview(self):
        """Wait until a preview picture has come or the run has ended."""
        self.page.wait_for_function(f"({PREVIEWED}) || ({ENDED})", timeout=RUN_LIMIT)

    def wait_for_end(self):
        """Wait until the run has ended; returns all messages about it, as [name, data]."""
        self.page.wait_for_function(ENDED, timeout=RUN_LIMIT)
        return self.page.evaluate("seen")

    def said(self, kind):
        """The lines on the nodes that are seen, of a kind: mistake, remark, further or said."""
        return self.page.locator(f".fatezero-{kind}:visible").all_inner_texts()

    def set_widget(self, node_type, name, value):
        """Type a value into a widget."""
        self.page.evaluate(
            """([type, name, value]) => {
                const node = app.graph.nodes.find(node => node.type == type);
                node.widgets.find(widget => widget.name == name).value = value;
            }""",
            [node_type, name, value],
        )

    def found_by(self, words, name):
        """Search the nodes for these words as a user does; returns the first lines of the results, from the first on.

        name: of the screenshot
        """
        self.page.keyboard.press("Escape")
        self.drawn()
        self.page.mouse.dblclick(SIZE["width"] // 2, SIZE["height"] * 4 // 5)
        self.page.locator(SEARCH_BOX).wait_for()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(words)
        shown = self.page.locator(SEARCH_RESULTS, has_text=re.compile("[a-zA-Z]"))
        shown.filter(has_text="FateZero").first.wait_for()
        self.drawn()
        self.picture(name)
        return [text.strip().splitlines()[0].strip() for text in shown.all_inner_texts()]

    def show_all(self):
        """Fit the view to the graph and wait until it has been drawn."""
        self.page.evaluate("() => { app.extensionManager.command.execute('Comfy.Canvas.FitView') }")
        self.drawn()

    def show_node(self, node_type):
        """Select a node, unfolded, in the middle and at full size: far off, newer pages draw no text fields."""
        self.page.evaluate(
            """type => {
                const node = app.graph.nodes.find(node => node.type == type);
                if (node.flags.collapsed) node.collapse();
                app.canvas.ds.scale = 1;
                app.canvas.selectNode(node);
                app.canvas.centerOnNode(node);
            }""",
            node_type,
        )
        self.drawn()

    def drawn(self):
        """Wait for thirty pictures of the canvas: its views move smoothly."""
        self.page.evaluate(
            """async () => {
                app.canvas.setDirty(true, true);
                for (let i = 0; i < 30; i++) await new Promise(requestAnimationFrame);
            }"""
        )
