"""Opens a batch's report in headless Chromium, uses it, and takes pictures of it.

By hand, with a Python that has playwright: `python tests/batches/page_opens.py REPORT.html PICTURES`, on what
`python -m tests.batches.large page` wrote. It prints a line of JSON: seconds until the page is drawn and until it is
loaded, the renderer's own work, and what filter and search show; code 1 says that something is wrong.
"""

import json
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

MOST_SECONDS = 2.0
WIDE, HIGH = 1400, 900
SHOWN = "[...document.querySelectorAll('article')].filter(each => getComputedStyle(each).display !== 'none').length"
WORK = ("TaskDuration", "LayoutDuration", "RecalcStyleDuration", "ScriptDuration")


def opened(browser, report):
    """Open the report as a file; returns the page, seconds, and what the console said."""
    page = browser.new_page(viewport={"width": WIDE, "height": HIGH})
    page.set_default_timeout(240_000)
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(report.absolute().as_uri(), wait_until="load")
    page.wait_for_timeout(500)
    taken = page.evaluate(
        """() => {
            const [whole] = performance.getEntriesByType('navigation');
            const [paint] = performance.getEntriesByName('first-contentful-paint');
            return {drawn: paint?.startTime / 1000, loaded: whole.loadEventEnd / 1000};
        }"""
    )
    metrics = {each["name"]: each["value"] for each in devtools.send("Performance.getMetrics")["metrics"]}
    return page, {**taken, "work": {name: round(metrics[name], 3) for name in WORK}}, said


def main(report, pictures):
    pictures.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        opened(browser, report)[0].close()  # the browser itself has started, and the file is in memory
        page, taken, said = opened(browser, report)
        rows, found = page.evaluate("document.querySelectorAll('article').length"), {}
        lazy = page.evaluate("[...document.images].filter(each => each.complete && each.naturalWidth).length")
        page.screenshot(path=pictures / "all.png")
        for name in ("failed", "waiting", "done", "all"):
            page.click(f"label:has([value={name}])")
            found[name] = page.evaluate(SHOWN)
            page.screenshot(path=pictures / f"{name}_filter.png")
        began = time.monotonic()
        page.fill("#search", "green circle")
        found["green circle"] = page.evaluate(SHOWN)
        searched = time.monotonic() - began
        page.screenshot(path=pictures / "search.png")
        page.fill("#search", "")
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        page.wait_for_timeout(1500)
        page.screenshot(path=pictures / "end.png")
        browser.close()
    told = {"rows": rows, **taken, "pictures_loaded": lazy, "shown": found, "search_seconds": round(searched, 3)}
    right = taken["loaded"] < MOST_SECONDS and not said
    right = right and found["all"] == rows == found["failed"] + found["waiting"] + found["done"]
    sys.stdout.write(json.dumps({**told, "console": said, "right": right}) + "\n")
    return int(not right)


if __name__ == "__main__":
    raise SystemExit(main(*map(Path, sys.argv[1:])))
