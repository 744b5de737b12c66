"""Make a page of real results: the real clip of Sample Clip, or one of yours, edited with a checkpoint on this machine.

`python docs/make_results.py CHECKPOINT [--out FOLDER]` writes FOLDER/results.md: a moving picture of each edit beside
the source, seconds and memory, and what they were measured on. It runs Video Edit as a user's graph does.
`--source` and `--edit` (once for each) are for a clip of your own, `--clip FILE`. A GPU is used where torch finds one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout need not be installed

import torch  # noqa: E402 - after the path, as all below
from PIL import Image  # noqa: E402

from benchmarks import machine  # noqa: E402
from fatezero_ext.cli.node_pack import load_pack  # noqa: E402
from fatezero_ext.media.video import to_bytes  # noqa: E402
from fatezero_ext.printable import format_bytes  # noqa: E402
from fatezero_ext.toy.evaluation.long_runs import result_folder  # noqa: E402

BUNNY = ROOT / "example_workflows" / "big_buck_bunny.mp4"
SOURCE = "a gray rabbit on the green grass"
EDITS = (
    "a white rabbit on the green grass",
    "a gray bear on the green grass",
    "a gray rabbit on the white snow",
    "a watercolor painting of a gray rabbit on the green grass",
)
"""One of each kind: a colour, an object, a background, a style."""
LOAD, FIRST = "2", 10
WIDEST = 1200
"""Pixels of a picture; wider ones are scaled."""
LOADING, INVERSION, EDIT = "Load Stable Diffusion for Video", "DDIM Inversion", "Prompt-to-Prompt Edit"
"""The nodes whose time is told."""


@dataclass
class Watched:
    """Seconds of each node that ran, by its label, and what the nodes said; stands where the runner's terminal does."""

    seconds: dict[str, float] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def started(self, label: str, number: int, count: int) -> None:
        """Show it."""
        sys.stderr.write(f"{label}\n")

    def ended(self, label: str, seconds: float, *, reused: bool) -> None:
        """Note the time of a node that was computed."""
        if not reused:
            self.seconds[label] = seconds

    def say(self, text: str) -> None:
        """Note a sentence."""
        self.said.append(text.strip())

    def bar(self, total: int) -> Any:  # noqa: ANN401 - the runner's kind of bar
        """Show nothing while a node works."""
        return load_pack("nodes.host.python").SilentProgress()

    def took(self, name: str, inside: str = "") -> float:
        """Return the seconds of all nodes of that name, or of those inside one node."""
        return sum(took for label, took in self.seconds.items() if label.endswith(name) and f"#{inside}" in label)


@dataclass(frozen=True)
class Results:
    """What came of a run.

    pictures: [frames, height, width, 3], 0..1, the source beside the edit, by edit prompt
    fps:      frames per second, the same of all edits of a clip
    memory:   most bytes that were taken
    """

    pictures: Mapping[str, torch.Tensor]
    fps: float
    watched: Watched
    memory: int


def workflow(checkpoint: Path, clip: Path, source: str, edits: Sequence[str], widgets: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return a graph with one Video Edit for each edit, in the API's format."""
    node = load_pack("nodes.method.video_edit_graph").widgets_of
    load = node(load_pack("nodes.method.load_unet").LoadPseudo3DUNet, model=checkpoint.name)
    graph: dict[str, Any] = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": clip.name}},
        LOAD: {"class_type": "FateZero_LoadPseudo3DUNet", "inputs": load},
    }
    links = {"model": [LOAD, 0], "clip": [LOAD, 1], "vae": [LOAD, 2], "video": ["1", 0]}
    for number, edit in enumerate(edits, FIRST):
        words = {"source_prompt": source, "edit_prompt": edit, **widgets}
        whole = node(load_pack("nodes.method.video_edit").VideoEdit, **words)
        graph[str(number)] = {"class_type": "FateZero_VideoEdit", "inputs": links | whole}
        graph[f"preview {number}"] = {"class_type": "PreviewImage", "inputs": {"images": [str(number), 3]}}
    return graph


