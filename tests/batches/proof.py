"""Batches of the built-in model against single runs, killed at random, with bad rows, and by several drivers.

By hand, since it takes minutes: `python -m tests.batches.proof compare`, `kills`, `bad` or `shards`, also with
`--engine ray` where Ray is installed, and `nodes`. Each prints a line of JSON; code 1 says that something is wrong.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file, save_file

from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.media.video import write_video
from fatezero_ext.models.folder.detect import TOY_FOLDER
from fatezero_ext.toy.world.clips import sample_clip

ROOT = Path(__file__).parents[2]
CHANGES = ("blue", "green", "yellow", "purple", "orange")
PLACES = ("grass", "sand")
SMALL = {"steps": "2", "frames": "3", "size": "32"}


def write_plan(place, clips, prompts, **more):
    """Write sample clips, and a plan of every prompt for every clip; returns the rows."""
    rows = []
    for seed in range(clips):
        clip = sample_clip(seed, shape="circle", colour="red", background="grass", frames=3)
        write_video(place / f"clip{seed}.mp4", torch.from_numpy(clip.frames), 8)
        for number in range(prompts):
            colour, ground = CHANGES[number % len(CHANGES)], PLACES[number // len(CHANGES) % len(PLACES)]
            source, edited = "a red circle on the grass", f"a {colour} circle on the {ground}"
            rows.append({"clip": f"clip{seed}.mp4", "source_prompt": source, "edit_prompt": edited, **SMALL, **more})
    save_plan(place / "plan.csv", rows)
    return rows


def save_plan(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def command(place, folder, options, *more):
    engine = ["--engine", options.engine, "--workers", str(options.workers)]
    plan = [str(place / "plan.csv"), "--output", str(place / folder), "--models", str(place)]
    return [sys.executable, "-m", "fatezero_ext", "batch", *plan, *engine, *more]


def start(arguments, **more):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, text=True, **more)


def bits(folder):
    """Digest of the saved files of every row, by its folder's name."""
    found = {}
    for result in sorted(folder.glob("rows/*/result.json")):
        files = [(result.parent / name).read_bytes() for name in json.loads(result.read_text())["files"]]
        found[result.parent.name] = hashlib.sha256(b"".join(files)).hexdigest()
    return found


def half(folder):
    """How many results lack a file that they name."""
    return sum(
        not all((path.parent / name).is_file() for name in [*found["files"], found["preview"]])
        for path in folder.glob("rows/*/result.json")
        for found in [json.loads(path.read_text())]
    )


def starts(folder):
    """How many rows were started, again ones counted."""
    log = folder / ".batch" / "starts.txt"
    return len(log.read_text().splitlines()) if log.exists() else 0


def wrong_failures(folder):
    """Failures of rows that were not set aside: no row of these plans fails by itself."""
    found = [json.loads(path.read_text()) for path in folder.glob("failed/*.json")]
    return [each["error"] for each in found if not each["set_aside"]]


