"""What large batches take: a plan of 10,000 rows of a millisecond each, and reports of 60 and 1,000 made-up rows.

By hand: `python -m tests.batches.large rows --count 10000` prints seconds and memory of each part of the driver;
`python -m tests.batches.large page --count 1000 --output DIR` writes a report, for a browser to open.
"""

import argparse
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from rich.console import Console

from fatezero_ext.cli.examples import EXAMPLES
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.media.video import read_video

NUMBER = {
    "1": {"class_type": "PrimitiveInt", "inputs": {"value": 1}},
    "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
}


def modules():
    names = "command content driver drivers folder preview progress report rows worker engines.seam"
    return SimpleNamespace(**{name.rpartition(".")[2]: load_pack(f"nodes.batches.{name}") for name in names.split()})


@contextmanager
def timed(found, name):
    began = time.monotonic()
    yield
    found[f"{name}_seconds"] = round(time.monotonic() - began, 2)
    found[f"{name}_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


class Millisecond:
    """An engine whose rows take a millisecond and write what a worker writes of a row without files."""

    def __init__(self, batch, folder, workers):
        self.batch, self.folder, self.given = batch, folder, {}
        self.names = [f"worker-{number}" for number in range(workers)]

    def free(self):
        return [name for name in self.names if name not in self.given]

    def submit(self, worker, rows):
        self.given[worker] = rows

    def results(self, seconds):
        event, found = self.batch.seam.Event, []
        for name, rows in self.given.items():
            for row in rows:
                time.sleep(0.001)
                draft = self.folder.own / "drafts" / f"x.{name}.{row.key}"
                draft.mkdir()
                facts = {"seconds": 0.001, "peak_bytes": 1, "files": [], "preview": ""}
                self.batch.folder.write_json(draft / "result.json", {**row.plain(), **facts})
                self.folder.publish(draft, row)
                found += [event(name, "started", row.folder), event(name, "done", row.folder)]
            found.append(event(name, "ended"))
        self.given.clear()
        return found

    def cancel(self):
        self.given.clear()


def rows(options):
    """Measure a plan of many rows: reading and checking, running, again with nothing to do, status, report."""
    batch, found, lines = modules(), {"rows": options.count}, None
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        (place / "number.json").write_text(json.dumps(NUMBER))
        (place / "plan.csv").write_text("value\n" + "\n".join(map(str, range(options.count))) + "\n")
        folder = batch.folder.BatchFolder(place / "out")
        lines = batch.progress.ProgressLines(Console(quiet=True))
        command = batch.command.BatchCommand(place / "plan.csv", folder.path, place / "number.json")
        with timed(found, "check"):
            checked, _, _ = batch.command._checked(command, folder, lines)
        with timed(found, "open"):
            folder.open("plan.csv", checked)
        with timed(found, "run"), batch.drivers.Driver(folder) as driver:
            counts = batch.progress.Counts(len(checked))
            engine = Millisecond(batch, folder, 8)
            todo = deque(batch.rows.units_of(folder.left(checked)))
            batch.driver.Run(folder, driver, engine, counts, lines, lambda: None, todo).all()
        with timed(found, "left"):
            found["left"] = len(folder.left(checked))
        with timed(found, "report"):
            page = batch.report.write_reports(folder).page
        found["report_mb"] = round(page.stat().st_size / 2**20, 2)
    return found


def moving(batch, place, shift):
    """A moving picture of the sample clip, before and after its colours have changed places."""
    frames = read_video(EXAMPLES / "red_circle_on_grass.mp4").frames
    (place / f"{shift}").mkdir()
    batch.preview.write_preview(place / f"{shift}", batch.preview.Seen(frames, frames.roll(shift, dims=-1)))
    return place / f"{shift}" / batch.preview.PREVIEW


def page(options):
    """Write a report of made-up rows, with moving pictures of the sample clip."""
    batch, chance = modules(), random.Random(0)
    folder = batch.folder.BatchFolder(options.output.absolute())
    colours = ("blue", "green", "purple", "orange")
    made = []
    for number in range(options.count):
        colour = colours[number % 4]
        values = {"clip": f"clip{number // 10}.mp4", "source_prompt": "a red circle on the grass"}
        values |= {"edit_prompt": f"a {colour} circle on the grass", "strength": f"{chance.random():.2f}"}
        name = f"clip{number // 10}-{colour}-{number:05}"
        problems = ("row: there is no file of that name. Copy it there.",) if number % 97 == 5 else ()
        key = "" if problems else f"key{number}"
        made.append(batch.rows.Row(number + 1, number + 2, values, key, key, "" if problems else name, problems))
    folder.open("made_up.csv", made)
    pictures = [moving(batch, folder.own, shift) for shift in (1, 2)]
    for number, row in enumerate(made):
        if row.problems or number % 50 == 49:
            continue
        if number % 23 == 7:
            error = "#3 Video Edit: the latents are not numbers. Use float32."
            folder.write_failure(row, {"error": error, "traceback": "Traceback (most recent call last):\n" * 8})
            continue
        draft = folder.own / "drafts" / row.key
        draft.mkdir()
        shutil.copy(pictures[number % 2], draft / batch.preview.PREVIEW)
        measures = {"psnr": chance.uniform(20, 40), "ssim": chance.random(), "flicker": chance.uniform(0, 3)}
        facts = {"seconds": chance.uniform(5, 60), "peak_bytes": chance.randint(2**30, 2**34), "files": ["edit.mp4"]}
        result = {**row.plain(), **facts, "preview": "preview.webp", "measures": measures}
        batch.folder.write_json(draft / "result.json", result)
        folder.publish(draft, row)
    found = {}
    with timed(found, "report"):
        path = batch.report.write_reports(folder).page
    return {"rows": options.count, **found, "page_kb": path.stat().st_size >> 10, "page": str(path)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["rows", "page"])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--output", type=Path, default=Path("report"))
    options = parser.parse_args()
    sys.stdout.write(json.dumps({"what": options.what, **globals()[options.what](options)}) + "\n")


if __name__ == "__main__":
    main()