def run(checkpoint: Path, clip: Path, source: str, edits: Sequence[str], widgets: Mapping[str, Any]) -> Results:
    """Edit the clip; raises the runner's errors, before any work where they can be known."""
    formats, runs = load_pack("nodes.headless.formats.read"), load_pack("nodes.headless.run.execute")
    own, watched = load_pack("nodes.headless.host"), Watched()
    folders = own.Folders(inputs=(clip.parent,), output=clip.parent, models=(checkpoint.parent,))
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with load_pack("nodes.host").installed(own.RunnerHost(folders, watched)):
        types = load_pack("nodes.headless.schemas.registry").pack_node_types()
        graph = formats.graph_from(workflow(checkpoint, clip, source, edits, widgets), types)
        graph = load_pack("nodes.headless.schemas.validate").validated(graph, types)
        (results,) = runs.run_graphs([graph], types, watched)
        pictures = {edit: results[str(number)].outputs[3] for number, edit in enumerate(edits, FIRST)}
        fps = float(results[str(FIRST)].outputs[0].frame_rate)
    return Results(pictures, fps, watched, torch.cuda.max_memory_allocated() or machine.peak_rss())


def save_picture(frames: torch.Tensor, path: Path, fps: float) -> None:
    """Write a moving picture."""
    first, *others = [Image.fromarray(frame) for frame in to_bytes(frames)]
    size = (min(WIDEST, first.width), round(first.height * min(1.0, WIDEST / first.width)))
    first, *others = [picture.resize(size, Image.Resampling.LANCZOS) for picture in (first, *others)]
    first.save(path, save_all=True, append_images=others, duration=round(1000 / fps), loop=0, quality=85, method=6)


def page(found: Results, checkpoint: Path, clip: Path, source: str) -> str:
    """Return the page's text; every figure in it was measured by this run."""
    facts, watched = machine.described(), found.watched
    hardware = facts["gpu"] or f"{facts['processor']}, {facts['threads']} threads"
    versions = ", ".join(f"{name} {facts[name]}" for name in machine.PACKAGES)
    kind = "of the GPU's memory" if facts["gpu"] else "of the computer's memory"
    lines = [
        "# Real results",
        "",
        f"Made by `docs/make_results.py` with `{checkpoint.name}` ({format_bytes(checkpoint.stat().st_size)}) from",
        f"`{clip.name}`, which shows *{source}*. {hardware}; Python {facts['python']}, {versions}.",
        "",
        f"Loading took {watched.took(LOADING):.1f} s.",
        f"The inversion, once for all edits, took {watched.took(INVERSION):.1f} s.",
        f"At most {format_bytes(found.memory)} {kind} were taken. Left the source, right the edit.",
        "",
    ]
    for number, edit in enumerate(found.pictures):
        inside = f"{FIRST + number}.0."
        lines += [f"## {edit}", "", f"![{source}; {edit}](edit_{number + 1}.webp)", ""]
        lines += [f"The edit took {watched.took(EDIT, inside):.1f} s.", ""]
    if clip == BUNNY:
        lines += [
            "The clip: *Big Buck Bunny*, (c) copyright 2008, Blender Foundation / www.bigbuckbunny.org, CC BY 3.0.",
            "",
        ]
    said = [line for text in dict.fromkeys(watched.said) for line in text.splitlines()]
    return "\n".join([*lines, "What the nodes said:", "", "```", *said, "```", ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the edits and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint file of Stable Diffusion 1.x or 2.x")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the page (default: results)")
    parser.add_argument("--clip", type=Path, default=BUNNY, help="the clip (default: that of Sample Clip)")
    parser.add_argument("--source", default=SOURCE, help="what is in the clip")
    parser.add_argument("--edit", action="append", help="what it should be; once for each edit")
    for name in ("frames", "size", "steps"):
        parser.add_argument(f"--{name}", type=int, default=0, help="as on the node; 0 (default): chosen by it")
    given = parser.parse_args(arguments)
    if given.clip != BUNNY and (given.source == SOURCE or not given.edit):
        parser.error("another clip needs its own words: give --source and --edit")
    edits = given.edit or EDITS
    if twice := sorted({edit for edit in edits if edits.count(edit) > 1}):
        parser.error(f"--edit {twice[0]!r} is given twice; the page has each once. Leave one out")
    try:
        out = result_folder(str(given.out))
    except argparse.ArgumentTypeError as error:
        parser.error(f"--out {error}")
    widgets = {name: getattr(given, name) for name in ("frames", "size", "steps")}
    checkpoint, clip = given.checkpoint.resolve(), given.clip.resolve()
    found = run(checkpoint, clip, given.source, edits, widgets)
    for number, frames in enumerate(found.pictures.values(), 1):
        save_picture(frames, out / f"edit_{number}.webp", found.fps)
    (out / "results.md").write_text(page(found, checkpoint, clip, given.source), encoding="utf-8")
    sys.stderr.write(f"{out / 'results.md'}\n")


if __name__ == "__main__":
    main()
