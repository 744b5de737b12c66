"""Batches of the built-in model against single runs, killed at random, with bad rows, and by several drivers.

By hand, since it takes minutes: `python -m tests.batches.proof compare`, `kills`, `bad` or `shards`, also with
`--engine ray` where Ray is installed, and `nodes`. Each prints a line of JSON; code 1 says that something is wrong.
With `--place DIR` everything stays in a folder, where the next proof finds clean and single runs.
"""

import argparse
import csv
import json
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext, suppress
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file, save_file

from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.models.folder.detect import TOY_FOLDER

from .proof_runs import (
    SOURCE,
    Watch,
    bits,
    clean_run,
    command,
    failures,
    finished,
    kill_all,
    made,
    prompts_of,
    ray_cluster,
    save_plan,
    start,
    starts,
    step_by_step,
    workers_of,
    write_clips,
    write_plan,
)

KINDS = {"worker": 0.6, "driver": 0.3, "machine": 0.1}
"""What is killed, by how often; a machine is a driver with its workers at one moment, and not of Ray."""

MOST_ROWS_BETWEEN = 4
"""Rows that are started between two kills."""


def compare(place, options):
    """A batch against single runs of the command."""
    rows, out = write_plan(place, options.clips, options.prompts), place / options.engine
    alone = rows[:: max(1, len(rows) // options.singles)]
    each, saved = single_runs(place, alone)
    began = time.monotonic()
    code = start(command(place, out.name, options), place / f"{out.name}.log").wait()
    seconds = time.monotonic() - began
    by_values = {as_key(result["values"]): result["at"] for result in finished(out).values()}
    edits = {as_key(row): (by_values[as_key(row)] / "edit_00001_.mp4").read_bytes() for row in rows}
    same = sum(edits[as_key(row)] == single for row, single in zip(alone, saved, strict=True))
    loads, inversions = made(out, "Load Stable Diffusion"), made(out, "DDIM Inversion")
    found = {
        "rows": len(bits(out)),
        "batch_seconds": round(seconds, 1),
        "single_seconds_each": round(each, 1),
        "ratio": round(each * len(rows) / seconds, 1),
        "same_bits_as_single": f"{same} of {len(saved)}",
        "different_edits": len(set(edits.values())),
        "loads_by_worker": sorted(loads.values()),
        "inversions": sum(inversions.values()),
        "starts": len(starts(out)),
    }
    right = code == 0 and found["rows"] == found["starts"] == len(rows) and same == len(alone)
    right = right and found["inversions"] == options.clips
    right = right and found["loads_by_worker"] == [1] * options.workers
    return {**found, "right": right and found["different_edits"] == len(rows)}


def as_key(values):
    return json.dumps(values, sort_keys=True)


def single_runs(place, rows):
    """Run every row by a command of its own; returns the seconds of each, and the bytes of what they saved."""
    (place / "one.json").write_text(json.dumps(load_pack("nodes.batches.workflow").VIDEO_EDIT))
    taken = place / "singles.json"
    folders = [place / f"single{number}" for number in range(len(rows))]
    if not taken.exists():
        began = time.monotonic()
        for row, folder in zip(rows, folders, strict=True):
            settings = [f"--set={'LoadVideo.file' if k == 'clip' else f'VideoEdit.{k}'}={v}" for k, v in row.items()]
            run = [sys.executable, "-m", "fatezero_ext", "run", str(place / "one.json"), *settings]
            start([*run, "--output", str(folder)], place / "singles.log").wait()
        taken.write_text(json.dumps((time.monotonic() - began) / len(rows)))
    return json.loads(taken.read_text()), [(folder / "edit_00001_.mp4").read_bytes() for folder in folders]


def kills(place, options):
    """A batch whose workers and drivers are killed at random moments, each time resumed, until there were so many."""
    rows, chance, killed = write_plan(place, options.clips, options.prompts), random.Random(options.seed), Counter()
    clean, faults, rounds, aside = clean_run(place, options, len(rows)), [], 0, 0
    kinds = {kind: share for kind, share in KINDS.items() if options.engine == "local" or kind != "machine"}
    with ray_cluster(options, [options.workers]) if options.engine == "ray" else nullcontext():
        while killed.total() < options.kills or rounds == 0:
            out, rounds = place / f"kills_{options.engine}_{rounds}", rounds + 1
            watch = Watch(out)
            process = start(command(place, out.name, options), place / "kills.log")
            while process.poll() is None or not all_finished(out, len(rows)):
                if process.poll() is not None:  # it may only end by itself when all is done
                    faults.append(f"the driver ended with {process.returncode}")
                    break
                a_moment(out, process, chance)
                watch.look()
                if killed.total() < options.kills and process.poll() is None:
                    (kind,) = chance.choices([*kinds], [*kinds.values()])
                    killed.update(kill(kind, process, watch, options, chance))
                    if process.poll() is not None:
                        process = start(command(place, out.name, options), place / "kills.log")
            set_aside = len(failures(out))
            aside += set_aside
            if set_aside:
                process = start(command(place, out.name, options, "--retry-failed"), place / "kills.log")
            if process.wait():
                faults.append(f"the driver ended with {process.returncode}")
            faults += watch.end(len(rows), clean)
    told = {"killed": dict(killed), "rounds": rounds, "set_aside_for_two_kills": aside}
    return {**told, "faults": len(faults), "first_faults": faults[:5], "right": not faults and bool(clean)}


def a_moment(folder, process, chance):
    """Wait for a few rows to be started, none at times, and then for about a part of one."""
    until = len(starts(folder)) + chance.randint(0, MOST_ROWS_BETWEEN)
    while process.poll() is None and len(starts(folder)) < until:
        time.sleep(0.02)
    known = [result["seconds"] for result in finished(folder).values()]
    time.sleep(chance.uniform(0, 1.2 * statistics.median(known) if known else 5.0))


def all_finished(folder, rows):
    return len(finished(folder)) + len(failures(folder)) == rows


def kill(kind, process, watch, options, chance):
    """Kill a worker, a driver, or a driver with its workers; returns which it was, nothing where it had just ended."""
    driver = psutil.Process(process.pid)
    driver.suspend()  # nothing is started between the look and the kill
    workers = workers_of(process.pid, options.engine)
    if kind == "worker" and workers:
        victims = [chance.choice(workers)]
    else:
        victims, kind = ([driver], "driver") if kind == "worker" else ([driver], kind)
        victims += workers if kind == "machine" else []
    watch.killed |= {each.pid for each in (workers if driver in victims else victims)}
    kill_all(victims)
    if driver in victims:
        return [kind] if process.wait() == -signal.SIGKILL else []
    driver.resume()
    return [kind]


def broken_model(place):
    """A model whose latents are not numbers."""
    shutil.copytree(TOY_FOLDER, place / "broken", ignore=shutil.ignore_patterns("__pycache__"))
    weights = next((place / "broken" / "unet").glob("*.safetensors"))
    tensors = load_file(weights)
    name = next(name for name in tensors if "conv_in" in name)
    save_file({**tensors, name: torch.full_like(tensors[name], torch.nan)}, weights)
    return "broken"


def bad_rows(broken):
    """Changes of a row that make it bad, each with words of its message."""
    words = {"kind": "custom", "blend_words": "jeep"}
    return [
        ({"clip": "missing.mp4"}, r"no file .*missing\.mp4"),
        ({"clip": "../out.mp4"}, r"out\.mp4"),
        ({"steps": "many"}, r"column 'steps'.*many"),
        ({"kind": "color"}, r"column 'kind'.*color"),
        (words, r"jeep"),
        ({**words, "blend_words": "circle", "blend_edit_words": "jeep"}, r"jeep"),
        ({"strength": "7"}, r"column 'strength'.*7"),
        ({"model": broken}, r"not (finite|numbers)|NaN|nan"),
        ({"model": broken, "edit_prompt": "a blue heart on the grass"}, r"not (finite|numbers)|NaN|nan"),
        ({"edit_prompt": "a red heart on the grass", "name": "killer"}, r"2 workers died.*signal 9|died"),
    ]


def bad(place, options):
    """Ten bad rows among a hundred: missing files, words, settings, NaN latents, and one whose worker is killed."""
    clips, prompts = (options.clips, options.prompts) if options.clips != 6 else (9, 10)
    write_clips(place, clips)
    small = {"model": "built-in toy model", "kind": "auto", "steps": "2", "blend_words": "", "blend_edit_words": ""}
    good = [
        {"clip": f"clip{seed}.mp4", "source_prompt": SOURCE, "edit_prompt": prompt, **small, "name": ""}
        for seed in range(clips)
        for prompt in prompts_of(prompts)
    ]
    changes = bad_rows(broken_model(place))
    rows = [*good]
    for number, (change, _) in enumerate(changes):  # among the others
        rows.insert(number * len(rows) // len(changes), {**good[0], **change})
    save_plan(place / "plan.csv", good)
    (place / "steps.json").write_text(json.dumps(step_by_step()))
    workflow = ["--workflow", str(place / "steps.json")]
    if start(command(place, "clean", options, *workflow), place / "clean.log").wait():
        raise RuntimeError(f"the clean run failed; see {place / 'clean.log'}")
    save_plan(place / "bad.csv", rows)
    process = start(command(place, "out", options, *workflow, plan="bad.csv"), place / "bad.log")
    shot = shoot(place / "out", process, "killer")
    with (place / "out" / "report.csv").open() as file:
        told = [line for line in csv.DictReader(file) if line["status"] != "done"]
    named = [any(re.search(words, line["error"], re.DOTALL) for line in told) for _, words in changes]
    same = bits(place / "out") == bits(place / "clean")
    return {
        "rows": len(rows),
        "done": len(bits(place / "out")),
        "same_bits_as_without_bad_rows": same,
        "code": process.returncode,
        "named": f"{sum(named)} of {len(changes)}",
        "workers_killed": shot,
        "errors": [f"row {line['row']} {line['status']}: {line['error'][:110]}" for line in told],
        "right": same and all(named) and len(told) == len(changes) and process.returncode == 20 and shot == 2,
    }


def shoot(folder, process, name):
    """Kill every worker that runs the row of that name, as the system does where memory is short; returns how many."""
    killed, key = set(), None
    while process.poll() is None:
        time.sleep(0.01)
        if key is None and (plan := folder / ".batch" / "plan.json").exists():
            key = next(row["key"] for row in json.loads(plan.read_text())["rows"] if row["folder"].startswith(name))
        for started, _, pid in starts(folder):
            if started == key and pid not in killed:
                with suppress(psutil.Error):
                    kill_all([psutil.Process(pid)])
                    killed.add(pid)
    return len(killed)


def shards(place, options):
    """Two drivers on one folder, of which one is killed."""
    rows = write_plan(place, options.clips, options.prompts)
    clean, watch = clean_run(place, options, len(rows)), Watch(place / "shards")
    first, second = (start(command(place, "shards", options, "--shard", f"{n}/2"), place / f"{n}.log") for n in (1, 2))
    until = random.Random(options.seed).randint(len(rows) // 6, len(rows) // 2)
    while first.poll() is None and len(finished(place / "shards")) < until:
        time.sleep(0.05)
    if was_at_work := first.poll() is None:
        kill("machine", first, watch, options, random.Random(0))
    code = second.wait()
    by_driver = Counter(driver for _, driver, _ in starts(place / "shards"))
    faults = watch.end(len(rows), clean)
    found = {"rows": len(finished(place / "shards")), "killed_after": until, "starts_by_driver": dict(by_driver)}
    right = code == 0 and not faults and was_at_work and len(by_driver) == 2
    return {**found, "faults": faults[:5], "right": right}


def nodes(place, options):
    """Three machines of a Ray cluster, simulated on this one, of which one dies in the middle."""
    rows, options.workers = write_plan(place, options.clips, options.prompts), 3
    clean, watch, options.engine = clean_run(place, options, len(rows)), Watch(place / "nodes"), "ray"
    with ray_cluster(options, [1, 1, 1]) as (cluster, machines):
        process = start(command(place, "nodes", options), place / "nodes.log")
        while process.poll() is None and not has_begun(place / "nodes", 3, len(rows) // 6):
            time.sleep(0.1)
        done, actors = len(finished(place / "nodes")), workers_of(process.pid, "ray")
        cluster.remove_node(machines[0], allow_graceful=False)
        gone, alive = wait_for_one(actors)
        watch.killed |= {each.pid for each in gone}
        code = process.wait()
    faults = watch.end(len(rows), clean)
    runs = Counter(pid for _, _, pid in starts(place / "nodes"))
    found = {"rows": len(finished(place / "nodes")), "machine_killed_after": done, "code": code}
    found |= {"actors_that_died": len(gone), "rows_started_by_them": sum(runs[each.pid] for each in gone)}
    found |= {"starts": sum(runs.values()), "actors": len(runs), "faults": faults[:5]}
    right = code == 0 and not faults and done < len(rows) and len(gone) == 1 and len(alive) == 2
    return {**found, "right": right and found["rows_started_by_them"] > 0}


def has_begun(folder, actors, rows):
    return len({pid for _, _, pid in starts(folder)}) >= actors and len(finished(folder)) >= rows


def wait_for_one(processes):
    """Wait until one of them has ended; returns those that have, and the others."""
    gone, alive = [], processes
    until = time.monotonic() + 120
    while not gone and time.monotonic() < until:
        gone, alive = psutil.wait_procs(processes, timeout=1)
    return gone, alive


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["compare", "kills", "bad", "shards", "nodes"])
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    for name, default in {"clips": 6, "prompts": 10, "workers": 2, "kills": 30, "seed": 1, "singles": 60}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--place", type=Path, help="folder that is kept; otherwise a temporary one")
    options = parser.parse_args()
    options.address = None
    if options.what == "shards" and options.engine == "ray":
        parser.error("shards are of drivers without a cluster")
    if options.place is not None:
        options.place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() if options.place is None else nullcontext(options.place) as folder:
        found = globals()[options.what](Path(folder).absolute(), options)
    sys.stdout.write(json.dumps({"what": options.what, "engine": options.engine, **found}) + "\n")
    sys.exit(0 if found["right"] else 1)


if __name__ == "__main__":
    main()
