"""Kills a tuning run at random moments and resumes it: the last weights are, bit for bit, those of an undisturbed run.

As a program it does so many times: `python -m tests.tuning.kills --kills 20`. It prints one JSON line and ends with 1
where anything differs. test_tune.py stops runs between steps; here they die anywhere, also while a file is written.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from fatezero_ext.tuning.saved_state import state_file

ROOT = Path(__file__).parents[2]
STEPS, SAVE_EVERY = 60, 2
RUN = f"""
import sys
import torch
torch.set_num_threads(1)
from fatezero_ext import TemporalLayers, TunedFolder, TuningSettings, load_model, tune
model = load_model("tests/golden/model")
clip = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
settings = TuningSettings(steps={STEPS}, learning_rate=1e-3, temporal=TemporalLayers(rank=4), save_every={SAVE_EVERY})
sys.stdout.write("ready\\n")
sys.stdout.flush()
def told(step):
    sys.stdout.write(f"{{step.done}}\\n")
    sys.stdout.flush()
output = TunedFolder(__import__("pathlib").Path(sys.argv[1]))
tune(model.unet, model.text_encoder, clip, "a silver jeep", settings, output=output, resume=True, on_step=told)
"""


def start(output):
    """Start or resume a run in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(output)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def disturbed(output, kills, chosen):
    """Kill a run `kills` times, each after some more steps and a moment, and let it end; the steps at which it died."""
    died = []
    for _kill in range(kills):
        process = start(output)
        assert process.stdout.readline() == "ready\n"
        done = 0
        for _ in range(chosen.randint(1, max(1, STEPS // kills))):
            done = process.stdout.readline().strip()
            if not done:
                break
        time.sleep(chosen.random() * 0.3)  # anywhere within a step or a save
        process.send_signal(signal.SIGKILL)
        process.wait()
        died.append(int(done or STEPS))
    last = start(output)
    last.communicate()
    assert last.returncode == 0
    return died


def weights(output):
    return load_file(output / "unet" / "diffusion_pytorch_model.safetensors")


def main():
    """Run the program; returns the exit code."""
    grammar = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    grammar.add_argument("--kills", type=int, default=20)
    grammar.add_argument("--seed", type=int, default=0)
    options = grammar.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        assert start(whole).communicate() and (whole / "unet").exists()
        died = disturbed(broken, options.kills, random.Random(options.seed))
        one, other = weights(whole), weights(broken)
        faults = [name for name, x in one.items() if not x.equal(other[name])]
        states = load_file(state_file(whole)), load_file(state_file(broken))
        faults += [f"state {name}" for name, x in states[0].items() if not x.equal(states[1][name])]
        faults += sorted(f"{path.name} is left" for path in Path(folder).iterdir() if "partial" in path.name)
    said = {"kills": len(died), "died_at": died, "faults": faults[:9]}
    sys.stdout.write(json.dumps({**said, "seconds": round(time.perf_counter() - began, 1)}) + "\n")
    return int(bool(faults))


if __name__ == "__main__":
    raise SystemExit(main())
