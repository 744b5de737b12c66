"""The tree of commands: run, batch, import-config, tune, demo, cache and measure.

Nothing that takes long is imported before a command starts.
"""

from __future__ import annotations

import math
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import FateZeroError
from . import FAILED, INTERRUPTED, OK
from .examples import EXAMPLE_EDITS
from .node_pack import load_pack
from .stop_signals import stop_signals

ALL = "all"
MOST_WORKERS = 1000
OUTPUT = Path("output")

RUN_HELP = """\
Runs a workflow saved by ComfyUI (either export format) without ComfyUI.

settings:
  NODE.INPUT=VALUE gives an input another value. NODE is a node's id; its title or its type where only one
  node has it. --check with any that is wrong lists those there are:
    --set 8.edit_prompt="a blue ball"      --set DDIMInvert.steps=20

variants:
  Each --variant runs the workflow once more with its own settings, and repeats only the nodes that they change:
    run edit.json --variant 8.edit_prompt="a red ball" --variant 8.edit_prompt="a blue box" 8.kind=colour

Paths of saved files go to standard output, everything else to standard error.
Exit code: 0 done, 1 a node failed, 2 the command or the workflow is not valid (nothing ran), 130 stopped by Ctrl-C.
"""
BATCH_HELP = """\
Runs a table of clips and values (CSV, JSONL or YAML) through a workflow, on several workers and machines.

  batch PLAN --output DIR     run what has no results yet; the same command again goes on after anything that died
  batch status DIR            how far a batch is, from another terminal
  batch report DIR            write report.html and report.csv of a batch's folder anew

Columns are: clip, widgets by their name where one node has it (source_prompt, edit_prompt, kind, strength, ...),
NODE.INPUT as in --set, and name, for the row's folder. A cell with several values (a | b in CSV, a list elsewhere)
stands for as many rows. Without --workflow every row is one Video Edit, by the built-in toy model unless a column model
names another.

Paths of the reports go to standard output, everything else to standard error.
Exit code: 0 all rows done, 10 and the number of failed rows (at most 110), 1 the batch cannot go on, 2 the command or
the plan is not valid and nothing ran, 130 stopped by Ctrl-C.
"""
DEMO_HELP = """\
Runs an example workflow, shows the result, and measures it.

The same workflow runs once more with all attention control switched off (plain DDIM inversion and guidance), so that
the table says what the control is worth.

Exit code: 0 done, 1 an example failed, 2 the command is not valid, 130 stopped by Ctrl-C.
"""
CACHE_HELP = """\
Shows, checks and removes saved inversions. Edits make again what they miss, so everything may be removed.

FATEZERO_CACHE_DIR names another folder, FATEZERO_CACHE_GB another limit (GiB; 32 where it is not set).

Results go to standard output, errors to standard error.
Exit code: 0 done, 1 something is damaged or cannot be done, 2 the command is not valid, 130 stopped by Ctrl-C.
"""
MEASURE_HELP = """\
Compares an edited clip with its source.

PSNR and SSIM say how much of the source is left; with --mask only where the mask is black.
So do flicker (the mean change from frame to frame that the source does not have) and the warp error (what the source's
motion does not explain; needs opencv-python-headless). --vmaf adds VMAF (needs imageio-ffmpeg).
With --clip also the published figures: frame accuracy (the share of frames that are at least as close to the edit
prompt as to the source prompt) and temporal consistency (the mean cosine of consecutive frames' embeddings).

Figures go to standard output, errors to standard error.
Exit code: 0 done, 1 something cannot be measured, 2 the command is not valid, 130 stopped by Ctrl-C.
"""
TUNE_HELP = """\
Tunes a model on a clip: it learns the clip's shapes and motion, and edits may then change shapes.

CLIP is a video, an animated picture, or a folder of pictures. The result is a folder of a model in diffusers layout, to
be chosen where models are loaded. The state of the run is saved beside it, as DIR.tuning.safetensors; after a crash or
Ctrl-C, the same command with --resume goes on. With more --steps it also goes on behind the end.

The folder goes to standard output, everything else to standard error.
Exit code: 0 done, 1 it cannot be done, 2 the command is not valid, 130 stopped by Ctrl-C.
"""


