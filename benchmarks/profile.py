"""Where the time of an inversion and an edit goes: the operators that take most, by torch's own profiler."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import described, write_json
from benchmarks.options import parser, settings
from benchmarks.subjects import subject

SHOWN = 12


def shares(averages: list[object], on_gpu: bool) -> dict[str, float]:
    """Share of all time that each operator itself takes, the largest first."""
    attribute = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    times = {event.key: getattr(event, attribute) for event in averages}
    total = sum(times.values())
    return {name: time / total for name, time in sorted(times.items(), key=lambda item: -item[1])}


def main() -> None:
    """Print the table and, with --json, write the figures."""
    options = parser(__doc__, frames=4, side=64, steps=4, edit="shape").parse_args()
    torch.set_num_threads(options.threads)
    shape = (options.model, options.frames[0], options.side, options.steps, options.edit)
    measured = subject(*shape, device=options.device, dtype=options.dtype)
    policy = options.policies[0]
    on_gpu = options.device != "cpu"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    trace = measured.inverted(measured.recording(policy))  # to warm up, and for the edit
    figures = {}
    runs = {
        "inversion": lambda: measured.inverted(measured.recording(policy)),
        "edit": lambda: measured.edited(trace),
    }
    table = Table(title=f"{policy}, {described()['gpu'] or described()['processor']}")
    for column in runs:
        table.add_column(column)
    for name, run in runs.items():
        with profile(activities=activities) as watched:
            run()
        figures[name] = shares(watched.key_averages(), on_gpu)
    listed = [list(figures[name].items())[:SHOWN] for name in runs]
    for entries in zip(*listed, strict=True):
        table.add_row(*(f"{share:.1%} {name}" for name, share in entries))
    console = Console()
    console.print(table)
    first, share = next(iter(figures["edit"].items()))
    console.print(f"the edit spends most in {first}: {share:.1%}")
    write_json(options.json, {"settings": settings(options), "figures": figures})


if __name__ == "__main__":
    main()