def results(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rows/*/result.json"))]


def made(folder, node):
    """How often nodes of that name were computed, by the process."""
    return Counter(
        each["pid"] for each in results(folder) for step in each["nodes"] if node in step["node"] and not step["reused"]
    )


def compare(place, options):
    """A batch against single runs of the command."""
    rows = write_plan(place, options.clips, options.prompts)
    began = time.monotonic()
    code = start(command(place, "batch", options)).wait()
    seconds = time.monotonic() - began
    (place / "one.json").write_text(json.dumps(load_pack("nodes.batches.workflow").VIDEO_EDIT))
    by_values = {json.dumps(each["values"], sort_keys=True): each for each in results(place / "batch")}
    same, singles = 0, random.Random(0).sample(rows, min(options.singles, len(rows)))
    began = time.monotonic()
    for number, row in enumerate(singles):
        settings = [f"--set={'LoadVideo.file' if k == 'clip' else f'VideoEdit.{k}'}={v}" for k, v in row.items()]
        output = place / f"single{number}"
        run = [sys.executable, "-m", "fatezero_ext", "run", str(place / "one.json"), *settings, "--output", str(output)]
        start(run, stderr=subprocess.DEVNULL).wait()
        folder = place / "batch" / "rows" / by_values[json.dumps(row, sort_keys=True)]["folder"]
        same += (output / "edit_00001_.mp4").read_bytes() == (folder / "edit_00001_.mp4").read_bytes()
    each = (time.monotonic() - began) / max(1, len(singles))
    loads, inversions = made(place / "batch", "Load Stable Diffusion"), made(place / "batch", "DDIM Inversion")
    return {
        "rows": len(bits(place / "batch")),
        "batch_seconds": round(seconds, 1),
        "single_seconds_each": round(each, 1),
        "ratio": round(each * len(rows) / seconds, 1),
        "same_bits_as_single": f"{same} of {len(singles)}",
        "loads_by_worker": sorted(loads.values()),
        "inversions": sum(inversions.values()),
        "right": code == 0
        and same == len(singles)
        and set(loads.values()) == {1}
        and sum(inversions.values()) == options.clips
        and len(bits(place / "batch")) == len(rows),
    }


def workers_of(process, engine):
    """The processes that run rows for a driver, of Ray those of its actors."""
    try:
        found = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        return []
    if engine == "local":
        return [each for each in found if "spawn_main" in " ".join(cmdline(each))]
    return [each for each in found if cmdline(each)[:1] and cmdline(each)[0].startswith("ray::")]


def cmdline(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def end(process):
    """End what a driver has started and cannot end itself any more."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        children = []
    process.kill()
    process.wait()
    for child in children:
        try:
            child.kill()
        except psutil.Error:
            pass


def kills(place, options):
    """A batch whose workers and drivers are killed at random moments, each time resumed."""
    rows = write_plan(place, options.clips, options.prompts)
    start(command(place, "clean", options)).wait()
    chance, killed, wrong, halves, lost, again = random.Random(options.seed), Counter(), [], 0, 0, 0
    process = start(command(place, "out", options), stderr=subprocess.DEVNULL)
    while sum(killed.values()) < options.kills:
        time.sleep(chance.uniform(0.2, options.pause))
        halves, wrong = halves + half(place / "out"), wrong + wrong_failures(place / "out")
        if process.poll() is not None:
            failed = len(list((place / "out").glob("failed/*.json")))
            if len(results(place / "out")) + failed == len(rows):  # begin anew: there are kills left
                again += max(0, starts(place / "out") - len(rows) - lost)
                shutil.rmtree(place / "out")
                lost = 0
            process = start(command(place, "out", options), stderr=subprocess.DEVNULL)
            continue
        workers = workers_of(process, options.engine)
        lost += options.workers  # at most: a driver's death ends a row of each
        if workers and chance.random() < 0.7:
            chance.choice(workers).send_signal(signal.SIGKILL)
            killed["worker"] += 1
            lost += 1 - options.workers
        else:
            if options.engine == "ray":
                end(process)  # with its cluster, as a machine dies
            process.kill()
            process.wait()
            killed["driver"] += 1
            process = start(command(place, "out", options), stderr=subprocess.DEVNULL)
    process.wait()
    halves, wrong = halves + half(place / "out"), wrong + wrong_failures(place / "out")
    again += max(0, starts(place / "out") - len(rows) - lost)
    seen = {"starts_beyond_rows_and_kills": again, "half_results_seen": halves, "wrong_failures": wrong[:3]}
    return after_kills(place, options, process.returncode, len(rows), {"killed": dict(killed), **seen})


def after_kills(place, options, code, count, seen):
    """What is there in the end, rows that were set aside run again."""
    out = place / "out"
    aside = len(list(out.glob("failed/*.json")))
    code = start(command(place, "out", options, "--retry-failed")).wait() if aside else code
    found = {
        **seen,
        "rows": len(bits(out)),
        "same_bits_as_clean": bits(out) == bits(place / "clean"),
        "drafts_left": len(list((out / ".batch" / "drafts").iterdir())),
        "set_aside_for_two_kills": aside,
    }
    wrong = [found[name] for name in ("drafts_left", *list(seen)[1:])]
    return {**found, "right": code == 0 and found["rows"] == count and found["same_bits_as_clean"] and not any(wrong)}


def broken_model(place):
    """A model whose latents are not numbers."""
    shutil.copytree(TOY_FOLDER, place / "broken", ignore=shutil.ignore_patterns("__pycache__"))
    weights = next((place / "broken" / "unet").glob("*.safetensors"))
    tensors = load_file(weights)
    name = next(name for name in tensors if "conv_in" in name)
    save_file({**tensors, name: torch.full_like(tensors[name], torch.nan)}, weights)
    return "broken"


def bad(place, options):
    """Ten bad rows among others: files that are missing, settings that are not, NaN latents, and a killed worker."""
    options.workers = 1  # so that the one that is killed is the one that runs the row
    rows = write_plan(place, options.clips, options.prompts, model="built-in toy model", kind="auto")
    broken = broken_model(place)
    changes = [{"clip": "missing.mp4"}, {"clip": "../out.mp4"}, {"steps": "many"}, {"kind": "color"}]
    changes += [{"edit_prompt": "a red circle on the grass"}, {"strength": "7"}, {"source_prompt": " "}]
    changes += [{"model": broken}, {"model": broken, "edit_prompt": "a blue heart on the grass"}]
    rows += [{**rows[0], **change} for change in changes] + [{**rows[0], "edit_prompt": "a red heart on the grass"}]
    killer = "a-red-heart"
    save_plan(place / "plan.csv", rows)
    process = start(command(place, "out", options), stderr=(place / "said.txt").open("w"))
    while process.poll() is None:
        time.sleep(0.02)
        running = place / "out" / ".batch" / "running"
        if running.is_dir() and (running / killer_key(place, killer)).exists():  # as the system does by memory
            for worker in workers_of(process, options.engine):
                worker.kill()
    with (place / "out" / "report.csv").open() as file:
        states = Counter(row["status"] for row in csv.DictReader(file))
    failures = [json.loads(path.read_text()) for path in (place / "out").glob("failed/*.json")]
    return {
        "states": dict(states),
        "code": process.returncode,
        "errors": sorted(f"{each['folder'][:40]}: {each['error'][:90]}" for each in failures),
        "said": (place / "said.txt").read_text().count("Not valid"),
        "right": states["done"] == len(rows) - 10 and process.returncode == 20,
    }


def killer_key(place, name):
    plan = json.loads((place / "out" / ".batch" / "plan.json").read_text())
    return next((row["key"] for row in plan["rows"] if name in row["folder"]), "none")


def shards(place, options):
    """Two drivers on one folder, of which one is killed."""
    rows = write_plan(place, options.clips, options.prompts)
    start(command(place, "clean", options)).wait()
    first, second = (
        start(command(place, "out", options, "--shard", f"{n}/2"), stderr=subprocess.DEVNULL) for n in (1, 2)
    )
    until = random.Random(options.seed).randint(1, len(rows) // 2)
    while first.poll() is None and len(bits(place / "out")) < until:
        time.sleep(0.05)
    first.kill()
    first.wait()
    code = second.wait()
    drivers = Counter(each["worker"] for each in results(place / "out"))
    found = {
        "rows": len(bits(place / "out")),
        "killed_after": until,
        "same": bits(place / "out") == bits(place / "clean"),
    }
    return {**found, "workers": dict(drivers), "right": code == 0 and found["same"] and found["rows"] == len(rows)}


def nodes(place, options):
    """Three machines of a Ray cluster, simulated on this one, of which one dies in the middle."""
    from ray.cluster_utils import Cluster

    rows = write_plan(place, options.clips, options.prompts)
    start(command(place, "clean", options)).wait()
    options.engine, options.workers = "ray", 3
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    machines = [cluster.add_node(num_cpus=1) for _ in range(3)]
    process = start(command(place, "out", options, "--address", cluster.address))
    while process.poll() is None and len(bits(place / "out")) < options.prompts // 2:
        time.sleep(0.1)
    done = len(bits(place / "out"))
    cluster.remove_node(machines[0], allow_graceful=False)
    code = process.wait()
    cluster.shutdown()
    workers = Counter(each["worker"] for each in results(place / "out"))
    twice = starts(place / "out") - len(rows)
    found = {"rows": len(bits(place / "out")), "node_killed_after": done, "workers": dict(workers), "code": code}
    found |= {"same": bits(place / "out") == bits(place / "clean"), "started_again": twice}
    return {**found, "right": code == 0 and found["same"] and found["rows"] == len(rows) and twice <= 1}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["compare", "kills", "bad", "shards", "nodes"])
    parser.add_argument("--engine", default="local")
    for name, default in {"clips": 6, "prompts": 10, "workers": 2, "singles": 60, "kills": 30, "seed": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--pause", type=float, default=20.0, help="most seconds between kills")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = globals()[options.what](Path(folder), options)
    sys.stdout.write(json.dumps({"what": options.what, "engine": options.engine, **found}) + "\n")
    sys.exit(0 if found["right"] else 1)


if __name__ == "__main__":
    main()
