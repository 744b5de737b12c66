"""The modules of batches, small workflows and plans, and an engine in this process."""

import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from PIL import Image
from rich.console import Console

from fatezero_ext.cli.node_pack import load_pack

MODULES = (
    "command content driver drivers folder plan preview problems progress report rows shared_disks status "
    "worker workflow"
)
NUMBER = {
    "1": {"class_type": "PrimitiveInt", "inputs": {"value": 1}},
    "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
}
"""A workflow that shows a number."""
PICTURE = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "red.png"}},
    "2": {
        "class_type": "ImageScale",
        "inputs": {"image": ["1", 0], "upscale_method": "bilinear", "width": 8, "height": 8, "crop": "disabled"},
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "picture"}},
}
"""A workflow that scales a picture."""


@pytest.fixture(scope="session")
def batches():
    """The modules of batches by name, as the pack has them."""
    found = {name: load_pack(f"nodes.batches.{name}") for name in MODULES.split()}
    more = {"seam": "nodes.batches.engines.seam", "local": "nodes.batches.engines.local"}
    more |= {"stamps": "nodes.file_stamps", "host": "nodes.host", "runner": "nodes.headless.host"}
    more |= {"reporter": "nodes.headless.run.progress", "registry": "nodes.headless.schemas.registry"}
    return SimpleNamespace(**found, **{name: load_pack(module) for name, module in more.items()})


@pytest.fixture(scope="session")
def types(batches):
    """The pack's nodes and the stand-ins."""
    return batches.registry.pack_node_types()


@pytest.fixture
def place(tmp_path):
    """A folder with a picture and the small workflows."""
    Image.new("RGB", (16, 16), (200, 30, 30)).save(tmp_path / "red.png")
    Image.new("RGB", (16, 16), (30, 30, 200)).save(tmp_path / "blue.png")
    (tmp_path / "number.json").write_text(json.dumps(NUMBER))
    (tmp_path / "picture.json").write_text(json.dumps(PICTURE))
    return tmp_path


@pytest.fixture
def plan(batches, place):
    """Write a plan; returns its path."""

    def write(text, name="plan.csv"):
        (place / name).write_text(text)
        return place / name

    return write


@pytest.fixture
def check(batches, place, types):
    """Check a plan's rows as the command does; returns rows and problems."""

    def checked(path, workflow=None):
        command = batches.command.BatchCommand(path, place / "out", workflow, check=True)
        lines = batches.progress.ProgressLines(Console(quiet=True))
        rows, problems, _ = batches.command._checked(command, batches.folder.BatchFolder(place / "out"), lines)
        return rows, [str(problem) for problem in problems]

    return checked


@dataclass
class InThisProcess:
    """An engine whose workers run here, one unit after the other.

    dies: folders of rows at which a worker dies, by how often
    ran:  folders of the rows that were started, in order
    """

    worker: object
    event: type
    names: tuple[str, ...] = ("a", "b")
    dies: dict = field(default_factory=dict)
    ran: list = field(default_factory=list)
    units: list = field(default_factory=list)
    given: dict = field(default_factory=dict)

    def free(self):
        return [name for name in self.names if name not in self.given]

    def submit(self, worker, rows):
        self.given[worker] = rows
        self.units.append([row.folder for row in rows])

    def results(self, seconds):
        events = []
        for name, rows in list(self.given.items()):
            del self.given[name]
            for event in self.worker.run(rows):
                events.append(self.event(name, event.kind, event.folder, event.text))
                if event.kind == "started":
                    self.ran.append(event.folder)
                    if self.dies.get(event.folder, 0) > 0:
                        self.dies[event.folder] -= 1
                        events.append(self.event(name, "died", text="was ended by signal 9"))
                        break
        return events

    def cancel(self):
        self.given.clear()


@pytest.fixture
def run(batches, place, check):
    """Run a plan in this process; returns the engine, the counts and the folder."""

    def run_plan(path, workflow=None, dies=None, folder="out"):
        rows, _ = check(path, workflow)
        opened = batches.folder.BatchFolder(place / folder)
        opened.open(path.name, rows)
        left = opened.left(rows)
        columns = tuple(dict.fromkeys(column for row in rows for column in row.values))
        inputs = (place, batches.command.EXAMPLES)
        with batches.drivers.Driver(opened) as driver:
            setup = batches.worker.Setup(workflow, opened.path, inputs, (), columns, driver.id)
            engine = InThisProcess(batches.worker.Worker(setup, "here"), batches.seam.Event, dies=dies or {})
            counts = batches.progress.Counts(len(rows), len(rows) - len(left))
            lines = batches.progress.ProgressLines(Console(quiet=True))
            units = batches.rows.units_of(left)
            batches.driver.Run(opened, driver, engine, counts, lines, lambda: None, batches.driver.deque(units)).all()
        return SimpleNamespace(engine=engine, counts=counts, folder=opened, rows=rows)

    return run_plan
