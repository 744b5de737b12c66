"""Parts of `proof.py`: plans of the built-in model, drivers as processes, and what may never be in their folder."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch

from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.media.video import write_video
from fatezero_ext.toy.world.clips import sample_clip

ROOT = Path(__file__).parents[2]
SOURCE = "a red circle on the grass"
CHANGES = ("blue", "green", "yellow", "purple", "orange")
PLACES = ("grass", "sand")
SMALL = {"steps": "2", "frames": "3", "size": "32"}


def write_clips(place, count):
    for seed in range(count):
        clip = sample_clip(seed, shape="circle", colour="red", background="grass", frames=3)
        if not (place / f"clip{seed}.mp4").exists():
            write_video(place / f"clip{seed}.mp4", torch.from_numpy(clip.frames), 8)


def prompts_of(count):
    return [f"a {CHANGES[n % len(CHANGES)]} circle on the {PLACES[n // len(CHANGES) % 2]}" for n in range(count)]


def write_plan(place, clips, prompts, **more):
    """Write clips, and a plan of every prompt for every one; returns the rows."""
    write_clips(place, clips)
    rows = [
        {"clip": f"clip{seed}.mp4", "source_prompt": SOURCE, "edit_prompt": prompt, **SMALL, **more}
        for seed in range(clips)
        for prompt in prompts_of(prompts)
    ]
    save_plan(place / "plan.csv", rows)
    return rows


def save_plan(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def command(place, folder, options, *more, plan="plan.csv"):
    """The command line of a batch below `place`."""
    engine = ["--engine", options.engine, "--workers", str(options.workers)]
    address = ["--address", options.address] if options.address else []
    where = ["--output", str(place / folder), "--models", str(place)]
    return [sys.executable, "-m", "fatezero_ext", "batch", str(place / plan), *where, *engine, *address, *more]


def start(arguments, log):
    """Start a command; what it says goes to the end of a file."""
    with Path(log).open("a") as said:
        return subprocess.Popen(
            arguments, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=said, stderr=said, text=True
        )


def finished(folder):
    """Everything that result.json says, by the key of its row."""
    found = [(path, json.loads(path.read_text())) for path in folder.glob("rows/*/result.json")]
    return {result["key"]: {**result, "at": path.parent} for path, result in found}


def failures(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("failed/[!.]*.json"))]


def bits(folder):
    """Digest of the saved files of every row, by its folder's name."""
    return {
        result["folder"]: hashlib.sha256(b"".join((result["at"] / name).read_bytes() for name in result["files"]))
        .hexdigest()
        for result in finished(folder).values()
    }  # fmt: skip


def starts(folder):
    """Key of the row, driver and process of every start, in order."""
    log = folder / ".batch" / "starts.txt"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(key, driver, int(pid)) for key, driver, pid in map(str.split, lines)]


def made(folder, node):
    """How often nodes of that name were computed, by the process."""
    return Counter(
        each["pid"]
        for each in finished(folder).values()
        for step in each["nodes"]
        if node in step["node"] and not step["reused"]
    )


class Watch:
    """Looks at a batch's folder while its processes are killed.

    killed: processes that were killed while they might run a row
    faults: what was seen and may not be
    """

    def __init__(self, folder):
        self.folder, self.killed, self.faults = folder, set(), []
        self._done = {}

    def look(self):
        for key, result in finished(self.folder).items():
            names = [*result["files"], result["preview"]]
            if not all(names) or not all((result["at"] / name).stat().st_size for name in names):
                self.faults.append(f"half a result: {result['folder']}")
            if key not in self._done:
                self._done[key] = len(starts(self.folder))
        self.faults += [f"failed: {each['error']}" for each in failures(self.folder) if not each["set_aside"]]

    def end(self, rows, clean):
        """Look at what is there in the end; returns all faults."""
        self.look()
        begun, found = starts(self.folder), bits(self.folder)
        for number, (key, _, pid) in enumerate(begun):
            if number >= self._done.get(key, number + 1):
                self.faults.append(f"row {key[:8]} was started by {pid} after it was done")
        last = {pid: key for key, _, pid in begun}  # all that a process can take with it
        for key in {key for key, *_ in begun}:
            pids = [pid for each, _, pid in begun if each == key]
            if len(pids) > 1 + len({pid for pid in self.killed.intersection(pids) if last[pid] == key}):
                self.faults.append(f"row {key[:8]} was started {len(pids)} times, by {pids}; not all of these died")
        if len(found) != rows:
            self.faults.append(f"{len(found)} of {rows} rows")
        self.faults += [f"other bits: {name}" for name in found if found[name] != clean.get(name)]
        own = self.folder / ".batch"
        self.faults += [f"left: {path.name}" for name in ("drafts", "running") for path in (own / name).iterdir()]
        self.faults += [f"left: {path.name}" for path in self.folder.rglob("*.partial*")]
        return self.faults