def parser() -> ArgumentParser:
    """Make the grammar of all commands; `start` of the parsed options is the function to call."""
    top = ArgumentParser(prog="python -m fatezero_ext", description="FateZero video editing.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, describe: Callable[[ArgumentParser], None], **texts: Any) -> None:  # noqa: ANN401 - texts
        command = commands.add_parser(name, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False, **texts)
        command.set_defaults(misused=command.error)
        describe(command)

    edit_help = "edit a sample clip with a built-in model and measure the result"
    add("demo", _describe_demo, help=edit_help, description=DEMO_HELP)
    add("cache", _describe_cache, help="list, verify and prune the inversions saved on disk", description=CACHE_HELP)
    add("measure", _describe_measure, help="measure an edited clip against its source", description=MEASURE_HELP)
    add("import-config", _describe_import, help="turn a config of the authors' program into a workflow file")
    add("tune", _describe_tune, help="tune a model on a clip, for edits of shapes", description=TUNE_HELP)
    add("run", _describe_run, help="run a workflow file", description=RUN_HELP)
    add("batch", _describe_batch, help="run a table of clips and values", description=BATCH_HELP)
    return top


def _describe_demo(command: ArgumentParser) -> None:
    command.set_defaults(start=_demo)
    names = ", ".join(EXAMPLE_EDITS)
    command.add_argument("examples", nargs="*", type=_example, metavar="NAME", help=f"{names}, or {ALL}")
    command.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="default: ./output")


def _example(name: str) -> str:
    if name not in EXAMPLE_EDITS and name != ALL:
        raise ArgumentTypeError(f"there is no example {name!r}; there are {', '.join(EXAMPLE_EDITS)}, and {ALL}")
    return name


def _describe_cache(command: ArgumentParser) -> None:
    command.set_defaults(start=_cache)
    actions = command.add_subparsers(dest="action", required=True, metavar="COMMAND")
    listing = actions.add_parser("list", help="show what is saved", allow_abbrev=False)
    verify = actions.add_parser("verify", help="check every byte", allow_abbrev=False)
    verify.add_argument("--remove", action="store_true", help="remove what is damaged and not in use")
    prune = actions.add_parser("prune", help="remove what was not used for longest", allow_abbrev=False)
    amount = prune.add_mutually_exclusive_group()
    amount.add_argument(
        "--limit-gb", type=_gib, metavar="X", help="until at most X GiB are left (default: the cache's limit)"
    )
    amount.add_argument("--all", action="store_true", help="everything that is not in use")
    for action in (listing, verify, prune):
        action.set_defaults(misused=action.error)
        action.add_argument("--folder", type=Path, metavar="DIR", help="the cache's folder (default: the user's)")


def _gib(text: str) -> int:
    """Convert GiB to bytes."""
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not (math.isfinite(size) and size >= 0):
        raise ArgumentTypeError(f"{text!r} is not a number of GiB; 0 or more is needed")
    return int(size * 2**30)


def _describe_measure(command: ArgumentParser) -> None:
    command.set_defaults(start=_measure)
    command.add_argument("source", type=Path, metavar="SOURCE", help="a video file, or a folder of pictures")
    command.add_argument("edited", type=Path, metavar="EDITED", help="likewise, as many frames of the same size")
    command.add_argument(
        "--mask", type=Path, metavar="MASK", help="video, picture or folder of pictures: white where things may change"
    )
    command.add_argument("--clip", type=Path, metavar="DIR", help="folder of a CLIP model in Hugging Face layout")
    command.add_argument("--source-prompt", default="", metavar="TEXT", help="what the source shows (with --clip)")
    command.add_argument("--edit-prompt", default="", metavar="TEXT", help="what the edit should show (with --clip)")
    command.add_argument("--vmaf", action="store_true", help="also measure VMAF, by imageio-ffmpeg's ffmpeg")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _describe_import(command: ArgumentParser) -> None:
    command.set_defaults(start=_import)
    command.add_argument("config", type=Path, metavar="FILE.yaml", help="a config of the authors' program")
    command.add_argument("--output", type=Path, required=True, metavar="WORKFLOW.json", help="the file to write")
    command.add_argument(
        "--quirks",
        choices=["original", "fixed"],
        default="original",
        help="widget of Prompt-to-Prompt Edit (default: original)",
    )
    command.add_argument(
        "--models-prefix", default="", metavar="TEXT", help="put in front of the model's folder name, such as CompVis/"
    )


