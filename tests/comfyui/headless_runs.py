"""Clips that the headless runner makes of the templates, to compare ComfyUI's with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from fatezero_ext.cli.examples import EXAMPLES
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.media.video import read_video

ROOT = Path(__file__).parents[2]
LIMIT = 240  # seconds of one run
CLIP, SOURCE = EXAMPLES / "red_circle_on_grass.mp4", "source.safetensors"


ENCODERS_APART = 4 / 255
"""Mean distance of saved clips whose frames are equal: x264's macroblock tree wavers in one file of a hundred, and
newer versions (0.33.0) save in the colours of BT.709, whose rounding is another (3.1 of 255 seen)."""
DECODERS_APART = 4 / 255
"""Mean distance of ComfyUI's frames from the runner's: newer versions decode videos to floats."""


class HeadlessRuns:
    """Runs each workflow once, in a program of its own that knows nothing of ComfyUI."""

    def __init__(self, folder):
        self._folder, self._made = folder, {}

    def frames(self, workflow, source):
        """What goes into the saved clip: [frames, height, width, 3], 0..1.

        source: the clip's frames as ComfyUI decoded them; the runner takes its own where these are the same
        """
        return load_file(self._run(workflow, source) / "frames.safetensors")["frames"]

    def clip(self, workflow, source):
        """The saved clip's path."""
        (path,) = self._run(workflow, source).rglob("*.mp4")
        return path

    def _run(self, workflow, source):
        if workflow not in self._made:
            output = self._folder / workflow.stem
            output.mkdir(exist_ok=True)
            command = [sys.executable, "-m", "tests.comfyui.headless_runs", str(workflow), str(output)]
            own = read_video(CLIP).frames
            if not torch.equal(source, own):
                assert (source - own).abs().mean() < DECODERS_APART
                save_file({"frames": source.contiguous()}, output / SOURCE)
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
            assert done.returncode == 0, done.stderr
            self._made[workflow] = output
        return self._made[workflow]


def main(workflow, output):
    """What `python -m fatezero_ext run` does, and the frames themselves beside the clip."""
    command, output = load_pack("nodes.headless.command"), Path(output)
    if (output / SOURCE).exists():
        decode_as(load_file(output / SOURCE)["frames"])
    (results,) = command.collect(command.Command(Path(workflow), output=output), Console(stderr=True))
    save_file({"frames": results["VAEDecode"].outputs[0].contiguous()}, output / "frames.safetensors")


def decode_as(frames):
    """Let the runner's video nodes give these frames."""
    components, io = load_pack("nodes.headless.core_nodes.videos").GetVideoComponents, load_pack("nodes.api").io
    decode = components.execute

    def execute(_cls, video):
        return io.NodeOutput(frames, *decode(video).args[1:])

    components.execute = classmethod(execute)


if __name__ == "__main__":
    main(*sys.argv[1:])