def children(pid):
    """Processes below one, by name; those that end meanwhile are left out."""
    found = []
    with suppress(psutil.Error):
        for each in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                found.append((each, " ".join(each.cmdline())))
    return found


def workers_of(pid, engine):
    """The processes that run rows for a driver, or those of all actors below this program."""
    if engine == "local":
        return [each for each, name in children(pid) if "spawn_main" in name]
    return [each for each, name in children(os.getpid()) if name.startswith("ray::InPack")]


def kill_all(processes):
    """Kill processes as if at the same moment: none sees another one die."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for each in processes:
            with suppress(psutil.Error, ProcessLookupError):
                each.send_signal(number)


@contextmanager
def ray_cluster(options, machines):
    """A Ray cluster of machines of so many cores each, simulated here; its address goes into the options."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    options.address = cluster.address
    try:
        yield cluster, [cluster.add_node(num_cpus=cores) for cores in machines]
    finally:
        options.address = None
        cluster.shutdown()


def clean_run(place, options, rows):
    """Run the plan undisturbed by processes of this machine, or take a run that is there; returns its bits."""
    if len(there := bits(place / "clean")) == rows:
        return there
    engine, address = options.engine, options.address
    options.engine, options.address = "local", None
    code = start(command(place, "clean", options), place / "clean.log").wait()
    options.engine, options.address = engine, address
    if code:
        raise RuntimeError(f"the clean run ended with {code}; see {place / 'clean.log'}")
    return bits(place / "clean")


def defaults(kind, **inputs):
    """A node of a workflow in the API's format, its widgets as in the page."""
    widgets = load_pack("nodes.headless.schemas.registry").pack_node_types()[kind].widgets
    given = {widget.id: widget.default for widget in widgets if widget.default is not None and "." not in widget.id}
    return {"class_type": kind, "inputs": {**given, **inputs}}


def step_by_step():
    """The workflow with every step as a node of its own, so that a plan may also name words."""
    return {
        "1": {"class_type": "LoadVideo", "inputs": {"file": ""}},
        "2": defaults("FateZero_PrepareFrames", video=["1", 0], count=3, short_side=32),
        "3": defaults("FateZero_LoadPseudo3DUNet"),
        "4": {"class_type": "VAEEncode", "inputs": {"pixels": ["2", 0], "vae": ["3", 2]}},
        "5": defaults("FateZero_RegisterAttentionControl", unet=["3", 0]),
        "6": defaults("FateZero_AttentionStoreCache", controller=["5", 0], policy="features", place="ram"),
        "7": defaults("FateZero_DDIMInvert", controller=["6", 0], clip=["3", 1], latent=["4", 0], steps=2),
        "8": defaults("FateZero_P2PEdit", controller=["7", 0], clip=["3", 1], images=["2", 0]),
        "9": {"class_type": "VAEDecode", "inputs": {"samples": ["8", 0], "vae": ["3", 2]}},
        "10": {"class_type": "CreateVideo", "inputs": {"images": ["9", 0], "fps": ["2", 1]}},
        "11": {"class_type": "SaveVideo", "inputs": {"video": ["10", 0], "filename_prefix": "edit", "format": "auto"}},
    }
