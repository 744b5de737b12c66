"""Clips that the headless runner makes of the templates, to compare ComfyUI's with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]
LIMIT = 240  # seconds of one run


class HeadlessRuns:
    """Runs each workflow once, in a program of its own that knows nothing of ComfyUI."""

    def __init__(self, folder):
        self._folder, self._made = folder, {}

    def frames(self, workflow):
        """What goes into the saved clip: [frames, height, width, 3], 0..1."""
        return load_file(self._run(workflow) / "frames.safetensors")["frames"]

    def clip(self, workflow):
        """The saved clip's path."""
        (path,) = self._run(workflow).rglob("*.mp4")
        return path

    def _run(self, workflow):
        if workflow not in self._made:
            output = self._folder / workflow.stem
            command = [sys.executable, "-m", "tests.comfyui.headless_runs", str(workflow), str(output)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
            assert done.returncode == 0, done.stderr
            self._made[workflow] = output
        return self._made[workflow]


def main(workflow, output):
    """What `python -m fatezero_ext run` does, and the frames themselves beside the clip."""
    from rich.console import Console

    from fatezero_ext.pack import load_pack

    command = load_pack("nodes.headless.command")
    (results,) = command.collect(command.Command(Path(workflow), output=Path(output)), Console(stderr=True))
    save_file({"frames": results["VAEDecode"].outputs[0].contiguous()}, Path(output) / "frames.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
