"""The nodes under ComfyUI's own executor against the same edit from Python, in one process and in turn.

`COMFYUI_PATH=... python -m benchmarks.node_layer` with ComfyUI's Python: the first template up to its latents, nothing
cached between runs, against loading, encoding, inverting and editing by the package's calls, on the built-in model.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.clocks import in_turn
from benchmarks.machine import write_json
from fatezero_ext import BlendSettings, Controller, EditSettings, InflationSettings, Storage, edit, invert, load_toy
from fatezero_ext.cli.examples import EXAMPLES
from fatezero_ext.media.video import read_video
from tests.comfyui.in_process import Executor, digest, load_nodes  # before ComfyUI's own `tests`
from tests.comfyui.workflows import EDIT, INVERT, LATENTS, TEMPLATES, api_graph

SOURCE, EDITED = "a red circle on the grass", "a blue circle on the grass"
ROOT = Path(__file__).parents[1]


def from_python(steps: int) -> str:
    """The template's edit by the package's calls; a digest of the latents and the mask."""
    with torch.inference_mode():
        clip = read_video(EXAMPLES / "red_circle_on_grass.mp4")
        model = load_toy(InflationSettings(key_frames=()))
        controller = Controller(model.unet, storage=Storage("features", "ram"))
        inverted = invert(controller, model.text_encoder, model.vae.encode(clip.frames), SOURCE, steps=steps)
        blend = BlendSettings(("red circle",), ("circle",), 0.3, latents=True)
        settings = EditSettings("replace", 0.8, self_replace=0.8, guidance=3.0, blend=blend)
        found = edit(inverted, model.text_encoder, EDITED, settings)
    cell = model.unet.latent_format.pixels_per_cell
    return digest(found.latents, found.mask.repeat_interleave(cell, 1).repeat_interleave(cell, 2))


def in_comfyui(comfyui: Path, preview_method: str) -> Callable[[int], str]:
    """Sets ComfyUI up in this process; what it gives runs the template in as many steps, and digests its result."""
    sys.path.insert(0, str(comfyui))
    sys.argv = ["comfyui", "--cpu", "--preview-method", preview_method]
    import comfy.options

    comfy.options.enable_args_parsing()
    import utils.install_util  # noqa: F401 - before ComfyUI's `nodes` puts another module of that name in front

    behind = ("VAEDecode", "FateZero_KeepSourcePixels", "CreateVideo", "SaveVideo", "MaskToImage", "PreviewImage")
    graph = {name: node for name, node in api_graph(TEMPLATES[0]).items() if node["class_type"] not in behind}
    graph[LATENTS] = {"class_type": "TestKeepLatents", "inputs": {"samples": [EDIT, 0], "mask": [EDIT, 1]}}
    load_nodes(comfyui, ROOT)
    executor = Executor("none")

    def run(steps: int) -> str:
        graph[INVERT]["inputs"]["steps"] = steps
        return executor.run(graph).latents(LATENTS)

    return run


def main() -> None:
    """Print the ratio and, with --json, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--preview-method", default="none", choices=("none", "latent2rgb"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    nodes = in_comfyui(Path(os.environ["COMFYUI_PATH"]), options.preview_method)
    if nodes(options.steps) != from_python(options.steps):
        raise SystemExit("the nodes' latents are not those of the Python calls")
    ratio = in_turn(lambda: nodes(options.steps), lambda: from_python(options.steps), options.pairs)
    Console().print(
        f"nodes over Python {ratio.median:.3f} with previews {options.preview_method}, {options.steps} steps, median "
        f"of {options.pairs} pairs; the same latents to the bit"
    )
    from comfyui_version import __version__

    settings = {
        "comfyui": __version__,
        "steps": options.steps,
        "pairs": options.pairs,
        "preview_method": options.preview_method,
    }
    write_json(options.json, {"settings": settings, "figures": ratio.figures()})


if __name__ == "__main__":
    main()
