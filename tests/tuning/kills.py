"""Kills a tuning run at random moments and resumes it: the last weights are, bit for bit, those of an undisturbed run.

As a program it does so many times: `python -m tests.tuning.kills --kills 20`. It prints one JSON line and ends with 1
where anything differs. test_going_on.py stops runs between steps; here they die anywhere, one in four while the result
is written. A run that ends before its kill is looked at and begun anew, so that each kill ends a living process.
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
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file

from fatezero_ext.tuning.file_names import state_file

ROOT = Path(__file__).parents[2]
STEPS, SAVE_EVERY = 60, 4
SHARE_OF_RUN, IN_THE_END = 0.3, 4
"""Most of a run's seconds before a kill; every so many kills fall between the last step and the end."""
RUN = f"""
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from fatezero_ext import TemporalLayers, TunedFolder, TuningSettings, load_model, tune
model = load_model("tests/golden/model")
clip = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
settings = TuningSettings(steps={STEPS}, learning_rate=1e-3, temporal=TemporalLayers(rank=4), save_every={SAVE_EVERY})
def say(word):
    sys.stdout.write(f"{{word}}\\n")
    sys.stdout.flush()
say("ready")
output = TunedFolder(Path(sys.argv[1]))
tune(model.unet, model.text_encoder, clip, "a silver jeep", settings, output=output, resume=True,
     on_step=lambda step: say(step.done))
"""


def start(output):
    """Start or resume a run in a process of its own; returns it once the model is loaded."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(output)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def steps_until(process, last):
    """Read the steps that a run says until the last one, or its end."""
    steps = []
    while not steps or steps[-1] < last:
        line = process.stdout.readline()
        if not line:
            break
        steps.append(int(line))
    return steps


def undisturbed(output):
    """Run to the end; returns the seconds of the steps, and those of what is written behind them."""
    began = time.perf_counter()
    process = start(output)
    ready = time.perf_counter()
    assert steps_until(process, STEPS) == [*range(1, STEPS + 1)]
    trained = time.perf_counter()
    assert process.wait() == 0
    return {"load": ready - began, "steps": trained - ready, "end": time.perf_counter() - trained}


def one_life(output, seconds, chosen, *, in_the_end):
    """Start or resume a run and kill it; returns the steps that it said, and whether it lived until then."""
    process, said = start(output), []
    if in_the_end:
        said = steps_until(process, STEPS)
        time.sleep(chosen.uniform(0, seconds["end"]))
    else:
        time.sleep(chosen.uniform(0, SHARE_OF_RUN * (seconds["steps"] + seconds["end"])))
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    return [*said, *map(int, rest.split("\n")[:-1])], process.returncode == -signal.SIGKILL


def saved_steps(output):
    """Steps in the saved state; a half-written one cannot be read."""
    state = state_file(output)
    return len(load_file(state)["losses"]) if state.exists() else 0


def life_faults(before, said, after):
    """What was wrong with a life: where it began, and how many of its steps were lost."""
    last = said[-1] if said else before
    faults = [f"it went on at {said[0]}, behind {before}"] if said and said[0] != before + 1 else []
    return faults + ([f"{last - after} steps were lost"] if last - after >= SAVE_EVERY else [])


def end_faults(whole, broken):
    """What differs in the end from a run that was not disturbed."""
    one, other = (load_file(each / "unet" / "diffusion_pytorch_model.safetensors") for each in (whole, broken))
    faults = [name for name, x in one.items() if not x.equal(other[name])]
    one, other = (load_file(state_file(each)) for each in (whole, broken))
    faults += [f"state {name}" for name, x in one.items() if not x.equal(other[name])]
    one, other = (json.loads((each / "tuning.json").read_text())["losses"] for each in (whole, broken))
    faults += [] if one == other else ["losses"]
    return faults + sorted(f"{path.name} is left" for path in broken.parent.iterdir() if "partial" in path.name)


def main():
    """Run the program; returns the exit code."""
    grammar = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    grammar.add_argument("--kills", type=int, default=20)
    grammar.add_argument("--seed", type=int, default=0)
    options = grammar.parse_args()
    torch.set_num_threads(1)
    began, chosen, died, faults, rounds = time.perf_counter(), random.Random(options.seed), [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        seconds = undisturbed(whole)
        while len(died) < options.kills or rounds == 0:
            rounds += 1
            broken, lived = Path(folder) / f"{rounds}" / "broken", True
            broken.parent.mkdir()
            while lived and len(died) < options.kills:
                before = saved_steps(broken)
                said, lived = one_life(broken, seconds, chosen, in_the_end=len(died) % IN_THE_END == IN_THE_END - 1)
                if lived:
                    died.append(said[-1] if said else before)
                    faults += life_faults(before, said, saved_steps(broken))
            if lived:
                process = start(broken)
                steps_until(process, STEPS)
                assert process.wait() == 0
            faults += end_faults(whole, broken)
    while_saving = Counter(died)[STEPS]
    said = {"kills": len(died), "died_at": died, "behind_the_last_step": while_saving, "rounds": rounds}
    told = {**said, "faults": faults[:9], "seconds": round(time.perf_counter() - began, 1)}
    sys.stdout.write(json.dumps(told) + "\n")
    return int(bool(faults))


if __name__ == "__main__":
    raise SystemExit(main())