def _describe_tune(command: ArgumentParser) -> None:
    command.set_defaults(start=_tune)
    add = command.add_argument
    add("clip", type=Path, metavar="CLIP", help="a video, an animated picture, or a folder of pictures")
    add("--prompt", required=True, metavar="TEXT", help="what the clip shows")
    add(
        "--model",
        required=True,
        metavar="MODEL",
        help="a folder in diffusers layout, a checkpoint file, or a built-in model: toy, objects (./toy is a folder)",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the tuned model")
    add("--steps", type=int, default=300, metavar="N", help="default: 300")
    add("--frames", type=int, default=8, metavar="N", help="default: 8")
    add("--size", type=int, metavar="PIXELS", help="shorter side, cut to a square (default: as the model was trained)")
    add("--start", dest="first", type=int, default=0, metavar="N", help="first frame (default: 0)")
    add("--every", type=int, default=1, metavar="N", help="take every n-th frame (default: 1)")
    add("--recipe", choices=["fatezero", "tune-a-video"], help="what is trained (default: fatezero)")
    add("--rank", type=int, metavar="N", help="of convolutions over time (default: 160); 0: full ones")
    add("--learning-rate", type=float, metavar="X", help="default: 3e-5")
    add("--seed", type=int, metavar="N", help="default: 0")
    add("--class-pictures", type=Path, metavar="DIR", help="pictures of the same kind of thing, trained on in between")
    add("--class-prompt", metavar="TEXT", help="what these show (default: the prompt)")
    add("--save-every", type=int, metavar="N", help="steps between saved states (default: 50)")
    add(
        "--weights", choices=["safetensors", "bin"], default="safetensors", help="bin: as the authors' program reads it"
    )
    add("--resume", action="store_true", help="go on with the same run")


def _describe_run(command: ArgumentParser) -> None:
    command.set_defaults(start=_run)
    setting = "NODE.INPUT=VALUE"
    command.add_argument("workflow", type=Path, metavar="WORKFLOW.json", help="UI or API format")
    command.add_argument(
        "--set", dest="settings", action="append", default=[], metavar=setting, help="set an input; repeatable"
    )
    command.add_argument(
        "--variant",
        dest="variants",
        action="append",
        default=[],
        nargs="+",
        metavar=setting,
        help="one more run; repeatable",
    )
    command.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="where to save (default: ./output)")
    command.add_argument(
        "--input",
        type=Path,
        dest="inputs",
        metavar="DIR",
        help="where input files are (default: the workflow's folder, then the pack's example_workflows)",
    )
    command.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="folder of models, diffusers folders and single files",
    )
    command.add_argument("--check", action="store_true", help="validate only")
    command.add_argument("--verbose", action="store_true", help="show the traceback of a failing node")


