"""What the pack adds to the start of ComfyUI, and how long the check of a workflow takes, beside torch's own import.

Every figure is of a fresh process, the smallest of several rounds taken in turn; `cpu` is user and system time, which
another program's load does not change much.

    python -m benchmarks.startup --json FILE
    python -m benchmarks.startup --comfyui DIR --comfyui-python DIR/venv/bin/python --json FILE
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from rich.console import Console
from rich.table import Table

from benchmarks.machine import write_json

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / "example_workflows" / "1_colour_edit_with_mask.json"
TORCH = "import torch"
PACK = "the list of nodes, torch there"
CHECK = "run FILE --check"
LISTED = """
import asyncio, time, torch
wall, cpu = time.perf_counter(), time.process_time()
from fatezero_ext.cli.node_pack import load_pack
nodes = asyncio.run(asyncio.run(load_pack("nodes").comfy_entrypoint()).get_node_list())
schemas = [node.GET_SCHEMA() for node in nodes]
print(time.perf_counter() - wall, time.process_time() - cpu)
"""
NAMED = re.compile(r"([\d.]+) seconds: \S*fatezero")
START_LIMIT, BETWEEN = 180, 0.1  # seconds

Taken = dict[str, float]


def timed(command: list[str]) -> Taken:
    """Wall and processor seconds of a program that must succeed."""
    began = time.perf_counter()
    program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, used = os.wait4(program.pid, 0)
    program.returncode = os.waitstatus_to_exitcode(status)
    if program.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {program.returncode}: {program.stderr.read().decode()}")
    program.stderr.close()
    return {"wall": time.perf_counter() - began, "cpu": used.ru_utime + used.ru_stime}


def command_line(rounds: int) -> dict[str, list[Taken]]:
    """torch's import, the pack's import after it, and the check of an example, in turn."""
    found: dict[str, list[Taken]] = {TORCH: [], PACK: [], CHECK: []}
    for _ in range(rounds):
        found[TORCH].append(timed([sys.executable, "-c", TORCH]))
        listed = subprocess.run([sys.executable, "-c", LISTED], cwd=ROOT, capture_output=True, text=True, check=True)
        found[PACK].append(dict(zip(("wall", "cpu"), map(float, listed.stdout.split()), strict=True)))
        found[CHECK].append(timed([sys.executable, "-m", "fatezero_ext", "run", str(WORKFLOW), "--check"]))
    return found


def comfyui(folder: Path, python: Path, rounds: int) -> dict[str, list[Taken]]:
    """ComfyUI's start with the pack and without, in turn."""
    found: dict[str, list[Taken]] = {"with the pack": [], "without": []}
    for _ in range(rounds):
        for name, taken in found.items():
            with tempfile.TemporaryDirectory() as base:
                taken.append(started(folder, python, Path(base), with_pack=name == "with the pack"))
    return found


def started(folder: Path, python: Path, base: Path, *, with_pack: bool) -> Taken:
    """Seconds until ComfyUI answers, and what it says itself of the pack's import (`pack`)."""
    nodes = base / "custom_nodes"
    nodes.mkdir()
    if with_pack:
        (nodes / "fatezero").symlink_to(ROOT, target_is_directory=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"--cpu --listen 127.0.0.1 --port {port} --disable-api-nodes --disable-auto-launch".split()
    places = ["--base-directory", str(base), "--database-url", f"sqlite:///{base / 'comfyui.db'}"]
    log = base / "log.txt"
    began = time.perf_counter()
    with log.open("w") as said:
        command = [str(python.absolute()), "main.py", *flags, *places]
        program = subprocess.Popen(command, cwd=folder, stdout=said, stderr=subprocess.STDOUT)
        try:
            _wait_for_answer(f"http://127.0.0.1:{port}/system_stats", program)
            seconds = time.perf_counter() - began
        finally:
            program.terminate()
            _, _, used = os.wait4(program.pid, 0)
            program.returncode = 0
    named = NAMED.search(log.read_text(errors="replace"))
    if with_pack != bool(named):
        raise RuntimeError(f"ComfyUI's log does not fit: {log.read_text(errors='replace')[-2000:]}")
    told = {"pack": float(named[1])} if named else {}
    return {"wall": seconds, "cpu": used.ru_utime + used.ru_stime, **told}


def _wait_for_answer(address: str, program: subprocess.Popen) -> None:
    for _ in range(round(START_LIMIT / BETWEEN)):
        try:
            urlopen(address, timeout=5).close()
            return
        except (URLError, OSError):
            time.sleep(BETWEEN)
        if os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
    raise RuntimeError(f"{address} does not answer within {START_LIMIT} s, or ComfyUI ended")


def shown(found: Mapping[str, list[Taken]]) -> Table:
    """The smallest of each figure."""
    table = Table()
    for column in ("", "wall", "cpu", f"cpu / {TORCH}", "said by ComfyUI"):
        table.add_column(column, justify="right" if column else "left")
    torch_cpu = min(each["cpu"] for each in found[TORCH])
    for name, taken in found.items():
        wall, cpu = (min(each[kind] for each in taken) for kind in ("wall", "cpu"))
        pack = f"{max(each['pack'] for each in taken):.1f} s" if "pack" in taken[0] else ""
        table.add_row(name, f"{wall:.2f} s", f"{cpu:.2f} s", f"{cpu / torch_cpu:.2f}", pack)
    return table


def main() -> None:
    """Print the table and, with --json, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--comfyui", type=Path, metavar="DIR", help="a ComfyUI to start too, three times each way")
    parser.add_argument("--comfyui-python", type=Path, default=Path(sys.executable), metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found = command_line(options.rounds)
    if options.comfyui:
        found |= comfyui(options.comfyui, options.comfyui_python, rounds=3)
    Console().print(shown(found))
    write_json(options.json, {"settings": {"rounds": options.rounds}, "figures": found})


if __name__ == "__main__":
    main()