def _describe_batch(command: ArgumentParser) -> None:
    command.set_defaults(start=_batch)
    command.add_argument("plan", metavar="PLAN", help="CSV, JSONL or YAML; or status, or report")
    command.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="of status and report")
    command.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="default: ./output")
    command.add_argument("--workflow", type=Path, metavar="FILE", help="UI or API format; default: one Video Edit")
    command.add_argument("--input", type=Path, dest="inputs", metavar="DIR", help="default: the plan's folder")
    command.add_argument("--models", type=Path, metavar="DIR", help="folder of models, as of run")
    command.add_argument("--workers", type=_count, metavar="N", help="default: one per GPU, or one")
    command.add_argument("--engine", choices=["local", "ray"], default="local", help="processes, or a Ray cluster")
    command.add_argument("--address", metavar="ADDRESS", help="of the Ray cluster; default: one of this machine")
    command.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="this is driver I of N on one plan and folder"
    )
    command.add_argument("--measure", action="store_true", help="measure each edit, as `measure` does")
    command.add_argument("--retry-failed", action="store_true", help="run failed rows again")
    command.add_argument("--check", action="store_true", help="validate only")
    command.add_argument("--dry-run", action="store_true", help="say what would run")


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= MOST_WORKERS:
        raise ArgumentTypeError(f"{text!r} is no number of workers; 1 to {MOST_WORKERS} is needed")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ArgumentTypeError(f"{text!r} is no shard; I/N is needed, such as 2/8 for the second of eight")
    return int(number), int(count)


def _demo(options: Namespace) -> int:
    from .demo import run_demo

    run_demo(list(EXAMPLE_EDITS) if ALL in options.examples else options.examples or ["animal"], options.output)
    return OK


def _cache(options: Namespace) -> int:
    from ..storage.disk_cache.cache import default_cache
    from . import cache

    opened = default_cache(options.folder)
    if options.action == "list":
        return cache.show(opened)
    if options.action == "verify":
        return cache.verify(opened, options.remove)
    return cache.prune(opened, 0 if options.all else options.limit_gb)


def _measure(options: Namespace) -> int:
    if options.clip is None and (options.source_prompt or options.edit_prompt):
        options.misused("prompts are compared by a CLIP model; name its folder with --clip")
    from .measure import measure

    measure(options)
    return OK


def _tune(options: Namespace) -> int:
    from .tune import run_tuning

    run_tuning(options)
    return OK


def _import(options: Namespace) -> int:
    importer = load_pack("nodes.authors_configs.command")
    return importer.import_config(
        importer.ImportConfig(options.config, options.output, options.quirks, options.models_prefix)
    )


def _run(options: Namespace) -> int:
    runner = load_pack("nodes.headless.command")
    command = runner.Command(
        workflow=options.workflow,
        settings=options.settings,
        variants=options.variants,
        output=options.output,
        inputs=options.inputs,
        models=options.models,
        check=options.check,
        verbose=options.verbose,
    )
    return runner.run_command(command)


def _batch(options: Namespace) -> int:
    batches = load_pack("nodes.batches.command")
    shown = {"status": batches.show_status, "report": batches.renew_report}
    if options.plan in shown and options.folder is not None:
        return shown[options.plan](options.folder)
    if options.folder is not None:
        options.misused("a second name is for `batch status DIR` and `batch report DIR`; --output names the folder")
    if options.address is not None and options.engine != "ray":
        options.misused("--address is of a Ray cluster; add --engine ray")
    passed = "output workflow inputs models workers engine address measure retry_failed check shard dry_run".split()
    given = {name: getattr(options, name) for name in passed}
    return batches.run_batch(batches.BatchCommand(plan=Path(options.plan), **given))


NOTHING_ELSE = "Stopped. Files already saved are whole; nothing else was written."
"""Sentence for a command that was stopped and says no more by itself."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, by default the program's own.

    Returns the exit code. Raises SystemExit(2) if the command line is not valid.
    """
    options, unknown = parser().parse_known_args(argv)
    if unknown:  # said by the command, with its own options
        options.misused(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        return options.start(options)
    except FateZeroError as error:
        sys.stderr.write(f"Error: {error}\n")
        return FAILED
    except KeyboardInterrupt as stopped:  # with a sentence where a command has more to say
        with suppress(OSError):  # a terminal that was closed
            sys.stderr.write(f"{str(stopped) or NOTHING_ELSE}\n")
        return INTERRUPTED


def stop_on_terminate() -> None:
    """Let a termination request, or a terminal that is closed, end the program as cleanly as Ctrl-C does."""
    for number in stop_signals():
        signal.signal(number, signal.default_int_handler)
